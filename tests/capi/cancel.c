/* A run that the callback or another thread cancels leaves nothing behind, and the merge can be run again. */

#include <pthread.h>

#include "check.h"

/* Cancels from another thread, and waits until that is done. */
static void *cancel_elsewhere(void *merge) {
    CHECK(lyco_merge_cancel(merge, NULL) == LYCO_STATUS_OK);
    return NULL;
}

static int call_elsewhere(void *user, const char *stage, size_t done, size_t total) {
    (void)stage, (void)done, (void)total;
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, cancel_elsewhere, user) == 0 && pthread_join(thread, NULL) == 0);
    return 0;
}

static int cancel(void *user, const char *stage, size_t done, size_t total) {
    (void)stage, (void)done, (void)total;
    ++*(int *)user;
    return 1;
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    const char *path = in(argv[2], "cancelled.safetensors");
    lyco_error *error = NULL;
    lyco_adapter *adapter = NULL;
    MUST(lyco_adapter_open(in(argv[1], "italic.lora.safetensors"), NULL, &adapter, &error));
    lyco_merge *merge = lyco_merge_new();
    MUST(lyco_merge_add(merge, adapter, 1.0, &error));

    int calls = 0;
    lyco_report *report = NULL;
    FAILS(LYCO_STATUS_CANCELLED, lyco_merge_run_to(merge, path, cancel, &calls, &report, &error));
    CHECK(calls == 1 && report == NULL && !exists(path));

    lyco_adapter *merged = NULL;
    FAILS(LYCO_STATUS_CANCELLED, lyco_merge_run(merge, cancel, &calls, &merged, &report, &error));
    CHECK(calls == 2 && merged == NULL && report == NULL);
    lyco_forecast forecast = {.struct_size = sizeof forecast};
    FAILS(LYCO_STATUS_CANCELLED, lyco_merge_forecast(merge, cancel, &calls, &forecast, &error));
    CHECK(calls == 3 && forecast.byte_len == 0);

    lyco_adapter *other = NULL;
    MUST(lyco_adapter_open(in(argv[1], "invert.lokr4.safetensors"), NULL, &other, &error));
    MUST(lyco_merge_add(merge, other, 1.0, &error));
    FAILS(LYCO_STATUS_CANCELLED, lyco_merge_run_to(merge, path, call_elsewhere, merge, NULL, &error));
    CHECK(!exists(path));
    lyco_adapter_free(other);

    /* Later runs are not stopped. */
    MUST(lyco_merge_cancel(merge, &error));
    MUST(lyco_merge_run_to(merge, path, NULL, NULL, NULL, &error));
    CHECK(exists(path));
    CHECK(remove(path) == 0);
    lyco_merge_free(merge);
    lyco_adapter_free(adapter);
    return 0;
}
