/* NULL and nonsense are refused by every function with a status, and no output is touched. */

#include <math.h>

#include "check.h"

#define BAD_UTF8 "\xff\xfe"
#define NOBODY ((size_t)-1)

/* Outputs that begin with this must still have it after a failure. */
static char untouched;
#define UNTOUCHED ((void *)&untouched)

static void accessors(void) {
    CHECK(strcmp(lyco_status_name(LYCO_STATUS_NULL_PARAMETER), "null parameter") == 0);
    CHECK(strcmp(lyco_status_name(12345), "unknown") == 0);
    CHECK(lyco_version() && lyco_abi_version());

    CHECK(lyco_error_status(NULL) == LYCO_STATUS_NULL_PARAMETER);
    CHECK(!lyco_error_message(NULL) && !lyco_error_file(NULL) && !lyco_error_layer(NULL));
    lyco_error_free(NULL);

    const size_t none[] = {NOBODY, lyco_strategy_count() + lyco_option_count() + lyco_family_count()};
    for (size_t i = 0; i < 2; i++) {
        CHECK(!lyco_strategy_name(none[i]) && !lyco_strategy_title(none[i]) && !lyco_strategy_help(none[i]));
        CHECK(!lyco_strategy_paper(none[i]) && lyco_strategy_parameter_count(none[i]) == 0);
        for (size_t strategy = 0; strategy < 2; strategy++) {
            const size_t of = strategy ? none[i] : 0;
            CHECK(!lyco_strategy_parameter_name(of, none[i]) && !lyco_strategy_parameter_takes(of, none[i]));
            CHECK(!lyco_strategy_parameter_default(of, none[i]) && !lyco_strategy_parameter_help(of, none[i]));
        }
        CHECK(!lyco_option_name(none[i]) && !lyco_option_value(none[i]));
        CHECK(!lyco_option_default(none[i]) && !lyco_option_help(none[i]));
        CHECK(lyco_option_choice_count(none[i]) == 0);
        CHECK(!lyco_option_choice(none[i], 0) && !lyco_option_choice(0, none[i]));
        CHECK(!lyco_family_name(none[i]) && !lyco_family_help(none[i]));
    }

    CHECK(!lyco_adapter_kind(NULL) && !lyco_adapter_retain(NULL));
    CHECK(lyco_adapter_byte_len(NULL) == 0 && lyco_adapter_layer_count(NULL) == 0);
    CHECK(lyco_adapter_tensor_count(NULL) == 0);
    CHECK(lyco_adapter_metadata_count(NULL) == 0 && !lyco_adapter_metadata_key(NULL, 0));
    lyco_adapter_free(NULL);
    lyco_merge_free(NULL);
    lyco_builder_free(NULL);
    CHECK(isnan(lyco_report_relative_error(NULL)) && !lyco_report_json(NULL));
    CHECK(lyco_report_layer_count(NULL) == 0);
    lyco_report_free(NULL);
    CHECK(!lyco_plan_json(NULL) && !lyco_comparison_json(NULL));
    lyco_plan_free(NULL);
    lyco_comparison_free(NULL);
}

static void set_log(void) {
    lyco_error *error = NULL;
    const uint32_t levels[] = {0, 1, LYCO_LOG_LEVEL_INFO + 1, UINT32_MAX};
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++)
        FAILS(LYCO_STATUS_BAD_ARGUMENT, lyco_set_log(NULL, NULL, levels[i], &error));
}

static void opening(const char *adapters, const char *good) {
    lyco_error *error = NULL;
    lyco_adapter *adapter = UNTOUCHED;
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_adapter_open(NULL, NULL, &adapter, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_adapter_open(good, NULL, NULL, &error));
    FAILS(LYCO_STATUS_INVALID_UTF8, lyco_adapter_open(BAD_UTF8, NULL, &adapter, &error));
    FAILS(LYCO_STATUS_IO, lyco_adapter_open("", NULL, &adapter, &error));
    FAILS(LYCO_STATUS_FORMAT, lyco_adapter_open(adapters, NULL, &adapter, &error));
    FAILS(LYCO_STATUS_BAD_ARGUMENT,
          lyco_adapter_open(good, NULL, (lyco_adapter **)(void *)((char *)&adapter + 1), &error));
    CHECK(lyco_adapter_open(NULL, NULL, NULL, NULL) == LYCO_STATUS_NULL_PARAMETER);

    const char *nowhere = in(adapters, "no such file");
    CHECK(lyco_adapter_open(nowhere, NULL, &adapter, &error) == LYCO_STATUS_IO);
    CHECK(strcmp(lyco_error_file(error), nowhere) == 0 && !lyco_error_layer(error));
    lyco_error_free(error);
    error = NULL;

    const char *dora = in(adapters, "invert.doralora.safetensors");
    CHECK(lyco_adapter_open(dora, NULL, &adapter, &error) == LYCO_STATUS_UNSUPPORTED);
    CHECK(strcmp(lyco_error_file(error), dora) == 0 && strlen(lyco_error_layer(error)) > 0);
    lyco_error_free(error);
    error = NULL;

    const uint32_t sizes[] = {0, 1, 7, 1 << 20, UINT32_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        lyco_open_options options = {.struct_size = sizes[i]};
        FAILS(LYCO_STATUS_BAD_ARGUMENT, lyco_adapter_open(good, &options, &adapter, &error));
    }
    lyco_open_options options = {.struct_size = sizeof options, .skip_unknown = 2};
    FAILS(LYCO_STATUS_BAD_ARGUMENT, lyco_adapter_open(good, &options, &adapter, &error));
    struct {
        lyco_open_options known;
        uint32_t unknown;
    } newer = {{.struct_size = sizeof newer}, 1};
    FAILS(LYCO_STATUS_UNSUPPORTED, lyco_adapter_open(good, &newer.known, &adapter, &error));

    const uint8_t bytes[] = "not an adapter";
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_adapter_from_memory(NULL, bytes, 5, NULL, &adapter, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_adapter_from_memory("x", NULL, 5, NULL, &adapter, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_adapter_from_memory("x", bytes, 5, NULL, NULL, &error));
    FAILS(LYCO_STATUS_INVALID_UTF8, lyco_adapter_from_memory(BAD_UTF8, bytes, 5, NULL, &adapter, &error));
    FAILS(LYCO_STATUS_BAD_ARGUMENT, lyco_adapter_from_memory("x", bytes, NOBODY, NULL, &adapter, &error));
    FAILS(LYCO_STATUS_BAD_ARGUMENT, lyco_adapter_from_memory("x", bytes, 5, &options, &adapter, &error));
    FAILS(LYCO_STATUS_FORMAT, lyco_adapter_from_memory("x", bytes, 0, NULL, &adapter, &error));
    FAILS(LYCO_STATUS_FORMAT, lyco_adapter_from_memory("x", bytes, sizeof bytes, NULL, &adapter, &error));
    CHECK(adapter == UNTOUCHED);

    options.skip_unknown = 0;
    options.base = nowhere;
    FAILS(LYCO_STATUS_IO, lyco_adapter_open(dora, &options, &adapter, &error));
    options.base = BAD_UTF8;
    FAILS(LYCO_STATUS_INVALID_UTF8, lyco_adapter_open(dora, &options, &adapter, &error));
    CHECK(adapter == UNTOUCHED);
    options.base = in(adapters, "../base.safetensors");
    MUST(lyco_adapter_open(dora, &options, &adapter, &error));
    CHECK(lyco_adapter_layer_count(adapter) == 2);
    lyco_adapter_free(adapter);
    adapter = UNTOUCHED;
    options.base = NULL;

    options.skip_unknown = 1;
    MUST(lyco_adapter_open(dora, &options, &adapter, &error));
    CHECK(lyco_adapter_layer_count(adapter) == 0);
    lyco_adapter_free(adapter);
}

static void reading(const char *scratch, const lyco_adapter *adapter) {
    lyco_error *error = NULL;
    lyco_layer_info info = {.struct_size = sizeof info, .rank = 99};
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_adapter_layer_info(NULL, 0, &info, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_adapter_layer_info(adapter, 0, NULL, &error));
    FAILS(LYCO_STATUS_BAD_ARGUMENT, lyco_adapter_layer_info(adapter, NOBODY, &info, &error));
    FAILS(LYCO_STATUS_BAD_ARGUMENT,
          lyco_adapter_layer_info(adapter, lyco_adapter_layer_count(adapter), &info, &error));
    info.struct_size = 8;
    FAILS(LYCO_STATUS_BAD_ARGUMENT, lyco_adapter_layer_info(adapter, 0, &info, &error));
    CHECK(info.rank == 99 && info.name == NULL);

    const char *value = UNTOUCHED;
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_adapter_metadata(NULL, "format", &value, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_adapter_metadata(adapter, NULL, &value, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_adapter_metadata(adapter, "format", NULL, &error));
    FAILS(LYCO_STATUS_INVALID_UTF8, lyco_adapter_metadata(adapter, BAD_UTF8, &value, &error));
    CHECK(value == UNTOUCHED);

    lyco_tensor_view view = {.struct_size = sizeof view, .byte_len = 99};
    const size_t none[] = {NOBODY, lyco_adapter_tensor_count(adapter)};
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_adapter_tensor(NULL, 0, &view, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_adapter_tensor(adapter, 0, NULL, &error));
    for (size_t i = 0; i < 2; i++)
        FAILS(LYCO_STATUS_BAD_ARGUMENT, lyco_adapter_tensor(adapter, none[i], &view, &error));
    view.struct_size = sizeof view - 8;
    FAILS(LYCO_STATUS_BAD_ARGUMENT, lyco_adapter_tensor(adapter, 0, &view, &error));
    CHECK(view.byte_len == 99 && view.data == NULL);

    size_t index = 99;
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_adapter_find_tensor(NULL, "x", &index, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_adapter_find_tensor(adapter, NULL, &index, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_adapter_find_tensor(adapter, "x", NULL, &error));
    FAILS(LYCO_STATUS_INVALID_UTF8, lyco_adapter_find_tensor(adapter, BAD_UTF8, &index, &error));
    FAILS(LYCO_STATUS_BAD_ARGUMENT, lyco_adapter_find_tensor(adapter, "no such tensor", &index, &error));
    CHECK(index == 99);

    const uint8_t *bytes = UNTOUCHED;
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_adapter_bytes(NULL, &bytes, &index, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_adapter_bytes(adapter, NULL, &index, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_adapter_bytes(adapter, &bytes, NULL, &error));
    CHECK(bytes == UNTOUCHED && index == 99);

    struct DLManagedTensorVersioned *tensor = UNTOUCHED;
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_adapter_tensor_dlpack(NULL, 0, &tensor, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_adapter_tensor_dlpack(adapter, 0, NULL, &error));
    for (size_t i = 0; i < 2; i++)
        FAILS(LYCO_STATUS_BAD_ARGUMENT, lyco_adapter_tensor_dlpack(adapter, none[i], &tensor, &error));
    CHECK(tensor == UNTOUCHED);

    double number = 99;
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_adapter_delta(NULL, 0, LYCO_DTYPE_F64, (uint8_t *)&number, 8, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_adapter_delta(adapter, 0, LYCO_DTYPE_F64, NULL, 8, &error));
    FAILS(LYCO_STATUS_BAD_ARGUMENT, lyco_adapter_delta(adapter, 0, 0, (uint8_t *)&number, 8, &error));
    FAILS(LYCO_STATUS_BAD_ARGUMENT, lyco_adapter_delta(adapter, 0, LYCO_DTYPE_F64, (uint8_t *)&number, 8, &error));
    FAILS(LYCO_STATUS_BAD_ARGUMENT,
          lyco_adapter_delta(adapter, NOBODY, LYCO_DTYPE_F64, (uint8_t *)&number, 8, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_adapter_delta_norm(NULL, 0, &number, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_adapter_delta_norm(adapter, 0, NULL, &error));
    FAILS(LYCO_STATUS_BAD_ARGUMENT, lyco_adapter_delta_norm(adapter, NOBODY, &number, &error));
    CHECK(number == 99);

    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_adapter_survey(NULL, &value, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_adapter_survey(adapter, NULL, &error));
    CHECK(value == UNTOUCHED);

    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_adapter_save(NULL, in(scratch, "x"), &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_adapter_save(adapter, NULL, &error));
    FAILS(LYCO_STATUS_INVALID_UTF8, lyco_adapter_save(adapter, BAD_UTF8, &error));
    FAILS(LYCO_STATUS_IO, lyco_adapter_save(adapter, "", &error));
    FAILS(LYCO_STATUS_IO, lyco_adapter_save(adapter, scratch, &error));
    FAILS(LYCO_STATUS_IO, lyco_adapter_save(adapter, in(scratch, "no such folder/x"), &error));
}

static int add_nothing(void *user, const lyco_layer_info *layer, const lyco_tensor_view *delta) {
    (void)user, (void)layer, (void)delta;
    return 0;
}

static void merging(const char *scratch, const lyco_adapter *adapter) {
    lyco_error *error = NULL;
    lyco_merge *merge = lyco_merge_new();
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_merge_add(NULL, adapter, 1.0, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_merge_add(merge, NULL, 1.0, &error));
    FAILS(LYCO_STATUS_OPTION, lyco_merge_add(merge, adapter, NAN, &error));
    FAILS(LYCO_STATUS_OPTION, lyco_merge_add(merge, adapter, INFINITY, &error));

    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_merge_set_block_weights(NULL, 0, "te=0", &error));
    FAILS(LYCO_STATUS_INVALID_UTF8, lyco_merge_set_block_weights(merge, 0, BAD_UTF8, &error));
    const char *texts[] = {"", "te", "te=", "1,2", "IN01-", "IN02-IN01=1", "\xe2\x98\x83", "=", "IN01=0..", "*"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        FAILS(LYCO_STATUS_OPTION, lyco_merge_set_block_weights(merge, 0, texts[i], &error));
    FAILS(LYCO_STATUS_OPTION, lyco_merge_set_block_weights(merge, 0, "te=0", &error));
    FAILS(LYCO_STATUS_OPTION, lyco_merge_set_block_weights(merge, NOBODY, NULL, &error));

    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_merge_set(NULL, "rank", "4", &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_merge_set(merge, NULL, "4", &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_merge_set(merge, "rank", NULL, &error));
    FAILS(LYCO_STATUS_INVALID_UTF8, lyco_merge_set(merge, BAD_UTF8, "4", &error));
    FAILS(LYCO_STATUS_INVALID_UTF8, lyco_merge_set(merge, "rank", BAD_UTF8, &error));
    FAILS(LYCO_STATUS_OPTION, lyco_merge_set(merge, "colour", "red", &error));
    FAILS(LYCO_STATUS_OPTION, lyco_merge_set(merge, "", "", &error));
    for (size_t i = 0; i < lyco_option_count(); i++)
        FAILS(LYCO_STATUS_OPTION, lyco_merge_set(merge, lyco_option_name(i), "\xe2\x98\x83", &error));

    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_merge_set_recipe(NULL, "{}", &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_merge_set_recipe(merge, NULL, &error));
    FAILS(LYCO_STATUS_INVALID_UTF8, lyco_merge_set_recipe(merge, BAD_UTF8, &error));
    const char *recipes[] = {"", "{}", "[1]", "{\"recipe\": 3}", "{\"strategy\": \"weighted_sum\"}"};
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++)
        FAILS(LYCO_STATUS_OPTION, lyco_merge_set_recipe(merge, recipes[i], &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_merge_cancel(NULL, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_merge_deltas(NULL, add_nothing, NULL, NULL, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_merge_deltas(merge, NULL, NULL, NULL, &error));
    FAILS(LYCO_STATUS_OPTION, lyco_merge_deltas(merge, add_nothing, NULL, NULL, &error));

    lyco_forecast forecast = {.struct_size = sizeof forecast};
    lyco_adapter *result = UNTOUCHED;
    lyco_report *report = UNTOUCHED;
    const char *path = in(scratch, "nonsense.safetensors");
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_merge_forecast(NULL, NULL, NULL, &forecast, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_merge_forecast(merge, NULL, NULL, NULL, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_merge_run(NULL, NULL, NULL, &result, &report, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_merge_run(merge, NULL, NULL, NULL, &report, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_merge_run_to(NULL, path, NULL, NULL, &report, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_merge_run_to(merge, NULL, NULL, NULL, &report, &error));
    FAILS(LYCO_STATUS_INVALID_UTF8, lyco_merge_run_to(merge, BAD_UTF8, NULL, NULL, &report, &error));

    lyco_bake_options how = {.struct_size = sizeof how, .stochastic = 2};
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_merge_bake(NULL, "x", path, NULL, NULL, NULL, &report, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_merge_bake(merge, NULL, path, NULL, NULL, NULL, &report, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_merge_bake(merge, "x", NULL, NULL, NULL, NULL, &report, &error));
    FAILS(LYCO_STATUS_INVALID_UTF8, lyco_merge_bake(merge, BAD_UTF8, path, NULL, NULL, NULL, &report, &error));
    FAILS(LYCO_STATUS_BAD_ARGUMENT, lyco_merge_bake(merge, "x", path, &how, NULL, NULL, &report, &error));
    FAILS(LYCO_STATUS_IO, lyco_merge_bake(merge, "no such model", path, NULL, NULL, NULL, &report, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_merge_extract(NULL, "x", "y", path, NULL, NULL, &report, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_merge_extract(merge, NULL, "y", path, NULL, NULL, &report, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_merge_extract(merge, "x", NULL, path, NULL, NULL, &report, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_merge_extract(merge, "x", "y", NULL, NULL, NULL, &report, &error));
    FAILS(LYCO_STATUS_INVALID_UTF8, lyco_merge_extract(merge, "x", BAD_UTF8, path, NULL, NULL, &report, &error));
    FAILS(LYCO_STATUS_IO, lyco_merge_extract(merge, "no such model", "y", path, NULL, NULL, &report, &error));

    /* There is nothing to merge yet. */
    FAILS(LYCO_STATUS_OPTION, lyco_merge_forecast(merge, NULL, NULL, &forecast, &error));
    FAILS(LYCO_STATUS_OPTION, lyco_merge_run(merge, NULL, NULL, &result, &report, &error));
    FAILS(LYCO_STATUS_OPTION, lyco_merge_run_to(merge, path, NULL, NULL, &report, &error));

    MUST(lyco_merge_add(merge, adapter, 1.0, &error));
    FAILS(LYCO_STATUS_OPTION, lyco_merge_set_block_weights(merge, 0, "D00=0", &error));
    FAILS(LYCO_STATUS_OPTION, lyco_merge_set_block_weights(merge, 0, "0,0,0,0,0,0,0,0,0,0,0,0", &error));
    MUST(lyco_merge_set_block_weights(merge, 0, "IN=0.5 te=0", &error));
    MUST(lyco_merge_set_block_weights(merge, 0, NULL, &error));
    FAILS(LYCO_STATUS_IO, lyco_merge_run_to(merge, scratch, NULL, NULL, &report, &error));
    const uint32_t sizes[] = {0, sizeof forecast - 1, UINT32_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        forecast.struct_size = sizes[i];
        FAILS(LYCO_STATUS_BAD_ARGUMENT, lyco_merge_forecast(merge, NULL, NULL, &forecast, &error));
    }
    /* Contradictions are found by the run. */
    MUST(lyco_merge_set(merge, "rank", "4", &error));
    MUST(lyco_merge_set(merge, "format", "full", &error));
    FAILS(LYCO_STATUS_OPTION, lyco_merge_run(merge, NULL, NULL, &result, &report, &error));
    FAILS(LYCO_STATUS_OPTION, lyco_merge_run_to(merge, path, NULL, NULL, &report, &error));
    CHECK(result == UNTOUCHED && report == UNTOUCHED && forecast.byte_len == 0 && !exists(path));
    lyco_merge_free(merge);
}

static void building(void) {
    lyco_error *error = NULL;
    lyco_builder *builder = lyco_builder_new();
    const float numbers[4] = {0};
    const size_t shape[] = {2, 2};
    const lyco_tensor_view good = {.struct_size = sizeof good, .dtype = LYCO_DTYPE_F32, .name = "x.diff",
                                   .data = (const uint8_t *)numbers, .byte_len = 16, .shape = shape, .dim_count = 2};
    lyco_tensor_view bad = good;
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_builder_add(NULL, &good, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_builder_add(builder, NULL, &error));
    bad.name = NULL;
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_builder_add(builder, &bad, &error));
    bad.name = BAD_UTF8;
    FAILS(LYCO_STATUS_INVALID_UTF8, lyco_builder_add(builder, &bad, &error));
    bad.name = "__metadata__";
    FAILS(LYCO_STATUS_BAD_ARGUMENT, lyco_builder_add(builder, &bad, &error));
    bad = good, bad.dtype = 0;
    FAILS(LYCO_STATUS_BAD_ARGUMENT, lyco_builder_add(builder, &bad, &error));
    bad = good, bad.byte_len = 15;
    FAILS(LYCO_STATUS_BAD_ARGUMENT, lyco_builder_add(builder, &bad, &error));
    bad = good, bad.dim_count = UINT64_MAX;
    FAILS(LYCO_STATUS_BAD_ARGUMENT, lyco_builder_add(builder, &bad, &error));
    bad = good, bad.shape = NULL;
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_builder_add(builder, &bad, &error));
    bad = good, bad.data = NULL;
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_builder_add(builder, &bad, &error));
    const size_t huge[] = {SIZE_MAX, SIZE_MAX};
    bad = good, bad.shape = huge;
    FAILS(LYCO_STATUS_BAD_ARGUMENT, lyco_builder_add(builder, &bad, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_builder_add_dlpack(builder, "x", NULL, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_builder_set_metadata(NULL, "a", "b", &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_builder_set_metadata(builder, NULL, "b", &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_builder_set_metadata(builder, "a", NULL, &error));

    lyco_adapter *adapter = UNTOUCHED;
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_builder_finish(NULL, "x", NULL, &adapter, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_builder_finish(builder, NULL, NULL, &adapter, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_builder_finish(builder, "x", NULL, NULL, &error));
    /* There is no layer yet. */
    FAILS(LYCO_STATUS_FORMAT, lyco_builder_finish(builder, "x", NULL, &adapter, &error));
    CHECK(adapter == UNTOUCHED);
    MUST(lyco_builder_add(builder, &good, &error));
    FAILS(LYCO_STATUS_BAD_ARGUMENT, lyco_builder_add(builder, &good, &error));
    MUST(lyco_builder_finish(builder, "x", NULL, &adapter, &error));
    lyco_builder_free(builder);
    lyco_adapter_free(adapter);
}

static void reporting(const lyco_adapter *adapter) {
    lyco_error *error = NULL;
    lyco_report *report = NULL;
    lyco_adapter *result = NULL;
    lyco_merge *merge = lyco_merge_new();
    MUST(lyco_merge_add(merge, adapter, 1.0, &error));
    MUST(lyco_merge_run(merge, NULL, NULL, &result, &report, &error));
    lyco_layer_report layer = {.struct_size = sizeof layer, .rank = 99};
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_report_layer(NULL, 0, &layer, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_report_layer(report, 0, NULL, &error));
    FAILS(LYCO_STATUS_BAD_ARGUMENT, lyco_report_layer(report, lyco_report_layer_count(report), &layer, &error));
    layer.struct_size = 4;
    FAILS(LYCO_STATUS_BAD_ARGUMENT, lyco_report_layer(report, 0, &layer, &error));
    CHECK(layer.rank == 99 && !layer.name);
    lyco_merge_free(merge);
    lyco_adapter_free(result);
    lyco_report_free(report);
}

static void drawing(const lyco_adapter *adapter) {
    lyco_error *error = NULL;
    lyco_plan *plan = UNTOUCHED;
    lyco_comparison *comparison = UNTOUCHED;
    lyco_merge *merge = lyco_merge_new();
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_merge_plan(NULL, NULL, NULL, &plan, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_merge_plan(merge, NULL, NULL, NULL, &error));
    FAILS(LYCO_STATUS_OPTION, lyco_merge_plan(merge, NULL, NULL, &plan, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_merge_compare(NULL, NULL, NULL, &comparison, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_merge_compare(merge, NULL, NULL, NULL, &error));
    MUST(lyco_merge_add(merge, adapter, 1.0, &error));
    /* There is nothing to compare it with. */
    FAILS(LYCO_STATUS_OPTION, lyco_merge_compare(merge, NULL, NULL, &comparison, &error));
    CHECK(plan == UNTOUCHED && comparison == UNTOUCHED);
    MUST(lyco_merge_add(merge, adapter, -1.0, &error));
    MUST(lyco_merge_plan(merge, NULL, NULL, &plan, &error));
    MUST(lyco_merge_compare(merge, NULL, NULL, &comparison, &error));
    lyco_merge_free(merge);

    const uint8_t *bytes = UNTOUCHED;
    uint64_t byte_len = 99;
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_plan_picture(NULL, "svg", 0, &bytes, &byte_len, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_plan_picture(plan, NULL, 0, &bytes, &byte_len, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_plan_picture(plan, "svg", 0, NULL, &byte_len, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_plan_picture(plan, "svg", 0, &bytes, NULL, &error));
    FAILS(LYCO_STATUS_INVALID_UTF8, lyco_plan_picture(plan, BAD_UTF8, 0, &bytes, &byte_len, &error));
    FAILS(LYCO_STATUS_OPTION, lyco_plan_picture(plan, "gif", 0, &bytes, &byte_len, &error));
    FAILS(LYCO_STATUS_BAD_ARGUMENT, lyco_plan_picture(plan, "svg", 2, &bytes, &byte_len, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_comparison_picture(NULL, "svg", 0, &bytes, &byte_len, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_comparison_picture(comparison, NULL, 0, &bytes, &byte_len, &error));
    FAILS(LYCO_STATUS_OPTION, lyco_comparison_picture(comparison, "", 0, &bytes, &byte_len, &error));
    CHECK(bytes == UNTOUCHED && byte_len == 99);
    lyco_plan_free(plan);
    lyco_comparison_free(comparison);
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    const char *adapters = argv[1], *scratch = argv[2];
    char good[4096];
    snprintf(good, sizeof good, "%s", in(adapters, "italic.lora.safetensors"));
    lyco_error *error = NULL;
    lyco_adapter *adapter = NULL;

    accessors();
    set_log();
    opening(adapters, good);
    MUST(lyco_adapter_open(good, NULL, &adapter, &error));
    reading(scratch, adapter);
    merging(scratch, adapter);
    building();
    reporting(adapter);
    drawing(adapter);
    lyco_adapter_free(adapter);
    return 0;
}
