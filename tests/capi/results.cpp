// A C++ host that is compiled without exceptions merges two real adapters: what can fail returns a Result.

#include <cstdio>
#include <cstdlib>
#include <type_traits>

#define LYCOMERGE_NO_EXCEPTIONS
#include "lycomerge.hpp"

#ifdef __cpp_exceptions
#error "this is to be compiled with -fno-exceptions"
#endif

#define CHECK(truth)                                                                  \
    do {                                                                              \
        if (!(truth)) {                                                               \
            std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #truth);  \
            std::exit(1);                                                             \
        }                                                                             \
    } while (0)

using lycomerge::Adapter;
using lycomerge::Merge;
using lycomerge::Result;

static_assert(!std::is_copy_constructible_v<Result<lycomerge::Report>>);
static_assert(std::is_nothrow_move_constructible_v<Result<Adapter>>);

/// What it holds; it must hold something.
template <class T>
static T must(Result<T> result) {
    if (!result) {
        std::fprintf(stderr, "%s\n", result.error().what());
        std::exit(1);
    }
    return *std::move(result);
}

template <class T>
static lyco_status failure(const Result<T> &result) {
    CHECK(!result.has_value() && result.error().what()[0] != '\0');
    return result.error().status();
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    const std::string adapters = std::string(argv[1]) + "/", scratch = std::string(argv[2]) + "/";
    const auto lokr = Adapter::open(adapters + "invert.lokr4.safetensors");
    CHECK(lokr && lokr->kind() == "LoKr" && must(lokr->layer(0)).family == "LoKr");
    CHECK(must(lokr->metadata("ss_network_module")) == "lycoris.kohya" && !must(lokr->metadata("no such key")));
    const Adapter loha = must(Adapter::open(adapters + "italic.loha.safetensors"));

    Merge merge;
    Merge &same = must(merge.add(*lokr, 0.6));
    CHECK(&same == &merge);
    must(merge.add(loha, -0.4));
    auto set = merge.set("dtype", "float32");
    CHECK(set && set->get() == merge.get());
    CHECK(must(merge.forecast()).input_byte_len == 209034 + 494610);
    const auto plan = must(merge.plan());
    CHECK(must(plan.picture()).size() > 1000 && !plan.picture("gif"));
    CHECK(must(must(merge.compare()).picture("png")).size() > 1000);

    std::size_t calls = 0;
    const auto [merged, report] = must(merge.run([&](std::string_view, std::size_t done, std::size_t total) {
        calls++;
        return done <= total;
    }));
    CHECK(calls > 0 && report.relative_error() > 0 && report.relative_error() < 0.01);
    const auto first = must(merged.tensor(0));
    CHECK(must(merged.tensor(std::string(first.name))).data.data() == first.data.data());
    CHECK(must(Adapter::from_memory("again", must(merged.bytes()))).tensor_count() == merged.tensor_count());

    must(merged.save(scratch + "saved.safetensors"));
    CHECK(must(merge.run_to(scratch + "run.safetensors")).json().front() == '{');

    const auto lost = Adapter::open(scratch + "no such file");
    CHECK(failure(lost) == LYCO_STATUS_IO && lost.error().file() == scratch + "no such file");
    CHECK(failure(merged.save("")) == LYCO_STATUS_IO);
    CHECK(failure(merged.layer(1000)) == LYCO_STATUS_BAD_ARGUMENT);
    CHECK(failure(merged.tensor("no such tensor")) == LYCO_STATUS_BAD_ARGUMENT);
    CHECK(failure(merge.set("colour", "red")) == LYCO_STATUS_OPTION);
    const auto stop = [](std::string_view, std::size_t, std::size_t) { return false; };
    CHECK(failure(merge.run(stop)) == LYCO_STATUS_CANCELLED);
    CHECK(failure(merge.run_to(scratch + "stopped.safetensors", stop)) == LYCO_STATUS_CANCELLED);
    return 0;
}
