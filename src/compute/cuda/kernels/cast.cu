// Stored numbers to reals and back, with the bits of the CPU path: to the nearest, ties to even, or at random. Widening is
// exact. Narrowing to 16 bits and wider tells the first number that has no bits (the host then lets the CPU path say what
// is wrong); 8-bit dtypes take their largest number for what is beyond it, and count that.
//
// Launch: any number of blocks of 256 threads; the host takes min(⌈count/(256 · n)⌉, 2048), n numbers being 16 bytes of
// the reals.
#include "common.cuh"

template <class T, class D>
__device__ inline void widen(const typename D::Bits* from, T* to, u64 count) {
    constexpr int WIDTH = PER<T>;
    each<WIDTH>(
        count,
        [&](u64 first) {
            typename D::Bits bits[WIDTH];
            T reals[WIDTH];
            load(from + first, bits);
#pragma unroll
            for (int i = 0; i < WIDTH; i++) {
                reals[i] = D::template widen<T>(bits[i]);
            }
            store(to + first, reals);
        },
        [&](u64 i) { to[i] = D::template widen<T>(from[i]); });
}

template <class T, class D>
__device__ inline void narrow(const T* from, typename D::Bits* to, u64 count, const Rounding& how, Met* met) {
    constexpr int WIDTH = PER<T>;
    u64 first_bad = ~0ull;
    u32 saturated = 0;
    auto one = [&](T x, u64 index, typename D::Bits& bits) {
        if (!D::narrow(x, how, index, bits, saturated) && index < first_bad) {
            first_bad = index;
        }
    };
    each<WIDTH>(
        count,
        [&](u64 first) {
            T reals[WIDTH];
            typename D::Bits bits[WIDTH];
            load(from + first, reals);
#pragma unroll
            for (int i = 0; i < WIDTH; i++) {
                one(reals[i], first + i, bits[i]);
            }
            store(to + first, bits);
        },
        [&](u64 i) { one(from[i], i, to[i]); });
    tell(met, first_bad, saturated);
}

#define CAST(T, REAL, D, DTYPE)                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                \
    widen_##DTYPE##_##REAL(const D::Bits* from, T* to, u64 count) { widen<T, D>(from, to, count); }      \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                \
    narrow_##REAL##_##DTYPE(const T* from, D::Bits* to, u64 count, Rounding how, Met* met) {             \
        narrow<T, D>(from, to, count, how, met);                                                         \
    }

CAST(float, f32, F16, f16)
CAST(float, f32, BF16, bf16)
CAST(float, f32, E4M3, e4m3)
CAST(float, f32, E5M2, e5m2)
CAST(double, f64, F32, f32)
CAST(double, f64, F16, f16)
CAST(double, f64, BF16, bf16)
CAST(double, f64, E4M3, e4m3)
CAST(double, f64, E5M2, e5m2)
