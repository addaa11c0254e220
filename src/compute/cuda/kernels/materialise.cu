// The entries of ΔW, a tile of whole rows: out = (add ? out : 0) + Σ cᵢ · termᵢ, for all terms of a layer in one pass over
// the output. A term is a matrix, a product U V, a Kronecker product A ⊗ B or a Hadamard product (A1 B1) ∘ (A2 B2).
//
// Launch: (⌈cols/64⌉, ⌈rows/64⌉) blocks of 256 threads, each thread 4 × 4 entries. Sizes of the order of a layer's: rows
// of a launch below 2²², columns below 2³².
//
// Error of an entry: |computed − exact| ≤ Σ (terms + 4 + Σ (17 + rank/16)) u |cᵢ| |termᵢ|, the inner sum over the products in
// a term, where |term| has the absolute values of all factors, and u is half an ulp of T: products are added by fma, 16 at a
// time. Every entry is added up in one order, whatever the tile.
#include "common.cuh"

constexpr int EDGE = 64;
constexpr int DEPTH = 16;
constexpr int OWN = 4;

// A matrix: `right` row by row, if rank is 0; else the product of `left` (stored column by column) and `right` (row by
// row). Strides are multiples of 16 bytes, and what is between a line's end and the next is zero.
template <class T> struct Factor {
    const T* left;
    const T* right;
    u32 rank;
    u32 left_stride;
    u32 right_stride;
    u32 unused;
};

enum Kind : u32 { PLAIN = 0, KRON = 1, HADAMARD = 2 };

template <class T> struct Term {
    double scale;
    u32 kind;
    // The extents of B, in A ⊗ B: `first` is A, `second` B, both whole.
    u32 inner_rows;
    u32 inner_cols;
    u32 unused;
    Factor<T> first;
    Factor<T> second;
};

template <class T> struct Staged {
    alignas(16) T left[DEPTH][EDGE];
    alignas(16) T right[DEPTH][EDGE];
};

__device__ inline float fused(float x, float y, float z) { return fmaf(x, y, z); }
__device__ inline double fused(double x, double y, double z) { return fma(x, y, z); }

// Where a thread's entries are in the term's matrix.
struct Place {
    // The block's first row and column, and the first row that is not the launch's.
    u64 row;
    u32 col;
    u64 end;
    u32 cols;
    // The thread's first, from there.
    u32 down;
    u32 right;
};

template <class T>
__device__ inline void add_whole(const Factor<T>& factor, const Place& at, T (&sum)[OWN][OWN]) {
#pragma unroll
    for (int i = 0; i < OWN; i++) {
        const u64 row = at.row + at.down + i;
        const u32 col = at.col + at.right;
        if (row < at.end && col < at.cols) {
            // Lines are whole 16 bytes; for f64 the second half may be past the line.
            T line[OWN] = {};
#pragma unroll
            for (int j = 0; j < OWN; j += PER<T>) {
                if (col + j < factor.right_stride) {
                    T some[PER<T>];
                    load(factor.right + row * factor.right_stride + col + j, some);
#pragma unroll
                    for (int k = 0; k < PER<T>; k++) {
                        line[j + k] = some[k];
                    }
                }
            }
#pragma unroll
            for (int j = 0; j < OWN; j++) {
                sum[i][j] += line[j];
            }
        }
    }
}

template <class T>
__device__ inline void add_product(const Factor<T>& factor, const Place& at, Staged<T>& staged, T (&sum)[OWN][OWN]) {
    for (u32 first = 0; first < factor.rank; first += DEPTH) {
        __syncthreads();
        for (u32 e = threadIdx.x; e < DEPTH * EDGE; e += THREADS) {
            const u32 k = first + e / EDGE;
            const u64 row = at.row + e % EDGE;
            const bool there = k < factor.rank && row < at.end;
            staged.left[e / EDGE][e % EDGE] = there ? factor.left[u64(k) * factor.left_stride + row] : T(0);
        }
        for (u32 e = threadIdx.x * PER<T>; e < DEPTH * EDGE; e += THREADS * PER<T>) {
            const u32 k = first + e / EDGE, col = at.col + e % EDGE;
            T some[PER<T>] = {};
            if (k < factor.rank && col < factor.right_stride) {
                load(factor.right + u64(k) * factor.right_stride + col, some);
            }
            store(&staged.right[e / EDGE][e % EDGE], some);
        }
        __syncthreads();
        T chunk[OWN][OWN] = {};
#pragma unroll 4
        for (int k = 0; k < DEPTH; k++) {
            T down[OWN], right[OWN];
            load(&staged.left[k][at.down], down);
            load(&staged.right[k][at.right], right);
#pragma unroll
            for (int i = 0; i < OWN; i++) {
#pragma unroll
                for (int j = 0; j < OWN; j++) {
                    chunk[i][j] = fused(down[i], right[j], chunk[i][j]);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < OWN; i++) {
#pragma unroll
            for (int j = 0; j < OWN; j++) {
                sum[i][j] += chunk[i][j];
            }
        }
    }
}

template <class T>
__device__ inline void add_factor(const Factor<T>& factor, const Place& at, Staged<T>& staged, T (&sum)[OWN][OWN]) {
    if (factor.rank == 0) {
        add_whole(factor, at, sum);
    } else {
        add_product(factor, at, staged, sum);
    }
}

template <class T>
__device__ inline void add_kron(const Term<T>& term, const Place& at, T scale, T (&sum)[OWN][OWN]) {
#pragma unroll
    for (int i = 0; i < OWN; i++) {
        const u64 row = at.row + at.down + i;
        if (row < at.end) {
            const T* a = term.first.right + row / term.inner_rows * term.first.right_stride;
            const T* b = term.second.right + row % term.inner_rows * term.second.right_stride;
#pragma unroll
            for (int j = 0; j < OWN; j++) {
                const u32 col = at.col + at.right + j;
                if (col < at.cols) {
                    sum[i][j] = fused(scale * a[col / term.inner_cols], b[col % term.inner_cols], sum[i][j]);
                }
            }
        }
    }
}

template <class T>
__device__ inline void
materialise(const Term<T>* terms, u32 count, u64 top, u32 rows, u32 cols, u32 add, T* out) {
    __shared__ Staged<T> staged;
    const Place at = {
        top + u64(blockIdx.y) * EDGE, blockIdx.x * EDGE, top + rows, cols,
        threadIdx.x / (EDGE / OWN) * OWN, threadIdx.x % (EDGE / OWN) * OWN,
    };
    T sum[OWN][OWN] = {};
    for (u32 t = 0; t < count; t++) {
        const Term<T>& term = terms[t];
        const T scale = T(term.scale);
        if (term.kind == KRON) {
            add_kron(term, at, scale, sum);
            continue;
        }
        T first[OWN][OWN] = {};
        add_factor(term.first, at, staged, first);
        if (term.kind == HADAMARD) {
            T second[OWN][OWN] = {};
            add_factor(term.second, at, staged, second);
#pragma unroll
            for (int i = 0; i < OWN; i++) {
#pragma unroll
                for (int j = 0; j < OWN; j++) {
                    first[i][j] *= second[i][j];
                }
            }
        }
#pragma unroll
        for (int i = 0; i < OWN; i++) {
#pragma unroll
            for (int j = 0; j < OWN; j++) {
                sum[i][j] = fused(scale, first[i][j], sum[i][j]);
            }
        }
    }

    const u32 col = at.col + at.right;
#pragma unroll
    for (int i = 0; i < OWN; i++) {
        const u64 row = at.row + at.down + i;
        if (row < at.end && col < cols) {
            T* line = out + (row - top) * cols + col;
            if (cols % PER<T> == 0 && col + OWN <= cols) {
                T old[OWN] = {};
                if (add) {
                    load(line, old);
                }
#pragma unroll
                for (int j = 0; j < OWN; j++) {
                    old[j] += sum[i][j];
                }
                store(line, old);
            } else {
#pragma unroll
                for (int j = 0; j < OWN; j++) {
                    if (col + j < cols) {
                        line[j] = (add ? line[j] : T(0)) + sum[i][j];
                    }
                }
            }
        }
    }
}

#define MATERIALISE(NAME, T)                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                \
    NAME(const Term<T>* terms, u32 count, u64 top, u32 rows, u32 cols, u32 add, T* out) {                \
        materialise(terms, count, top, rows, cols, add, out);                                            \
    }

MATERIALISE(materialise_f32, float)
MATERIALISE(materialise_f64, double)
