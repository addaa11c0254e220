// What the checks of the kernels use of shim.hpp, on a GPU: everything that `new` gives is memory that it can reach, and a
// launch ends when its blocks have. There is one order of threads, the GPU's own.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <new>
#include <string>
#include <tuple>
#include <utility>

void* operator new(std::size_t bytes) {
    void* made = nullptr;
    if (cudaMallocManaged(&made, bytes ? bytes : 1) != cudaSuccess) {
        std::abort();
    }
    return made;
}
void operator delete(void* at) noexcept { cudaFree(at); }
void operator delete(void* at, std::size_t) noexcept { cudaFree(at); }

struct Three {
    unsigned x, y, z;
};

namespace shim {

enum class Order { forward, reversed, random };

template <class... A, class... B>
std::string launch_on_gpu(void (*kernel)(A...), Three grid, unsigned threads, B... given) {
    kernel<<<dim3(grid.x, grid.y, grid.z), threads>>>(A(given)...);
    const cudaError_t launched = cudaGetLastError(), ended = cudaDeviceSynchronize();
    const cudaError_t wrong = launched == cudaSuccess ? ended : launched;
    return wrong == cudaSuccess ? "" : cudaGetErrorString(wrong);
}

}  // namespace shim
