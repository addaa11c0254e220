// What of many numbers is kept, the rest set to zero: the k largest by magnitude, exactly, or all but these, or each by
// chance. What src/merge/strategy/entrywise/cut.rs and sparsify.rs do.
//
// A number's key is the bits of its magnitude, whose order as integers is that of magnitudes. digits_*: counts the next
// 11 bits of the keys that begin with `prefix` (launch: any number of blocks of 256 threads); the host finds the digit in
// which the k-th is and goes on: three passes for f32, six for f64. equals_*: how many numbers each run of RUN has that are equal to
// the least that is kept (⌈count/RUN⌉ blocks); the host adds them up from the left. cut_*: keeps what is larger, and of
// equal numbers the first `equals` by index, or, with `drops`, the others (the same launch); `out` may be x. sample_*: keeps the numbers whose random
// number is below `chance`, in place (any number of blocks). All exact; counts don't depend on the order of threads.
#include "common.cuh"

constexpr int DIGIT = 11;
constexpr u32 DIGITS = 1u << DIGIT;
// Numbers of a block of equals_* and cut_*: each thread has as many in a row as fit into 16 bytes.
template <class T> constexpr u32 RUN = THREADS * PER<T>;

__device__ inline u32 key(float x) { return bits_of(x) & 0x7fffffffu; }
__device__ inline u64 key(double x) { return bits_of(x) & 0x7fffffffffffffffull; }

// `open` bits of a key are not known yet; the lowest min(open, 11) of what is left after `prefix` are counted next.
template <class T> __device__ inline void digits(const T* x, u64 count, u64 prefix, u32 open, u64* counts) {
    __shared__ u32 own[DIGITS];
    for (u32 i = threadIdx.x; i < DIGITS; i += THREADS) {
        own[i] = 0;
    }
    __syncthreads();
    const u32 width = open < DIGIT ? open : DIGIT, rest = open - width;
    each_number(x, count, [&](T number) {
        const u64 bits = key(number);
        // Nothing is known at first; the sign's bit is always clear.
        if (open >= 8 * sizeof(T) - 1 || bits >> open == prefix) {
            atomicAdd(&own[bits >> rest & (DIGITS - 1) & ((1u << width) - 1)], 1u);
        }
    });
    __syncthreads();
    for (u32 i = threadIdx.x; i < DIGITS; i += THREADS) {
        if (own[i]) {
            atomicAdd(&counts[i], u64(own[i]));
        }
    }
}

// A thread's numbers, zero past the end (which no least number is equal to, unless it is zero: then it isn't counted).
template <class T> __device__ inline u32 own_numbers(const T* x, u64 count, u64 first, T (&some)[PER<T>]) {
    if (first + PER<T> <= count) {
        load(x + first, some);
        return PER<T>;
    }
    u32 there = 0;
#pragma unroll
    for (int i = 0; i < PER<T>; i++) {
        some[i] = first + i < count ? x[first + i] : T(0);
        there += first + i < count;
    }
    return there;
}

template <class T> __device__ inline u32 equal_ones(const T (&some)[PER<T>], u32 there, u64 least) {
    u32 equal = 0;
#pragma unroll
    for (int i = 0; i < PER<T>; i++) {
        equal += u32(i) < there && key(some[i]) == least;
    }
    return equal;
}

template <class T> __device__ inline void equals(const T* x, u64 count, u64 least, u32* of_run) {
    __shared__ u32 all;
    if (threadIdx.x == 0) {
        all = 0;
    }
    __syncthreads();
    T some[PER<T>];
    const u32 there = own_numbers(x, count, u64(blockIdx.x) * RUN<T> + threadIdx.x * PER<T>, some);
    const u32 equal = equal_ones(some, there, least);
    if (equal) {
        atomicAdd(&all, equal);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        of_run[blockIdx.x] = all;
    }
}

// `before`: how many equal numbers are in the runs before each.
template <class T>
__device__ inline void cut(const T* x, u64 count, u64 least, u64 equals, u32 drops, const u64* before, T* out) {
    __shared__ u32 upto[THREADS];
    const u64 first = u64(blockIdx.x) * RUN<T> + threadIdx.x * PER<T>;
    T some[PER<T>];
    const u32 there = own_numbers(x, count, first, some);
    const u32 equal = equal_ones(some, there, least);
    upto[threadIdx.x] = equal;
    __syncthreads();
    for (u32 distance = 1; distance < THREADS; distance *= 2) {
        const u32 left = threadIdx.x >= distance ? upto[threadIdx.x - distance] : 0;
        __syncthreads();
        upto[threadIdx.x] += left;
        __syncthreads();
    }
    u64 rank = before[blockIdx.x] + upto[threadIdx.x] - equal;
#pragma unroll
    for (int i = 0; i < PER<T>; i++) {
        const u64 own = key(some[i]);
        const bool is_equal = own == least;
        const bool is_large = own > least || (is_equal && rank < equals);
        rank += is_equal;
        some[i] = is_large != bool(drops) ? some[i] : T(0);
    }
    if (there == PER<T>) {
        store(out + first, some);
    } else {
#pragma unroll
        for (int i = 0; i < PER<T>; i++) {
            if (u32(i) < there) {
                out[first + i] = some[i];
            }
        }
    }
}

template <class T> __device__ inline void sample(T* x, u64 count, u64 stream, double chance) {
    each<PER<T>>(
        count,
        [&](u64 first) {
            T some[PER<T>];
            load(x + first, some);
#pragma unroll
            for (int i = 0; i < PER<T>; i++) {
                some[i] = uniform(stream, first + i) < chance ? some[i] : T(0);
            }
            store(x + first, some);
        },
        [&](u64 i) { x[i] = uniform(stream, i) < chance ? x[i] : T(0); });
}

#define SELECT(NAME, T)                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                \
    digits_##NAME(const T* x, u64 count, u64 prefix, u32 open, u64* counts) {                            \
        digits(x, count, prefix, open, counts);                                                          \
    }                                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                \
    equals_##NAME(const T* x, u64 count, u64 least, u32* of_run) { equals(x, count, least, of_run); }    \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                \
    cut_##NAME(const T* x, u64 count, u64 least, u64 equals, u32 drops, const u64* before, T* out) {     \
        cut(x, count, least, equals, drops, before, out);                                                \
    }                                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                \
    sample_##NAME(T* x, u64 count, u64 stream, double chance) { sample(x, count, stream, chance); }

SELECT(f32, float)
SELECT(f64, double)
