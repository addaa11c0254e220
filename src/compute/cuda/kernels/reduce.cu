// Sums over many numbers, in an order that depends on their count alone: norm², dot, sum, Σ|x|, least, largest; and, with the
// mean known, the sum of squares about it.
//
// Launch: any number of blocks of 256 threads that the count decides (the host takes min(⌈count/2048⌉, 1024)); each block
// writes one partial result. sum_partials and stats_partials then take one block of 256 threads.
//
// All sums are added up in f64, products of f32 exact: error ≤ (count/threads + 8 + partials/256 + 8) 2⁻⁵³ · Σ |summand|.
#include "common.cuh"

struct Stats {
    double sum;
    double squares;
    // Σ|x|
    double magnitudes;
    double least;
    double largest;
};

__device__ inline void count_in(Stats& all, double x) {
    all.sum += x;
    all.squares += x * x;
    all.magnitudes += fabs(x);
    all.least = fmin(all.least, x);
    all.largest = fmax(all.largest, x);
}

__device__ inline Stats nothing() {
    return {0.0, 0.0, 0.0, double_of(0x7ff0000000000000ull), double_of(0xfff0000000000000ull)};
}

__device__ inline void write_joined(const Stats& own, Stats* out) {
    const Stats all = {join_block(own.sum, Add()), join_block(own.squares, Add()), join_block(own.magnitudes, Add()),
                       join_block(own.least, Least()), join_block(own.largest, Most())};
    if (threadIdx.x == 0) {
        *out = all;
    }
}

template <class T> __device__ inline void stats(const T* x, u64 count, Stats* partial) {
    Stats own = nothing();
    each_number(x, count, [&](T number) { count_in(own, number); });
    write_joined(own, partial + blockIdx.x);
}

template <class T> __device__ inline void dot(const T* x, const T* y, u64 count, double* partial) {
    double own = 0.0;
    each<PER<T>>(
        count,
        [&](u64 first) {
            T p[PER<T>], q[PER<T>];
            load(x + first, p);
            load(y + first, q);
#pragma unroll
            for (int i = 0; i < PER<T>; i++) {
                own += double(p[i]) * double(q[i]);
            }
        },
        [&](u64 i) { own += double(x[i]) * double(y[i]); });
    own = join_block(own, Add());
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = own;
    }
}

template <class T> __device__ inline void centred(const T* x, u64 count, double mean, double* partial) {
    double own = 0.0;
    each_number(x, count, [&](T number) {
        const double away = double(number) - mean;
        own += away * away;
    });
    own = join_block(own, Add());
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = own;
    }
}

#define REDUCE(NAME, T)                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                \
    stats_##NAME(const T* x, u64 count, Stats* partial) { stats(x, count, partial); }                    \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                \
    dot_##NAME(const T* x, const T* y, u64 count, double* partial) { dot(x, y, count, partial); }        \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                \
    centred_##NAME(const T* x, u64 count, double mean, double* partial) { centred(x, count, mean, partial); }

REDUCE(f32, float)
REDUCE(f64, double)

extern "C" __global__ void __launch_bounds__(THREADS) sum_partials(const double* partial, u32 count, double* out) {
    double own = 0.0;
    for (u32 i = threadIdx.x; i < count; i += THREADS) {
        own += partial[i];
    }
    own = join_block(own, Add());
    if (threadIdx.x == 0) {
        *out = own;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) stats_partials(const Stats* partial, u32 count, Stats* out) {
    Stats own = nothing();
    for (u32 i = threadIdx.x; i < count; i += THREADS) {
        own.sum += partial[i].sum;
        own.squares += partial[i].squares;
        own.magnitudes += partial[i].magnitudes;
        own.least = fmin(own.least, partial[i].least);
        own.largest = fmax(own.largest, partial[i].largest);
    }
    write_joined(own, out);
}
