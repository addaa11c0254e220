// lycomerge for C++17: lycomerge.h with owners, exceptions and views. Header-only; link the same library.
//
//     auto a = lycomerge::Adapter::open("a.safetensors");
//     auto b = lycomerge::Adapter::open("b.safetensors");
//     lycomerge::Merge merge;
//     merge.add(a, 0.6).add(b, 0.4).set("strategy", "smart_fusion");
//     auto report = merge.run_to("merged.safetensors");
//     std::cout << report.relative_error() << '\n';
//
// What can fail throws lycomerge::Error. Handles own what they hold and can be moved; an Adapter can also be copied,
// which makes one owner more of the same adapter. What is lent (std::string_view, Tensor) lives as long as the adapter
// or report that lends it. A handle that was moved from holds nothing: calls on it throw, or answer with nothing.
// Which calls may run at the same time is said in lycomerge.h, type by type.

#ifndef LYCOMERGE_HPP
#define LYCOMERGE_HPP

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lycomerge.h"

namespace lycomerge {

/// A borrowed run of elements, as std::span in C++20.
template <class T>
class Span {
public:
    Span() = default;
    Span(T *data, std::size_t size) : data_(data), size_(size) {}

    T *data() const { return data_; }
    std::size_t size() const { return size_; }
    bool empty() const { return size_ == 0; }
    T *begin() const { return data_; }
    T *end() const { return data_ + size_; }
    T &operator[](std::size_t index) const { return data_[index]; }

private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};

/// Why a call failed: what() is a sentence for people that begins with file and layer where the error is about one.
class Error : public std::runtime_error {
public:
    Error(lyco_status status, const lyco_error *error)
        : std::runtime_error(sentence(status, error)),
          status_(status),
          file_(text(lyco_error_file(error))),
          layer_(text(lyco_error_layer(error))) {}

    lyco_status status() const noexcept { return status_; }
    /// The file that the error is about; empty if it is about none.
    const std::string &file() const noexcept { return file_; }
    /// The layer that the error is about; empty if it is about none.
    const std::string &layer() const noexcept { return layer_; }

private:
    static std::string text(const char *text) { return text ? text : ""; }

    static std::string sentence(lyco_status status, const lyco_error *error) {
        std::string all;
        for (const char *part : {lyco_error_file(error), lyco_error_layer(error)})
            if (part)
                all.append(part).append(": ");
        const char *message = lyco_error_message(error);
        return all.append(message ? message : lyco_status_name(status));
    }

    lyco_status status_;
    std::string file_, layer_;
};

namespace detail {

template <auto free>
struct Free {
    template <class T>
    void operator()(T *handle) const { free(handle); }
};

/// Makes a call whose last argument is the error, and throws what it says.
template <class Call>
void check(Call call) {
    lyco_error *error = nullptr;
    const lyco_status status = call(&error);
    const std::unique_ptr<lyco_error, Free<lyco_error_free>> owner(error);
    if (status != LYCO_STATUS_OK)
        throw Error(status, error);
}

inline std::string_view view(const char *text) { return text ? std::string_view(text) : std::string_view(); }

} // namespace detail

/// A layer of an adapter. The strings live as long as it does.
struct Layer {
    std::string_view name, family;
    lyco_param param;
    std::uint64_t rows, cols, rank;
    double scale;
};

/// A tensor that an adapter lends: row-major, little-endian, read-only, perhaps not aligned for its type.
struct Tensor {
    std::string_view name;
    lyco_dtype dtype;
    Span<const std::size_t> shape;
    Span<const std::uint8_t> data;
};

/// An opened adapter: a file, or the result of a merge. It never changes.
class Adapter {
public:
    /// Opens and checks a safetensors or PyTorch file. With `skip_unknown`, layers that can't be understood are left
    /// out instead of refused.
    static Adapter open(const std::string &path, bool skip_unknown = false) {
        const lyco_open_options options{sizeof options, skip_unknown};
        lyco_adapter *handle = nullptr;
        detail::check([&](lyco_error **error) { return lyco_adapter_open(path.c_str(), &options, &handle, error); });
        return Adapter(handle);
    }

    /// Opens the bytes of a file, which are copied. `name` stands for the path in messages and reports.
    static Adapter from_memory(const std::string &name, Span<const std::uint8_t> bytes, bool skip_unknown = false) {
        const lyco_open_options options{sizeof options, skip_unknown};
        lyco_adapter *handle = nullptr;
        detail::check([&](lyco_error **error) {
            return lyco_adapter_from_memory(name.c_str(), bytes.data(), bytes.size(), &options, &handle, error);
        });
        return Adapter(handle);
    }

    /// Becomes the owner of a handle from the C interface.
    explicit Adapter(lyco_adapter *handle) : handle_(handle) {}
    Adapter(const Adapter &other) : handle_(lyco_adapter_retain(other.get())) {}
    Adapter(Adapter &&) noexcept = default;
    Adapter &operator=(Adapter other) noexcept {
        handle_ = std::move(other.handle_);
        return *this;
    }
    ~Adapter() = default;

    /// "LoRA", "LoHa", "LoKr", "Full", "Norm" or "Mixed".
    std::string_view kind() const { return detail::view(lyco_adapter_kind(get())); }
    std::uint64_t byte_len() const { return lyco_adapter_byte_len(get()); }
    std::size_t layer_count() const { return lyco_adapter_layer_count(get()); }
    std::size_t tensor_count() const { return lyco_adapter_tensor_count(get()); }

    Layer layer(std::size_t index) const {
        lyco_layer_info info{};
        info.struct_size = sizeof info;
        detail::check([&](lyco_error **error) { return lyco_adapter_layer_info(get(), index, &info, error); });
        return {info.name, info.family, static_cast<lyco_param>(info.param), info.rows, info.cols, info.rank, info.scale};
    }

    Tensor tensor(std::size_t index) const {
        lyco_tensor_view view{};
        view.struct_size = sizeof view;
        detail::check([&](lyco_error **error) { return lyco_adapter_tensor(get(), index, &view, error); });
        return {view.name,
                static_cast<lyco_dtype>(view.dtype),
                {view.shape, static_cast<std::size_t>(view.dim_count)},
                {view.data, static_cast<std::size_t>(view.byte_len)}};
    }

    Tensor tensor(const std::string &name) const {
        std::size_t index = 0;
        detail::check([&](lyco_error **error) {
            return lyco_adapter_find_tensor(get(), name.c_str(), &index, error);
        });
        return tensor(index);
    }

    /// A value of the file's metadata, if it has the key.
    std::optional<std::string_view> metadata(const std::string &key) const {
        const char *value = nullptr;
        detail::check([&](lyco_error **error) {
            return lyco_adapter_metadata(get(), key.c_str(), &value, error);
        });
        return value ? std::optional<std::string_view>(value) : std::nullopt;
    }

    /// The whole file.
    Span<const std::uint8_t> bytes() const {
        const std::uint8_t *data = nullptr;
        std::size_t size = 0;
        detail::check([&](lyco_error **error) { return lyco_adapter_bytes(get(), &data, &size, error); });
        return {data, size};
    }

    /// Writes a file, which appears under its name only when it is whole.
    void save(const std::string &path) const {
        detail::check([&](lyco_error **error) { return lyco_adapter_save(get(), path.c_str(), error); });
    }

    /// The handle for the C interface; it stays this object's.
    lyco_adapter *get() const { return handle_.get(); }

private:
    std::unique_ptr<lyco_adapter, detail::Free<lyco_adapter_free>> handle_;
};

/// What a merge says about its result.
class Report {
public:
    /// Becomes the owner of a handle from the C interface.
    explicit Report(lyco_report *handle) : handle_(handle) {}

    /// |stored - true| / |true| over the whole file.
    double relative_error() const { return lyco_report_relative_error(handle_.get()); }
    /// Everything, as JSON.
    std::string_view json() const { return detail::view(lyco_report_json(handle_.get())); }

private:
    std::unique_ptr<lyco_report, detail::Free<lyco_report_free>> handle_;
};

/// What a merge will come to.
struct Forecast {
    bool huge;
    std::uint64_t byte_len, input_byte_len;
    double relative_error;
};

/// Hears how far a run is, on the thread that called it; `false` cancels. What it throws cancels, too, and comes out of
/// the run.
using Progress = std::function<bool(std::string_view stage, std::size_t done, std::size_t total)>;

/// Adapters with weights, and how to merge them.
class Merge {
public:
    Merge() : handle_(lyco_merge_new()) {}

    Merge &add(const Adapter &adapter, double weight = 1.0) {
        detail::check([&](lyco_error **error) { return lyco_merge_add(get(), adapter.get(), weight, error); });
        return *this;
    }

    /// Sets an option; lycomerge::options() lists them.
    Merge &set(const std::string &key, const std::string &value) {
        detail::check([&](lyco_error **error) {
            return lyco_merge_set(get(), key.c_str(), value.c_str(), error);
        });
        return *this;
    }

    Forecast forecast(const Progress &progress = nullptr) const {
        lyco_forecast found{};
        found.struct_size = sizeof found;
        const auto thrown = watched(progress, [&](auto hear, void *user, lyco_error **error) {
            return lyco_merge_forecast(get(), hear, user, &found, error);
        });
        rethrow(thrown);
        return {found.huge != 0, found.byte_len, found.input_byte_len, found.relative_error};
    }

    /// Merges into memory.
    std::pair<Adapter, Report> run(const Progress &progress = nullptr) const {
        lyco_adapter *result = nullptr;
        lyco_report *report = nullptr;
        const auto thrown = watched(progress, [&](auto hear, void *user, lyco_error **error) {
            return lyco_merge_run(get(), hear, user, &result, &report, error);
        });
        std::pair<Adapter, Report> done{Adapter(result), Report(report)};
        rethrow(thrown);
        return done;
    }

    /// Merges into a file layer by layer; it appears under its name only when it is whole.
    Report run_to(const std::string &path, const Progress &progress = nullptr) const {
        lyco_report *report = nullptr;
        const auto thrown = watched(progress, [&](auto hear, void *user, lyco_error **error) {
            return lyco_merge_run_to(get(), path.c_str(), hear, user, &report, error);
        });
        Report done(report);
        rethrow(thrown);
        return done;
    }

    /// The handle for the C interface; it stays this object's.
    lyco_merge *get() const { return handle_.get(); }

private:
    /// A callback, and what it threw.
    struct Ear {
        const Progress &progress;
        std::exception_ptr thrown;
    };

    static int hear(void *user, const char *stage, std::size_t done, std::size_t total) {
        Ear &ear = *static_cast<Ear *>(user);
        try {
            return ear.progress(stage, done, total) ? 0 : 1;
        } catch (...) {
            // No exception may leave a callback.
            ear.thrown = std::current_exception();
            return 1;
        }
    }

    /// Makes a call that reports progress, and returns what the callback threw: whoever called owns the outputs first.
    template <class Call>
    static std::exception_ptr watched(const Progress &progress, Call call) {
        Ear ear{progress, nullptr};
        const lyco_progress_callback listener = progress ? &hear : nullptr;
        try {
            detail::check([&](lyco_error **error) { return call(listener, static_cast<void *>(&ear), error); });
        } catch (const Error &) {
            if (!ear.thrown)
                throw;
        }
        return ear.thrown;
    }

    static void rethrow(const std::exception_ptr &thrown) {
        if (thrown)
            std::rethrow_exception(thrown);
    }

    std::unique_ptr<lyco_merge, detail::Free<lyco_merge_free>> handle_;
};

/// What the option "strategy" takes.
struct Strategy {
    std::string_view name, title, help;
};

/// What Merge::set() takes; `value` is empty for a switch, which takes "true" or "false".
struct Option {
    std::string_view name, value, standard, help;
};

inline std::vector<Strategy> strategies() {
    std::vector<Strategy> all;
    for (std::size_t i = 0; i < lyco_strategy_count(); i++)
        all.push_back({lyco_strategy_name(i), lyco_strategy_title(i), lyco_strategy_help(i)});
    return all;
}

inline std::vector<Option> options() {
    std::vector<Option> all;
    for (std::size_t i = 0; i < lyco_option_count(); i++)
        all.push_back({lyco_option_name(i), detail::view(lyco_option_value(i)), lyco_option_default(i),
                       lyco_option_help(i)});
    return all;
}

} // namespace lycomerge

#endif
