// What the kernels share: launch shapes, 16-byte access, sums in a fixed order, and the numbers of narrow dtypes as the
// CPU path has them (src/tensor.rs, src/compute/round.rs).
//
// Products are rounded before they are added unless fma is written (the compiler is told so), so that entry-wise kernels
// give the CPU path's bits.
#pragma once

#include <cuda_fp16.h>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// Threads of every block.
constexpr int THREADS = 256;

// What narrowing meets, over a whole launch. The order of threads doesn't show.
struct Met {
    // The least index of a number that the dtype can't hold, or all ones.
    u64 first_bad;
    // How many numbers an 8-bit dtype's largest stands for.
    u64 saturated;
};

// 16 bytes of numbers.
template <class T> constexpr int PER = 16 / sizeof(T);

// What is loaded and stored at once, for so many bytes: 16 where there are as many.
template <int BYTES> struct Access {
    typedef uint4 Type;
};
template <> struct Access<2> {
    typedef u16 Type;
};
template <> struct Access<4> {
    typedef u32 Type;
};
template <> struct Access<8> {
    typedef u64 Type;
};

// COUNT numbers from an address that is a multiple of 16 bytes, or of their size if that is less.
template <class T, int COUNT> __device__ inline void load(const T* from, T (&to)[COUNT]) {
    typedef typename Access<int(COUNT * sizeof(T))>::Type Bytes;
    constexpr int EACH = sizeof(Bytes) / sizeof(T);
    static_assert(COUNT % EACH == 0, "whole 16 bytes");
#pragma unroll
    for (int i = 0; i < COUNT / EACH; i++) {
        const Bytes bytes = reinterpret_cast<const Bytes*>(from)[i];
        memcpy(&to[i * EACH], &bytes, sizeof bytes);
    }
}

template <class T, int COUNT> __device__ inline void store(T* to, const T (&from)[COUNT]) {
    typedef typename Access<int(COUNT * sizeof(T))>::Type Bytes;
    constexpr int EACH = sizeof(Bytes) / sizeof(T);
    static_assert(COUNT % EACH == 0, "whole 16 bytes");
#pragma unroll
    for (int i = 0; i < COUNT / EACH; i++) {
        Bytes bytes;
        memcpy(&bytes, &from[i * EACH], sizeof bytes);
        reinterpret_cast<Bytes*>(to)[i] = bytes;
    }
}

// Blocks of WIDTH numbers a thread, then the numbers that are left: calls with the index of the first, and whether there
// is a whole block. The order within a thread depends on the launch alone.
template <int WIDTH, class Whole, class Single>
__device__ inline void each(u64 count, Whole whole, Single single) {
    const u64 thread = u64(blockIdx.x) * THREADS + threadIdx.x, threads = u64(gridDim.x) * THREADS;
    const u64 blocks = count / WIDTH;
    for (u64 i = thread; i < blocks; i += threads) {
        whole(i * WIDTH);
    }
    for (u64 i = blocks * WIDTH + thread; i < count; i += threads) {
        single(i);
    }
}

// Calls with every number, 16 bytes of them loaded at once.
template <class T, class One> __device__ inline void each_number(const T* x, u64 count, One one) {
    each<PER<T>>(
        count,
        [&](u64 first) {
            T some[PER<T>];
            load(x + first, some);
#pragma unroll
            for (int i = 0; i < PER<T>; i++) {
                one(some[i]);
            }
        },
        [&](u64 i) { one(x[i]); });
}

// x of all threads of the block, joined in one order: lanes by halves, then warps by halves. Thread 0 gets the result.
template <class T, class Join> __device__ inline T join_block(T x, Join join) {
    __shared__ T of_warp[THREADS / 32];
    for (int half = 16; half > 0; half /= 2) {
        x = join(x, __shfl_down_sync(0xffffffffu, x, half));
    }
    if (threadIdx.x % 32 == 0) {
        of_warp[threadIdx.x / 32] = x;
    }
    __syncthreads();
    for (u32 half = THREADS / 64; half > 0; half /= 2) {
        if (threadIdx.x < half) {
            of_warp[threadIdx.x] = join(of_warp[threadIdx.x], of_warp[threadIdx.x + half]);
        }
        // After the last, it may be used again.
        __syncthreads();
    }
    return threadIdx.x == 0 ? of_warp[0] : x;
}

struct Add {
    __device__ double operator()(double x, double y) const { return x + y; }
};
struct Least {
    __device__ double operator()(double x, double y) const { return fmin(x, y); }
};
struct Most {
    __device__ double operator()(double x, double y) const { return fmax(x, y); }
};

__device__ inline u64 bits_of(double x) {
    u64 bits;
    memcpy(&bits, &x, 8);
    return bits;
}
__device__ inline u32 bits_of(float x) {
    u32 bits;
    memcpy(&bits, &x, 4);
    return bits;
}
__device__ inline double double_of(u64 bits) {
    double x;
    memcpy(&x, &bits, 8);
    return x;
}
__device__ inline float float_of(u32 bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

__device__ inline bool is_finite(double x) { return (bits_of(x) >> 52 & 0x7ff) != 0x7ff; }
__device__ inline u32 is_negative(double x) { return u32(bits_of(x) >> 63); }
__device__ inline u32 is_negative(float x) { return bits_of(x) >> 31; }
__device__ inline bool is_finite(float x) { return (bits_of(x) >> 23 & 0xff) != 0xff; }

// splitmix64 (Steele, Lea, Flood 2014), from 0 to below 1: the random number `index` of a stream.
__device__ inline double uniform(u64 seed, u64 index) {
    u64 z = seed + (index + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    return double(z >> 11) * (1.0 / double(1ull << 53));
}

// How a launch rounds: to the nearest, or at random from the seed by the number's index in its tensor.
struct Rounding {
    u64 seed;
    // The index of the launch's first number.
    u64 first;
    u32 stochastic;
};

// floor(log2 |x|), far below every format's least for 0.
__device__ inline int exponent(double x) { return int(bits_of(x) >> 52 & 0x7ff) - 1023; }
__device__ inline int exponent(float x) { return int(bits_of(x) >> 23 & 0xff) - 127; }
__device__ inline void power_of_two(int exponent, double& x) { x = double_of(u64(exponent + 1023) << 52); }
__device__ inline void power_of_two(int exponent, float& x) { x = float_of(u32(exponent + 127) << 23); }

// x on the grid of a format with MANTISSA stored bits and LEAST the smallest exponent of a normal number, in x's own type:
// exact but for the rounding itself, where the format's powers of two are T's.
template <int MANTISSA, int LEAST, class T> __device__ inline T on_grid(T x, const Rounding& how, u64 index) {
    const int e = exponent(x), unit = (e > LEAST ? e : LEAST) - MANTISSA;
    // Times the inverse of a power of two is the quotient, exactly.
    T step, inverse;
    power_of_two(unit, step);
    power_of_two(-unit, inverse);
    const T steps = x * inverse;
    if (!how.stochastic) {
        return rint(steps) * step;
    }
    const T whole = floor(steps);
    return (uniform(how.seed, how.first + index) < double(steps - whole) ? whole + T(1) : whole) * step;
}

// The dtypes: each has the type of its bits, `widen` to what they stand for, and `narrow`, which is false where the
// number has no bits (it is not finite, or becomes so).

struct F64 {
    typedef double Bits;
    template <class T> __device__ static T widen(double bits) { return T(bits); }
    template <class T> __device__ static bool narrow(T x, const Rounding&, u64, double& bits, u32&) {
        bits = x;
        return is_finite(bits);
    }
};

struct F32 {
    typedef float Bits;
    template <class T> __device__ static T widen(float bits) { return T(bits); }
    template <class T> __device__ static bool narrow(T x, const Rounding&, u64, float& bits, u32&) {
        bits = float(x);
        return is_finite(bits);
    }
};

struct F16 {
    typedef u16 Bits;
    template <class T> __device__ static T widen(u16 bits) { return T(__half2float(__ushort_as_half(bits))); }
    template <class T> __device__ static bool narrow(T x, const Rounding& how, u64 index, u16& bits, u32&) {
        const float single = how.stochastic ? float(on_grid<10, -14>(double(x), how, index)) : float(x);
        bits = __half_as_ushort(__float2half_rn(single));
        return (bits & 0x7c00) != 0x7c00;
    }
};

struct BF16 {
    typedef u16 Bits;
    template <class T> __device__ static T widen(u16 bits) { return T(float_of(u32(bits) << 16)); }
    template <class T> __device__ static bool narrow(T x, const Rounding& how, u64 index, u16& bits, u32&) {
        const u32 single = bits_of(how.stochastic ? float(on_grid<7, -126>(double(x), how, index)) : float(x));
        bits = u16((single + 0x7fff + (single >> 16 & 1)) >> 16);
        // A NaN could have been carried past the exponent.
        return (single & 0x7f800000) != 0x7f800000 && (bits & 0x7f80) != 0x7f80;
    }
};

// 8 bits: what is beyond the largest number becomes that, and is counted.
template <int MANTISSA, int LEAST> struct Eight {
    typedef u8 Bits;
    // The bits of a number that is on the grid, and not negative.
    template <class T> __device__ static u32 code_of(T y) {
        const int e = exponent(y) > LEAST ? exponent(y) : LEAST;
        T scale;
        power_of_two(MANTISSA - e, scale);
        // A subnormal number has no leading one, and the exponent field 0, which stands for the least exponent too.
        return (u32(e - LEAST) << MANTISSA) + u32(y * scale);
    }
    template <class T>
    __device__ static bool narrow_to(T largest, T x, const Rounding& how, u64 index, u8& bits, u32& saturated) {
        if (sizeof(T) == 4 && !how.stochastic) {
            // To the nearest by the bits themselves, whose last ones are rounded off.
            const u32 magnitude = bits_of(float(x)) & 0x7fffffff, sign = bits_of(float(x)) >> 31;
            constexpr u32 OFF = 23 - MANTISSA, LEAST_NORMAL = u32(127 + LEAST) << 23;
            const u32 normal = (magnitude + (1u << (OFF - 1)) - 1 + (magnitude >> OFF & 1)) >> OFF;
            const float steps = float_of(magnitude) * float(1 << (MANTISSA - LEAST));
            u32 code = magnitude < LEAST_NORMAL ? u32(rint(steps)) : normal - (u32(127 + LEAST - 1) << MANTISSA);
            const u32 most = code_of(largest);
            saturated += code > most;
            code = code > most ? most : code;
            bits = u8(sign << 7 | code);
            return is_finite(x);
        }
        T y = on_grid<MANTISSA, LEAST>(x, how, index);
        saturated += fabs(y) > largest;
        y = fmin(fmax(y, -largest), largest);
        bits = u8(is_negative(y) << 7 | code_of(fabs(y)));
        return is_finite(x);
    }
};

struct E4M3 : Eight<3, -6> {
    template <class T> __device__ static T widen(u8 bits) {
        const u32 magnitude = bits & 0x7f, e = magnitude >> 3, m = magnitude & 7;
        const float normal = float_of((e + 120) << 23 | m << 20), subnormal = float(m) * (1.0f / 512);
        const float x = magnitude == 0x7f ? float_of(0x7fc00000) : e == 0 ? subnormal : normal;
        return T(bits & 0x80 ? -x : x);
    }
    template <class T> __device__ static bool narrow(T x, const Rounding& how, u64 i, u8& bits, u32& saturated) {
        return narrow_to(T(448), x, how, i, bits, saturated);
    }
};

struct E5M2 : Eight<2, -14> {
    template <class T> __device__ static T widen(u8 bits) { return F16::widen<T>(u16(bits << 8)); }
    template <class T> __device__ static bool narrow(T x, const Rounding& how, u64 i, u8& bits, u32& saturated) {
        return narrow_to(T(57344), x, how, i, bits, saturated);
    }
};

// Tells what a thread met.
__device__ inline void tell(Met* met, u64 first_bad, u32 saturated) {
    if (first_bad != ~0ull) {
        atomicMin(&met->first_bad, first_bad);
    }
    if (saturated) {
        atomicAdd(&met->saturated, u64(saturated));
    }
}
