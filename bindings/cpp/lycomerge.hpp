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
// or report that lends it. A handle that was moved from holds nothing: calls on it fail, or answer with nothing.
// Which calls may run at the same time is said in lycomerge.h, type by type.
//
// With LYCOMERGE_NO_EXCEPTIONS defined before this is included, what can fail returns a lycomerge::Result, which holds
// the value or the Error, and the header compiles where exceptions are turned off:
//
//     auto a = lycomerge::Adapter::open("a.safetensors");
//     if (!a)
//         return fail(a.error().what());
//     std::cout << a->kind() << '\n';

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
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "lycomerge.h"

// The namespace within lycomerge keeps the two kinds of functions apart where files of one program choose differently.
#ifdef LYCOMERGE_NO_EXCEPTIONS
#define LYCOMERGE_KIND returning
#define LYCOMERGE_FAIL return
#else
#define LYCOMERGE_KIND throwing
#define LYCOMERGE_FAIL throw
#endif

namespace lycomerge {
inline namespace LYCOMERGE_KIND {

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

#ifdef LYCOMERGE_NO_EXCEPTIONS
/// A value, or why there is none, as std::expected in C++23. Asking for the one that it doesn't hold ends the program.
template <class T>
class [[nodiscard]] Result {
    using Held = std::conditional_t<std::is_void_v<T>, std::monostate,
                                    std::conditional_t<std::is_reference_v<T>,
                                                       std::reference_wrapper<std::remove_reference_t<T>>, T>>;
    using Lvalue = std::add_lvalue_reference_t<T>;
    using ConstLvalue = std::add_lvalue_reference_t<const T>;
    using Rvalue = std::add_rvalue_reference_t<T>;

public:
    Result(Held value) : held_(std::in_place_index<0>, std::move(value)) {}
    Result(Error error) : held_(std::in_place_index<1>, std::move(error)) {}

    bool has_value() const noexcept { return held_.index() == 0; }
    explicit operator bool() const noexcept { return has_value(); }

    Lvalue operator*() & { return static_cast<Lvalue>(std::get<0>(held_)); }
    ConstLvalue operator*() const & { return static_cast<ConstLvalue>(std::get<0>(held_)); }
    Rvalue operator*() && { return static_cast<Rvalue>(std::get<0>(held_)); }
    auto operator->() { return &**this; }
    auto operator->() const { return &**this; }

    const Error &error() const { return std::get<1>(held_); }

private:
    std::variant<Held, Error> held_;
};

/// What a function returns that makes a T, or fails.
template <class T>
using Outcome = Result<T>;
#else
/// What a function returns that makes a T, or fails.
template <class T>
using Outcome = T;
#endif

namespace detail {

template <auto free>
struct Free {
    template <class T>
    void operator()(T *handle) const { free(handle); }
};

/// Makes a call whose last argument is the error. The outcome is what `value` then makes, or the error.
template <class Call, class Value>
auto attempt(Call call, Value value) -> Outcome<decltype(value())> {
    lyco_error *error = nullptr;
    const lyco_status status = call(&error);
    const std::unique_ptr<lyco_error, Free<lyco_error_free>> owner(error);
    if (status != LYCO_STATUS_OK)
        LYCOMERGE_FAIL Error(status, error);
    using Made = Outcome<decltype(value())>;
    if constexpr (std::is_void_v<decltype(value())>)
        return Made(std::monostate());
    else
        return Made(value());
}

inline std::string_view view(const char *text) { return text ? std::string_view(text) : std::string_view(); }

} // namespace detail

/// A layer of an adapter. The strings live as long as it does.
struct Layer {
    std::string_view name, family;
    lyco_param param;
    std::uint64_t rows, cols, rank;
    double scale;
    /// How many numbers its tensors have together.
    std::uint64_t stored_count;
};

/// A tensor that an adapter lends: row-major, little-endian, read-only, perhaps not aligned for its type.
struct Tensor {
    std::string_view name;
    lyco_dtype dtype;
    Span<const std::size_t> shape;
    Span<const std::uint8_t> data;
};

namespace detail {

inline Layer layer(const lyco_layer_info &info) {
    const auto param = static_cast<lyco_param>(info.param);
    return {info.name, info.family, param, info.rows, info.cols, info.rank, info.scale, info.stored_count};
}

inline Tensor tensor(const lyco_tensor_view &view) {
    return {view.name,
            static_cast<lyco_dtype>(view.dtype),
            {view.shape, static_cast<std::size_t>(view.dim_count)},
            {view.data, static_cast<std::size_t>(view.byte_len)}};
}

/// What an adapter is opened with, as long as `base` is there.
inline lyco_open_options open_options(bool skip_unknown, const std::string &base) {
    return {sizeof(lyco_open_options), skip_unknown, base.empty() ? nullptr : base.c_str()};
}

} // namespace detail

/// An opened adapter: a file, or the result of a merge. It never changes.
class Adapter {
public:
    /// Opens and checks a safetensors or PyTorch file, or PEFT's folder. With `skip_unknown`, layers that can't be
    /// understood are left out instead of refused. `base` is the path of the checkpoint that the adapter was trained on,
    /// which families whose effect depends on its weights need.
    static Outcome<Adapter> open(const std::string &path, bool skip_unknown = false, const std::string &base = {}) {
        const auto options = detail::open_options(skip_unknown, base);
        lyco_adapter *handle = nullptr;
        return detail::attempt(
            [&](lyco_error **error) { return lyco_adapter_open(path.c_str(), &options, &handle, error); },
            [&] { return Adapter(handle); });
    }

    /// Opens the bytes of a file, which are copied. `name` stands for the path in messages and reports.
    static Outcome<Adapter> from_memory(const std::string &name, Span<const std::uint8_t> bytes,
                                        bool skip_unknown = false, const std::string &base = {}) {
        const auto options = detail::open_options(skip_unknown, base);
        lyco_adapter *handle = nullptr;
        return detail::attempt(
            [&](lyco_error **error) {
                return lyco_adapter_from_memory(name.c_str(), bytes.data(), bytes.size(), &options, &handle, error);
            },
            [&] { return Adapter(handle); });
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

    Outcome<Layer> layer(std::size_t index) const {
        lyco_layer_info info{};
        info.struct_size = sizeof info;
        return detail::attempt(
            [&](lyco_error **error) { return lyco_adapter_layer_info(get(), index, &info, error); },
            [&] { return detail::layer(info); });
    }

    Outcome<Tensor> tensor(std::size_t index) const {
        return lend([&](std::size_t *found, lyco_error **) {
            *found = index;
            return LYCO_STATUS_OK;
        });
    }

    Outcome<Tensor> tensor(const std::string &name) const {
        return lend([&](std::size_t *found, lyco_error **error) {
            return lyco_adapter_find_tensor(get(), name.c_str(), found, error);
        });
    }

    /// Lends a tensor by DLPack, read-only. It owns a part of the adapter: call its deleter, or hand it to a library that
    /// does. dlpack.h, which you include, has the struct.
    Outcome<DLManagedTensorVersioned *> dlpack(std::size_t index) const {
        DLManagedTensorVersioned *tensor = nullptr;
        return detail::attempt(
            [&](lyco_error **error) { return lyco_adapter_tensor_dlpack(get(), index, &tensor, error); },
            [&] { return tensor; });
    }

    /// What one layer does to its weight, strength 1: rows times cols numbers, row-major, as float or double.
    template <class Number>
    Outcome<std::vector<Number>> delta(std::size_t index) const {
        static_assert(std::is_same_v<Number, float> || std::is_same_v<Number, double>);
        constexpr lyco_dtype dtype = std::is_same_v<Number, float> ? LYCO_DTYPE_F32 : LYCO_DTYPE_F64;
        std::vector<Number> entries;
        return detail::attempt(
            [&](lyco_error **error) {
                lyco_layer_info info{};
                info.struct_size = sizeof info;
                const lyco_status status = lyco_adapter_layer_info(get(), index, &info, error);
                if (status != LYCO_STATUS_OK)
                    return status;
                entries.resize(static_cast<std::size_t>(info.rows * info.cols));
                const auto bytes = reinterpret_cast<std::uint8_t *>(entries.data());
                return lyco_adapter_delta(get(), index, dtype, bytes, sizeof(Number) * entries.size(), error);
            },
            [&] { return std::move(entries); });
    }

    /// The Frobenius norm of delta(), found without making it.
    Outcome<double> delta_norm(std::size_t index) const {
        double norm = 0;
        return detail::attempt(
            [&](lyco_error **error) { return lyco_adapter_delta_norm(get(), index, &norm, error); },
            [&] { return norm; });
    }

    /// What the adapter is and does, as JSON; the first call reads the whole file.
    Outcome<std::string_view> survey() const {
        const char *json = nullptr;
        return detail::attempt([&](lyco_error **error) { return lyco_adapter_survey(get(), &json, error); },
                               [&] { return detail::view(json); });
    }

    /// A value of the file's metadata, if it has the key.
    Outcome<std::optional<std::string_view>> metadata(const std::string &key) const {
        const char *value = nullptr;
        return detail::attempt(
            [&](lyco_error **error) { return lyco_adapter_metadata(get(), key.c_str(), &value, error); },
            [&] { return value ? std::optional<std::string_view>(value) : std::nullopt; });
    }

    /// The keys of the file's metadata, sorted.
    std::vector<std::string_view> metadata_keys() const {
        std::vector<std::string_view> all;
        for (std::size_t i = 0; i < lyco_adapter_metadata_count(get()); i++)
            all.push_back(lyco_adapter_metadata_key(get(), i));
        return all;
    }

    /// The whole file.
    Outcome<Span<const std::uint8_t>> bytes() const {
        const std::uint8_t *data = nullptr;
        std::size_t size = 0;
        return detail::attempt(
            [&](lyco_error **error) { return lyco_adapter_bytes(get(), &data, &size, error); },
            [&] { return Span<const std::uint8_t>(data, size); });
    }

    /// Writes a file, which appears under its name only when it is whole.
    Outcome<void> save(const std::string &path) const {
        return detail::attempt(
            [&](lyco_error **error) { return lyco_adapter_save(get(), path.c_str(), error); }, [] {});
    }

    /// The handle for the C interface; it stays this object's.
    lyco_adapter *get() const { return handle_.get(); }

private:
    /// Lends the tensor whose index `find` writes.
    template <class Find>
    Outcome<Tensor> lend(Find find) const {
        lyco_tensor_view view{};
        view.struct_size = sizeof view;
        return detail::attempt(
            [&](lyco_error **error) {
                std::size_t index = 0;
                const lyco_status status = find(&index, error);
                return status == LYCO_STATUS_OK ? lyco_adapter_tensor(get(), index, &view, error) : status;
            },
            [&] { return detail::tensor(view); });
    }

    std::unique_ptr<lyco_adapter, detail::Free<lyco_adapter_free>> handle_;
};

/// Tensors in memory that are to become an adapter. What is added is copied.
class Builder {
public:
    Builder() : handle_(lyco_builder_new()) {}

    /// Adds a tensor, named as files of its family name it.
    Outcome<Builder &> add(const std::string &name, lyco_dtype dtype, Span<const std::size_t> shape,
                           Span<const std::uint8_t> data) {
        const lyco_tensor_view view{
            sizeof view, dtype, name.c_str(), data.data(), data.size(), shape.data(), shape.size()};
        return changed([&](lyco_error **error) { return lyco_builder_add(get(), &view, error); });
    }

    /// Adds a tensor by DLPack; its deleter is called if that succeeds, and otherwise it stays yours.
    Outcome<Builder &> add(const std::string &name, DLManagedTensorVersioned *tensor) {
        return changed([&](lyco_error **error) {
            return lyco_builder_add_dlpack(get(), name.c_str(), tensor, error);
        });
    }

    /// Adds a line of metadata, or replaces it.
    Outcome<Builder &> set_metadata(const std::string &key, const std::string &value) {
        return changed([&](lyco_error **error) {
            return lyco_builder_set_metadata(get(), key.c_str(), value.c_str(), error);
        });
    }

    /// Checks the tensors, and makes an adapter of them. `name` stands for the path in messages and reports.
    Outcome<Adapter> finish(const std::string &name, bool skip_unknown = false, const std::string &base = {}) const {
        const auto options = detail::open_options(skip_unknown, base);
        lyco_adapter *handle = nullptr;
        return detail::attempt(
            [&](lyco_error **error) {
                return lyco_builder_finish(get(), name.c_str(), &options, &handle, error);
            },
            [&] { return Adapter(handle); });
    }

    /// The handle for the C interface; it stays this object's.
    lyco_builder *get() const { return handle_.get(); }

private:
    /// Makes a call that changes this builder.
    template <class Call>
    Outcome<Builder &> changed(Call call) {
        return detail::attempt(call, [&]() -> Builder & { return *this; });
    }

    std::unique_ptr<lyco_builder, detail::Free<lyco_builder_free>> handle_;
};

/// What a report says of one layer. The strings live as long as it does.
struct LayerReport {
    std::string_view name, family;
    lyco_param param;
    std::uint64_t rank;
    /// |true|, |stored - true| / |true|, and the part of it that no scaling could mend.
    double norm, relative_error, direction_error;
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
    std::size_t layer_count() const { return lyco_report_layer_count(handle_.get()); }

    Outcome<LayerReport> layer(std::size_t index) const {
        lyco_layer_report found{};
        found.struct_size = sizeof found;
        return detail::attempt(
            [&](lyco_error **error) { return lyco_report_layer(handle_.get(), index, &found, error); },
            [&] {
                const auto param = static_cast<lyco_param>(found.param);
                return LayerReport{found.name,           found.family, param, found.rank, found.norm,
                                   found.relative_error, found.direction_error};
            });
    }

private:
    std::unique_ptr<lyco_report, detail::Free<lyco_report_free>> handle_;
};

/// What a merge will come to.
struct Forecast {
    bool huge;
    std::uint64_t byte_len, input_byte_len;
    double relative_error;
};

/// What a merge comes to in every format, rank and dtype.
class Plan {
public:
    /// Becomes the owner of a handle from the C interface.
    explicit Plan(lyco_plan *handle) : handle_(handle) {}

    /// Everything, as JSON.
    std::string_view json() const { return detail::view(lyco_plan_json(handle_.get())); }

    /// Draws it: "svg", "png", or "html" for a whole report. The bytes live as long as this object.
    Outcome<Span<const std::uint8_t>> picture(const std::string &kind = "svg", bool dark = false) const {
        const std::uint8_t *bytes = nullptr;
        std::uint64_t byte_len = 0;
        return detail::attempt(
            [&](lyco_error **error) {
                return lyco_plan_picture(handle_.get(), kind.c_str(), dark, &bytes, &byte_len, error);
            },
            [&] { return Span<const std::uint8_t>(bytes, static_cast<std::size_t>(byte_len)); });
    }

private:
    std::unique_ptr<lyco_plan, detail::Free<lyco_plan_free>> handle_;
};

/// How adapters compare.
class Comparison {
public:
    /// Becomes the owner of a handle from the C interface.
    explicit Comparison(lyco_comparison *handle) : handle_(handle) {}

    /// Everything, as JSON.
    std::string_view json() const { return detail::view(lyco_comparison_json(handle_.get())); }

    /// Draws it: "svg", "png", or "html" for a whole report. The bytes live as long as this object.
    Outcome<Span<const std::uint8_t>> picture(const std::string &kind = "svg", bool dark = false) const {
        const std::uint8_t *bytes = nullptr;
        std::uint64_t byte_len = 0;
        return detail::attempt(
            [&](lyco_error **error) {
                return lyco_comparison_picture(handle_.get(), kind.c_str(), dark, &bytes, &byte_len, error);
            },
            [&] { return Span<const std::uint8_t>(bytes, static_cast<std::size_t>(byte_len)); });
    }

private:
    std::unique_ptr<lyco_comparison, detail::Free<lyco_comparison_free>> handle_;
};

/// Hears how far a run is, on the thread that called it; `false` cancels. What it throws cancels, too, and comes out of
/// the run.
using Progress = std::function<bool(std::string_view stage, std::size_t done, std::size_t total)>;

/// Hears of a merged delta: the parameter that it is to be added to, and its entries in the parameter's own shape, both
/// valid during the call; `false` cancels, and so does what it throws.
using TakeDelta = std::function<bool(const Layer &layer, const Tensor &delta)>;

/// Adapters with weights, and how to merge them.
class Merge {
public:
    Merge() : handle_(lyco_merge_new()) {}

    Outcome<Merge &> add(const Adapter &adapter, double weight = 1.0) {
        return changed([&](lyco_error **error) { return lyco_merge_add(get(), adapter.get(), weight, error); });
    }

    /// Sets how strongly an input, counted from 0, acts in every part of the model, such as "IN04-IN08=0.5 te=0".
    Outcome<Merge &> set_block_weights(std::size_t input, const std::string &text) {
        return changed([&](lyco_error **error) {
            return lyco_merge_set_block_weights(get(), input, text.c_str(), error);
        });
    }

    /// The same everywhere again.
    Outcome<Merge &> clear_block_weights(std::size_t input) {
        return changed([&](lyco_error **error) { return lyco_merge_set_block_weights(get(), input, nullptr, error); });
    }

    /// Sets an option; lycomerge::options() lists them.
    Outcome<Merge &> set(const std::string &key, const std::string &value) {
        return changed([&](lyco_error **error) { return lyco_merge_set(get(), key.c_str(), value.c_str(), error); });
    }

    /// Sets the options and block weights as a recipe has them: of a report, or of a merged file's metadata, as JSON.
    Outcome<Merge &> set_recipe(const std::string &json) {
        return changed([&](lyco_error **error) { return lyco_merge_set_recipe(get(), json.c_str(), error); });
    }

    /// Stops what goes on of this merge in other threads.
    Outcome<void> cancel() const {
        return detail::attempt([&](lyco_error **error) { return lyco_merge_cancel(get(), error); }, [] {});
    }

    /// Merges and hands over what is to be added to the model, layer by layer; nothing is fitted or stored.
    Outcome<void> deltas(const TakeDelta &take, const Progress &progress = nullptr) const {
        return watched(
            progress,
            [&](auto hear, void *user, lyco_error **error) {
                return lyco_merge_deltas(get(), take ? &receive : nullptr, hear, user, error);
            },
            [] {}, &take);
    }

    /// Adds the merge to a checkpoint's weights, and writes the whole model in the checkpoint's own dtypes. With a seed,
    /// 8-bit and 16-bit weights are rounded at random, so that small changes are kept on average.
    Outcome<Report> bake(const std::string &base, const std::string &path,
                         std::optional<std::uint64_t> stochastic_seed = std::nullopt,
                         const Progress &progress = nullptr) const {
        const lyco_bake_options options{sizeof options, stochastic_seed.has_value(), stochastic_seed.value_or(0)};
        lyco_report *report = nullptr;
        return watched(
            progress,
            [&](auto hear, void *user, lyco_error **error) {
                return lyco_merge_bake(get(), base.c_str(), path.c_str(), &options, hear, user, &report, error);
            },
            [&] { return Report(report); });
    }

    /// Stores what the checkpoint `tuned` has more than `base` as an adapter, as the options about what to store say it;
    /// this merge has no inputs.
    Outcome<Report> extract(const std::string &base, const std::string &tuned, const std::string &path,
                            const Progress &progress = nullptr) const {
        lyco_report *report = nullptr;
        return watched(
            progress,
            [&](auto hear, void *user, lyco_error **error) {
                return lyco_merge_extract(get(), base.c_str(), tuned.c_str(), path.c_str(), hear, user, &report, error);
            },
            [&] { return Report(report); });
    }

    Outcome<Forecast> forecast(const Progress &progress = nullptr) const {
        lyco_forecast found{};
        found.struct_size = sizeof found;
        return watched(
            progress,
            [&](auto hear, void *user, lyco_error **error) {
                return lyco_merge_forecast(get(), hear, user, &found, error);
            },
            [&] { return Forecast{found.huge != 0, found.byte_len, found.input_byte_len, found.relative_error}; });
    }

    /// Says size and error of every format, rank and dtype, from a sample of the layers.
    Outcome<Plan> plan(const Progress &progress = nullptr) const {
        lyco_plan *plan = nullptr;
        return watched(
            progress,
            [&](auto hear, void *user, lyco_error **error) { return lyco_merge_plan(get(), hear, user, &plan, error); },
            [&] { return Plan(plan); });
    }

    /// Compares the inputs at their weights: how aligned they are, and where they work against each other.
    Outcome<Comparison> compare(const Progress &progress = nullptr) const {
        lyco_comparison *comparison = nullptr;
        return watched(
            progress,
            [&](auto hear, void *user, lyco_error **error) {
                return lyco_merge_compare(get(), hear, user, &comparison, error);
            },
            [&] { return Comparison(comparison); });
    }

    /// Merges into memory.
    Outcome<std::pair<Adapter, Report>> run(const Progress &progress = nullptr) const {
        lyco_adapter *result = nullptr;
        lyco_report *report = nullptr;
        return watched(
            progress,
            [&](auto hear, void *user, lyco_error **error) {
                return lyco_merge_run(get(), hear, user, &result, &report, error);
            },
            [&] { return std::pair<Adapter, Report>(Adapter(result), Report(report)); });
    }

    /// Merges into a file layer by layer; it appears under its name only when it is whole.
    Outcome<Report> run_to(const std::string &path, const Progress &progress = nullptr) const {
        lyco_report *report = nullptr;
        return watched(
            progress,
            [&](auto hear, void *user, lyco_error **error) {
                return lyco_merge_run_to(get(), path.c_str(), hear, user, &report, error);
            },
            [&] { return Report(report); });
    }

    /// The handle for the C interface; it stays this object's.
    lyco_merge *get() const { return handle_.get(); }

private:
    /// The callbacks, and what one of them threw.
    struct Ear {
        const Progress &progress;
        const TakeDelta *take;
        std::exception_ptr thrown;
    };

    /// Asks a callback whether to go on: 0 if so.
    template <class Ask>
    static int ask(Ear &ear, Ask ask) {
#ifdef LYCOMERGE_NO_EXCEPTIONS
        static_cast<void>(ear);
        return ask() ? 0 : 1;
#else
        try {
            return ask() ? 0 : 1;
        } catch (...) {
            // No exception may leave a callback.
            ear.thrown = std::current_exception();
            return 1;
        }
#endif
    }

    static int hear(void *user, const char *stage, std::size_t done, std::size_t total) {
        Ear &ear = *static_cast<Ear *>(user);
        return ask(ear, [&] { return ear.progress(stage, done, total); });
    }

    static int receive(void *user, const lyco_layer_info *layer, const lyco_tensor_view *delta) {
        Ear &ear = *static_cast<Ear *>(user);
        return ask(ear, [&] { return (*ear.take)(detail::layer(*layer), detail::tensor(*delta)); });
    }

    /// Makes a call that changes this merge.
    template <class Call>
    Outcome<Merge &> changed(Call call) {
        return detail::attempt(call, [&]() -> Merge & { return *this; });
    }

    /// Makes a call that reports progress. What the callback threw comes out in place of the error that it led to, and
    /// only when what the call returned has an owner.
    template <class Call, class Value>
    static auto watched(const Progress &progress, Call call, Value value, const TakeDelta *take = nullptr)
        -> Outcome<decltype(value())> {
        Ear ear{progress, take, nullptr};
        return detail::attempt(
            [&](lyco_error **error) {
                const lyco_status status = call(progress ? &hear : nullptr, static_cast<void *>(&ear), error);
                return ear.thrown ? LYCO_STATUS_OK : status;
            },
            [&] {
                if constexpr (std::is_void_v<decltype(value())>) {
                    rethrow(ear);
                } else {
                    auto made = value();
                    rethrow(ear);
                    return made;
                }
            });
    }

    static void rethrow(const Ear &ear) {
        if (ear.thrown)
            std::rethrow_exception(ear.thrown);
    }

    std::unique_ptr<lyco_merge, detail::Free<lyco_merge_free>> handle_;
};

/// What Merge::set() takes, too, while the strategy is the one that has it; `takes` says which values, in words.
struct Parameter {
    std::string_view name, takes, standard, help;
};

/// What the option "strategy" takes, and where it comes from.
struct Strategy {
    std::string_view name, title, help, paper;
    std::vector<Parameter> parameters;
};

/// What Layer has as the family.
struct Family {
    std::string_view name, help;
};

/// What Merge::set() takes; `value` is empty for a switch, which takes "true" or "false".
struct Option {
    std::string_view name, value, standard, help;
    std::vector<std::string_view> choices;  ///< The words that it takes; empty where it takes numbers or names.
};

inline std::vector<Strategy> strategies() {
    std::vector<Strategy> all;
    for (std::size_t i = 0; i < lyco_strategy_count(); i++) {
        std::vector<Parameter> parameters;
        for (std::size_t k = 0; k < lyco_strategy_parameter_count(i); k++)
            parameters.push_back({lyco_strategy_parameter_name(i, k), lyco_strategy_parameter_takes(i, k),
                                  lyco_strategy_parameter_default(i, k), lyco_strategy_parameter_help(i, k)});
        all.push_back({lyco_strategy_name(i), lyco_strategy_title(i), lyco_strategy_help(i), lyco_strategy_paper(i),
                       std::move(parameters)});
    }
    return all;
}

inline std::vector<Family> families() {
    std::vector<Family> all;
    for (std::size_t i = 0; i < lyco_family_count(); i++)
        all.push_back({lyco_family_name(i), lyco_family_help(i)});
    return all;
}

inline std::vector<Option> options() {
    std::vector<Option> all;
    for (std::size_t i = 0; i < lyco_option_count(); i++) {
        std::vector<std::string_view> choices;
        for (std::size_t k = 0; k < lyco_option_choice_count(i); k++) choices.push_back(lyco_option_choice(i, k));
        all.push_back({lyco_option_name(i), detail::view(lyco_option_value(i)), lyco_option_default(i),
                       lyco_option_help(i), std::move(choices)});
    }
    return all;
}

/// The library's version.
inline std::string_view version() { return lyco_version(); }

/// Whether the library that runs has the interface that this was compiled for.
inline bool is_compatible() { return lyco_abi_version() == LYCO_ABI_VERSION; }

/// Sends the library's messages to `callback`, on whichever thread has one; NULL ends it. See lyco_set_log().
inline Outcome<void> set_log(lyco_log_callback callback, void *user = nullptr,
                             lyco_log_level level = LYCO_LOG_LEVEL_WARNING) {
    return detail::attempt([&](lyco_error **error) { return lyco_set_log(callback, user, level, error); }, [] {});
}

} // namespace LYCOMERGE_KIND
} // namespace lycomerge

#undef LYCOMERGE_KIND
#undef LYCOMERGE_FAIL

#endif
