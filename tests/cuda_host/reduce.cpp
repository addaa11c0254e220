// reduce.cu against sums in long double, within the bound that its head has.
#include "check.hpp"

#include "reduce.cu"

using namespace check;

namespace {

template <class T> struct Kernels {
    void (*stats)(const T*, u64, Stats*);
    void (*dot)(const T*, const T*, u64, double*);
    void (*centred)(const T*, u64, double, double*);
};

void near(const char* what, double got, long double want, long double size, u64 count) {
    const long double bound = (count + 20) * 0x1p-53L * size;
    EXPECT(std::fabs(got - want) <= bound, "%s of %llu: %.17g, not %.17Lg", what, count, got, want);
}

template <class T> void test(const Kernels<T>& kernels, u64 count) {
    std::vector<T> x = normals<T>(count);
    const std::vector<T> y = normals<T>(count);
    // A mean far from zero, where a variance from sums of squares would be lost.
    std::for_each(x.begin(), x.end(), [](T& x) { x += T(1000); });
    x[below(unsigned(count))] *= T(-1);
    const u32 blocks = std::min(up(count, 2048), 1024u) + 2;
    const std::vector<Stats> stats = in_every_order([&](shim::Order order) {
        std::vector<Stats> partial(blocks), out(1);
        launch(kernels.stats, {blocks, 1, 1}, order, x.data(), count, partial.data());
        launch(stats_partials, {1, 1, 1}, order, partial.data(), blocks, out.data());
        return out;
    });
    const double mean = stats[0].sum / double(count);
    const std::vector<double> sums = in_every_order([&](shim::Order order) {
        std::vector<double> partial(blocks), out(2);
        launch(kernels.dot, {blocks, 1, 1}, order, x.data(), y.data(), count, partial.data());
        launch(sum_partials, {1, 1, 1}, order, partial.data(), blocks, &out[0]);
        launch(kernels.centred, {blocks, 1, 1}, order, x.data(), count, mean, partial.data());
        launch(sum_partials, {1, 1, 1}, order, partial.data(), blocks, &out[1]);
        return out;
    });
    long double sum = 0, size = 0, squares = 0, dot = 0, dot_size = 0, centred = 0;
    for (u64 i = 0; i < count; i++) {
        sum += x[i];
        size += std::fabs(x[i]);
        squares += (long double)(x[i]) * x[i];
        dot += (long double)(x[i]) * y[i];
        dot_size += std::fabs((long double)(x[i]) * y[i]);
        centred += ((long double)(x[i]) - mean) * ((long double)(x[i]) - mean);
    }
    near("sum", stats[0].sum, sum, size, count);
    near("squares", stats[0].squares, squares, squares, count);
    near("magnitudes", stats[0].magnitudes, size, size, count);
    near("dot", sums[0], dot, dot_size, count);
    near("centred", sums[1], centred, centred, count);
    EXPECT(stats[0].least == double(*std::min_element(x.begin(), x.end())), "least of %llu", count);
    EXPECT(stats[0].largest == double(*std::max_element(x.begin(), x.end())), "largest of %llu", count);
}

}  // namespace

int main(int count, char** arguments) {
    return main_with(count, arguments, [] {
        for (u64 numbers : {1, 3, 255, 1021, 40003}) {
            test<float>({stats_f32, dot_f32, centred_f32}, numbers);
            test<double>({stats_f64, dot_f64, centred_f64}, numbers);
        }
    });
}
