// How fast each kernel of src/compute/cuda/kernels is, against a copy on the same GPU (bytes read and written, counted
// alike). The kernels are compiled as the library has them: to PTX for compute_75, which the driver assembles.
//
//   nvcc -O3 -std=c++17 --fmad=false -gencode arch=compute_75,code=compute_75 -I src/compute/cuda/kernels \
//       benches/gpu.cu -o target/gpu-bench && target/gpu-bench
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <vector>

#include "common.cuh"

namespace materialise_cu {
#include "materialise.cu"
}
namespace bake_cu {
#include "bake.cu"
}
namespace cast_cu {
#include "cast.cu"
}
namespace gram_cu {
#include "gram.cu"
}
namespace reduce_cu {
#include "reduce.cu"
}
namespace select_cu {
#include "select.cu"
}
namespace elect_cu {
#include "elect.cu"
}

namespace {

constexpr int RUNS = 15;
double copied = 0;

void check(cudaError_t error) {
    if (error != cudaSuccess) {
        std::fprintf(stderr, "%s\n", cudaGetErrorString(error));
        std::exit(1);
    }
}

// Milliseconds, the median of RUNS after two.
double timed(const std::function<void()>& work) {
    cudaEvent_t begin, end;
    check(cudaEventCreate(&begin));
    check(cudaEventCreate(&end));
    std::vector<float> all;
    for (int run = 0; run < RUNS + 2; run++) {
        check(cudaEventRecord(begin));
        work();
        check(cudaGetLastError());
        check(cudaEventRecord(end));
        check(cudaEventSynchronize(end));
        float ms = 0;
        check(cudaEventElapsedTime(&ms, begin, end));
        if (run >= 2) {
            all.push_back(ms);
        }
    }
    std::nth_element(all.begin(), all.begin() + RUNS / 2, all.end());
    return all[RUNS / 2];
}

void row(const char* name, double bytes, double flops, const std::function<void()>& work) {
    const double ms = timed(work), rate = bytes / ms / 1e6;
    if (copied == 0) {
        copied = rate;
    }
    std::printf("| %s | %.3f ms | %.0f GB/s | %.0f %% |", name, ms, rate, 100 * rate / copied);
    if (flops > 0) {
        std::printf(" %.1f Tflop/s |\n", flops / ms / 1e9);
    } else {
        std::printf(" |\n");
    }
}

template <class T> T* device(std::size_t count) {
    T* made = nullptr;
    check(cudaMalloc(&made, count * sizeof(T)));
    check(cudaMemset(made, 0, count * sizeof(T)));
    return made;
}

// Normal numbers, repeated.
float* normals(std::size_t count) {
    std::mt19937 bits(1);
    std::normal_distribution<float> normal;
    std::vector<float> some(std::min(count, std::size_t(1) << 20));
    std::generate(some.begin(), some.end(), [&] { return normal(bits); });
    float* made = device<float>(count);
    for (std::size_t at = 0; at < count; at += some.size()) {
        check(cudaMemcpy(made + at, some.data(), std::min(some.size(), count - at) * 4, cudaMemcpyHostToDevice));
    }
    return made;
}

template <class T> T* uploaded(const std::vector<T>& from) {
    T* made = device<T>(from.size());
    check(cudaMemcpy(made, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice));
    return made;
}

unsigned blocks(std::size_t count, std::size_t unit, std::size_t most) {
    return unsigned(std::max<std::size_t>(1, std::min((count + unit - 1) / unit, most)));
}

}  // namespace

int main() {
    int gpus = 0;
    if (cudaGetDeviceCount(&gpus) != cudaSuccess || gpus == 0) {
        std::printf("skipped: there is no GPU\n");
        return 0;
    }
    cudaDeviceProp card;
    check(cudaGetDeviceProperties(&card, 0));
    std::printf("%s\n\n| kernel | time | moved | of a copy | |\n| --- | --- | --- | --- | --- |\n", card.name);

    const std::size_t count = std::size_t(1) << 27;
    float* x = normals(count);
    float* y = device<float>(count);
    row("copy of 512 MiB", 8.0 * count, 0, [&] { check(cudaMemcpyAsync(y, x, 4 * count, cudaMemcpyDeviceToDevice)); });

    {
        using namespace materialise_cu;
        const u32 n = 8192;
        auto launch = [&](const char* name, const std::vector<Term<float>>& terms, double flops, double read = 0) {
            const Term<float>* table = uploaded(terms);
            const dim3 grid(n / EDGE, n / HEIGHT<float>);
            const auto kernel = terms[0].kind == HADAMARD ? materialise_hadamard_f32 : materialise_f32;
            row(name, (4.0 + read) * n * n, flops * n * n, [&] {
                kernel<<<grid, THREADS>>>(table, u32(terms.size()), 0, n, n, 0, y);
            });
        };
        auto product = [&](u32 rank) { return Factor<float>{x, x + n * rank, rank, n, n, 0}; };
        auto lora = [&](u32 rank) { return Term<float>{0.5, PLAIN, 0, 0, 0, product(rank), {}}; };
        launch("materialise LoRA, rank 4", {lora(4)}, 8);
        launch("materialise LoRA, rank 16", {lora(16)}, 32);
        launch("materialise LoRA, rank 32", {lora(32)}, 64);
        launch("materialise LoRA, rank 64", {lora(64)}, 128);
        launch("materialise 3 LoRAs, rank 32", {lora(32), lora(32), lora(32)}, 192);
        launch("materialise LoHa, rank 8", {{0.5, HADAMARD, 0, 0, 0, product(8), product(8)}}, 33);
        auto whole = [&](u32 cols) { return Factor<float>{nullptr, x, 0, 0, cols, 0}; };
        launch("materialise LoKr, 16 × 16 ⊗ 512 × 512", {{0.5, KRON, 512, 512, 0, whole(16), whole(512)}}, 2);
        const Term<float> kron{0.5, KRON, 512, 512, 0, whole(16), whole(512)};
        launch("materialise 3 LoKrs", {kron, kron, kron}, 6);
        launch("materialise full", {{0.5, PLAIN, 0, 0, 0, whole(n), {}}}, 2, 4);
    }
    const Rounding nearest{0, 0, 0}, at_random{7, 0, 1};
    Met* met = device<Met>(1);
    void* narrow = device<u8>(2 * count);
    void* other = device<u8>(2 * count);
    {
        using namespace cast_cu;
#define CASTS(name, size)                                                                              \
    row("f32 → " #name, (4.0 + size) * count, 0, [&] {                                                 \
        narrow_f32_##name<<<blocks(count, THREADS * 4, 2048), THREADS>>>(                    \
            x, static_cast<CASTS_##name*>(narrow), count, nearest, met);                               \
    });                                                                                                \
    row(#name " → f32", (4.0 + size) * count, 0, [&] {                                                 \
        widen_##name##_f32<<<blocks(count, THREADS * 4, 2048), THREADS>>>(                   \
            static_cast<CASTS_##name*>(narrow), y, count);                                             \
    });
        typedef u16 CASTS_f16;
        typedef u16 CASTS_bf16;
        typedef u8 CASTS_e4m3;
        typedef u8 CASTS_e5m2;
        CASTS(f16, 2)
        CASTS(bf16, 2)
        CASTS(e4m3, 1)
        CASTS(e5m2, 1)
        row("f32 → e4m3, at random", 5.0 * count, 0, [&] {
            narrow_f32_e4m3<<<blocks(count, THREADS * 4, 2048), THREADS>>>(x, static_cast<u8*>(narrow), count,
                                                                          at_random, met);
        });
    }
    {
        using namespace bake_cu;
        Sums* sums = device<Sums>(2048);
        // Weights of ordinary size.
        cast_cu::narrow_f32_f16<<<2048, THREADS>>>(x, static_cast<u16*>(narrow), count, nearest, met);
        row("bake f16", 8.0 * count, 0, [&] {
            bake_f16_f32<<<blocks(count, THREADS * 4, 2048), THREADS>>>(
                static_cast<u16*>(narrow), x, static_cast<u16*>(other), count, 1, 1, nearest, sums, met);
        });
        cast_cu::narrow_f32_bf16<<<2048, THREADS>>>(x, static_cast<u16*>(narrow), count, nearest, met);
        row("bake bf16", 8.0 * count, 0, [&] {
            bake_bf16_f32<<<blocks(count, THREADS * 4, 2048), THREADS>>>(
                static_cast<u16*>(narrow), x, static_cast<u16*>(other), count, 1, 1, nearest, sums, met);
        });
        row("bake bf16, at random", 8.0 * count, 0, [&] {
            bake_bf16_f32<<<blocks(count, THREADS * 4, 2048), THREADS>>>(
                static_cast<u16*>(narrow), x, static_cast<u16*>(other), count, 1, 1, at_random, sums, met);
        });
        cast_cu::narrow_f32_e4m3<<<2048, THREADS>>>(x, static_cast<u8*>(narrow), count, nearest, met);
        row("bake e4m3", 6.0 * count, 0, [&] {
            bake_e4m3_f32<<<blocks(count, THREADS * 4, 2048), THREADS>>>(
                static_cast<u8*>(narrow), x, static_cast<u8*>(other), count, 1, 1, nearest, sums, met);
        });
        const std::size_t half = count / 2;
        row("bake f32", 16.0 * half, 0, [&] {
            bake_f32_f64<<<blocks(half, THREADS * 2, 2048), THREADS>>>(
                x, reinterpret_cast<double*>(y), reinterpret_cast<float*>(narrow), half, 1, 1, nearest, sums, met);
        });
    }
    {
        using namespace reduce_cu;
        Stats* partial = device<Stats>(1025);
        const unsigned many = blocks(count, 2048, 1024);
        row("norm, sum, least and largest", 4.0 * count, 0, [&] {
            stats_f32<<<many, THREADS>>>(x, count, partial);
            stats_partials<<<1, THREADS>>>(partial, many, partial + 1024);
        });
        double* sums = reinterpret_cast<double*>(partial);
        row("dot", 8.0 * count, 0, [&] {
            dot_f32<<<many, THREADS>>>(x, y, count, sums);
            sum_partials<<<1, THREADS>>>(sums, many, sums + 1024);
        });
    }
    {
        using namespace select_cu;
        u64* counts = device<u64>(DIGITS);
        row("digits of magnitudes", 4.0 * count, 0,
            [&] { digits_f32<<<2048, THREADS>>>(x, count, 0, 31, counts); });
        const unsigned runs = blocks(count, RUN<float>, count);
        u32* of_run = device<u32>(runs);
        u64* before = device<u64>(runs);
        row("equal magnitudes", 4.0 * count, 0,
            [&] { equals_f32<<<runs, THREADS>>>(x, count, 0x3f800000, of_run); });
        row("cut", 8.0 * count, 0,
            [&] { cut_f32<<<runs, THREADS>>>(x, count, 0x3f800000, 1, 0, before, y); });
        row("kept at random", 8.0 * count, 0, [&] { sample_f32<<<2048, THREADS>>>(y, count, 7, 1.0); });
    }
    {
        using namespace elect_cu;
        const u32 models = 3;
        const std::size_t each = count / 4;
        const Voter* voters = uploaded(std::vector<Voter>(models, {0.5, 0.5, 1}));
        auto elected = [&](const char* name, u32 elect) {
            row(name, 4.0 * (models + 1) * each, 0, [&] {
                elect_f32<<<blocks(each, THREADS * 4, 2048), THREADS>>>(x, each, models, each, voters,
                                                                        Ballot{1, elect, elect}, y);
            });
        };
        elected("weighted sum of 3 models", NOBODY);
        elected("elected sum of 3 models", 1);
    }
    {
        using namespace gram_cu;
        const u64 rows = 1 << 19;
        const u32 cols = 96, tiles = (cols + EDGE - 1) / EDGE, slices = u32(rows / SLICE);
        double* partial = device<double>(u64(slices) * cols * cols);
        row("Gram matrix, 524288 × 96", 4.0 * rows * cols, 2.0 * rows * cols * cols, [&] {
            gram_f32<<<dim3(tiles, tiles, slices), THREADS>>>(x, rows, cols, rows, partial);
            gram_sum<<<(cols * cols + THREADS - 1) / THREADS, THREADS>>>(partial, slices, cols,
                                                                      reinterpret_cast<double*>(y));
        });
    }
    return 0;
}
