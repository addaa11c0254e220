// The entries of several models become one: λ · Σ cᵢ xᵢ / divisor over the models whose sign is the elected one, or over
// all. What src/merge/strategy/entrywise/consensus.rs does, in its order and in f64, so with its bits for the same xᵢ.
//
// Model i begins `stride` numbers after model i − 1, at a multiple of 16 bytes; `out` may be the first of them. Launch: any
// number of blocks of 256 threads.
#include "common.cuh"

// How the sign of an entry is elected: not at all, or by the number of models; otherwise by their sum. 0 elects plus.
constexpr u32 NOBODY = 0, BY_NUMBER = 2;

struct Voter {
    // What its entries are multiplied by.
    double coefficient;
    // What they are multiplied by in the election.
    double vote;
    // What it adds to the divisor where it agrees.
    double share;
};

struct Ballot {
    // λ; without an election over the divisor, which is the same everywhere.
    double factor;
    u32 elect;
    // Whether sums of an election are divided.
    u32 divides;
};

// WIDTH entries of every model, of which `read` gives those of one.
template <class T, int WIDTH, class Read>
__device__ inline void elect(Read read, u32 models, const Voter* voters, const Ballot& ballot, T (&out)[WIDTH]) {
    double elected[WIDTH] = {}, sums[WIDTH] = {}, divisors[WIDTH] = {};
    T x[WIDTH];
    if (ballot.elect != NOBODY) {
        for (u32 model = 0; model < models; model++) {
            const double vote = voters[model].vote;
            read(model, x);
#pragma unroll
            for (int i = 0; i < WIDTH; i++) {
                const double own = vote * double(x[i]);
                elected[i] += ballot.elect == BY_NUMBER ? double(own > 0.0) - double(own < 0.0) : own;
            }
        }
    }
    for (u32 model = 0; model < models; model++) {
        const Voter voter = voters[model];
        read(model, x);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) {
            const double own = voter.vote * double(x[i]);
            if (ballot.elect == NOBODY || (elected[i] >= 0.0 ? own > 0.0 : own < 0.0)) {
                sums[i] += voter.coefficient * double(x[i]);
                divisors[i] += voter.share;
            }
        }
    }
#pragma unroll
    for (int i = 0; i < WIDTH; i++) {
        const double sum = ballot.factor * sums[i];
        out[i] = T(!ballot.divides ? sum : divisors[i] > 0.0 ? sum / divisors[i] : 0.0);
    }
}

template <class T>
__device__ inline void elect_all(const T* x, u64 stride, u32 models, u64 count, const Voter* voters,
                                 const Ballot& ballot, T* to) {
    each<PER<T>>(
        count,
        [&](u64 first) {
            T out[PER<T>];
            elect<T, PER<T>>([&](u32 model, T(&some)[PER<T>]) { load(x + model * stride + first, some); }, models,
                             voters, ballot, out);
            store(to + first, out);
        },
        [&](u64 i) {
            T out[1];
            elect<T, 1>([&](u32 model, T(&one)[1]) { one[0] = x[model * stride + i]; }, models, voters, ballot, out);
            to[i] = out[0];
        });
}

#define ELECT(NAME, T)                                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                  \
    elect_##NAME(const T* x, u64 stride, u32 models, u64 count, const Voter* voters, Ballot ballot, T* to) { \
        elect_all(x, stride, models, count, voters, ballot, to);                                           \
    }

ELECT(f32, float)
ELECT(f64, double)
