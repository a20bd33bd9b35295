/* report_panels.c: drawings as JSON. The cells of a heat map travel as whole numbers in base64: a page with hundreds of
 * maps stays small and opens at once. */
#include "files/json.h"
#include "report/report_build.h"

#include <math.h>
#include <stdlib.h>

/* ---- cells ----
 *
 * Code 0: not measured. Code 1: zero, where colours are logarithmic. From `first` to `last` the scale from the least
 * to the greatest value, in equal steps of the value, its logarithm or its asinh. */

typedef struct cell_code {
    ni_colours colours;
    double low, high; /* of the scaled values */
    int32_t first, last;
} cell_code;

static double scaled(ni_colours colours, double value) {
    return colours == NI_COLOURS_LOG ? log(value) : colours == NI_COLOURS_ASINH ? asinh(value) : value;
}

static bool is_zero(ni_colours colours, double value) {
    return colours == NI_COLOURS_LOG && value <= 0;
}

static cell_code code_of(const ni_heat_map *map, int64_t cells) {
    cell_code c = {.colours = map->colours, .low = INFINITY, .high = -INFINITY};
    for (int64_t i = 0; i < cells; i++) {
        double value = map->values[i];
        if (!isfinite(value) || is_zero(map->colours, value))
            continue;
        double at = scaled(map->colours, value);
        c.low = fmin(c.low, at);
        c.high = fmax(c.high, at);
    }
    if (c.low > c.high)
        c.low = c.high = 0;
    c.first = map->colours == NI_COLOURS_LOG ? 2 : 1;
    c.last = map->bits == 8 ? 255 : 65535;
    return c;
}

static int32_t encode(const cell_code *c, double value) {
    if (!isfinite(value))
        return 0;
    if (is_zero(c->colours, value))
        return 1;
    double share = c->high > c->low ? (scaled(c->colours, value) - c->low) / (c->high - c->low) : 0;
    share = fmin(fmax(share, 0), 1); /* also where the ends are so far apart that their distance is Inf */
    return c->first + (int32_t)lround(share * (c->last - c->first));
}

static json_t *cells_of(const ni_heat_map *map, const cell_code *c) {
    int64_t cells = (int64_t)map->rows * map->cols, size = map->bits == 8 ? 1 : 2;
    unsigned char *bytes = calloc((size_t)cells, (size_t)size);
    if (!bytes)
        return NULL;
    for (int64_t i = 0; i < cells; i++) {
        int32_t code = encode(c, map->values[i]);
        bytes[i * size] = (unsigned char)(code & 255);
        if (size == 2)
            bytes[2 * i + 1] = (unsigned char)(code >> 8);
    }
    json_t *made = ni_report_base64(bytes, (size_t)(cells * size));
    free(bytes);
    return made;
}

/* ---- panels ---- */

static json_t *numbers(const double *values, int64_t count) {
    json_t *array = json_array();
    for (int64_t i = 0; i < count; i++)
        ni_json_push(&array, ni_report_number(values[i]));
    return array;
}

static json_t *texts(const char *const *items, int64_t count) {
    json_t *array = json_array();
    for (int64_t i = 0; i < count; i++)
        ni_json_push(&array, json_string(items[i]));
    return array;
}

/* Names, or [first of the second row, rows] where they are numbers. */
static json_t *row_names(const ni_heat_map *map) {
    return map->y ? texts(map->y, map->rows) : json_pack("[i, i]", map->y_every, map->rows);
}

/* What there is: json_pack's "s*" would also leave out a text for which there is no memory. */
static void put_text(json_t **object, const char *key, const char *text) {
    if (text)
        ni_json_put(object, key, json_string(text));
}

static json_t *captioned(const char *kind, const ni_caption *c) {
    json_t *made = json_pack("{s:s, s:s, s:s}", "kind", kind, "theme", c->theme ? c->theme : "More", "title", c->title);
    put_text(&made, "operand", c->operand);
    put_text(&made, "module", c->module);
    put_text(&made, "about", c->about);
    put_text(&made, "formula", c->formula);
    put_text(&made, "unit", c->unit);
    return made;
}

/* Takes over `parts`. */
static nb_status put_panel(json_t *run, json_t *panel, json_t *parts, const char *title, nb_error *err) {
    bool good = panel && parts && json_object_update(panel, parts) == 0;
    json_decref(parts);
    if (!good || json_array_append(json_object_get(run, "panels"), panel)) {
        json_decref(panel);
        return nb_fail(err, NB_NO_MEMORY, "report: panel \"%s\": out of memory, or a text that is not UTF-8", title);
    }
    json_decref(panel);
    return NB_OK;
}

nb_status ni_report_put_heat_map(json_t *run, const ni_heat_map *map, nb_error *err) {
    static const char *const colours[] = {"linear", "log", "asinh"};
    int64_t cells = (int64_t)map->rows * map->cols;
    if (map->rows < 1 || map->cols < 1 || cells > NI_PANEL_CELLS)
        return nb_fail(err, NB_BAD_USAGE, "report: heat map \"%s\" has %d x %d cells; 1 to %d can be drawn",
                       map->caption.title, map->rows, map->cols, NI_PANEL_CELLS);
    cell_code c = code_of(map, cells);
    json_t *parts =
        json_pack("{s:s, s:s, s:o, s:o, s:i, s:s, s:o, s:o, s:o, s:o, s:b, s:o}", "xLabel", map->x_label, "yLabel",
                  map->y_label, "x", numbers(map->x, map->cols), "y", row_names(map), "bits", map->bits == 8 ? 8 : 16,
                  "colours", colours[map->colours], "low", ni_report_number(c.low), "high", ni_report_number(c.high),
                  "floor", ni_report_number(map->floor > 0 ? log(map->floor) : NAN), "cells", cells_of(map, &c),
                  "lowIsBad", map->low_is_bad, "marks", numbers(map->marks, map->marks ? map->mark_count : 0));
    put_text(&parts, "markMeaning", map->mark_meaning);
    return put_panel(run, captioned("heat map", &map->caption), parts, map->caption.title, err);
}

nb_status ni_report_put_bars(json_t *run, const ni_bars *bars, nb_error *err) {
    if (bars->count < 1 || bars->count > NI_PANEL_CELLS)
        return nb_fail(err, NB_BAD_USAGE, "report: bars \"%s\" have %d values; 1 to %d can be drawn",
                       bars->caption.title, bars->count, NI_PANEL_CELLS);
    json_t *parts = json_pack("{s:s, s:o, s:o}", "xLabel", bars->x_label, "names", texts(bars->names, bars->count),
                              "values", numbers(bars->values, bars->count));
    return put_panel(run, captioned("bars", &bars->caption), parts, bars->caption.title, err);
}
