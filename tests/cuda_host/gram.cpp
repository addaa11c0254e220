// gram.cu against sums in long double, within the bound that its head has.
#include "check.hpp"

#include "gram.cu"

using namespace check;

namespace {

template <class T>
void test(void (*kernel)(const T*, u64, u32, u64, double*), u64 rows, u32 cols) {
    const u64 stride = rows + below(5);
    const std::vector<T> x = normals<T>(stride * cols);
    const u32 slices = up(rows, SLICE), tiles = up(cols, EDGE);
    const std::vector<double> got = in_every_order([&](shim::Order order) {
        // Nonsense where nothing is written.
        std::vector<double> partial(u64(slices) * cols * cols, 1e300), out(u64(cols) * cols);
        launch(kernel, {tiles, tiles, slices}, order, x.data(), rows, cols, stride, partial.data());
        launch(gram_sum, {up(u64(cols) * cols, THREADS), 1, 1}, order, partial.data(), slices, cols, out.data());
        return out;
    });
    for (u32 i = 0; i < cols; i++) {
        for (u32 j = 0; j < cols; j++) {
            long double sum = 0, size = 0;
            for (u64 k = 0; k < rows; k++) {
                const long double product = (long double)(x[i * stride + k]) * x[j * stride + k];
                sum += product;
                size += std::fabs(product);
            }
            const double bound = (33 * roundoff<T> + (SLICE / 32 + slices) * 0x1p-53) * double(size);
            EXPECT(std::fabs(got[i * cols + j] - double(sum)) <= bound, "(%u, %u): %g, not %Lg", i, j,
                   got[i * cols + j], sum);
        }
    }
}

}  // namespace

int main(int count, char** arguments) {
    return main_with(count, arguments, [] {
        for (const auto& [rows, cols] : {std::pair{1u, 1u}, {77u, 5u}, {100u, 65u}, {unsigned(SLICE) + 33, 9u}}) {
            test<float>(gram_f32, rows, cols);
            test<double>(gram_f64, rows, cols);
        }
    });
}
