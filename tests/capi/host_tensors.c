/* Tensors go to and from a host's memory: by view, by DLPack, and as the deltas that a model needs. */

#include <math.h>

#include "check.h"

/* As in dlpack.h, version 1. */
struct DLManagedTensorVersioned {
    struct { uint32_t major, minor; } version;
    void *manager_ctx;
    void (*deleter)(struct DLManagedTensorVersioned *);
    uint64_t flags;
    struct {
        void *data;
        struct { int32_t device_type, device_id; } device;
        int32_t ndim;
        struct { uint8_t code, bits; uint16_t lanes; } dtype;
        int64_t *shape, *strides;
        uint64_t byte_offset;
    } dl_tensor;
};
typedef struct DLManagedTensorVersioned managed;

/* ΔW = alpha/rank · up · down, by hand. */
static const float DOWN[2][3] = {{1, 2, 3}, {4, 5, 6}}, UP[4][2] = {{1, 0}, {0, 1}, {1, 1}, {2, -1}};
static const float ALPHA = 1.0f;

static double expected(size_t i, size_t j) {
    return ALPHA / 2 * (UP[i][0] * DOWN[0][j] + UP[i][1] * DOWN[1][j]);
}

static void add(lyco_builder *builder, const char *name, const void *data, const size_t *shape, size_t dims) {
    lyco_error *error = NULL;
    lyco_tensor_view view = {.struct_size = sizeof view, .dtype = LYCO_DTYPE_F32, .name = name, .data = data};
    view.shape = shape;
    view.dim_count = dims;
    view.byte_len = 4;
    for (size_t d = 0; d < dims; d++)
        view.byte_len *= shape[d];
    MUST(lyco_builder_add(builder, &view, &error));
}

static lyco_adapter *finish(lyco_builder *builder) {
    lyco_error *error = NULL;
    lyco_adapter *adapter = NULL;
    MUST(lyco_builder_set_metadata(builder, "ss_output_name", "by hand", &error));
    MUST(lyco_builder_finish(builder, "host", NULL, &adapter, &error));
    lyco_builder_free(builder);
    return adapter;
}

/* What the layer does is what it should, in float32 and float64. */
static void check_delta(const lyco_adapter *adapter) {
    lyco_error *error = NULL;
    double wide[12] = {0}, norm = 0, truth = 0;
    float narrow[12] = {0};
    MUST(lyco_adapter_delta(adapter, 0, LYCO_DTYPE_F64, (uint8_t *)wide, sizeof wide, &error));
    MUST(lyco_adapter_delta(adapter, 0, LYCO_DTYPE_F32, (uint8_t *)narrow, sizeof narrow, &error));
    for (size_t i = 0; i < 4; i++)
        for (size_t j = 0; j < 3; j++) {
            CHECK(wide[3 * i + j] == expected(i, j) && narrow[3 * i + j] == expected(i, j));
            truth += expected(i, j) * expected(i, j);
        }
    MUST(lyco_adapter_delta_norm(adapter, 0, &norm, &error));
    CHECK(fabs(norm - sqrt(truth)) < 1e-12);
    FAILS(LYCO_STATUS_BAD_ARGUMENT, lyco_adapter_delta(adapter, 0, LYCO_DTYPE_F64, (uint8_t *)wide, 8, &error));
    FAILS(LYCO_STATUS_OPTION, lyco_adapter_delta(adapter, 0, LYCO_DTYPE_U8, (uint8_t *)wide, 12, &error));
}

static lyco_adapter *by_view(void) {
    const size_t down[] = {2, 3}, up[] = {4, 2};
    lyco_builder *builder = lyco_builder_new();
    add(builder, "lora_unet_x.lora_down.weight", DOWN, down, 2);
    add(builder, "lora_unet_x.lora_up.weight", UP, up, 2);
    add(builder, "lora_unet_x.alpha", &ALPHA, NULL, 0);
    return finish(builder);
}

static int deleted;

static void deleter(managed *tensor) {
    deleted++;
    free(tensor);
}

static managed *manage(const void *data, int32_t ndim, int64_t *shape, int64_t *strides) {
    managed *tensor = calloc(1, sizeof *tensor);
    CHECK(tensor);
    tensor->version.major = 1;
    tensor->deleter = deleter;
    tensor->dl_tensor.data = (void *)data;
    tensor->dl_tensor.device.device_type = 1;
    tensor->dl_tensor.ndim = ndim;
    tensor->dl_tensor.dtype.code = 2;
    tensor->dl_tensor.dtype.bits = 32;
    tensor->dl_tensor.dtype.lanes = 1;
    tensor->dl_tensor.shape = shape;
    tensor->dl_tensor.strides = strides;
    return tensor;
}

/* `up` comes transposed, `down` behind an offset, and what is refused stays ours. */
static lyco_adapter *by_dlpack(void) {
    lyco_error *error = NULL;
    lyco_builder *builder = lyco_builder_new();
    float turned[2][4], behind[1 + 6];
    for (size_t i = 0; i < 4; i++)
        for (size_t k = 0; k < 2; k++)
            turned[k][i] = UP[i][k];
    memcpy(behind + 1, DOWN, sizeof DOWN);
    int64_t up[] = {4, 2}, up_strides[] = {1, 4}, down[] = {2, 3};

    managed *tensor = manage(turned, 2, up, up_strides);
    tensor->dl_tensor.device.device_type = 2;
    FAILS(LYCO_STATUS_UNSUPPORTED, lyco_builder_add_dlpack(builder, "x", tensor, &error));
    tensor->dl_tensor.device.device_type = 1;
    tensor->version.major = 2;
    FAILS(LYCO_STATUS_UNSUPPORTED, lyco_builder_add_dlpack(builder, "x", tensor, &error));
    tensor->version.major = 1;
    tensor->dl_tensor.dtype.bits = 24;
    FAILS(LYCO_STATUS_UNSUPPORTED, lyco_builder_add_dlpack(builder, "x", tensor, &error));
    tensor->dl_tensor.dtype.bits = 32;
    up[0] = -4;
    FAILS(LYCO_STATUS_BAD_ARGUMENT, lyco_builder_add_dlpack(builder, "x", tensor, &error));
    up[0] = INT64_MAX;
    FAILS(LYCO_STATUS_BAD_ARGUMENT, lyco_builder_add_dlpack(builder, "x", tensor, &error));
    up[0] = 4;
    CHECK(deleted == 0);
    MUST(lyco_builder_add_dlpack(builder, "lora_unet_x.lora_up.weight", tensor, &error));
    CHECK(deleted == 1);

    tensor = manage(behind, 2, down, NULL);
    tensor->dl_tensor.byte_offset = 4;
    MUST(lyco_builder_add_dlpack(builder, "lora_unet_x.lora_down.weight", tensor, &error));
    tensor = manage(&ALPHA, 0, NULL, NULL);
    MUST(lyco_builder_add_dlpack(builder, "lora_unet_x.alpha", tensor, &error));
    tensor = manage(&ALPHA, 0, NULL, NULL);
    FAILS(LYCO_STATUS_BAD_ARGUMENT, lyco_builder_add_dlpack(builder, "lora_unet_x.alpha", tensor, &error));
    CHECK(deleted == 3);
    deleter(tensor);
    return finish(builder);
}

/* A tensor lent by DLPack outlives the adapter, and comes back equal. */
static void round_trip(const char *path) {
    lyco_error *error = NULL;
    lyco_adapter *adapter = NULL, *again = NULL;
    MUST(lyco_adapter_open(path, NULL, &adapter, &error));
    const size_t count = lyco_adapter_tensor_count(adapter);
    managed **tensors = calloc(count, sizeof *tensors);
    CHECK(tensors);
    for (size_t i = 0; i < count; i++)
        MUST(lyco_adapter_tensor_dlpack(adapter, i, &tensors[i], &error));
    lyco_adapter *kept = lyco_adapter_retain(adapter);
    lyco_adapter_free(adapter);
    lyco_builder *builder = lyco_builder_new();
    for (size_t i = 0; i < count; i++) {
        lyco_tensor_view view = {.struct_size = sizeof view};
        MUST(lyco_adapter_tensor(kept, i, &view, &error));
        CHECK(tensors[i]->version.major == 1 && (tensors[i]->flags & 1));
        CHECK((uint64_t)tensors[i]->dl_tensor.ndim == view.dim_count);
        CHECK((tensors[i]->flags & 2) || tensors[i]->dl_tensor.data == (const void *)view.data);
        MUST(lyco_builder_add_dlpack(builder, view.name, tensors[i], &error));
    }
    again = finish(builder);
    for (size_t i = 0; i < count; i++) {
        lyco_tensor_view x = {.struct_size = sizeof x}, y = {.struct_size = sizeof y};
        MUST(lyco_adapter_tensor(kept, i, &x, &error));
        MUST(lyco_adapter_tensor(again, i, &y, &error));
        CHECK(strcmp(x.name, y.name) == 0 && x.dtype == y.dtype && x.byte_len == y.byte_len);
        CHECK(memcmp(x.data, y.data, x.byte_len) == 0);
    }
    free(tensors);
    lyco_adapter_free(kept);
    lyco_adapter_free(again);
}

struct sum {
    const lyco_adapter *a, *b;
    size_t layers;
    int stop;
};

/* Every merged delta is the sum of the inputs' own. */
static int compare(void *user, const lyco_layer_info *layer, const lyco_tensor_view *delta) {
    struct sum *sum = user;
    if (sum->stop)
        return 1;
    CHECK(strcmp(layer->name, delta->name) == 0 && delta->dtype == LYCO_DTYPE_F32);
    const uint64_t count = layer->rows * layer->cols;
    CHECK(delta->byte_len == 4 * count && layer->stored_count == count);
    double *x = malloc(8 * count), *y = malloc(8 * count), wrong = 0, norm = 0;
    CHECK(x && y);
    lyco_error *error = NULL;
    MUST(lyco_adapter_delta(sum->a, sum->layers, LYCO_DTYPE_F64, (uint8_t *)x, 8 * count, &error));
    MUST(lyco_adapter_delta(sum->b, sum->layers, LYCO_DTYPE_F64, (uint8_t *)y, 8 * count, &error));
    for (uint64_t i = 0; i < count; i++) {
        float merged;
        memcpy(&merged, delta->data + 4 * i, 4);
        const double truth = 0.6 * x[i] - 0.4 * y[i];
        wrong += (merged - truth) * (merged - truth);
        norm += truth * truth;
    }
    CHECK(sqrt(wrong / norm) < 1e-7);
    free(x);
    free(y);
    sum->layers++;
    return 0;
}

static void deltas(const char *adapters) {
    lyco_error *error = NULL;
    lyco_adapter *a = NULL, *b = NULL;
    MUST(lyco_adapter_open(in(adapters, "invert.lokr4.safetensors"), NULL, &a, &error));
    MUST(lyco_adapter_open(in(adapters, "italic.loha.safetensors"), NULL, &b, &error));
    lyco_merge *merge = lyco_merge_new();
    MUST(lyco_merge_add(merge, a, 0.6, &error));
    MUST(lyco_merge_add(merge, b, -0.4, &error));
    MUST(lyco_merge_set(merge, "dtype", "float32", &error));
    struct sum sum = {a, b, 0, 0};
    MUST(lyco_merge_deltas(merge, compare, NULL, &sum, &error));
    CHECK(sum.layers == lyco_adapter_layer_count(a));
    sum.stop = 1;
    FAILS(LYCO_STATUS_CANCELLED, lyco_merge_deltas(merge, compare, NULL, &sum, &error));
    FAILS(LYCO_STATUS_NULL_PARAMETER, lyco_merge_deltas(merge, NULL, NULL, NULL, &error));
    lyco_merge_free(merge);
    lyco_adapter_free(a);
    lyco_adapter_free(b);
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    lyco_error *error = NULL;
    lyco_adapter *x = by_view(), *y = by_dlpack();
    check_delta(x);
    check_delta(y);
    const char *value = NULL;
    MUST(lyco_adapter_metadata(x, "ss_output_name", &value, &error));
    CHECK(strcmp(value, "by hand") == 0);
    CHECK(lyco_adapter_byte_len(x) == lyco_adapter_byte_len(y));
    lyco_adapter_free(x);
    lyco_adapter_free(y);
    round_trip(in(argv[1], "invert.lokr4.safetensors"));
    round_trip(in(argv[1], "italic.lora.safetensors"));
    deltas(argv[1]);
    return 0;
}
