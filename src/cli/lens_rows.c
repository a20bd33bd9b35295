/* lens_rows.c: series as CSV and as lines of JSON. Names are MODULE/ROLE/METRIC or MODULE/METRIC. */
#include "cli/lens_rows.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

typedef struct parts {
    int module, role; /* lengths */
    const char *name, *role_at, *metric;
} parts;

static parts split(const char *name) {
    parts p = {.name = name, .module = (int)strcspn(name, "/")};
    const char *last = strrchr(name, '/');
    p.metric = last ? last + 1 : name;
    p.role_at = name + p.module + (name[p.module] == '/');
    p.role = p.metric > p.role_at ? (int)(p.metric - p.role_at) - 1 : 0;
    return p;
}

/* A field of CSV (RFC 4180): run folders may have any name. */
static void put_field(const char *text, FILE *to) {
    if (!strpbrk(text, ",\"\n\r")) {
        fputs(text, to);
        return;
    }
    putc('"', to);
    for (; *text; text++)
        fprintf(to, *text == '"' ? "\"\"" : "%c", *text);
    putc('"', to);
}

void ni_lens_csv_head(FILE *to) {
    fputs("run,step,module,role,metric,index,value\n", to);
}

void ni_lens_csv(const ni_series_reader *r, const char *run, ni_lens_wants *wants, const void *context, FILE *to) {
    for (int32_t n = 0; n < ni_series_names(r); n++) {
        const char *name = ni_series_name(r, n);
        const parts p = split(name);
        for (int64_t i = 0; wants(context, name) && i < ni_series_points(r, n); i++) {
            ni_series_point at = ni_series_at(r, n, i);
            for (int64_t k = 0; k < at.count; k++) {
                put_field(run, to);
                fprintf(to, ",%" PRId64 ",%.*s,%.*s,%s,", at.step, p.module, name, p.role, p.role_at, p.metric);
                if (at.count > 1)
                    fprintf(to, "%" PRId64, k);
                fprintf(to, ",%.9g\n", (double)at.values[k]);
            }
        }
    }
}

/* ---- JSON ---- */

static void put_text(const char *text, int length, FILE *to) {
    putc('"', to);
    for (int i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < 32)
            fprintf(to, "\\u%04x", c);
        else
            fprintf(to, c == '"' || c == '\\' ? "\\%c" : "%c", c);
    }
    putc('"', to);
}

static void put_number(float value, FILE *to) {
    if (isfinite(value))
        fprintf(to, "%.9g", (double)value);
    else
        fputs("null", to);
}

static void put_point(ni_series_point at, FILE *to) {
    if (at.count == 1) {
        put_number(at.values[0], to);
        return;
    }
    putc('[', to);
    for (int64_t k = 0; k < at.count; k++) {
        fputs(k ? ", " : "", to);
        put_number(at.values[k], to);
    }
    putc(']', to);
}

void ni_lens_json(const ni_series_reader *r, const char *run, ni_lens_wants *wants, const void *context, FILE *to) {
    for (int32_t n = 0; n < ni_series_names(r); n++) {
        const char *name = ni_series_name(r, n);
        const parts p = split(name);
        if (!wants(context, name) || ni_series_points(r, n) == 0)
            continue;
        fputs("{\"run\": ", to);
        put_text(run, (int)strlen(run), to);
        fputs(", \"module\": ", to);
        put_text(name, p.module, to);
        fputs(", \"role\": ", to);
        put_text(p.role_at, p.role, to);
        fputs(", \"metric\": ", to);
        put_text(p.metric, (int)strlen(p.metric), to);
        fputs(", \"steps\": [", to);
        for (int64_t i = 0; i < ni_series_points(r, n); i++)
            fprintf(to, "%s%" PRId64, i ? ", " : "", ni_series_at(r, n, i).step);
        fputs("], \"values\": [", to);
        for (int64_t i = 0; i < ni_series_points(r, n); i++) {
            fputs(i ? ", " : "", to);
            put_point(ni_series_at(r, n, i), to);
        }
        fputs("]}\n", to);
    }
}
