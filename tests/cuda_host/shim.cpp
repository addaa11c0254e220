// Fibers for the threads of a block, and who goes on when.
#include "shim.hpp"

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <random>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

Three threadIdx, blockIdx, blockDim, gridDim;

namespace shim {
namespace {

constexpr std::size_t STACK = 128 << 10;

enum class State { ready, at_barrier, at_shuffle, done };

struct Fiber {
    ucontext_t context;
    State state;
    Site site;
    unsigned mask;
    std::uint64_t given;
    std::uint64_t taken[32];
};

// One launch at a time.
struct Block {
    std::vector<Fiber> fibers;
    char* stacks = nullptr;
    ucontext_t scheduler;
    unsigned current = 0;
    const std::function<void()>* thread = nullptr;
#if defined(__SANITIZE_ADDRESS__)
    const void* scheduler_stack = nullptr;
    std::size_t scheduler_size = 0;
#endif

    void resize(unsigned threads) {
        if (fibers.size() >= threads) {
            return;
        }
        fibers.resize(threads);
        stacks = static_cast<char*>(mmap(nullptr, threads * STACK, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    }
} block;

void to_scheduler(bool ends) {
    Fiber& own = block.fibers[block.current];
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(ends ? nullptr : &fake, block.scheduler_stack, block.scheduler_size);
#endif
    (void)ends;
    swapcontext(&own.context, &block.scheduler);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

void begin() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &block.scheduler_stack, &block.scheduler_size);
#endif
    (*block.thread)();
    block.fibers[block.current].state = State::done;
    to_scheduler(true);
}

void go_on(unsigned index) {
    block.current = index;
    threadIdx = {index % blockDim.x, index / blockDim.x % blockDim.y, index / blockDim.x / blockDim.y};
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, block.stacks + index * STACK, STACK);
#endif
    swapcontext(&block.scheduler, &block.fibers[index].context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

std::string named(Site site) {
    const std::string file = site.file;
    return file.substr(file.rfind('/') + 1) + ":" + std::to_string(site.line);
}

bool same(Site x, Site y) { return x.line == y.line && std::strcmp(x.file, y.file) == 0; }

// Lets a warp go on whose lanes have all given something; whether it did.
bool exchanged(unsigned first, unsigned threads, std::string& wrong) {
    const unsigned end = std::min(first + 32, threads);
    const Fiber& one = block.fibers[first];
    for (unsigned i = first; i < end; i++) {
        const Fiber& fiber = block.fibers[i];
        if (fiber.state != State::at_shuffle) {
            return false;
        }
        if (!same(fiber.site, one.site) || fiber.mask != 0xffffffffu || end - first != 32) {
            wrong = "a shuffle that is not one of the whole warp, at " + named(fiber.site);
            return false;
        }
    }
    for (unsigned i = first; i < end; i++) {
        for (unsigned lane = 0; lane < 32; lane++) {
            block.fibers[i].taken[lane] = block.fibers[first + lane].given;
        }
        block.fibers[i].state = State::ready;
    }
    return true;
}

std::string run_block(unsigned threads, Order order, std::mt19937_64& random) {
    for (unsigned i = 0; i < threads; i++) {
        Fiber& fiber = block.fibers[i];
        fiber.state = State::ready;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = block.stacks + i * STACK;
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, begin, 0);
    }
    std::vector<unsigned> turns(threads);
    for (unsigned i = 0; i < threads; i++) {
        turns[i] = order == Order::reversed ? threads - 1 - i : i;
    }
    for (;;) {
        if (order == Order::random) {
            std::shuffle(turns.begin(), turns.end(), random);
        }
        bool any = false;
        for (unsigned i : turns) {
            if (block.fibers[i].state == State::ready) {
                any = true;
                go_on(i);
            }
        }
        std::string wrong;
        for (unsigned first = 0; first < threads; first += 32) {
            any |= exchanged(first, threads, wrong);
        }
        if (!wrong.empty()) {
            return wrong;
        }
        if (any) {
            continue;
        }
        const auto all = [&](State state) {
            return std::all_of(block.fibers.begin(), block.fibers.begin() + threads,
                               [&](const Fiber& fiber) { return fiber.state == state; });
        };
        if (all(State::done)) {
            return "";
        }
        const Fiber* waiting = nullptr;
        bool together = all(State::at_barrier);
        for (unsigned i = 0; i < threads; i++) {
            if (block.fibers[i].state != State::done) {
                waiting = &block.fibers[i];
                together = together && same(waiting->site, block.fibers[0].site);
            }
        }
        if (!together) {
            return "threads part at a barrier: not all come to " + named(waiting->site);
        }
        for (unsigned i = 0; i < threads; i++) {
            block.fibers[i].state = State::ready;
        }
    }
}

}  // namespace

void wait_for_block(Site site) {
    Fiber& own = block.fibers[block.current];
    own.state = State::at_barrier;
    own.site = site;
    to_scheduler(false);
}

std::uint64_t exchange(Site site, unsigned mask, std::uint64_t bits, unsigned lane) {
    Fiber& own = block.fibers[block.current];
    own.state = State::at_shuffle;
    own.site = site;
    own.mask = mask;
    own.given = bits;
    to_scheduler(false);
    return own.taken[lane];
}

std::string launch(Three grid, Three shape, Order order, std::uint64_t seed, const std::function<void()>& thread) {
    std::mt19937_64 random(seed);
    const unsigned threads = shape.x * shape.y * shape.z;
    block.resize(threads);
    block.thread = &thread;
    gridDim = grid;
    blockDim = shape;
    std::vector<std::uint64_t> blocks(std::uint64_t(grid.x) * grid.y * grid.z);
    for (std::size_t i = 0; i < blocks.size(); i++) {
        blocks[i] = order == Order::reversed ? blocks.size() - 1 - i : i;
    }
    if (order == Order::random) {
        std::shuffle(blocks.begin(), blocks.end(), random);
    }
    for (std::uint64_t i : blocks) {
        blockIdx = {unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / grid.x / grid.y)};
        const std::string wrong = run_block(threads, order, random);
        if (!wrong.empty()) {
            return wrong;
        }
    }
    return "";
}

}  // namespace shim
