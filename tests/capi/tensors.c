/* An adapter's tensors are lent as they lie in its file, and its bytes make the same file again. */

#include "check.h"

static uint64_t size_of(uint32_t dtype) {
    switch (dtype) {
    case LYCO_DTYPE_F64: case LYCO_DTYPE_I64: case LYCO_DTYPE_U64: return 8;
    case LYCO_DTYPE_F32: case LYCO_DTYPE_I32: case LYCO_DTYPE_U32: return 4;
    case LYCO_DTYPE_F16: case LYCO_DTYPE_BF16: case LYCO_DTYPE_I16: case LYCO_DTYPE_U16: return 2;
    default: return 1;
    }
}

static lyco_tensor_view tensor(const lyco_adapter *adapter, size_t index) {
    lyco_error *error = NULL;
    lyco_tensor_view view = {.struct_size = sizeof view};
    MUST(lyco_adapter_tensor(adapter, index, &view, &error));
    return view;
}

/* Every tensor has the size that its shape says and lies inside the file; together they are nearly all of it. */
static void whole(const lyco_adapter *adapter) {
    lyco_error *error = NULL;
    const uint8_t *bytes = NULL;
    size_t size = 0;
    MUST(lyco_adapter_bytes(adapter, &bytes, &size, &error));
    CHECK(bytes && size == lyco_adapter_byte_len(adapter));

    uint64_t sum = 0;
    const char *last = "";
    CHECK(lyco_adapter_tensor_count(adapter) >= lyco_adapter_layer_count(adapter));
    for (size_t i = 0; i < lyco_adapter_tensor_count(adapter); i++) {
        lyco_tensor_view view = tensor(adapter, i);
        CHECK(strcmp(last, view.name) < 0);
        last = view.name;
        uint64_t expected = size_of(view.dtype);
        for (uint64_t d = 0; d < view.dim_count; d++)
            expected *= view.shape[d];
        CHECK(view.byte_len == expected);
        CHECK(view.data >= bytes && view.data + view.byte_len <= bytes + size);
        sum += view.byte_len;

        size_t index = SIZE_MAX;
        MUST(lyco_adapter_find_tensor(adapter, view.name, &index, &error));
        CHECK(index == i);
    }
    CHECK(sum < size && sum > size / 2);
}

static void same(const lyco_adapter *a, const lyco_adapter *b) {
    CHECK(lyco_adapter_tensor_count(a) == lyco_adapter_tensor_count(b));
    for (size_t i = 0; i < lyco_adapter_tensor_count(a); i++) {
        lyco_tensor_view x = tensor(a, i), y = tensor(b, i);
        CHECK(strcmp(x.name, y.name) == 0 && x.dtype == y.dtype && x.byte_len == y.byte_len);
        CHECK(memcmp(x.data, y.data, x.byte_len) == 0);
    }
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    lyco_error *error = NULL;
    lyco_adapter *opened = NULL, *merged = NULL, *again = NULL;
    MUST(lyco_adapter_open(in(argv[1], "italic.lora.safetensors"), NULL, &opened, &error));
    whole(opened);

    /* A program of tomorrow, whose struct is larger, gets what this library knows, and zeros. */
    struct {
        lyco_tensor_view known;
        uint64_t unknown;
    } newer = {{.struct_size = sizeof newer}, 7};
    MUST(lyco_adapter_tensor(opened, 0, &newer.known, &error));
    CHECK(strcmp(newer.known.name, tensor(opened, 0).name) == 0 && newer.unknown == 0);

    /* What a merge makes can be kept by the host as it is. */
    lyco_merge *merge = lyco_merge_new();
    MUST(lyco_merge_add(merge, opened, 1.0, &error));
    MUST(lyco_merge_run(merge, NULL, NULL, &merged, NULL, &error));
    lyco_merge_free(merge);
    lyco_adapter_free(opened);
    whole(merged);
    const uint8_t *bytes = NULL;
    size_t size = 0;
    MUST(lyco_adapter_bytes(merged, &bytes, &size, &error));
    MUST(lyco_adapter_from_memory("again", bytes, size, NULL, &again, &error));
    same(merged, again);
    lyco_adapter_free(merged);
    whole(again);
    lyco_adapter_free(again);
    return 0;
}
