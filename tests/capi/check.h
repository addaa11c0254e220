/* What the C tests share: checks that say where they failed, and paths. */

#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lycomerge.h"

#define CHECK(truth)                                                             \
    do {                                                                         \
        if (!(truth)) {                                                          \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #truth);  \
            exit(1);                                                             \
        }                                                                        \
    } while (0)

/* The call must succeed; its error is printed if it doesn't. `error` is the variable that the call writes to. */
#define MUST(call)                                                               \
    do {                                                                         \
        if ((call) != LYCO_STATUS_OK) {                                          \
            fprintf(stderr, "%s:%d: %s\n%s\n", __FILE__, __LINE__, #call,        \
                    error ? lyco_error_message(error) : "(without an error)");   \
            exit(1);                                                             \
        }                                                                        \
        CHECK(error == NULL);                                                    \
    } while (0)

/* The call must fail with this status, and say the same in its error, which is freed. */
#define FAILS(expected, call)                                                    \
    do {                                                                         \
        lyco_status status_ = (call);                                            \
        if (status_ != (expected)) {                                             \
            fprintf(stderr, "%s:%d: %s\nis '%s': %s\n", __FILE__, __LINE__,      \
                    #call, lyco_status_name(status_),                            \
                    error ? lyco_error_message(error) : "(without an error)");   \
            exit(1);                                                             \
        }                                                                        \
        CHECK(error != NULL);                                                    \
        CHECK(lyco_error_status(error) == (expected));                           \
        CHECK(strlen(lyco_error_message(error)) > 0);                            \
        lyco_error_free(error);                                                  \
        error = NULL;                                                            \
    } while (0)

/* FOLDER/NAME, in one of a few buffers that are used in turn. */
static inline const char *in(const char *folder, const char *name) {
    static char buffers[4][4096];
    static int next = 0;
    char *buffer = buffers[next++ % 4];
    snprintf(buffer, sizeof buffers[0], "%s/%s", folder, name);
    return buffer;
}

static inline int exists(const char *path) {
    FILE *file = fopen(path, "rb");
    if (file)
        fclose(file);
    return file != NULL;
}

#endif
