// A C++ host merges two real adapters through bindings/cpp/lycomerge.hpp.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
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
    // Before the merge: what it comes to, and how the two compare.
    const auto plan = merge.plan();
    CHECK(plan.json().find("\"--quality good\"") != std::string_view::npos);
    const auto comparison = merge.compare();
    CHECK(comparison.json().find("\"cosines\"") != std::string_view::npos);
    for (const auto kind : {"svg", "png", "html"}) {
        const auto light = plan.picture(kind), again = plan.picture(kind);
        CHECK(light.size() > 1000 && light.data() == again.data());
        CHECK(comparison.picture(kind, true).size() > 1000);
    }
    CHECK(failure([&] { plan.picture("gif"); }) == LYCO_STATUS_OPTION);

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

    // What the merge does, without a file: the sum of what the inputs do, added to a model.
    const Adapter lokr = Adapter::open(adapters + "invert.lokr4.safetensors");
    const Adapter loha = Adapter::open(adapters + "italic.loha.safetensors");
    std::size_t layers = 0;
    moved.deltas([&](const lycomerge::Layer &layer, const lycomerge::Tensor &delta) {
        const auto x = lokr.delta<double>(layers), y = loha.delta<double>(layers);
        const auto z = lokr.delta<float>(layers);
        CHECK(layer.name == lokr.layer(layers).name && delta.data.size() == 4 * x.size() && z.size() == x.size());
        double squares = 0, wrong = 0, norm = 0;
        for (std::size_t i = 0; i < x.size(); i++) {
            float merged;
            std::memcpy(&merged, delta.data.data() + 4 * i, 4);
            const double truth = 0.6 * x[i] - 0.4 * y[i];
            wrong += (merged - truth) * (merged - truth);
            norm += truth * truth;
            squares += x[i] * x[i];
            CHECK(z[i] == static_cast<float>(x[i]));
        }
        CHECK(std::sqrt(wrong / norm) < 1e-7);
        CHECK(std::abs(std::sqrt(squares) / lokr.delta_norm(layers) - 1) < 1e-9);
        layers++;
        return true;
    });
    CHECK(layers == 97);
    CHECK(lokr.survey().find("\"LoKr\"") != std::string_view::npos);

    // The same adapter, of tensors that the host has: half of them by view, half by DLPack.
    lycomerge::Builder builder;
    for (std::size_t i = 0; i < lokr.tensor_count(); i++) {
        const auto tensor = lokr.tensor(i);
        const std::string name(tensor.name);
        if (i % 2)
            builder.add(name, tensor.dtype, tensor.shape, tensor.data);
        else
            builder.add(name, lokr.dlpack(i));
    }
    const Adapter built = builder.set_metadata("a", "b").finish("built");
    CHECK(built.layer_count() == 97 && built.delta<float>(0) == lokr.delta<float>(0) && built.metadata("a") == "b");
    CHECK(built.metadata_keys().front() == "a");

    // Baking into what is not the model of the adapter.
    const std::size_t conv_shape[] = {32, 3, 3, 3};
    const std::vector<float> zeros(32 * 3 * 3 * 3);
    const lycomerge::Span<const std::uint8_t> zero_bytes(reinterpret_cast<const std::uint8_t *>(zeros.data()),
                                                         sizeof(float) * zeros.size());
    lycomerge::Builder difference;
    difference.add("lora_unet_x.diff", LYCO_DTYPE_F32, {conv_shape, 4}, zero_bytes);
    Merge nothing;
    nothing.add(difference.finish("nothing"));
    // What is baked into the model of the adapters is extracted again.
    const std::string base = adapters + "../base.safetensors", tuned = scratch + "tuned.safetensors";
    Merge().add(lokr).set_block_weights(0, "*=0 M00=1").bake(base, tuned);
    Merge wanted;
    wanted.set("format", "lora").set("rank", "32");
    const auto taken = wanted.extract(base, tuned, scratch + "taken.safetensors");
    CHECK(taken.layer_count() > 5 && taken.layer_count() == Adapter::open(scratch + "taken.safetensors").layer_count());
    for (std::size_t i = 0; i < taken.layer_count(); i++)
        CHECK(taken.layer(i).name.find("mid_block") != std::string_view::npos);

    CHECK(failure([&] { nothing.extract(scratch + "no model", scratch + "tuned", scratch + "taken"); }) == LYCO_STATUS_IO);
    CHECK(failure([&] { nothing.bake(scratch + "no model", scratch + "baked"); }) == LYCO_STATUS_IO);
    CHECK(failure([&] { nothing.bake(scratch + "saved.safetensors", scratch + "baked", 3); }) == LYCO_STATUS_MISMATCH);

    // What depends on the model's weights is opened with the model, and may be baked into it.
    const std::string model = adapters + "../base.safetensors", dora = adapters + "italic.doralokr.safetensors";
    CHECK(failure([&] { Adapter::open(dora); }) == LYCO_STATUS_UNSUPPORTED);
    Merge based;
    based.add(Adapter::open(dora, false, model), 0.5);
    CHECK(based.run().first.layer_count() == 97);
    CHECK(based.bake(model, scratch + "baked").relative_error() < 1e-4);
    CHECK(std::remove((scratch + "baked").c_str()) == 0);

    // The report by layer, and its recipe once more.
    CHECK(report.layer_count() == 97 && report.layer(0).name == kept.layer(0).name);
    Merge repeated;
    repeated.add(lokr, 0.6).add(loha, -0.4).set_recipe(std::string(report.json()));
    CHECK(repeated.run().first.byte_len() == kept.byte_len());
    repeated.cancel();

    CHECK(lycomerge::is_compatible() && !lycomerge::version().empty() && !lycomerge::families().empty());
    lycomerge::set_log(nullptr);
    const auto strategies = lycomerge::strategies();
    const auto arithmetic = std::find_if(strategies.begin(), strategies.end(),
                                         [](const auto &strategy) { return strategy.name == "task_arithmetic"; });
    CHECK(arithmetic != strategies.end() && arithmetic->paper == "arXiv 2212.04089");
    CHECK(arithmetic->parameters.size() == 2 && arithmetic->parameters[0].name == "lambda");
    CHECK(arithmetic->parameters[0].takes == "a number" && arithmetic->parameters[0].standard == "1");
    CHECK(lycomerge::options().front().name == "strategy");

    CHECK(failure([&] { Adapter::open(scratch + "no such file"); }) == LYCO_STATUS_IO);
    CHECK(failure([&] { kept.tensor("no such tensor"); }) == LYCO_STATUS_BAD_ARGUMENT);
    CHECK(failure([&] { Merge().set("colour", "red"); }) == LYCO_STATUS_OPTION);
    CHECK(failure([&] { merge.add(kept); }) == LYCO_STATUS_NULL_PARAMETER);
    const auto stop = [](std::string_view, std::size_t, std::size_t) { return false; };
    const auto halt = [](const lycomerge::Layer &, const lycomerge::Tensor &) { return false; };
    CHECK(failure([&] { moved.deltas(halt); }) == LYCO_STATUS_CANCELLED);
    CHECK(failure([&] { moved.deltas(nullptr); }) == LYCO_STATUS_NULL_PARAMETER);
    CHECK(failure([&] { moved.run(stop); }) == LYCO_STATUS_CANCELLED);
    try {
        moved.run([](std::string_view, std::size_t, std::size_t) -> bool { throw std::out_of_range("mine"); });
        CHECK(false && "the host's exception comes out");
    } catch (const std::out_of_range &error) {
        CHECK(std::string(error.what()) == "mine");
    }
    return 0;
}
