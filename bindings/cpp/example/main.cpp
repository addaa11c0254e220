// A small host: merges adapters with weights, shows how far it is, and says what it made.
//
//     blend MERGED.safetensors A.safetensors 0.6 B.safetensors 0.4 ...

#include <algorithm>
#include <cstdlib>
#include <iomanip>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include <lycomerge.hpp>

namespace {

/// Called from run_to() on this thread, at least ten times a second; `false` would cancel.
bool show(std::string_view stage, std::size_t done, std::size_t total) {
    std::cerr << '\r' << stage << ": " << done << " of " << total << " layers   " << std::flush;
    return true;
}

/// The layers whose stored form is farthest from the true merge.
void list_least_exact(const lycomerge::Report &report, std::size_t count) {
    std::vector<lycomerge::LayerReport> layers;
    for (std::size_t i = 0; i < report.layer_count(); i++)
        layers.push_back(report.layer(i));
    count = std::min(count, layers.size());
    const auto worse = [](const auto &a, const auto &b) { return a.relative_error > b.relative_error; };
    std::stable_sort(layers.begin(), layers.end(), worse);
    for (std::size_t i = 0; i < count; i++)
        std::cout << std::setw(6) << 100 * layers[i].relative_error << " %  " << layers[i].family << "  "
                  << layers[i].name << '\n';
}

void blend(const std::string &output, const std::vector<std::string> &inputs) {
    lycomerge::Merge merge;
    for (std::size_t i = 0; i < inputs.size(); i += 2) {
        // The merge keeps what it needs of the adapter, which may be closed again.
        const auto adapter = lycomerge::Adapter::open(inputs[i]);
        std::cout << inputs[i] << ": " << adapter.kind() << ", " << adapter.layer_count() << " layers\n";
        merge.add(adapter, std::strtod(inputs[i + 1].c_str(), nullptr));
    }
    merge.set("quality", "good");

    const auto report = merge.run_to(output, show);
    std::cerr << '\n';

    const auto merged = lycomerge::Adapter::open(output);
    std::cout << output << ": " << merged.kind() << ", " << merged.byte_len() / 1000 << " kB, within "
              << std::setprecision(2) << 100 * report.relative_error() << " % of the true merge\n"
              << "least exact:\n";
    list_least_exact(report, 5);
}

} // namespace

int main(int argc, char **argv) {
    if (argc < 4 || argc % 2 != 0) {
        std::cerr << "usage: blend MERGED FILE WEIGHT [FILE WEIGHT]...\n";
        return 2;
    }
    try {
        blend(argv[1], {argv + 2, argv + argc});
    } catch (const lycomerge::Error &error) {
        // The sentence begins with the file and the layer that it is about.
        std::cerr << "blend: " << error.what() << '\n';
        return 1;
    }
    return 0;
}
