// select.cu against a sort, and random numbers of its own.
#include "check.hpp"

#include "select.cu"

using namespace check;

namespace {

template <class T> struct Kernels {
    void (*digits)(const T*, u64, u64, u32, u64*);
    void (*equals)(const T*, u64, u64, u32*);
    void (*cut)(const T*, u64, u64, u64, u32, const u64*, T*);
    void (*sample)(T*, u64, u64, double);
};

// The least key that is kept, and how many equal ones are: the passes that the host makes.
template <class T> std::pair<u64, u64> least(const Kernels<T>& kernels, const std::vector<T>& x, u64 wanted) {
    u32 open = 8 * sizeof(T) - 1;
    u64 prefix = 0;
    while (open > 0) {
        const std::vector<u64> counts = in_every_order([&](shim::Order order) {
            std::vector<u64> counts(DIGITS);
            launch(kernels.digits, {3, 1, 1}, order, x.data(), u64(x.size()), prefix, open, counts.data());
            return counts;
        });
        const u32 width = std::min(open, u32(DIGIT));
        u32 digit = DIGITS - 1;
        for (; digit > 0 && counts[digit] < wanted; digit--) {
            wanted -= counts[digit];
        }
        EXPECT(counts[digit] >= wanted, "there are fewer than are wanted");
        EXPECT(digit < 1u << width, "a digit of more than %u bits", width);
        prefix = prefix << width | digit;
        open -= width;
    }
    return {prefix, wanted};
}

template <class T> void test(const Kernels<T>& kernels, const std::vector<T>& x, u64 wanted) {
    const auto [key, equals] = least(kernels, x, wanted);
    const u32 runs = up(x.size(), RUN<T>);
    const std::vector<u32> of_run = in_every_order([&](shim::Order order) {
        std::vector<u32> of_run(runs, 99);
        launch(kernels.equals, {runs, 1, 1}, order, x.data(), u64(x.size()), key, of_run.data());
        return of_run;
    });
    std::vector<u64> before(runs);
    for (u32 i = 1; i < runs; i++) {
        before[i] = before[i - 1] + of_run[i - 1];
    }
    const std::vector<T> got = in_every_order([&](shim::Order order) {
        std::vector<T> out(x.size(), T(99));
        launch(kernels.cut, {runs, 1, 1}, order, x.data(), u64(x.size()), key, equals, 0u, before.data(), out.data());
        return out;
    });
    // The others, in their own place.
    std::vector<T> rest = x;
    launch(kernels.cut, {runs, 1, 1}, shim::Order::random, rest.data(), u64(x.size()), key, equals, 1u, before.data(),
           rest.data());

    std::vector<u64> order(x.size());
    for (u64 i = 0; i < order.size(); i++) {
        order[i] = i;
    }
    std::stable_sort(order.begin(), order.end(), [&](u64 i, u64 j) { return std::fabs(x[i]) > std::fabs(x[j]); });
    std::vector<T> want(x.size());
    for (u64 i = 0; i < wanted; i++) {
        want[order[i]] = x[order[i]];
    }
    for (u64 i = 0; i < x.size(); i++) {
        EXPECT(got[i] == want[i], "the largest %llu of %zu: %g at %llu, not %g", wanted, x.size(), double(got[i]), i,
               double(want[i]));
        EXPECT(rest[i] == (want[i] == x[i] ? T(0) : x[i]), "all but the largest %llu of %zu: %g at %llu", wanted,
               x.size(), double(rest[i]), i);
    }
}

// splitmix64 (Steele, Lea, Flood 2014) as it is published: a state that steps, and a mix of it. The last of `count` numbers
// below 1.
double last_random(u64 state, u64 count) {
    state += count * 0x9e3779b97f4a7c15ull;
    u64 z = state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return std::ldexp(double((z ^ (z >> 31)) >> 11), -53);
}

template <class T> void test_sample(const Kernels<T>& kernels, const std::vector<T>& x, double chance) {
    const u64 stream = random_bits();
    const std::vector<T> got = in_every_order([&](shim::Order order) {
        std::vector<T> kept = x;
        launch(kernels.sample, {3, 1, 1}, order, kept.data(), u64(x.size()), stream, chance);
        return kept;
    });
    for (u64 i = 0; i < x.size(); i++) {
        const T want = last_random(stream, i + 1) < chance ? x[i] : T(0);
        EXPECT(got[i] == want, "by chance %g: %g at %llu of %zu, not %g", chance, double(got[i]), i, x.size(),
               double(want));
    }
}

template <class T> void all(const Kernels<T>& kernels) {
    for (unsigned count : {1u, 7u, 2049u, 5001u}) {
        std::vector<T> x = normals<T>(count);
        test(kernels, x, 1);
        test(kernels, x, 1 + below(count));
        test_sample(kernels, x, 0.5);
        test_sample(kernels, x, below(1000) * 1e-3);
        // Many equals, of both signs, and zeros.
        for (T& one : x) {
            one = T(int(below(9)) - 4);
        }
        test(kernels, x, 1 + below(count));
        test(kernels, x, count);
        // Very different sizes, subnormal numbers too.
        for (T& one : x) {
            one = T(std::ldexp(normal(), -int(below(sizeof(T) == 4 ? 149 : 1070))));
        }
        test(kernels, x, 1 + below(count));
    }
}

}  // namespace

int main(int count, char** arguments) {
    return main_with(count, arguments, [] {
        all<float>({digits_f32, equals_f32, cut_f32, sample_f32});
        all<double>({digits_f64, equals_f64, cut_f64, sample_f64});
    });
}
