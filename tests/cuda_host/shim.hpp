// CUDA C++ for a host compiler, as far as the kernels of src/compute/cuda/kernels use it: every thread of a block is a
// fiber, and runs until it waits for the others. Blocks run one after the other.
//
// What a GPU leaves undefined ends the launch with a message: a barrier or a shuffle that not all threads reach. What
// depends on the order of threads shows, since launches can be repeated in several.
//
// Compiled by nvcc, the same checks run the same sources on a GPU (gpu.hpp).
#pragma once

#ifdef __CUDACC__
#include "gpu.hpp"
#else

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <tuple>
#include <utility>

#define __device__
#define __global__
#define __launch_bounds__(threads)
#define __shared__ static

struct Three {
    unsigned x, y, z;
};
extern Three threadIdx, blockIdx, blockDim, gridDim;

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

namespace shim {

enum class Order { forward, reversed, random };

// Where a thread waits; threads that wait together must do so at one place.
struct Site {
    const char* file;
    unsigned line;
};
void wait_for_block(Site site);
// What `lane` of the warp gave.
std::uint64_t exchange(Site site, unsigned mask, std::uint64_t bits, unsigned lane);

// Runs a kernel; what is wrong with it, or nothing.
std::string launch(Three grid, Three block, Order order, std::uint64_t seed, const std::function<void()>& thread);

// A kernel, called with pointers to its arguments as the driver has them.
template <class... A, std::size_t... I>
std::function<void()> bound(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    std::tuple<A...> values{*static_cast<A*>(arguments[I])...};
    return [kernel, values] { std::apply(kernel, values); };
}
template <class... A> std::function<void()> bind(void (*kernel)(A...), void** arguments) {
    return bound(kernel, arguments, std::index_sequence_for<A...>());
}

}  // namespace shim

#define HERE (shim::Site{__FILE__, __LINE__})
#define __syncthreads() shim::wait_for_block(HERE)
#define __shfl_down_sync(mask, x, down) shim::shuffled_down(HERE, mask, x, down)

namespace shim {
template <class T> T shuffled_down(Site site, unsigned mask, T x, unsigned down) {
    std::uint64_t bits = 0;
    std::memcpy(&bits, &x, sizeof x);
    const unsigned lane = threadIdx.x % 32;
    bits = exchange(site, mask, bits, lane + down < 32 ? lane + down : lane);
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
}  // namespace shim

template <class T, class U> T atomicAdd(T* at, U x) {
    const T old = *at;
    *at = old + x;
    return old;
}
template <class T, class U> T atomicMin(T* at, U x) {
    const T old = *at;
    *at = x < old ? x : old;
    return old;
}

using std::fabs;
using std::floor;
using std::fma;
using std::fmax;
using std::fmin;
using std::memcpy;
using std::rint;
#endif
