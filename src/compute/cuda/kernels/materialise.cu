// The entries of ΔW, a tile of whole rows: out = (add ? out : 0) + Σ cᵢ · termᵢ, for all terms of a layer in one pass over
// the output. A term is a matrix, a product U V, a Kronecker product A ⊗ B or a Hadamard product (A1 B1) ∘ (A2 B2).
//
// Launch: (⌈cols/128⌉, ⌈rows/h⌉) blocks of 256 threads, h = 64 for f32 and 32 for f64; each thread makes h/8 × 4 entries, as
// many as its registers hold, and a warp whole lines of 128. Layers without Hadamard products have a kernel of their own,
// which has room for more threads. Sizes of the order of a layer's: rows of a launch below 2²², columns below 2³².
//
// Error of an entry: |computed − exact| ≤ Σ (n + 4) u |cᵢ| |termᵢ|, where n counts the terms and the ranks of all of them,
// |term| has the absolute values of all factors, and u is half an ulp of T: products are added by fma, one after the other.
// Every entry is added up in one order, whatever the tile.
#include "common.cuh"

// Columns of a block.
constexpr int EDGE = 128;
constexpr int DEPTH = 16;
// A thread's entries: rows, and columns.
template <class T> constexpr int OWN_ROWS = sizeof(T) == 4 ? 8 : 4;
constexpr int OWN = 4;
template <class T> constexpr int HEIGHT = OWN_ROWS<T> * (THREADS / (EDGE / OWN));

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
    alignas(16) T left[DEPTH][HEIGHT<T>];
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

// sum += scale · factor
template <class T>
__device__ inline void add_whole(const Factor<T>& factor, const Place& at, T scale, T (&sum)[OWN_ROWS<T>][OWN]) {
    const u32 col = at.col + at.right;
#pragma unroll
    for (int i = 0; i < OWN_ROWS<T>; i++) {
        const u64 row = at.row + at.down + i;
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
                sum[i][j] = fused(scale, line[j], sum[i][j]);
            }
        }
    }
}

// sum += (scale · left) right
template <class T>
__device__ inline void
add_product(const Factor<T>& factor, const Place& at, T scale, Staged<T>& staged, T (&sum)[OWN_ROWS<T>][OWN]) {
    for (u32 first = 0; first < factor.rank; first += DEPTH) {
        const u32 depth = factor.rank - first < DEPTH ? factor.rank - first : DEPTH;
        __syncthreads();
        for (u32 e = threadIdx.x; e < depth * HEIGHT<T>; e += THREADS) {
            const u32 k = e / HEIGHT<T>;
            const u64 row = at.row + e % HEIGHT<T>;
            staged.left[k][e % HEIGHT<T>] =
                row < at.end ? scale * factor.left[u64(first + k) * factor.left_stride + row] : T(0);
        }
        for (u32 e = threadIdx.x * PER<T>; e < depth * EDGE; e += THREADS * PER<T>) {
            const u32 k = e / EDGE, col = at.col + e % EDGE;
            T some[PER<T>] = {};
            if (col < factor.right_stride) {
                load(factor.right + u64(first + k) * factor.right_stride + col, some);
            }
            store(&staged.right[k][e % EDGE], some);
        }
        __syncthreads();
#pragma unroll 4
        for (u32 k = 0; k < depth; k++) {
            T down[OWN_ROWS<T>], right[OWN];
            load(&staged.left[k][at.down], down);
            load(&staged.right[k][at.right], right);
#pragma unroll
            for (int i = 0; i < OWN_ROWS<T>; i++) {
#pragma unroll
                for (int j = 0; j < OWN; j++) {
                    sum[i][j] = fused(down[i], right[j], sum[i][j]);
                }
            }
        }
    }
}

template <class T>
__device__ inline void
add_factor(const Factor<T>& factor, const Place& at, T scale, Staged<T>& staged, T (&sum)[OWN_ROWS<T>][OWN]) {
    if (factor.rank == 0) {
        add_whole(factor, at, scale, sum);
    } else {
        add_product(factor, at, scale, staged, sum);
    }
}

// sum += (scale · A) ⊗ B
template <class T>
__device__ inline void add_kron(const Term<T>& term, const Place& at, T scale, T (&sum)[OWN_ROWS<T>][OWN]) {
    const u32 row = u32(at.row) + at.down, col = at.col + at.right;
    // Where the thread's entries are in A, and in B; found by counting from the first.
    u32 outer_row = row / term.inner_rows, inner_row = row % term.inner_rows;
    const u32 outer_col = col / term.inner_cols, inner_col = col % term.inner_cols;
    const bool in_one_block = inner_col % PER<T> == 0 && inner_col + OWN <= term.inner_cols;
#pragma unroll
    for (int i = 0; i < OWN_ROWS<T>; i++) {
        if (at.row + at.down + i < at.end && col < at.cols) {
            const T* a = term.first.right + u64(outer_row) * term.first.right_stride;
            const T* b = term.second.right + u64(inner_row) * term.second.right_stride;
            if (in_one_block) {
                const T from_a = scale * a[outer_col];
                T from_b[OWN];
                load(b + inner_col, from_b);
#pragma unroll
                for (int j = 0; j < OWN; j++) {
                    sum[i][j] = fused(from_a, from_b[j], sum[i][j]);
                }
            } else {
                u32 in_a = outer_col, in_b = inner_col;
#pragma unroll
                for (int j = 0; j < OWN; j++) {
                    if (col + j < at.cols) {
                        sum[i][j] = fused(scale * a[in_a], b[in_b], sum[i][j]);
                    }
                    if (++in_b == term.inner_cols) {
                        in_a++;
                        in_b = 0;
                    }
                }
            }
        }
        if (++inner_row == term.inner_rows) {
            outer_row++;
            inner_row = 0;
        }
    }
}

template <bool HADAMARD_TOO, class T>
__device__ inline void
materialise(const Term<T>* terms, u32 count, u64 top, u32 rows, u32 cols, u32 add, T* out) {
    __shared__ Staged<T> staged;
    const Place at = {
        top + u64(blockIdx.y) * HEIGHT<T>, blockIdx.x * EDGE, top + rows, cols,
        threadIdx.x / (EDGE / OWN) * OWN_ROWS<T>, threadIdx.x % (EDGE / OWN) * OWN,
    };
    T sum[OWN_ROWS<T>][OWN] = {};
    for (u32 t = 0; t < count; t++) {
        const Term<T>& term = terms[t];
        const T scale = T(term.scale);
        if (term.kind == KRON) {
            add_kron(term, at, scale, sum);
            continue;
        }
        if (!HADAMARD_TOO || term.kind == PLAIN) {
            add_factor(term.first, at, scale, staged, sum);
            continue;
        }
        T first[OWN_ROWS<T>][OWN] = {}, second[OWN_ROWS<T>][OWN] = {};
        add_factor(term.first, at, scale, staged, first);
        add_factor(term.second, at, T(1), staged, second);
#pragma unroll
        for (int i = 0; i < OWN_ROWS<T>; i++) {
#pragma unroll
            for (int j = 0; j < OWN; j++) {
                sum[i][j] = fused(first[i][j], second[i][j], sum[i][j]);
            }
        }
    }

    const u32 col = at.col + at.right;
#pragma unroll
    for (int i = 0; i < OWN_ROWS<T>; i++) {
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

#define MATERIALISE(NAME, T, HADAMARD_TOO)                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                \
    NAME(const Term<T>* terms, u32 count, u64 top, u32 rows, u32 cols, u32 add, T* out) {                \
        materialise<HADAMARD_TOO>(terms, count, top, rows, cols, add, out);                              \
    }

MATERIALISE(materialise_f32, float, false)
MATERIALISE(materialise_f64, double, false)
MATERIALISE(materialise_hadamard_f32, float, true)
MATERIALISE(materialise_hadamard_f64, double, true)
