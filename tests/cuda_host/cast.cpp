// cast.cu against the nearest of all of a dtype's numbers, which are listed one by one.
#include "check.hpp"

#include "cast.cu"

using namespace check;

namespace {

template <class T, class Bits> struct Kernels {
    void (*widen)(const Bits*, T*, u64);
    void (*narrow)(const T*, Bits*, u64, Rounding, Met*);
};

// Bits and what was met, as one run of bytes.
template <class Bits> struct Narrowed {
    std::vector<Bits> bits;
    Met met;
};

template <class T, class Bits>
Narrowed<Bits> narrowed(const Kernels<T, Bits>& kernels, const std::vector<T>& reals, Rounding how) {
    Narrowed<Bits> out{std::vector<Bits>(reals.size()), {}};
    out.bits = in_every_order([&](shim::Order order) {
        std::vector<Bits> bits(reals.size());
        std::vector<Met> met{{~0ull, 0}};
        launch(kernels.narrow, {1 + below(3), 1, 1}, order, reals.data(), bits.data(), u64(reals.size()), how, met.data());
        out.met = met[0];
        return bits;
    });
    return out;
}

template <class D, class T> void test(const Kernels<T, typename D::Bits>& kernels) {
    typedef typename D::Bits Bits;
    const Numbers known = numbers<D>();
    const bool eight = sizeof(Bits) == 1;
    const u64 seed = random_bits();

    // Every finite number of either sign survives.
    std::vector<Bits> stored;
    for (const auto& row : known.all) {
        stored.push_back(Bits(row.second));
        stored.push_back(Bits(row.second | known.sign));
    }
    std::vector<T> reals(stored.size());
    launch(kernels.widen, {2, 1, 1}, shim::Order::random, stored.data(), reals.data(), u64(stored.size()));
    for (std::size_t i = 0; i < stored.size(); i++) {
        EXPECT(reals[i] == T(known.of(stored[i])) && std::signbit(reals[i]) == std::signbit(known.of(stored[i])),
               "%x is %g, not %g", unsigned(stored[i]), double(reals[i]), known.of(stored[i]));
    }
    for (u32 stochastic : {0u, 1u}) {
        const auto same = narrowed(kernels, reals, {seed, 0, stochastic});
        EXPECT(same.bits == stored && same.met.first_bad == ~0ull && same.met.saturated == 0, "there and back");
    }

    // Others become the nearest: of every size, and ties.
    std::vector<T> others;
    for (int i = 0; i < 3001; i++) {
        const unsigned at = below(unsigned(known.all.size()) - 1);
        const double low = known.all[at].first, high = known.all[at + 1].first;
        const double share = i % 3 ? std::generate_canonical<double, 53>(random_bits) : 0.5;
        others.push_back(T((i % 2 ? 1 : -1) * (low + share * (high - low))));
    }
    const auto nearest = narrowed(kernels, others, {seed, 0, 0});
    const auto random = narrowed(kernels, others, {seed, 5, 1});
    for (std::size_t i = 0; i < others.size(); i++) {
        // The CPU path comes to 16 bits by way of f32.
        const double x = eight ? double(others[i]) : double(float(others[i]));
        EXPECT(nearest.bits[i] == known.nearest(x), "%.17g becomes %x, not %x", x, unsigned(nearest.bits[i]),
               known.nearest(x));
        const auto [low, high] = known.around(others[i]);
        const unsigned size = random.bits[i] & ~known.sign;
        EXPECT(size == low || size == high, "%.17g becomes %x at random", double(others[i]), unsigned(random.bits[i]));
    }

    // At random, the mean is the number; and a number's place in the tensor decides, not the launch.
    const double low = known.all[known.all.size() / 2].first, high = known.all[known.all.size() / 2 + 1].first;
    const std::vector<T> equal(20011, T(low + 0.3 * (high - low)));
    const auto many = narrowed(kernels, equal, {seed, 0, 1});
    double sum = 0;
    for (Bits bits : many.bits) {
        sum += known.of(bits);
    }
    const double mean = sum / double(equal.size());
    EXPECT(std::fabs((mean - low) / (high - low) - 0.3) < 0.02, "a mean of %g from %g to %g", mean, low, high);
    const std::vector<T> later(equal.begin() + 777, equal.end());
    const auto part = narrowed(kernels, later, {seed, 777, 1});
    EXPECT(std::equal(part.bits.begin(), part.bits.end(), many.bits.begin() + 777), "parts differ");

    // What does not fit is told.
    std::vector<T> large = normals<T>(101);
    large[60] = -T(known.largest() * 1.5);
    large[77] = T(known.largest() * 1.5);
    const auto wide = narrowed(kernels, large, {seed, 0, 0});
    if (eight) {
        EXPECT(wide.met.first_bad == ~0ull && wide.met.saturated == 2 && known.of(wide.bits[60]) == -known.largest(),
               "saturated: %llu", wide.met.saturated);
    } else {
        EXPECT(wide.met.first_bad == 60, "first bad: %llu", wide.met.first_bad);
    }
    large[9] = T(NAN);
    large[10] = T(INFINITY);
    EXPECT(narrowed(kernels, large, {seed, 0, 0}).met.first_bad == 9, "a NaN is not told");
}

}  // namespace

#define KERNELS(T, REAL, D, DTYPE) test<D>(Kernels<T, D::Bits>{widen_##DTYPE##_##REAL, narrow_##REAL##_##DTYPE});

int main(int count, char** arguments) {
    return main_with(count, arguments, [] {
        KERNELS(float, f32, F16, f16)
        KERNELS(float, f32, BF16, bf16)
        KERNELS(float, f32, E4M3, e4m3)
        KERNELS(float, f32, E5M2, e5m2)
        KERNELS(double, f64, F16, f16)
        KERNELS(double, f64, BF16, bf16)
        KERNELS(double, f64, E4M3, e4m3)
        KERNELS(double, f64, E5M2, e5m2)

        const Kernels<double, float> single{widen_f32_f64, narrow_f64_f32};
        std::vector<double> reals = normals<double>(1003);
        auto out = narrowed(single, reals, {0, 0, 0});
        for (std::size_t i = 0; i < reals.size(); i++) {
            EXPECT(out.bits[i] == float(reals[i]), "f32");
        }
        reals[500] = 1e39;
        EXPECT(narrowed(single, reals, {0, 0, 0}).met.first_bad == 500, "beyond f32");
    });
}
