// materialise.cu against a sum in float64, within the bound that its head has.
#include "check.hpp"

#include "materialise.cu"

using namespace check;

namespace {

// A factor, and where its numbers are.
template <class T> struct Held {
    Factor<T> factor;
    std::vector<T> left, right;
    u64 rows;
    u32 cols;

    static u32 stride(u64 length) { return u32(up(length, PER<T>) * PER<T>); }

    static std::vector<T> lines(u64 count, u64 length) {
        std::vector<T> all(count * stride(length));
        for (u64 i = 0; i < count; i++) {
            for (u64 j = 0; j < length; j++) {
                all[i * stride(length) + j] = T(normal());
            }
        }
        return all;
    }

    Held(u64 rows, u32 cols, u32 rank) : rows(rows), cols(cols) {
        if (rank) {
            left = lines(rank, rows);
        }
        right = lines(rank ? rank : rows, cols);
        factor = {left.data(), right.data(), rank, stride(rows), stride(cols), 0};
    }

    // An entry, and the same of absolute values.
    std::pair<double, double> at(u64 i, u64 j) const {
        if (factor.rank == 0) {
            const double x = right[i * factor.right_stride + j];
            return {x, std::fabs(x)};
        }
        double sum = 0, size = 0;
        for (u32 k = 0; k < factor.rank; k++) {
            const double x = double(left[k * factor.left_stride + i]) * right[k * factor.right_stride + j];
            sum += x;
            size += std::fabs(x);
        }
        return {sum, size};
    }
    double products() const { return factor.rank; }
};

template <class T> struct Case {
    u64 rows;
    u32 cols;
    std::vector<Held<T>> factors;
    std::vector<Term<T>> terms;

    void plain(double scale, u32 rank) {
        factors.emplace_back(rows, cols, rank);
        terms.push_back({scale, PLAIN, 0, 0, 0, {}, {}});
    }
    void hadamard(double scale, u32 first, u32 second) {
        factors.emplace_back(rows, cols, first);
        factors.emplace_back(rows, cols, second);
        terms.push_back({scale, HADAMARD, 0, 0, 0, {}, {}});
    }
    void kron(double scale, u32 inner_rows, u32 inner_cols) {
        factors.emplace_back(rows / inner_rows, cols / inner_cols, 0);
        factors.emplace_back(inner_rows, inner_cols, 0);
        terms.push_back({scale, KRON, inner_rows, inner_cols, 0, {}, {}});
    }

    // The factors lie still only now.
    void close() {
        std::size_t next = 0;
        for (Term<T>& term : terms) {
            term.first = factors[next++].factor;
            if (term.kind != PLAIN) {
                term.second = factors[next++].factor;
            }
        }
    }

    // The entry that should be, and how far from it one may be.
    std::pair<double, double> truth(u64 i, u64 j) const {
        double sum = 0, bound = 0;
        std::size_t next = 0;
        for (const Term<T>& term : terms) {
            const Held<T>& one = factors[next++];
            const bool is_kron = term.kind == KRON;
            auto [x, size] = is_kron ? one.at(i / term.inner_rows, j / term.inner_cols) : one.at(i, j);
            double products = one.products();
            if (term.kind != PLAIN) {
                const Held<T>& two = factors[next++];
                const auto [y, other] = is_kron ? two.at(i % term.inner_rows, j % term.inner_cols) : two.at(i, j);
                x *= y;
                size *= other;
                products += two.products();
            }
            sum += term.scale * x;
            bound += (double(terms.size()) + 4 + products) * roundoff<T> * std::fabs(term.scale) * size;
        }
        return {sum, bound};
    }

    std::vector<T> tile(u64 top, u32 height, const std::vector<T>* under, shim::Order order) const {
        std::vector<T> out(u64(height) * cols, T(7));
        if (under) {
            out = *under;
        }
        const bool hadamard = std::any_of(terms.begin(), terms.end(), [](auto& term) { return term.kind == HADAMARD; });
        void (*kernel)(const Term<T>*, u32, u64, u32, u32, u32, T*);
        if constexpr (sizeof(T) == 4) {
            kernel = hadamard ? materialise_hadamard_f32 : materialise_f32;
        } else {
            kernel = hadamard ? materialise_hadamard_f64 : materialise_f64;
        }
        launch(kernel, {up(cols, EDGE), up(height, HEIGHT<T>), 1}, order, terms.data(), u32(terms.size()), top, height,
               cols, u32(under != nullptr), out.data());
        return out;
    }

    void test() {
        close();
        const std::vector<T> whole =
            in_every_order([&](shim::Order order) { return tile(0, u32(rows), nullptr, order); });
        const std::vector<T> under = normals<T>(rows * cols);
        const std::vector<T> over = tile(0, u32(rows), &under, shim::Order::random);
        for (u64 i = 0; i < rows; i++) {
            for (u64 j = 0; j < cols; j++) {
                const auto [x, bound] = truth(i, j);
                const double got = whole[i * cols + j];
                // The truth itself is rounded, where T is a double.
                EXPECT(std::fabs(got - x) <= 2 * bound, "(%llu, %llu): %g, not %g", i, j, got, x);
                EXPECT(over[i * cols + j] == T(under[i * cols + j] + whole[i * cols + j]), "not added at (%llu, %llu)",
                       i, j);
            }
        }
        // Any tile has the entries that the whole has.
        const u64 top = below(unsigned(rows));
        const std::vector<T> part = tile(top, u32(rows - top), nullptr, shim::Order::random);
        EXPECT(std::memcmp(part.data(), &whole[top * cols], part.size() * sizeof(T)) == 0, "a tile from %llu on differs",
               top);
    }
};

template <class T> void all() {
    // Odd, narrow, wide, and whole 16 bytes, on either side of a block's edge.
    const std::pair<u64, u32> shapes[] = {{1, 1}, {3, 129}, {65, 7}, {64, 64}, {70, 130}, {131, 68}, {259, 68}};
    for (const auto& [rows, cols] : shapes) {
        Case<T> one{rows, cols, {}, {}};
        one.plain(normal(), 1 + below(70));
        one.test();

        Case<T> mixed{rows, cols, {}, {}};
        mixed.plain(normal(), 0);
        mixed.hadamard(normal(), 1 + below(20), 16);
        mixed.plain(1e-3 * normal(), 1 + below(40));
        mixed.hadamard(normal(), 0, 1 + below(20));
        mixed.test();
    }
    for (const auto& [a, c, b, d] : {std::tuple{1u, 1u, 33u, 70u}, {8u, 4u, 9u, 20u}, {5u, 3u, 1u, 1u}, {2u, 7u, 36u, 11u}}) {
        Case<T> krons{a * b, c * d, {}, {}};
        krons.kron(normal(), b, d);
        krons.plain(normal(), 3);
        krons.kron(normal(), a * b, d);
        krons.test();
    }
    Case<T> none{5, 9, {}, {}};
    none.test();
}

}  // namespace

int main(int count, char** arguments) {
    return main_with(count, arguments, [] {
        all<float>();
        all<double>();
    });
}
