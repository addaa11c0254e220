// bake.cu against the nearest number of the dtype, and sums in long double.
#include "check.hpp"

#include "bake.cu"

using namespace check;

namespace {

template <class T, class Bits>
using Kernel = void (*)(const Bits*, const T*, Bits*, u64, double, double, Rounding, Sums*, Met*);

// `value`: what bits stand for; `nearest`: the bits of a number of T.
template <class T, class Bits, class Value, class Nearest>
void test(const char* name, Kernel<T, Bits> kernel, u64 count, double scale, Value value, Nearest nearest) {
    const double inverse = 1 / scale;
    std::vector<Bits> weights(count), out;
    std::vector<T> delta(count);
    for (u64 i = 0; i < count; i++) {
        weights[i] = nearest(T(normal()));
        delta[i] = T(0.1 * scale * normal());
    }
    const u32 blocks = 1 + below(3);
    std::vector<Sums> partial;
    std::vector<Met> told(1);
    Met& met = told[0];
    out = in_every_order([&](shim::Order order) {
        std::vector<Bits> bits(count);
        met = {~0ull, 0};
        const Rounding how{0, 0, 0};
        partial = in_every_order([&](shim::Order order) {
            std::vector<Sums> partial(blocks);
            launch(kernel, {blocks, 1, 1}, order, weights.data(), delta.data(), bits.data(), count, scale, inverse, how,
                   partial.data(), &met);
            return partial;
        });
        launch(kernel, {blocks, 1, 1}, order, weights.data(), delta.data(), bits.data(), count, scale, inverse, how,
               partial.data(), &met);
        return bits;
    });
    Sums got{};
    for (const Sums& part : partial) {
        got = {got.delta + part.delta, got.wrong + part.wrong, got.along + part.along};
    }
    long double squares = 0, wrong = 0, along = 0, size = 0;
    for (u64 i = 0; i < count; i++) {
        const Bits want = nearest(T(T(value(weights[i])) + delta[i] * T(inverse)));
        EXPECT(std::memcmp(&out[i], &want, sizeof want) == 0, "%s: entry %llu of %llu: %g, not %g", name, i, count,
               double(value(out[i])), double(value(want)));
        const long double d = delta[i], moved = ((long double)(value(want)) - value(weights[i])) * scale;
        squares += d * d;
        wrong += (moved - d) * (moved - d);
        along += moved * d;
        size += std::fabs(moved * d) + moved * moved;
    }
    // Each summand is rounded a few times in T.
    const long double bound = (count + 20) * 0x1p-53L * (squares + size) + 12 * roundoff<T> * (squares + size);
    EXPECT(std::fabs(got.delta - squares) <= bound && std::fabs(got.wrong - wrong) <= bound &&
               std::fabs(got.along - along) <= bound,
           "%s: sums of %llu: %g %g %g, not %Lg %Lg %Lg", name, count, got.delta, got.wrong, got.along, squares, wrong,
           along);
    EXPECT(met.first_bad == ~0ull, "%s: %llu has no bits", name, met.first_bad);

    // A number that isn't finite is told.
    delta[count / 2] = T(NAN);
    met = {~0ull, 0};
    launch(kernel, {blocks, 1, 1}, shim::Order::random, weights.data(), delta.data(), out.data(), count, scale, inverse,
           Rounding{0, 0, 0}, partial.data(), &met);
    EXPECT(met.first_bad == count / 2, "%s: a NaN is not told", name);
}

template <class D, class T> void narrow(const char* name, Kernel<T, typename D::Bits> kernel) {
    static const Numbers known = numbers<D>();
    for (u64 count : {1, 17, 6003}) {
        test<T, typename D::Bits>(
            name, kernel, count, count == 17 ? 0.37 : 1.0, [](auto bits) { return known.of(bits); },
            [](T x) { return typename D::Bits(known.nearest(sizeof(typename D::Bits) == 1 ? double(x) : double(float(x)))); });
    }
}

}  // namespace

#define NARROW(T, REAL, D, DTYPE) narrow<D, T>(#DTYPE, bake_##DTYPE##_##REAL);

int main(int count, char** arguments) {
    return main_with(count, arguments, [] {
        NARROW(float, f32, F16, f16)
        NARROW(float, f32, BF16, bf16)
        NARROW(float, f32, E4M3, e4m3)
        NARROW(float, f32, E5M2, e5m2)
        NARROW(double, f64, F16, f16)
        NARROW(double, f64, BF16, bf16)
        NARROW(double, f64, E4M3, e4m3)
        NARROW(double, f64, E5M2, e5m2)
        for (u64 count : {1, 17, 6003}) {
            test<double, float>(
                "f32", bake_f32_f64, count, 1.0, [](float x) { return x; }, [](double x) { return float(x); });
            test<double, double>(
                "f64", bake_f64_f64, count, 2.5, [](double x) { return x; }, [](double x) { return x; });
        }
    });
}
