/* Two real adapters are merged, in memory and into a file, and what comes out is what the report says. */

#include <math.h>

#include "check.h"

struct heard {
    int calls;
    int merging;
};

static int listen(void *user, const char *stage, size_t done, size_t total) {
    struct heard *heard = user;
    heard->calls++;
    heard->merging |= strcmp(stage, "merging") == 0;
    CHECK(done <= total);
    return 0;
}

static void count(void *user, lyco_log_level level, const char *message) {
    CHECK(level == LYCO_LOG_LEVEL_INFO || level == LYCO_LOG_LEVEL_WARNING);
    CHECK(strlen(message) > 0);
    ++*(int *)user;
    /* No lock is held: the callback may set another. */
    CHECK(lyco_set_log(count, user, LYCO_LOG_LEVEL_INFO, NULL) == LYCO_STATUS_OK);
}

static lyco_adapter *from_memory(const char *path) {
    lyco_error *error = NULL;
    lyco_adapter *adapter = NULL;
    static uint8_t bytes[1 << 20];
    FILE *file = fopen(path, "rb");
    CHECK(file);
    size_t size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    MUST(lyco_adapter_from_memory("copied", bytes, size, NULL, &adapter, &error));
    /* They were copied. */
    memset(bytes, 0, sizeof bytes);
    return adapter;
}

static void same_layers(const lyco_adapter *a, const lyco_adapter *b) {
    lyco_error *error = NULL;
    CHECK(lyco_adapter_layer_count(a) == lyco_adapter_layer_count(b));
    for (size_t i = 0; i < lyco_adapter_layer_count(a); i++) {
        lyco_layer_info x = {.struct_size = sizeof x}, y = {.struct_size = sizeof y};
        MUST(lyco_adapter_layer_info(a, i, &x, &error));
        MUST(lyco_adapter_layer_info(b, i, &y, &error));
        CHECK(strcmp(x.name, y.name) == 0 && x.param == y.param);
        CHECK(x.rows == y.rows && x.cols == y.cols);
    }
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    const char *adapters = argv[1], *scratch = argv[2];
    lyco_error *error = NULL;

    char version[32];
    snprintf(version, sizeof version, "%d.%d.%d", LYCO_VERSION_MAJOR, LYCO_VERSION_MINOR, LYCO_VERSION_PATCH);
    CHECK(strcmp(lyco_version(), version) == 0);
    CHECK(lyco_abi_version() == LYCO_ABI_VERSION);
    size_t parameters = 0;
    for (size_t i = 0; i < lyco_strategy_count(); i++) {
        CHECK(lyco_strategy_name(i) && lyco_strategy_title(i) && lyco_strategy_help(i) && lyco_strategy_paper(i));
        for (size_t k = 0; k < lyco_strategy_parameter_count(i); k++, parameters++) {
            CHECK(lyco_strategy_parameter_name(i, k) && lyco_strategy_parameter_takes(i, k));
            CHECK(lyco_strategy_parameter_default(i, k) && lyco_strategy_parameter_help(i, k));
        }
    }
    CHECK(parameters > 0);
    for (size_t i = 0; i < lyco_option_count(); i++)
        CHECK(lyco_option_name(i) && lyco_option_default(i) && lyco_option_help(i));
    CHECK(lyco_option_choice_count(0) == 0 && !lyco_option_choice(0, 0));
    for (size_t i = 0; i < lyco_option_count(); i++)
        for (size_t k = 0; k < lyco_option_choice_count(i); k++)
            CHECK(strlen(lyco_option_choice(i, k)) > 0 && !lyco_option_choice(i, lyco_option_choice_count(i)));
    for (size_t i = 0; i < lyco_family_count(); i++)
        CHECK(lyco_family_name(i) && lyco_family_help(i));
    CHECK(lyco_strategy_count() > 0 && lyco_family_count() > 0 && lyco_option_count() > 0);
    CHECK(strcmp(lyco_option_name(0), "strategy") == 0 && strcmp(lyco_option_value(0), "NAME") == 0);

    int messages = 0;
    MUST(lyco_set_log(count, &messages, LYCO_LOG_LEVEL_INFO, &error));
    lyco_adapter *lokr = NULL;
    MUST(lyco_adapter_open(in(adapters, "invert.lokr4.safetensors"), NULL, &lokr, &error));
    lyco_adapter *loha = from_memory(in(adapters, "italic.loha.safetensors"));
    CHECK(messages == 2);

    CHECK(strcmp(lyco_adapter_kind(lokr), "LoKr") == 0);
    CHECK(strcmp(lyco_adapter_kind(loha), "LoHa") == 0);
    CHECK(lyco_adapter_byte_len(lokr) == 209034);
    CHECK(lyco_adapter_layer_count(lokr) == 97);
    lyco_layer_info info = {.struct_size = sizeof info};
    MUST(lyco_adapter_layer_info(lokr, 0, &info, &error));
    CHECK(strncmp(info.name, "lora_unet_", 10) == 0 && strcmp(info.family, "LoKr") == 0);
    CHECK(info.param == LYCO_PARAM_WEIGHT && info.rows > 0 && info.cols > 0 && info.scale > 0);
    const char *value = "untouched";
    MUST(lyco_adapter_metadata(lokr, "ss_network_module", &value, &error));
    CHECK(strcmp(value, "lycoris.kohya") == 0);
    MUST(lyco_adapter_metadata(lokr, "no such key", &value, &error));
    CHECK(value == NULL);
    size_t lines = lyco_adapter_metadata_count(lokr);
    CHECK(lines > 0 && !lyco_adapter_metadata_key(lokr, lines));
    for (size_t i = 0; i < lines; i++) {
        MUST(lyco_adapter_metadata(lokr, lyco_adapter_metadata_key(lokr, i), &value, &error));
        CHECK(value != NULL);
    }
    const char *survey = NULL, *again = NULL;
    MUST(lyco_adapter_survey(lokr, &survey, &error));
    MUST(lyco_adapter_survey(lokr, &again, &error));
    CHECK(survey == again && strstr(survey, "\"kind\": \"LoKr\"") && strstr(survey, "\"blocks\""));

    /* A program of yesterday, whose struct was smaller, gets what it knows and nothing past it. */
    lyco_layer_info old = {.struct_size = offsetof(lyco_layer_info, stored_count), .stored_count = 7};
    MUST(lyco_adapter_layer_info(lokr, 0, &old, &error));
    CHECK(old.rows == info.rows && old.stored_count == 7 && info.stored_count > 0);

    lyco_merge *merge = lyco_merge_new();
    MUST(lyco_merge_add(merge, lokr, 0.6, &error));
    MUST(lyco_merge_add(merge, loha, -0.4, &error));
    MUST(lyco_merge_set(merge, "dtype", "float32", &error));
    MUST(lyco_merge_set(merge, "threads", "2", &error));

    lyco_forecast forecast = {.struct_size = sizeof forecast};
    MUST(lyco_merge_forecast(merge, NULL, NULL, &forecast, &error));
    CHECK(forecast.byte_len > 0 && forecast.input_byte_len == 209034 + 494610);
    CHECK(forecast.relative_error < 0.02 && !forecast.huge);

    struct heard heard = {0};
    lyco_adapter *merged = NULL;
    lyco_report *report = NULL;
    MUST(lyco_merge_run(merge, listen, &heard, &merged, &report, &error));
    CHECK(heard.calls > 0 && heard.merging);
    CHECK(messages > 2);
    same_layers(merged, loha);
    CHECK(lyco_report_relative_error(report) > 0 && lyco_report_relative_error(report) < 0.01);
    CHECK(strstr(lyco_report_json(report), "\"error\": "));
    CHECK(strstr(lyco_report_json(report), "\"italic.loha\"") == NULL);
    CHECK(strstr(lyco_report_json(report), "\"copied\""));

    CHECK(lyco_report_layer_count(report) == 97);
    double squares = 0, wrong = 0;
    for (size_t i = 0; i < 97; i++) {
        lyco_layer_report layer = {.struct_size = sizeof layer};
        MUST(lyco_report_layer(report, i, &layer, &error));
        MUST(lyco_adapter_layer_info(merged, i, &info, &error));
        CHECK(strcmp(layer.name, info.name) == 0 && strcmp(layer.family, info.family) == 0 && layer.param == info.param);
        CHECK(layer.rank == info.rank && layer.norm > 0);
        CHECK(layer.direction_error <= layer.relative_error * (1 + 1e-6));
        squares += layer.norm * layer.norm;
        wrong += layer.norm * layer.norm * layer.relative_error * layer.relative_error;
    }
    CHECK(fabs(sqrt(wrong / squares) / lyco_report_relative_error(report) - 1) < 1e-6);

    const char *saved = in(scratch, "saved.safetensors");
    MUST(lyco_adapter_save(merged, saved, &error));
    lyco_adapter *reopened = NULL;
    MUST(lyco_adapter_open(saved, NULL, &reopened, &error));
    CHECK(lyco_adapter_byte_len(reopened) == lyco_adapter_byte_len(merged));
    same_layers(reopened, merged);

    /* A run of the same merge into a file, without callback and report; the inputs live on in the merge. */
    lyco_adapter *other = lyco_adapter_retain(lokr);
    CHECK(other == lokr);
    lyco_adapter_free(lokr);
    lyco_adapter_free(other);
    lyco_adapter_free(loha);
    const char *path = in(scratch, "run.safetensors");
    MUST(lyco_merge_run_to(merge, path, NULL, NULL, NULL, &error));
    lyco_adapter *run = NULL;
    MUST(lyco_adapter_open(path, NULL, &run, &error));
    same_layers(run, merged);

    /* The recipe of the file, after other options, is the same merge again. */
    MUST(lyco_merge_set(merge, "dtype", "bfloat16", &error));
    MUST(lyco_merge_set(merge, "strategy", "min_max_norm", &error));
    MUST(lyco_adapter_metadata(run, "lycomerge_recipe", &value, &error));
    MUST(lyco_merge_set_recipe(merge, value, &error));
    lyco_adapter *repeated = NULL;
    MUST(lyco_merge_run(merge, NULL, NULL, &repeated, NULL, &error));
    const uint8_t *x = NULL, *y = NULL;
    size_t x_size = 0, y_size = 0;
    MUST(lyco_adapter_bytes(repeated, &x, &x_size, &error));
    MUST(lyco_adapter_bytes(merged, &y, &y_size, &error));
    CHECK(x_size == y_size && memcmp(x, y, x_size) == 0);
    MUST(lyco_merge_set_recipe(merge, lyco_report_json(report), &error));
    lyco_adapter_free(repeated);

    /* Block weights are part of the recipe, and count for the input that has them. */
    MUST(lyco_merge_set_block_weights(merge, 1, "*=0 M00=0.5", &error));
    lyco_report *weighed = NULL;
    lyco_adapter *blocks = NULL;
    MUST(lyco_merge_run(merge, NULL, NULL, &blocks, &weighed, &error));
    CHECK(strstr(lyco_report_json(weighed), "\"block_weights\": \"*=0 M00=0.5\""));
    lyco_adapter_free(blocks);
    MUST(lyco_merge_set_block_weights(merge, 1, NULL, &error));
    MUST(lyco_merge_set_recipe(merge, lyco_report_json(weighed), &error));
    lyco_report *repeat = NULL;
    MUST(lyco_merge_run(merge, NULL, NULL, &blocks, &repeat, &error));
    for (size_t i = 0; i < 97; i++) {
        lyco_layer_report one = {.struct_size = sizeof one}, other = {.struct_size = sizeof other};
        MUST(lyco_report_layer(weighed, i, &one, &error));
        MUST(lyco_report_layer(repeat, i, &other, &error));
        CHECK(one.norm == other.norm);
    }
    lyco_adapter_free(blocks);
    lyco_report_free(weighed);
    lyco_report_free(repeat);

    MUST(lyco_set_log(NULL, NULL, LYCO_LOG_LEVEL_INFO, &error));
    lyco_adapter_free(run);
    lyco_adapter_free(reopened);
    lyco_adapter_free(merged);
    lyco_report_free(report);
    lyco_merge_free(merge);
    return 0;
}
