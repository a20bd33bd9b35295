/* status.c: error sentences. */
#include "nibble/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *nb_version(void) {
    return NIBBLE_VERSION;
}

const char *nb_status_name(nb_status status) {
    switch (status) {
#define NI_STATUS_CASE(code, exit_status, name)                                                                        \
    case code:                                                                                                         \
        return name;
        NB_STATUS_MAP(NI_STATUS_CASE)
#undef NI_STATUS_CASE
    }
    return "unknown status";
}

int nb_status_exit(nb_status status) {
    switch (status) {
#define NI_STATUS_CASE(code, exit_status, name)                                                                        \
    case code:                                                                                                         \
        return exit_status;
        NB_STATUS_MAP(NI_STATUS_CASE)
#undef NI_STATUS_CASE
    }
    return 1;
}

static void keep_one_line(char *text) {
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            *text = ' ';
}

#undef nb_fail /* where the analyzer reads, a macro */
nb_status nb_fail(nb_error *err, nb_status status, const char *format, ...) {
    if (err) {
        va_list args;
        va_start(args, format);
        err->status = status;
        vsnprintf(err->message, sizeof err->message, format, args);
        va_end(args);
        keep_one_line(err->message);
    }
    return status;
}

#undef nb_fail_within
nb_status nb_fail_within(nb_error *err, const char *format, ...) {
    if (!err)
        return NB_INTERNAL;
    char inner[sizeof err->message];
    memcpy(inner, err->message, sizeof inner);
    va_list args;
    va_start(args, format);
    int used = vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    if (used >= 0 && (size_t)used < sizeof err->message)
        snprintf(err->message + used, sizeof err->message - (size_t)used, ": %s", inner);
    keep_one_line(err->message);
    return err->status;
}
