// elect.cu against the formula, entry by entry, in the same order of sums.
#include "check.hpp"

#include "elect.cu"

using namespace check;

namespace {

template <class T> using Kernel = void (*)(const T*, u64, u32, u64, const Voter*, Ballot, T*);

double sign(double x) { return x > 0 ? 1 : x < 0 ? -1 : 0; }

double merged(const std::vector<double>& x, const std::vector<Voter>& voters, const Ballot& ballot) {
    double elected = 0, sum = 0, divisor = 0;
    for (std::size_t k = 0; k < x.size(); k++) {
        elected += ballot.elect == BY_NUMBER ? sign(voters[k].vote * x[k]) : voters[k].vote * x[k];
    }
    for (std::size_t k = 0; k < x.size(); k++) {
        if (ballot.elect == NOBODY || sign(voters[k].vote * x[k]) == (elected >= 0 ? 1 : -1)) {
            sum += voters[k].coefficient * x[k];
            divisor += voters[k].share;
        }
    }
    return !ballot.divides ? ballot.factor * sum : divisor > 0 ? ballot.factor * sum / divisor : 0;
}

template <class T> void test(Kernel<T> kernel, u32 models, u64 count, const Ballot& ballot, bool in_place) {
    const u64 stride = (count + PER<T> - 1) / PER<T> * PER<T>;
    std::vector<T> x = normals<T>(stride * models);
    // Zeros, as masks leave them, and elections that are a draw.
    for (u64 i = 0; i < x.size(); i++) {
        x[i] = below(3) == 0 ? T(0) : below(4) == 0 ? T(int(below(3)) - 1) : x[i];
    }
    std::vector<Voter> voters(models);
    for (Voter& voter : voters) {
        voter = {normal(), below(2) ? normal() : 1.0, below(4) ? std::fabs(normal()) : 0.0};
    }
    const std::vector<T> got = in_every_order([&](shim::Order order) {
        std::vector<T> all = x, out(count, T(99));
        T* to = in_place ? all.data() : out.data();
        launch(kernel, {3, 1, 1}, order, all.data(), stride, models, count, voters.data(), ballot, to);
        return std::vector<T>(to, to + count);
    });
    for (u64 i = 0; i < count; i++) {
        std::vector<double> of_entry(models);
        for (u32 k = 0; k < models; k++) {
            of_entry[k] = double(x[k * stride + i]);
        }
        const T want = T(merged(of_entry, voters, ballot));
        EXPECT(got[i] == want, "%u models, elect %u, divides %u: %.17g at %llu of %llu, not %.17g", models, ballot.elect,
               ballot.divides, double(got[i]), i, count, double(want));
    }
}

template <class T> void all(Kernel<T> kernel) {
    for (u32 elect : {NOBODY, 1u, BY_NUMBER}) {
        for (u32 divides : {0u, 1u}) {
            for (u32 models : {1u, 2u, 5u}) {
                const Ballot ballot = {normal(), elect, divides};
                test(kernel, models, 1, ballot, true);
                test(kernel, models, 3 + below(20), ballot, false);
                test(kernel, models, 3000 + below(3000), ballot, below(2) == 1);
            }
        }
    }
}

}  // namespace

int main(int count, char** arguments) {
    return main_with(count, arguments, [] {
        all<float>(elect_f32);
        all<double>(elect_f64);
    });
}
