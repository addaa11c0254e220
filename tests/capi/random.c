/* Every function in random order, with sound and unsound arguments, for some seconds: nothing crashes or leaks, and
 * what a call returns fits what it was given. LYCO_SEED=N tries another order. */

#include <math.h>
#include <time.h>

#include "check.h"

#define SLOTS 4

static const time_t SECONDS = 30;

static uint64_t state;

/* splitmix64. */
static uint64_t any(uint64_t below) {
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (z ^ (z >> 31)) % below;
}

static const char *folder, *scratch;
static lyco_adapter *adapters[SLOTS];
static lyco_merge *merges[SLOTS];
static lyco_report *reports[SLOTS];
static lyco_builder *builders[SLOTS];

static const char *path(void) {
    static const char *names[] = {"italic.lora.safetensors", "italic.loha.safetensors", "invert.lokr4.safetensors",
                                  "invert.doralora.safetensors", "no such file", "", "\xff"};
    const uint64_t at = any(sizeof names / sizeof *names + 1);
    return at ? in(folder, names[at - 1]) : NULL;
}

static const char *word(void) {
    static const char *words[] = {"", "\xff", "4", "0", "-1", "1e999", "true", "auto", "lora", "lokr", "factor", "float32",
                                  "compact", "1KB", "20MB", "smart_fusion", "min_max_norm", "0.2", "x"};
    const uint64_t at = any(sizeof words / sizeof *words + 1);
    return at ? words[at - 1] : NULL;
}

static double weight(void) {
    const double all[] = {1.0, 0.5, -0.4, 0.0, NAN, INFINITY, 1e300, 1e-300};
    return all[any(8)];
}

/* Calls a random number of times, then asks to stop. */
static int stop(void *user, const char *stage, size_t done, size_t total) {
    CHECK(stage && done <= total);
    return user && any(3) == 0;
}

/* The head of the struct in dlpack.h. */
struct managed {
    uint32_t version[2];
    void *manager_ctx;
    void (*deleter)(void *);
};

static int take(void *user, const lyco_layer_info *layer, const lyco_tensor_view *delta) {
    CHECK(layer->rows * layer->cols > 0 && delta->byte_len > 0 && strcmp(layer->name, delta->name) == 0);
    return user && any(8) == 0;
}

static void listen(void *user, lyco_log_level level, const char *message) {
    CHECK(user == NULL && level && message);
}

/* The error is there exactly if the call failed, and says something. */
static void settle(lyco_status status, lyco_error *error, int asked) {
    CHECK(status != LYCO_STATUS_INTERNAL);
    CHECK((error != NULL) == (asked && status != LYCO_STATUS_OK));
    if (error) {
        CHECK(lyco_error_status(error) == status && lyco_error_message(error)[0]);
        const char *file = lyco_error_file(error), *layer = lyco_error_layer(error);
        CHECK((!file || strlen(file) < 1 << 20) && (!layer || strlen(layer) < 1 << 20));
    }
    lyco_error_free(error);
}

static void read_adapter(const lyco_adapter *adapter, lyco_error **wanted, lyco_error **error) {
    lyco_status status;
    const size_t layers = lyco_adapter_layer_count(adapter), tensors = lyco_adapter_tensor_count(adapter);
    lyco_layer_info info = {.struct_size = any(4) ? sizeof info : (uint32_t)any(1u << 16)};
    lyco_tensor_view view = {.struct_size = any(4) ? sizeof view : (uint32_t)any(sizeof view)};
    const char *value = NULL;
    const uint8_t *bytes = NULL;
    size_t size = 0;
    /* More than is there must not be declared. */
    if (info.struct_size > sizeof info)
        info.struct_size = UINT32_MAX;
    status = lyco_adapter_layer_info(adapter, any(layers + 2), &info, wanted);
    settle(status, *error, wanted != NULL);
    *error = NULL;
    status = lyco_adapter_tensor(adapter, any(tensors + 2), &view, wanted);
    settle(status, *error, wanted != NULL);
    *error = NULL;
    if (status == LYCO_STATUS_OK) {
        /* The last byte can be read, and the name leads back. */
        volatile uint8_t last = view.byte_len ? view.data[view.byte_len - 1] : 0;
        (void)last;
        CHECK(lyco_adapter_find_tensor(adapter, view.name, &size, NULL) == LYCO_STATUS_OK && size < tensors);
    }
    status = lyco_adapter_metadata(adapter, word(), &value, wanted);
    settle(status, *error, wanted != NULL);
    *error = NULL;
    status = lyco_adapter_bytes(adapter, &bytes, &size, wanted);
    settle(status, *error, wanted != NULL);
    *error = NULL;
    CHECK(!adapter || (lyco_adapter_kind(adapter) && size == lyco_adapter_byte_len(adapter)));
}

static void step(void) {
    lyco_error *error = NULL, **wanted = any(4) ? &error : NULL;
    lyco_adapter **adapter = &adapters[any(SLOTS)];
    lyco_merge **merge = &merges[any(SLOTS)];
    lyco_report **report = &reports[any(SLOTS)];
    void *user = any(2) ? &error : NULL;
    lyco_progress_callback progress = any(2) ? stop : NULL;
    lyco_status status = LYCO_STATUS_OK;
    lyco_builder **builder = &builders[any(SLOTS)];
    switch (any(22)) {
    case 0: case 1: {
        lyco_open_options options = {.struct_size = any(8) ? sizeof options : 0, .skip_unknown = (uint32_t)any(3)};
        lyco_adapter_free(*adapter);
        *adapter = NULL;
        status = lyco_adapter_open(path(), any(2) ? &options : NULL, any(8) ? adapter : NULL, wanted);
        break;
    }
    case 2: {
        const uint8_t *bytes = NULL;
        size_t size = 0;
        lyco_adapter *copy = NULL;
        if (lyco_adapter_bytes(*adapter, &bytes, &size, NULL) != LYCO_STATUS_OK)
            break;
        /* All of it, or what a broken download leaves. */
        status = lyco_adapter_from_memory("copy", bytes, any(2) ? size : any(size), NULL, &copy, wanted);
        CHECK((copy != NULL) == (status == LYCO_STATUS_OK));
        lyco_adapter_free(copy);
        break;
    }
    case 3: {
        lyco_adapter *same = lyco_adapter_retain(*adapter);
        CHECK(same == *adapter);
        lyco_adapter_free(same);
        break;
    }
    case 4:
        read_adapter(*adapter, wanted, &error);
        break;
    case 5:
        lyco_merge_free(*merge);
        *merge = any(8) ? lyco_merge_new() : NULL;
        break;
    case 6: case 7:
        status = lyco_merge_add(*merge, *adapter, weight(), wanted);
        break;
    case 8: case 9: {
        const char *key = any(4) ? lyco_option_name(any(lyco_option_count() + 1)) : word();
        status = lyco_merge_set(*merge, key, word(), wanted);
        break;
    }
    case 10: {
        lyco_forecast forecast = {.struct_size = any(8) ? sizeof forecast : 3};
        status = lyco_merge_forecast(*merge, progress, user, &forecast, wanted);
        break;
    }
    case 11: {
        lyco_adapter *result = NULL;
        lyco_report *said = NULL;
        status = lyco_merge_run(*merge, progress, user, any(8) ? &result : NULL, any(2) ? &said : NULL, wanted);
        CHECK(status == LYCO_STATUS_OK || (!result && !said));
        if (result) {
            lyco_adapter_free(*adapter);
            *adapter = result;
        }
        if (said) {
            CHECK(lyco_report_json(said)[0] == '{');
            lyco_report_free(*report);
            *report = said;
        }
        break;
    }
    case 12:
        status = lyco_merge_run_to(*merge, any(8) ? in(scratch, "out.safetensors") : any(2) ? scratch : NULL, stop, &error, NULL, wanted);
        break;
    case 13:
        status = lyco_adapter_save(*adapter, any(4) ? in(scratch, any(2) ? "x.pt" : "x.safetensors") : NULL, wanted);
        break;
    case 14:
        CHECK(!(lyco_report_relative_error(*report) < 0.0));
        lyco_report_free(*report);
        *report = NULL;
        break;
    case 15:
        lyco_builder_free(*builder);
        *builder = any(8) ? lyco_builder_new() : NULL;
        break;
    case 16: case 17: {
        /* A tensor of one adapter, sound or not, goes into another. */
        lyco_tensor_view view = {.struct_size = sizeof view};
        struct DLManagedTensorVersioned *tensor = NULL;
        const size_t index = any(lyco_adapter_tensor_count(*adapter) + 1);
        if (lyco_adapter_tensor(*adapter, index, &view, NULL) != LYCO_STATUS_OK)
            break;
        if (any(2)) {
            if (any(4) == 0)
                view.byte_len = any(view.byte_len + 1);
            status = lyco_builder_add(*builder, &view, wanted);
            break;
        }
        CHECK(lyco_adapter_tensor_dlpack(*adapter, index, &tensor, NULL) == LYCO_STATUS_OK && tensor);
        status = lyco_builder_add_dlpack(*builder, any(4) ? view.name : word(), tensor, wanted);
        if (status != LYCO_STATUS_OK)
            ((struct managed *)(void *)tensor)->deleter(tensor);
        break;
    }
    case 18: {
        lyco_adapter *built = NULL;
        status = lyco_builder_finish(*builder, word(), NULL, &built, wanted);
        if (status == LYCO_STATUS_OK) {
            lyco_adapter_free(*adapter);
            *adapter = built;
        }
        break;
    }
    case 19: {
        static uint8_t buffer[1 << 16];
        double norm = -1;
        const size_t index = any(lyco_adapter_layer_count(*adapter) + 1);
        lyco_layer_info info = {.struct_size = sizeof info};
        if (lyco_adapter_layer_info(*adapter, index, &info, NULL) != LYCO_STATUS_OK)
            break;
        CHECK(lyco_adapter_delta_norm(*adapter, index, &norm, NULL) != LYCO_STATUS_OK || norm >= 0);
        const uint64_t size = info.rows * info.cols * 4;
        if (size <= sizeof buffer)
            status = lyco_adapter_delta(*adapter, index, LYCO_DTYPE_F32, buffer, any(2) ? size : any(size), wanted);
        break;
    }
    case 20:
        status = lyco_merge_deltas(*merge, any(8) ? take : NULL, progress, user, wanted);
        break;
    default:
        status = any(2) ? lyco_merge_set_recipe(*merge, any(2) ? lyco_report_json(*report) : word(), wanted)
                        : lyco_merge_cancel(*merge, wanted);
        settle(status, error, wanted != NULL);
        error = NULL;
        status = lyco_set_log(any(2) ? listen : NULL, NULL, any(2) ? LYCO_LOG_LEVEL_INFO : (uint32_t)any(64), wanted);
    }
    settle(status, error, wanted != NULL);
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    folder = argv[1];
    scratch = argv[2];
    const char *seed = getenv("LYCO_SEED");
    const uint64_t first = seed ? strtoull(seed, NULL, 10) : 1;
    state = first;
    uint64_t steps = 0;
    for (const time_t begin = time(NULL); time(NULL) - begin < SECONDS; steps++)
        step();
    lyco_set_log(NULL, NULL, LYCO_LOG_LEVEL_INFO, NULL);
    for (size_t i = 0; i < SLOTS; i++) {
        lyco_adapter_free(adapters[i]);
        lyco_merge_free(merges[i]);
        lyco_report_free(reports[i]);
        lyco_builder_free(builders[i]);
    }
    CHECK(steps > 100);
    if (seed)
        printf("%llu steps from seed %llu\n", (unsigned long long)steps, (unsigned long long)first);
    return 0;
}
