// The shim itself: kernels that are wrong on a GPU are found, and right ones are not.
#include "check.hpp"

using namespace check;

namespace {

void neighbours(int* out) {
    __shared__ int all[THREADS];
    all[threadIdx.x] = int(threadIdx.x);
    __syncthreads();
    out[threadIdx.x] = all[(threadIdx.x + 1) % THREADS];
}

void without_a_barrier(int* out) {
    __shared__ int all[THREADS];
    all[threadIdx.x] = int(threadIdx.x) + blockIdx.x;
    out[threadIdx.x] = all[(threadIdx.x + 1) % THREADS];
}

void barrier_for_some(int*) {
    if (threadIdx.x < 100) {
        __syncthreads();
    }
}

void two_barriers(int*) {
    if (threadIdx.x < 100) {
        __syncthreads();
    } else {
        __syncthreads();
    }
}

void shuffle_for_some(int* out) {
    if (threadIdx.x % 2) {
        out[threadIdx.x] = __shfl_down_sync(0xffffffffu, 1, 1);
    }
}

void shuffle(int* out) { out[threadIdx.x] = __shfl_down_sync(0xffffffffu, int(threadIdx.x), 3); }

std::string said(void (*kernel)(int*), std::vector<int>& out, shim::Order order) {
    out.assign(THREADS, 0);
    return shim::launch({1, 1, 1}, {THREADS, 1, 1}, order, random_bits(), [&] { kernel(out.data()); });
}

}  // namespace

int main(int count, char** arguments) {
    return main_with(count, arguments, [] {
        std::vector<int> out, forward, reversed;
        for (auto order : {shim::Order::forward, shim::Order::reversed, shim::Order::random}) {
            EXPECT(said(neighbours, out, order).empty() && out[7] == 8 && out[THREADS - 1] == 0, "a barrier");
            EXPECT(said(shuffle, out, order).empty() && out[7] == 10 && out[28] == 31 && out[29] == 29, "a shuffle");
            for (auto kernel : {barrier_for_some, two_barriers}) {
                const std::string wrong = said(kernel, out, order);
                EXPECT(wrong.find("threads part at a barrier") == 0, "'%s'", wrong.c_str());
            }
            EXPECT(!said(shuffle_for_some, out, order).empty(), "half a warp shuffles");
        }
        said(without_a_barrier, forward, shim::Order::forward);
        said(without_a_barrier, reversed, shim::Order::reversed);
        EXPECT(forward != reversed, "a missing barrier doesn't show");
    });
}
