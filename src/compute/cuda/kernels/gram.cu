// The Gram matrix XᵀX of a tall matrix X (rows × cols, stored column by column), for CholeskyQR2 and inner products.
//
// gram_*: launch (t, t, slices) blocks of 256 threads, t = ⌈cols/64⌉: 64 × 64 entries over SLICE rows each, written to
// partial[slice], a cols × cols matrix. Blocks above the diagonal do nothing. gram_sum: ⌈cols²/256⌉ blocks; adds the slices
// up in their order and fills in the upper triangle.
//
// Error of an entry: ≤ (33 u + (SLICE/32 + slices) 2⁻⁵³) · (|X|ᵀ|X|), u half an ulp of T: 32 products are added in T by fma,
// those sums in f64.
#include "common.cuh"

constexpr int EDGE = 64;
constexpr int DEPTH = 32;
constexpr int OWN = 4;
constexpr u64 SLICE = 4096;
// A line of shared memory: longer than EDGE, so that writing down a column meets different banks.
constexpr int LINE = EDGE + 4;

__device__ inline float fused(float x, float y, float z) { return fmaf(x, y, z); }
__device__ inline double fused(double x, double y, double z) { return fma(x, y, z); }

// Rows from `first` on, of columns from `col` on.
template <class T>
__device__ inline void stage(const T* x, u64 stride, u64 first, u64 end, u32 col, u32 cols, T (&to)[DEPTH][LINE]) {
    for (u32 e = threadIdx.x; e < DEPTH * EDGE; e += THREADS) {
        const u64 row = first + e % DEPTH;
        const u32 j = col + e / DEPTH;
        to[e % DEPTH][e / DEPTH] = row < end && j < cols ? x[j * stride + row] : T(0);
    }
}

template <class T> __device__ inline void gram(const T* x, u64 rows, u32 cols, u64 stride, double* partial) {
    alignas(16) __shared__ T left[DEPTH][LINE];
    alignas(16) __shared__ T right[DEPTH][LINE];
    // All threads of a block agree about this.
    if (blockIdx.x > blockIdx.y) {
        return;
    }
    const u32 row = blockIdx.y * EDGE, col = blockIdx.x * EDGE;
    const u32 down = threadIdx.x / (EDGE / OWN) * OWN, across = threadIdx.x % (EDGE / OWN) * OWN;
    const u64 begin = blockIdx.z * SLICE, end = begin + SLICE < rows ? begin + SLICE : rows;
    double sum[OWN][OWN] = {};
    for (u64 first = begin; first < end; first += DEPTH) {
        __syncthreads();
        stage(x, stride, first, end, row, cols, left);
        stage(x, stride, first, end, col, cols, right);
        __syncthreads();
        T chunk[OWN][OWN] = {};
#pragma unroll 4
        for (int k = 0; k < DEPTH; k++) {
            T p[OWN], q[OWN];
            load(&left[k][down], p);
            load(&right[k][across], q);
#pragma unroll
            for (int i = 0; i < OWN; i++) {
#pragma unroll
                for (int j = 0; j < OWN; j++) {
                    chunk[i][j] = fused(p[i], q[j], chunk[i][j]);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < OWN; i++) {
#pragma unroll
            for (int j = 0; j < OWN; j++) {
                sum[i][j] += double(chunk[i][j]);
            }
        }
    }
    double* out = partial + u64(blockIdx.z) * cols * cols;
#pragma unroll
    for (int i = 0; i < OWN; i++) {
#pragma unroll
        for (int j = 0; j < OWN; j++) {
            if (row + down + i < cols && col + across + j < cols) {
                out[u64(row + down + i) * cols + col + across + j] = sum[i][j];
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
gram_f32(const float* x, u64 rows, u32 cols, u64 stride, double* partial) {
    gram(x, rows, cols, stride, partial);
}

extern "C" __global__ void __launch_bounds__(THREADS)
gram_f64(const double* x, u64 rows, u32 cols, u64 stride, double* partial) {
    gram(x, rows, cols, stride, partial);
}

extern "C" __global__ void __launch_bounds__(THREADS)
gram_sum(const double* partial, u32 slices, u32 cols, double* out) {
    const u64 entries = u64(cols) * cols, entry = u64(blockIdx.x) * THREADS + threadIdx.x;
    if (entry >= entries) {
        return;
    }
    const u64 i = entry / cols, j = entry % cols;
    const u64 from = i >= j ? i * cols + j : j * cols + i;
    double sum = 0.0;
    for (u32 slice = 0; slice < slices; slice++) {
        sum += partial[slice * entries + from];
    }
    out[entry] = sum;
}
