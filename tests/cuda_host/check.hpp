// What the checks of the kernels share. A check is a program that includes one source of src/compute/cuda/kernels; it is
// given a seed, ends with 0 and says nothing if all is well.
#pragma once

#include "shim.hpp"

#include "common.cuh"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

namespace check {

inline std::mt19937_64 random_bits;
inline int failures = 0;

#define EXPECT(condition, ...)                            \
    do {                                                  \
        if (!(condition) && check::failures++ < 20) {     \
            std::printf("%s:%d: ", __FILE__, __LINE__);   \
            std::printf(__VA_ARGS__);                     \
            std::printf("\n");                            \
        }                                                 \
    } while (false)

inline double normal() { return std::normal_distribution<double>()(random_bits); }
inline unsigned below(unsigned end) { return unsigned(random_bits() % end); }

template <class T> std::vector<T> normals(std::size_t count) {
    std::vector<T> all(count);
    for (T& x : all) {
        x = T(normal());
    }
    return all;
}

inline unsigned up(std::uint64_t x, std::uint64_t unit) { return unsigned((x + unit - 1) / unit); }

// Launches blocks of THREADS with arguments of the kernel's own types.
template <class... A, class... B> void launch(void (*kernel)(A...), Three grid, shim::Order order, B... given) {
#ifdef __CUDACC__
    (void)order;
    const std::string wrong = shim::launch_on_gpu(kernel, grid, THREADS, given...);
#else
    std::tuple<A...> arguments{given...};
    const std::string wrong = shim::launch(grid, {THREADS, 1, 1}, order, random_bits(),
                                           [&] { std::apply(kernel, arguments); });
#endif
    EXPECT(wrong.empty(), "%s", wrong.c_str());
}

// The same in every order of threads and blocks: `run` is given the order, and what it returns must be the same bytes.
template <class Run> auto in_every_order(Run run) {
    const auto first = run(shim::Order::forward);
    for (auto order : {shim::Order::reversed, shim::Order::random, shim::Order::random}) {
        const auto other = run(order);
        EXPECT(first.size() == other.size() &&
                   std::memcmp(first.data(), other.data(), first.size() * sizeof first[0]) == 0,
               "the result depends on the order of threads");
    }
    return first;
}

inline int done(int failed) {
    if (failed) {
        std::printf("%d checks failed\n", failed);
    }
    return failed != 0;
}

template <class Checks> int main_with(int count, char** arguments, Checks checks) {
    random_bits.seed(count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 0);
    checks();
    return done(failures);
}

// Half an ulp of 1.
template <class T> constexpr double roundoff = sizeof(T) == 4 ? 0x1p-24 : 0x1p-53;

// A dtype's numbers by brute force: every finite one, sorted, with its bits.
struct Numbers {
    std::vector<std::pair<double, unsigned>> all;
    unsigned sign;

    static double value(unsigned bits, int mantissa, int exponents, int bias) {
        const unsigned fraction = bits & ((1u << mantissa) - 1), field = bits >> mantissa & ((1u << exponents) - 1);
        const double x = field == 0 ? std::ldexp(double(fraction), 1 - bias - mantissa)
                                    : std::ldexp(double(fraction + (1u << mantissa)), int(field) - bias - mantissa);
        return bits >> (mantissa + exponents) & 1 ? -x : x;
    }

    // E4M3 has numbers where others have infinities.
    Numbers(int mantissa, int exponents, int bias, bool whole) : sign(1u << (mantissa + exponents)) {
        const unsigned magnitudes = sign - (whole ? 1 : 1u << mantissa);
        for (unsigned bits = 0; bits < magnitudes; bits++) {
            all.push_back({value(bits, mantissa, exponents, bias), bits});
        }
    }

    double largest() const { return all.back().first; }

    // The two that x is between, by magnitude.
    std::pair<unsigned, unsigned> around(double x) const {
        const double size = std::fabs(x);
        const auto above = std::lower_bound(all.begin(), all.end(), size,
                                            [](const auto& row, double x) { return row.first < x; });
        const unsigned high = above == all.end() ? all.back().second : above->second;
        const unsigned low = above == all.end() || above->first == size ? high : high - 1;
        return {low, high};
    }

    // To the nearest, ties to even; beyond the largest: that.
    unsigned nearest(double x) const {
        const auto [low, high] = around(x);
        const double down = std::fabs(x) - all[low].first, up = all[high].first - std::fabs(x);
        const unsigned bits = down < up || (down == up && low % 2 == 0) ? low : high;
        return bits | (std::signbit(x) ? sign : 0);
    }
    double of(unsigned bits) const { return bits & sign ? -all[bits & ~sign].first : all[bits].first; }
};

template <class D> Numbers numbers();
template <> inline Numbers numbers<F16>() { return {10, 5, 15, false}; }
template <> inline Numbers numbers<BF16>() { return {7, 8, 127, false}; }
template <> inline Numbers numbers<E4M3>() { return {3, 4, 7, true}; }
template <> inline Numbers numbers<E5M2>() { return {2, 5, 15, false}; }

}  // namespace check
