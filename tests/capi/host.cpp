// A C++ host merges two real adapters through bindings/cpp/lycomerge.hpp.

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <type_traits>

#include "lycomerge.hpp"

#define CHECK(truth)                                                                  \
    do {                                                                              \
        if (!(truth)) {                                                               \
            std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #truth);  \
            std::exit(1);                                                             \
        }                                                                             \
    } while (0)

using lycomerge::Adapter;
using lycomerge::Error;
using lycomerge::Merge;

static_assert(!std::is_copy_constructible_v<Merge> && std::is_nothrow_move_constructible_v<Merge>);
static_assert(std::is_nothrow_move_constructible_v<Adapter>);

template <class Call>
static lyco_status failure(Call call) {
    try {
        call();
    } catch (const Error &error) {
        CHECK(error.what()[0] != '\0');
        return error.status();
    }
    return LYCO_STATUS_OK;
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    const std::string adapters = std::string(argv[1]) + "/", scratch = std::string(argv[2]) + "/";
    Merge merge;
    {
        const Adapter lokr = Adapter::open(adapters + "invert.lokr4.safetensors");
        const Adapter loha = Adapter::open(adapters + "italic.loha.safetensors");
        CHECK(lokr.kind() == "LoKr" && lokr.layer_count() == 97 && lokr.layer(0).family == "LoKr");
        CHECK(lokr.metadata("ss_network_module") == "lycoris.kohya" && !lokr.metadata("no such key"));
        merge.add(lokr, 0.6).add(loha, -0.4).set("dtype", "float32");
    }
    const auto forecast = merge.forecast();
    CHECK(!forecast.huge && forecast.input_byte_len == 209034 + 494610 && forecast.relative_error < 0.02);

    std::size_t calls = 0;
    auto [merged, report] = merge.run([&](std::string_view, std::size_t done, std::size_t total) {
        calls++;
        return done <= total;
    });
    CHECK(calls > 0 && report.relative_error() > 0 && report.relative_error() < 0.01);
    CHECK(report.json().find("\"error\"") != std::string_view::npos);

    // A copy is one owner more, and views live on in it.
    const Adapter kept = merged;
    const auto first = kept.tensor(0);
    merged = Adapter::from_memory("again", kept.bytes());
    CHECK(merged.tensor_count() == kept.tensor_count());
    const auto same = merged.tensor(std::string(first.name));
    CHECK(same.dtype == LYCO_DTYPE_F32 && same.data.size() == first.data.size());
    for (std::size_t i = 0; i < same.data.size(); i++)
        CHECK(same.data[i] == first.data[i]);
    std::size_t numbers = 1;
    for (std::size_t extent : same.shape)
        numbers *= extent;
    CHECK(4 * numbers == same.data.size());

    const Merge moved = std::move(merge);
    moved.run_to(scratch + "run.safetensors");
    CHECK(Adapter::open(scratch + "run.safetensors").layer_count() == kept.layer_count());
    kept.save(scratch + "saved.safetensors");

    CHECK(lycomerge::strategies().size() >= 5 && lycomerge::options().front().name == "strategy");

    CHECK(failure([&] { Adapter::open(scratch + "no such file"); }) == LYCO_STATUS_IO);
    CHECK(failure([&] { kept.tensor("no such tensor"); }) == LYCO_STATUS_BAD_ARGUMENT);
    CHECK(failure([&] { Merge().set("colour", "red"); }) == LYCO_STATUS_OPTION);
    CHECK(failure([&] { merge.add(kept); }) == LYCO_STATUS_NULL_PARAMETER);
    const auto stop = [](std::string_view, std::size_t, std::size_t) { return false; };
    CHECK(failure([&] { moved.run(stop); }) == LYCO_STATUS_CANCELLED);
    try {
        moved.run([](std::string_view, std::size_t, std::size_t) -> bool { throw std::out_of_range("mine"); });
        CHECK(false && "the host's exception comes out");
    } catch (const std::out_of_range &error) {
        CHECK(std::string(error.what()) == "mine");
    }
    return 0;
}
