/*
 * lycomerge merges LoKr, LoHa, LoRA and other adapters of image models by what they do to the weights, and says how
 * exact the stored result is.
 *
 *     lyco_adapter *a = NULL, *b = NULL;
 *     lyco_merge *merge = lyco_merge_new();
 *     lyco_report *report = NULL;
 *     lyco_error *error = NULL;
 *
 *     if (lyco_adapter_open("a.safetensors", NULL, &a, &error) == LYCO_STATUS_OK &&
 *         lyco_adapter_open("b.safetensors", NULL, &b, &error) == LYCO_STATUS_OK &&
 *         lyco_merge_add(merge, a, 0.6, &error) == LYCO_STATUS_OK &&
 *         lyco_merge_add(merge, b, 0.4, &error) == LYCO_STATUS_OK &&
 *         lyco_merge_set(merge, "strategy", "smart_fusion", &error) == LYCO_STATUS_OK &&
 *         lyco_merge_run_to(merge, "merged.safetensors", NULL, NULL, &report, &error) == LYCO_STATUS_OK)
 *         printf("stored to within %.1e\n", lyco_report_relative_error(report));
 *     else
 *         fprintf(stderr, "%s: %s\n", lyco_error_file(error) ? lyco_error_file(error) : "lycomerge",
 *                 lyco_error_message(error));
 *
 *     lyco_error_free(error);
 *     lyco_report_free(report);
 *     lyco_merge_free(merge);
 *     lyco_adapter_free(b);
 *     lyco_adapter_free(a);
 *
 * What holds everywhere:
 *
 * - The functions of a type are called lyco_<type>_<verb>. They take the object first, then inputs, then outputs,
 *   then the error.
 * - What can fail returns a lyco_status. Outputs are written only if that is LYCO_STATUS_OK; `*error` is written only
 *   if it isn't. Whatever `*error` held before is not freed. `error` itself may be NULL.
 * - What a function gives you through a `**` or returns without `const` is yours, and the type's _free() ends it.
 *   What it returns as `const` is lent; the type's text says for how long.
 * - Strings are UTF-8 and end with NUL, paths too. What you pass is read during the call and not kept.
 * - NULL where something is needed, and numbers out of range, are refused with a status. A pointer that isn't NULL
 *   must point to what its type says, and a handle must not be freed yet.
 * - Callbacks must return: no exception and no longjmp may leave them.
 * - A struct begins with struct_size, which you set to its sizeof, so that your program goes on working when the
 *   struct grows.
 *
 * Which calls may run at the same time, from any threads:
 *
 * | on the same     | reading it | changing it | _free()                                        |
 * | --------------- | ---------- | ----------- | ---------------------------------------------- |
 * | lyco_adapter    | yes        | (never)     | yes: it is counted, and each owner frees once  |
 * | lyco_builder    | yes        | yes         | no                                             |
 * | lyco_merge      | yes        | yes         | no                                             |
 * | lyco_report     | yes        | (never)     | no                                             |
 * | lyco_plan       | yes        | (never)     | no                                             |
 * | lyco_comparison | yes        | (never)     | no                                             |
 * | lyco_error      | yes        | (never)     | no                                             |
 *
 * "Yes" also means together with what else says yes on the same line. "No" means that no other call on the object may
 * be going on, nor come after. Calls on different objects, and those on none, may always run at the same time;
 * lyco_merge_add() and lyco_merge_set() during a run count for the next one, and lyco_merge_cancel() is made for calling
 * during a run.
 */


#ifndef LYCOMERGE_H
#define LYCOMERGE_H

/* cbindgen makes this file from src/capi and cbindgen.toml; .ci/header runs it. */

#include <stddef.h>
#include <stdint.h>

#define LYCO_VERSION_MAJOR 0
#define LYCO_VERSION_MINOR 1
#define LYCO_VERSION_PATCH 0

/* What lyco_abi_version() returns where the library fits this header. */
#define LYCO_ABI_VERSION 1

/* From dlpack.h, which a program that uses it includes itself. */
struct DLManagedTensorVersioned;


/// What became of a call. Later versions may add values within the groups.
enum lyco_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /// It did what it says.
    LYCO_STATUS_OK = 0,
    /// The operating system refused to read or write.
    LYCO_STATUS_IO = 10,
    /// A file is not what it claims to be: broken header, wrong sizes, unknown tensors.
    LYCO_STATUS_FORMAT = 11,
    /// It is sound, but asks for something that this version doesn't do.
    LYCO_STATUS_UNSUPPORTED = 12,
    /// Inputs, or tensors of one layer, don't fit together.
    LYCO_STATUS_MISMATCH = 13,
    /// A number is not finite, or overflows what the output can store.
    LYCO_STATUS_VALUE = 14,
    /// The name or value of an option, or a weight, is wrong.
    LYCO_STATUS_OPTION = 20,
    /// The progress callback asked to stop.
    LYCO_STATUS_CANCELLED = 30,
    /// A pointer is NULL that must not be.
    LYCO_STATUS_NULL_PARAMETER = 100,
    /// An argument is out of range: an index, a level, a struct_size, a length.
    LYCO_STATUS_BAD_ARGUMENT = 101,
    /// A string is not valid UTF-8.
    LYCO_STATUS_INVALID_UTF8 = 102,
    /// A defect of the library.
    LYCO_STATUS_INTERNAL = 200,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum lyco_status lyco_status;
#else
typedef uint32_t lyco_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/// How much a message matters. Lower is more urgent; later versions may add values between.
enum lyco_log_level
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /// Something is odd about an input or a result; the work went on.
    LYCO_LOG_LEVEL_WARNING = 20,
    /// What was done.
    LYCO_LOG_LEVEL_INFO = 30,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum lyco_log_level lyco_log_level;
#else
typedef uint32_t lyco_log_level;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/// Which parameter of a model's layer is changed.
enum lyco_param
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /// The layer's weight.
    LYCO_PARAM_WEIGHT = 0,
    /// The layer's bias.
    LYCO_PARAM_BIAS = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum lyco_param lyco_param;
#else
typedef uint32_t lyco_param;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/// The element type of a tensor; all are little-endian. Later versions may add values.
enum lyco_dtype
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /// IEEE double.
    LYCO_DTYPE_F64 = 1,
    /// IEEE single.
    LYCO_DTYPE_F32 = 2,
    /// IEEE half.
    LYCO_DTYPE_F16 = 3,
    /// The upper half of a single.
    LYCO_DTYPE_BF16 = 4,
    /// Eight bits: 4 of exponent, 3 of mantissa, no infinities.
    LYCO_DTYPE_F8_E4M3 = 5,
    /// Eight bits: 5 of exponent, 2 of mantissa.
    LYCO_DTYPE_F8_E5M2 = 6,
    /// Signed, 64 bits.
    LYCO_DTYPE_I64 = 16,
    /// Signed, 32 bits.
    LYCO_DTYPE_I32 = 17,
    /// Signed, 16 bits.
    LYCO_DTYPE_I16 = 18,
    /// Signed, 8 bits.
    LYCO_DTYPE_I8 = 19,
    /// Unsigned, 64 bits.
    LYCO_DTYPE_U64 = 20,
    /// Unsigned, 32 bits.
    LYCO_DTYPE_U32 = 21,
    /// Unsigned, 16 bits.
    LYCO_DTYPE_U16 = 22,
    /// Unsigned, 8 bits.
    LYCO_DTYPE_U8 = 23,
    /// One byte: 0 or 1.
    LYCO_DTYPE_BOOL = 24,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum lyco_dtype lyco_dtype;
#else
typedef uint32_t lyco_dtype;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/// How a layer's delta is stored.
typedef struct Family Family;

/// An opened adapter: a file, or the result of a merge.
///
/// It never changes, so any number of threads may use it at once. It is counted: every adapter that a function gives
/// you, and every lyco_adapter_retain(), needs one lyco_adapter_free(). Strings that it lends live until the last of
/// these. A file stays mapped as long; replacing it meanwhile is fine, writing into it or shortening it is not.
typedef struct lyco_adapter lyco_adapter;

/// Tensors that are to become an adapter.
///
/// Any number of threads may add to it at once; only freeing it must be left to the last. What is added is copied,
/// because an adapter never changes and the host's memory may.
typedef struct lyco_builder lyco_builder;

/// How adapters compare: how aligned they are, and where they work against each other.
///
/// It never changes, so any number of threads may read it. Its JSON and its pictures live as long as it does.
typedef struct lyco_comparison lyco_comparison;

/// Why a call failed, in which file and layer.
///
/// It never changes, so any number of threads may read it. Its strings live as long as it does.
typedef struct lyco_error lyco_error;

/// Adapters with weights, and how to merge them.
///
/// Any number of threads may use it at once; only freeing it must be left to the last. A run works on the inputs and
/// options as they are when it begins, and changes nothing, so one merge can be run several times, and changed for
/// the next run while one goes on.
typedef struct lyco_merge lyco_merge;

/// What a merge can be stored as: size and error of every format, rank and dtype.
///
/// It never changes, so any number of threads may read it. Its JSON and its pictures live as long as it does.
typedef struct lyco_plan lyco_plan;

/// What a merge says about its result: how exact it is, as a whole and by layer.
///
/// It never changes, so any number of threads may read it. Its strings live as long as it does.
typedef struct lyco_report lyco_report;

/// Hears of messages: on whichever thread has one, on several at once. It may call any function. `message` is valid
/// during the call.
typedef void (*lyco_log_callback)(void *user, lyco_log_level level, const char *message);

/// How an adapter is opened: `lyco_open_options options = {sizeof options};` is the default, then set what is to differ.
typedef struct {
    /// sizeof(lyco_open_options).
    uint32_t struct_size;
    /// 1: layers that can't be understood are left out, with a warning in the log. 0: the file is refused.
    uint32_t skip_unknown;
    /// The path of the model that the adapter changes: a checkpoint's file, its index of several, or their folder. DoRA,
    /// OFT and the other families whose effect depends on the model's weights need it, and every layer must be in it
    /// and have its shape. NULL: no model.
    const char *base;
} lyco_open_options;

/// One layer of an adapter. Set struct_size before asking for it.
typedef struct {
    /// sizeof(lyco_layer_info).
    uint32_t struct_size;
    /// Which parameter of the module is changed: a lyco_param.
    uint32_t param;
    /// The module's name as the file spells it; lives as long as the adapter.
    const char *name;
    /// How it is stored: "LoRA", "LoHa", "LoKr", "Full" or "Norm"; lives as long as the adapter.
    const char *family;
    /// The outputs of the changed parameter.
    uint64_t rows;
    /// Its inputs times the kernel's extents; 1 for a bias or a norm.
    uint64_t cols;
    /// The inner rank of the stored factors; 0 where they have none.
    uint64_t rank;
    /// alpha / rank, or 1 where the family has none.
    double scale;
    /// How many numbers its tensors have together.
    uint64_t stored_count;
} lyco_layer_info;

/// A tensor that an adapter lends: row-major, without gaps, read-only. Set struct_size before asking for it. All that
/// it points to lives as long as the adapter.
typedef struct {
    /// sizeof(lyco_tensor_view).
    uint32_t struct_size;
    /// The element type: a lyco_dtype.
    uint32_t dtype;
    /// The name as the file spells it.
    const char *name;
    /// The numbers. They lie as the file has them, so perhaps not aligned for their type: copy them, or read them by
    /// bytes. Never NULL.
    const uint8_t *data;
    /// The size of the numbers in bytes.
    uint64_t byte_len;
    /// The extents, outermost first: `dim_count` of them. Never NULL.
    const size_t *shape;
    /// How many extents there are; 0 for a single number.
    uint64_t dim_count;
} lyco_tensor_view;

/// Hears how far a run is, on the thread that called it, at least ten times a second while modules are worked on.
/// `stage` says what is being done ("reading", "surveying", "merging") and is valid during the call; `done` of `total`
/// modules are through this stage. Return 0 to go on, anything else to cancel.
typedef int (*lyco_progress_callback)(void *user, const char *stage, size_t done, size_t total);

/// What a merge will come to. Set struct_size before asking for it.
typedef struct {
    /// sizeof(lyco_forecast).
    uint32_t struct_size;
    /// 1 if the output will be over 1 GiB and over ten times the inputs: better ask before running.
    uint32_t huge;
    /// The output's size in bytes.
    uint64_t byte_len;
    /// The size of all inputs in bytes.
    uint64_t input_byte_len;
    /// |stored - true| / |true| over the whole file.
    double relative_error;
} lyco_forecast;

/// Hears of a merged delta: the parameter that it is to be added to, and its entries in the parameter's own shape
/// (outputs, inputs, kernel; a convolution whose kernel the files don't tell has inputs and kernel in one extent).
/// Called on the thread that called lyco_merge_deltas(), one delta after the other in the order of the names; both are
/// valid during the call. Return 0 to go on, anything else to cancel.
typedef int (*lyco_delta_callback)(void *user,
                                   const lyco_layer_info *layer,
                                   const lyco_tensor_view *delta);

/// How weights are rounded: `lyco_bake_options options = {sizeof options};` is the default, then set what is to differ.
typedef struct {
    /// sizeof(lyco_bake_options).
    uint32_t struct_size;
    /// 1: 8-bit and 16-bit weights are rounded up or down at random, so that small changes are kept on average. 0: to
    /// the nearest.
    uint32_t stochastic;
    /// What the random numbers begin with; the same seed makes the same bytes.
    uint64_t seed;
} lyco_bake_options;

/// What is said of one layer. Set struct_size before asking for it; the strings live as long as the report.
typedef struct {
    /// sizeof(lyco_layer_report).
    uint32_t struct_size;
    /// Which parameter of the module is changed: a lyco_param.
    uint32_t param;
    /// The module's name.
    const char *name;
    /// How it is stored; see lyco_family_name().
    const char *family;
    /// The stored inner rank; 0 where there is none.
    uint64_t rank;
    /// |true|: the Frobenius norm of what the inputs do together.
    double norm;
    /// |stored - true| / |true|
    double relative_error;
    /// The part of it that no scaling of the layer could mend.
    double direction_error;
} lyco_layer_report;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/// Version
/// =======
///
/// The library's version, such as "0.1.0".
const char *lyco_version(void);

/// The version of this interface. A program that finds another number than the LYCO_ABI_VERSION that it was compiled
/// with should stop: something that it calls has changed.
uint32_t lyco_abi_version(void);

/// Failures
/// ========
///
/// The name of a status in a word or two, such as "null parameter"; "unknown" for a number that is none.
const char *lyco_status_name(uint32_t status);

/// The status that the failed call returned; LYCO_STATUS_NULL_PARAMETER for NULL.
lyco_status lyco_error_status(const lyco_error *error);

/// What is wrong and what to do about it, in a sentence for people that names neither file nor layer; NULL for NULL.
const char *lyco_error_message(const lyco_error *error);

/// The file that the error is about; NULL if it is about none.
const char *lyco_error_file(const lyco_error *error);

/// The layer that the error is about; NULL if it is about none.
const char *lyco_error_layer(const lyco_error *error);

/// Frees the error and its strings. NULL is allowed.
void lyco_error_free(lyco_error *error);

/// Log
/// ===
///
/// Sends the messages of all threads that are as urgent as `level` (a lyco_log_level) or more to `callback`, in place
/// of the callback before; NULL ends it. Without a callback nothing is printed.
///
/// No lock is held while the callback runs. So a message that is on its way in another thread may still reach the old
/// callback for a moment after this returns: let its `user` live until those calls have returned.
lyco_status lyco_set_log(lyco_log_callback callback,
                         void *user,
                         uint32_t level,
                         lyco_error **error);

/// Strategies, families and options
/// ================================
///
/// How many strategies there are; they are counted from 0. What lyco_strategy_ and lyco_option_ return is valid as
/// long as the program runs, and NULL where the index is out of range.
size_t lyco_strategy_count(void);

/// What the option "strategy" takes, such as "smart_fusion".
const char *lyco_strategy_name(size_t index);

/// The name for people, such as "Smart fusion".
const char *lyco_strategy_title(size_t index);

/// What it does, in one line.
const char *lyco_strategy_help(size_t index);

/// Where it comes from: a paper's number on arXiv, such as "arXiv 2212.04089", or whose it is.
const char *lyco_strategy_paper(size_t index);

/// How many parameters a strategy has; they are counted from 0.
size_t lyco_strategy_parameter_count(size_t strategy);

/// What lyco_merge_set() takes as the key, such as "lambda".
const char *lyco_strategy_parameter_name(size_t strategy, size_t index);

/// What it takes, in words for people, such as "a number from 0 to 1".
const char *lyco_strategy_parameter_takes(size_t strategy, size_t index);

/// The value that holds while it is not set.
const char *lyco_strategy_parameter_default(size_t strategy, size_t index);

/// What it is, in one line.
const char *lyco_strategy_parameter_help(size_t strategy, size_t index);

/// How many families of adapters are merged; they are counted from 0. What lyco_family_ returns is valid as long as the
/// program runs, and NULL where the index is out of range.
size_t lyco_family_count(void);

/// What lyco_layer_info has as the family, such as "LoKr".
const char *lyco_family_name(size_t index);

/// What it stores, in one line.
const char *lyco_family_help(size_t index);

/// How many options a merge has; they are counted from 0.
size_t lyco_option_count(void);

/// What lyco_merge_set() takes as the key, such as "max-size".
const char *lyco_option_name(size_t index);

/// A word for the value, such as "SIZE"; NULL for a switch, which takes "true" or "false".
const char *lyco_option_value(size_t index);

/// What holds while it is not set, in words for people.
const char *lyco_option_default(size_t index);

/// What it does, in one line.
const char *lyco_option_help(size_t index);

/// How many words an option chooses from, which are counted from 0; 0 where it takes numbers or names.
size_t lyco_option_choice_count(size_t option);

/// A word that the option takes, such as "auto" for "format".
const char *lyco_option_choice(size_t option, size_t index);

/// Adapters
/// ========
///
/// Opens and checks a safetensors or PyTorch file, or PEFT's folder; the tensors stay on disk until they are needed,
/// and nothing in the file is ever executed. `options` may be NULL.
lyco_status lyco_adapter_open(const char *path,
                              const lyco_open_options *options,
                              lyco_adapter **adapter,
                              lyco_error **error);

/// Opens and checks the `size` bytes of a safetensors or PyTorch file; they are copied. `name` stands for the path in
/// messages and reports. `options` may be NULL.
lyco_status lyco_adapter_from_memory(const char *name,
                                     const uint8_t *bytes,
                                     size_t size,
                                     const lyco_open_options *options,
                                     lyco_adapter **adapter,
                                     lyco_error **error);

/// One owner more of the same adapter, which is returned; NULL for NULL.
lyco_adapter *lyco_adapter_retain(const lyco_adapter *adapter);

/// One owner less; the last one closes the adapter. A merge that it was added to keeps what it needs. NULL is
/// allowed.
void lyco_adapter_free(lyco_adapter *adapter);

/// What the file is, in one word: "LoRA", "LoHa", "LoKr", "Full", "Norm" or "Mixed"; NULL for NULL.
const char *lyco_adapter_kind(const lyco_adapter *adapter);

/// The size of the whole file in bytes; 0 for NULL.
uint64_t lyco_adapter_byte_len(const lyco_adapter *adapter);

/// How many layers it has; they are counted from 0, in the order of their names. 0 for NULL.
size_t lyco_adapter_layer_count(const lyco_adapter *adapter);

/// Describes one layer.
lyco_status lyco_adapter_layer_info(const lyco_adapter *adapter,
                                    size_t index,
                                    lyco_layer_info *info,
                                    lyco_error **error);

/// Looks up a value of the file's metadata, which lives as long as the adapter; NULL if the file has no such key.
lyco_status lyco_adapter_metadata(const lyco_adapter *adapter,
                                  const char *key,
                                  const char **value,
                                  lyco_error **error);

/// How many lines of metadata the file has; they are counted from 0, in the order of their keys. 0 for NULL.
size_t lyco_adapter_metadata_count(const lyco_adapter *adapter);

/// The key of one line of metadata, which lyco_adapter_metadata() looks up; it lives as long as the adapter. NULL where
/// the index is out of range, and for NULL.
const char *lyco_adapter_metadata_key(const lyco_adapter *adapter,
                                      size_t index);

/// Says what the adapter is, as `lycomerge inspect --json` does of a file: families, ranks, dtype, the metadata that
/// tell where it comes from, how much it does in all and by block of the model, and what is odd about it. The first call
/// reads the whole file; the JSON lives as long as the adapter.
lyco_status lyco_adapter_survey(const lyco_adapter *adapter,
                                const char **json,
                                lyco_error **error);

/// Writes the adapter to a file, which appears under its name only when it is whole: a PyTorch file if the name ends
/// in .pt, .pth, .ckpt or .bin, a safetensors file otherwise.
lyco_status lyco_adapter_save(const lyco_adapter *adapter,
                              const char *path,
                              lyco_error **error);

/// Tensors
/// =======
///
/// How many tensors the adapter's file has; they are counted from 0, in the order of their names. 0 for NULL.
size_t lyco_adapter_tensor_count(const lyco_adapter *adapter);

/// Lends one tensor of the file. Nothing is copied: the first look at its numbers reads them from disk.
lyco_status lyco_adapter_tensor(const lyco_adapter *adapter,
                                size_t index,
                                lyco_tensor_view *view,
                                lyco_error **error);

/// Says where the tensor `name` is: its index for lyco_adapter_tensor(). LYCO_STATUS_BAD_ARGUMENT if the file has no
/// such tensor.
lyco_status lyco_adapter_find_tensor(const lyco_adapter *adapter,
                                     const char *name,
                                     size_t *index,
                                     lyco_error **error);

/// Lends the whole file as bytes, for hosts that store it themselves: of an opened adapter those of its file, of a
/// merge's result those of a safetensors file. They live as long as the adapter.
lyco_status lyco_adapter_bytes(const lyco_adapter *adapter,
                               const uint8_t **bytes,
                               size_t *size,
                               lyco_error **error);

/// Lends one tensor of the file by DLPack, read-only; nothing is copied unless the numbers lie crooked in the file,
/// which a flag of the tensor tells. The tensor is an owner of the adapter, so you may free yours; call its deleter, or
/// hand it to a library that does.
lyco_status lyco_adapter_tensor_dlpack(const lyco_adapter *adapter,
                                       size_t index,
                                       struct DLManagedTensorVersioned **tensor,
                                       lyco_error **error);

/// Adapters from a host's tensors
/// ==============================
///
/// A builder without tensors.
lyco_builder *lyco_builder_new(void);

/// Adds a tensor, named as files of its family name it: row-major, without gaps, little-endian. The numbers need not
/// be aligned.
lyco_status lyco_builder_add(lyco_builder *builder,
                             const lyco_tensor_view *view,
                             lyco_error **error);

/// Adds a tensor by DLPack, of any strides, in memory that the CPU reads. If it succeeds the tensor is the library's,
/// which calls its deleter before it returns; otherwise it stays yours.
lyco_status lyco_builder_add_dlpack(lyco_builder *builder,
                                    const char *name,
                                    struct DLManagedTensorVersioned *tensor,
                                    lyco_error **error);

/// Adds a line of metadata, or replaces it.
lyco_status lyco_builder_set_metadata(lyco_builder *builder,
                                      const char *key,
                                      const char *value,
                                      lyco_error **error);

/// Checks the tensors, and makes an adapter of them: the same as a safetensors file with them would be. `name` stands
/// for the path in messages and reports. `options` may be NULL. The builder keeps its tensors and may be added to.
lyco_status lyco_builder_finish(const lyco_builder *builder,
                                const char *name,
                                const lyco_open_options *options,
                                lyco_adapter **adapter,
                                lyco_error **error);

/// Frees the builder; adapters that it made live on. NULL is allowed.
void lyco_builder_free(lyco_builder *builder);

/// Merges
/// ======
///
/// A merge without inputs, with the default options.
lyco_merge *lyco_merge_new(void);

/// Adds an input with its weight, which may be any finite number. The merge becomes an owner of the adapter, so you
/// may free yours.
lyco_status lyco_merge_add(lyco_merge *merge,
                           const lyco_adapter *adapter,
                           double weight,
                           lyco_error **error);

/// Sets how strongly an input, counted from 0 in the order of adding, acts in every part of the model: terms such as
/// "IN04-IN08=0.5 te=0", or a list of values; `lycomerge merge --help` has the whole grammar. NULL takes them away.
/// Names that this adapter doesn't have are refused with those that it has.
lyco_status lyco_merge_set_block_weights(lyco_merge *merge,
                                         size_t input,
                                         const char *text,
                                         lyco_error **error);

/// Sets an option, such as "max-size" to "150MB"; lyco_option_name() and its neighbours list them. Which options
/// contradict each other is said by the run. "skip-unknown" is only noted in the report: inputs are open already, and
/// lyco_open_options is where it counts.
lyco_status lyco_merge_set(lyco_merge *merge,
                           const char *key,
                           const char *value,
                           lyco_error **error);

/// Sets the options and the inputs' block weights as a recipe has them: of a report, or of a merged file's metadata (key
/// "lycomerge_recipe"). Both the recipe and a report with one are taken as JSON. Inputs and their weights are yours to
/// add, before or after: with those of the recipe, in its order, a run makes the same bytes again.
lyco_status lyco_merge_set_recipe(lyco_merge *merge,
                                  const char *json,
                                  lyco_error **error);

/// Stops the runs, forecasts and deltas of this merge that go on in other threads, within a tenth of a second or at the
/// end of the layers in work; they return LYCO_STATUS_CANCELLED. Later ones are not stopped.
lyco_status lyco_merge_cancel(const lyco_merge *merge,
                              lyco_error **error);

/// Says size and error before the heavy work, from a sample of the layers. `progress` may be NULL.
lyco_status lyco_merge_forecast(const lyco_merge *merge,
                                lyco_progress_callback progress,
                                void *user,
                                lyco_forecast *forecast,
                                lyco_error **error);

/// Merges into memory. `progress` may be NULL, and `report` too if it isn't wanted.
lyco_status lyco_merge_run(const lyco_merge *merge,
                           lyco_progress_callback progress,
                           void *user,
                           lyco_adapter **result,
                           lyco_report **report,
                           lyco_error **error);

/// Merges into a file layer by layer, so that neither inputs nor output need fit into memory. The file appears under
/// its name only when it is whole; it may be one of the inputs. A name that ends in .pt, .pth, .ckpt or .bin makes a
/// PyTorch file, which has no metadata; any other a safetensors file. `progress` may be NULL, and `report` too if it
/// isn't wanted.
lyco_status lyco_merge_run_to(const lyco_merge *merge,
                              const char *path,
                              lyco_progress_callback progress,
                              void *user,
                              lyco_report **report,
                              lyco_error **error);

/// Frees the merge; its inputs and results live on where they have other owners. NULL is allowed.
void lyco_merge_free(lyco_merge *merge);

/// Plans
/// =====
///
/// Says what the merge comes to in every format, rank and dtype, from the spectra of a sample of the layers, before
/// anything is merged. Options about the stored form count for nothing, but for "dtype" and "factor". `progress` may be
/// NULL.
lyco_status lyco_merge_plan(const lyco_merge *merge,
                            lyco_progress_callback progress,
                            void *user,
                            lyco_plan **plan,
                            lyco_error **error);

/// Everything as JSON: "inputs" with their sizes, the "norm" of the merge, how many "layers" there are and how many of them
/// were looked at ("sampled"), the three "qualities", and "curves" for each format and dtype, whose "points" have the
/// options that ask for them, rank, size in bytes and error of the whole file. NULL for NULL.
const char *lyco_plan_json(const lyco_plan *plan);

/// Draws size against error. `kind` is "svg", "png", or "html" for a whole report that is light or dark as its reader's
/// system is; `dark` is 0 or 1. The bytes are the plan's. A library that was built without pictures says
/// LYCO_STATUS_UNSUPPORTED.
lyco_status lyco_plan_picture(const lyco_plan *plan,
                              const char *kind,
                              uint32_t dark,
                              const uint8_t **bytes,
                              uint64_t *byte_len,
                              lyco_error **error);

/// Frees the plan, its JSON and its pictures. NULL is allowed.
void lyco_plan_free(lyco_plan *plan);

/// Comparisons
/// ===========
///
/// Compares the inputs, at their weights and block weights; it takes two or more. Strategy and what is stored count for
/// nothing. `progress` may be NULL.
lyco_status lyco_merge_compare(const lyco_merge *merge,
                               lyco_progress_callback progress,
                               void *user,
                               lyco_comparison **comparison,
                               lyco_error **error);

/// Everything as JSON: "inputs" with name, weight, norm and number of layers; "cosines", "overlaps" of their spaces
/// ("chance_overlaps": what these would be by chance) and "sign_conflicts" as tables with a row for each input; what a
/// plain sum has "kept"; the same by "blocks" and "layers"; and "advice", sentences that say what it suggests. NULL for
/// NULL.
const char *lyco_comparison_json(const lyco_comparison *comparison);

/// Draws the tables as heat maps, and what the inputs do in each block. `kind` is "svg", "png", or "html" for a whole
/// report that is light or dark as its reader's system is; `dark` is 0 or 1. The bytes are the comparison's. A library
/// that was built without pictures says LYCO_STATUS_UNSUPPORTED.
lyco_status lyco_comparison_picture(const lyco_comparison *comparison,
                                    const char *kind,
                                    uint32_t dark,
                                    const uint8_t **bytes,
                                    uint64_t *byte_len,
                                    lyco_error **error);

/// Frees the comparison, its JSON and its pictures. NULL is allowed.
void lyco_comparison_free(lyco_comparison *comparison);

/// Deltas
/// ======
///
/// Writes what one layer does to its weight, strength 1, to `buffer`: `rows` times `cols` numbers of `dtype` (a
/// lyco_dtype: F64, F32, F16 or BF16), row-major. `byte_len` is the buffer's size and must be just that. What is in the
/// buffer after a failure is not said.
lyco_status lyco_adapter_delta(const lyco_adapter *adapter,
                               size_t index,
                               uint32_t dtype,
                               uint8_t *buffer,
                               uint64_t byte_len,
                               lyco_error **error);

/// Says how much one layer does, strength 1: the Frobenius norm of what lyco_adapter_delta() writes, found without
/// making it.
lyco_status lyco_adapter_delta_norm(const lyco_adapter *adapter,
                                    size_t index,
                                    double *norm,
                                    lyco_error **error);

/// Merges and hands over what is to be added to the model, layer by layer, in the dtype that the option "dtype" says:
/// for a host that applies a merge and stores nothing. Nothing is fitted, so options about the stored form count for
/// nothing. `progress` may be NULL; both callbacks get `user`.
lyco_status lyco_merge_deltas(const lyco_merge *merge,
                              lyco_delta_callback callback,
                              lyco_progress_callback progress,
                              void *user,
                              lyco_error **error);

/// Baking
/// ======
///
/// Adds the merge to the weights of the checkpoint `base` (a safetensors or PyTorch file, the index of several, or a
/// folder with one of these) and writes the whole model to `path`: one safetensors file in the checkpoint's own dtypes,
/// whose other tensors are the same bytes. Options of the merge about the stored form of an adapter count for nothing.
/// The report's error is |stored - (W + delta)| / |delta|, and its JSON has "kept", the part of the delta that is in the
/// stored weights, and "tensors" in place of layers. `options`, `progress` and `report` may be NULL.
lyco_status lyco_merge_bake(const lyco_merge *merge,
                            const char *base,
                            const char *path,
                            const lyco_bake_options *options,
                            lyco_progress_callback progress,
                            void *user,
                            lyco_report **report,
                            lyco_error **error);

/// Stores what the checkpoint `tuned` has more than `base` (both as in lyco_merge_bake) as an adapter at `path`, as the
/// options of the merge about what to store say it; the merge has no inputs. Without an option about rank, error or
/// size, "lora" has rank 64 and "loha" 16. Layers without a difference are left out. The report has the layers' errors,
/// measured on what was stored. `progress` and `report` may be NULL.
lyco_status lyco_merge_extract(const lyco_merge *merge,
                               const char *base,
                               const char *tuned,
                               const char *path,
                               lyco_progress_callback progress,
                               void *user,
                               lyco_report **report,
                               lyco_error **error);

/// Reports
/// =======
///
/// |stored - true| / |true| over the whole file; NaN for NULL.
double lyco_report_relative_error(const lyco_report *report);

/// Everything as JSON: the recipe, the size, "error" and "norm_ratio" of the file, each layer's family, shape, rank,
/// coefficients, error and stored tensors, and the warnings. NULL for NULL.
const char *lyco_report_json(const lyco_report *report);

/// How many layers were merged; they are counted from 0, in the order of their names. 0 for NULL, and for the report of
/// lyco_merge_bake().
size_t lyco_report_layer_count(const lyco_report *report);

/// Says how one layer was stored, and how exactly.
lyco_status lyco_report_layer(const lyco_report *report,
                              size_t index,
                              lyco_layer_report *layer,
                              lyco_error **error);

/// Frees the report and its JSON. NULL is allowed.
void lyco_report_free(lyco_report *report);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* LYCOMERGE_H */
