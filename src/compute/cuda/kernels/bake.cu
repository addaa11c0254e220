// W + ΔW as the checkpoint stores it, with the bits of the CPU path for the same ΔW, and what became of ΔW (the sums of
// src/merge/bake.rs). `scale` is what stored numbers are multiplied by to be weights, `inverse` 1/scale.
//
// Launch: blocks of 256 threads, min(⌈count/(256 · n)⌉, 2048) of them (the count alone decides), n numbers being 16 bytes of ΔW. Each block writes one partial result; the host adds them up in their order. Numbers that have no bits are
// told, and the CPU path then does the tile, and says what is wrong.
//
// Sums of 16 bytes of ΔW are added up in T, those in f64, of which many GPUs have little: error ≤ (8 u + (count/threads + 8 +
// blocks) 2⁻⁵³) · Σ |summand|, u half an ulp of T.
#include "common.cuh"

struct Sums {
    // Σ ΔW²
    double delta;
    // Σ (stored − W − ΔW)²
    double wrong;
    // Σ (stored − W) ΔW
    double along;
};

// The same of a few entries.
template <class T> struct Few {
    T delta = 0, wrong = 0, along = 0;
};

template <class T, class D>
__device__ inline void bake(const typename D::Bits* weights, const T* delta, typename D::Bits* out, u64 count,
                            double scale, double inverse, const Rounding& how, Sums* partial, Met* met) {
    constexpr int WIDTH = PER<T>;
    const T multiplied = T(scale), divided = T(inverse);
    u64 first_bad = ~0ull;
    u32 saturated = 0;
    Sums sums = {};
    auto one = [&](typename D::Bits old, T change, u64 index, typename D::Bits& bits, Few<T>& few) {
        const T weight = D::template widen<T>(old);
        if (!D::narrow(weight + change * divided, how, index, bits, saturated) && index < first_bad) {
            first_bad = index;
        }
        // The difference is exact: both are numbers of the dtype, or differ by little.
        const T moved = (D::template widen<T>(bits) - weight) * multiplied, away = moved - change;
        few.delta += change * change;
        few.wrong += away * away;
        few.along += moved * change;
    };
    auto add = [&](const Few<T>& few) {
        sums.delta += few.delta;
        sums.wrong += few.wrong;
        sums.along += few.along;
    };
    each<WIDTH>(
        count,
        [&](u64 first) {
            typename D::Bits old[WIDTH], bits[WIDTH];
            T change[WIDTH];
            Few<T> few;
            load(weights + first, old);
            load(delta + first, change);
#pragma unroll
            for (int i = 0; i < WIDTH; i++) {
                one(old[i], change[i], first + i, bits[i], few);
            }
            store(out + first, bits);
            add(few);
        },
        [&](u64 i) {
            Few<T> few;
            one(weights[i], delta[i], i, out[i], few);
            add(few);
        });
    tell(met, first_bad, saturated);
    const Sums all = {join_block(sums.delta, Add()), join_block(sums.wrong, Add()), join_block(sums.along, Add())};
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = all;
    }
}

#define BAKE(T, REAL, D, DTYPE)                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                \
    bake_##DTYPE##_##REAL(const D::Bits* weights, const T* delta, D::Bits* out, u64 count, double scale, \
                          double inverse, Rounding how, Sums* partial, Met* met) {                       \
        bake<T, D>(weights, delta, out, count, scale, inverse, how, partial, met);                       \
    }

BAKE(float, f32, F16, f16)
BAKE(float, f32, BF16, bf16)
BAKE(float, f32, E4M3, e4m3)
BAKE(float, f32, E5M2, e5m2)
BAKE(double, f64, F64, f64)
BAKE(double, f64, F32, f32)
BAKE(double, f64, F16, f16)
BAKE(double, f64, BF16, bf16)
BAKE(double, f64, E4M3, e4m3)
BAKE(double, f64, E5M2, e5m2)
