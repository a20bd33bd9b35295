/* report_lens.c: the series of a run as heat maps.
 *
 * A page must open at once: a long run has more samples than a screen has columns, so neighbours share one, and the
 * worst of them is drawn. Maps of single modules (channels, histograms) are many; all of a metric share a budget.
 */
#include "base/order.h"
#include "files/json.h"
#include "lens/tiles.h"
#include "report/findings.h"
#include "report/report_build.h"
#include "report/sampled.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    MODULE_CELLS = 12000, /* of a map of modules x steps */
    PART_CELLS = 600000,  /* of all maps of a metric together that show one module each */
    LEAST_COLS = 12,
    MOST_COLS = 240,
    MOST_PART_COLS = 64,
    MOST_FINDINGS = 24,
    MOST_CHANNELS = 768, /* rows; beyond, neighbours share one */
};

/* What is being drawn. */
typedef struct drawing {
    json_t *run;
    const ni_samples *samples;
    double *marks; /* steps at which weights were reset */
    int32_t mark_count;
} drawing;

/* ---- columns ---- */

typedef struct columns {
    double *steps; /* [count] all that were sampled, rising */
    int32_t count, per_column, cols;
    double *x; /* [cols] the first step of each column */
} columns;

static int32_t unique(double *sorted, int32_t count) {
    int32_t kept = 0;
    for (int32_t i = 0; i < count; i++)
        if (kept == 0 || sorted[i] != sorted[kept - 1])
            sorted[kept++] = sorted[i];
    return kept;
}

/* The steps of items [first, end), rising, each once. NULL if memory ran out. */
static double *steps_of(const ni_samples *s, int32_t first, int32_t end, int32_t *count) {
    int64_t points = 0, at = 0;
    for (int32_t i = first; i < end; i++)
        points += ni_sampled_points(s, &s->items[i]);
    double *steps = malloc((size_t)(points + 1) * sizeof *steps);
    for (int32_t i = first; steps && i < end; i++)
        for (int64_t p = 0; p < ni_sampled_points(s, &s->items[i]); p++)
            steps[at++] = (double)ni_sampled_at(s, &s->items[i], p).step;
    if (steps) {
        qsort(steps, (size_t)points, sizeof *steps, ni_rising);
        *count = unique(steps, (int32_t)points);
    }
    return steps;
}

static bool columns_of(const ni_samples *s, int32_t first, int32_t end, int64_t most, columns *out) {
    *out = (columns){0};
    out->steps = steps_of(s, first, end, &out->count);
    if (!out->steps)
        return false;
    int32_t limit = most < LEAST_COLS ? LEAST_COLS : (int32_t)most;
    out->per_column = out->count > limit ? (out->count + limit - 1) / limit : 1;
    out->cols = (out->count + out->per_column - 1) / out->per_column;
    out->x = malloc((size_t)(out->cols + 1) * sizeof *out->x);
    for (int32_t c = 0; out->x && c < out->cols; c++)
        out->x[c] = out->steps[c * out->per_column];
    return out->x != NULL;
}

static void free_columns(columns *c) {
    free(c->steps);
    free(c->x);
}

static int32_t column_at(const columns *c, int64_t step) {
    int32_t low = 0, high = c->count;
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if (c->steps[middle] < (double)step)
            low = middle + 1;
        else
            high = middle;
    }
    return low / c->per_column;
}

/* Puts a value into a cell that others may share. */
static void keep_worst(float *cell, float value, bool low_is_bad) {
    if (isnan(*cell) || (low_is_bad ? value < *cell : value > *cell))
        *cell = value;
}

static float *blank(int64_t cells) {
    float *values = malloc((size_t)cells * sizeof *values);
    for (int64_t i = 0; values && i < cells; i++)
        values[i] = NAN;
    return values;
}

/* ---- maps ---- */

static ni_heat_map map_of(const drawing *d, const ni_sampled *item, const columns *c) {
    const ni_measure *m = item->measure;
    ni_heat_map map = {
        .caption = {.theme = "Mechanisms", .title = item->metric, .operand = *item->operand ? item->operand : NULL},
        .x_label = "step",
        .y_label = "module",
        .x = c->x,
        .cols = c->cols,
    };
    if (!m)
        return map;
    map.caption.theme = m->theme;
    map.caption.title = m->title;
    map.caption.about = m->about;
    map.caption.formula = m->formula;
    map.caption.unit = m->unit;
    map.colours = m->colours;
    map.floor = m->floor;
    map.low_is_bad = m->low_is_bad;
    if (strcmp(m->theme, "Oscillation") == 0) {
        map.marks = d->marks;
        map.mark_count = d->mark_count;
        map.mark_meaning = "weights reset";
    }
    return map;
}

/* Rows: the modules of items [first, end). */
static nb_status draw_modules(const drawing *d, int32_t first, int32_t end, nb_error *err) {
    const ni_samples *s = d->samples;
    int32_t rows = end - first;
    int64_t most = MODULE_CELLS / rows;
    columns c;
    const char **names = malloc((size_t)rows * sizeof *names);
    bool good = columns_of(s, first, end, most > MOST_COLS ? MOST_COLS : most, &c) && names;
    float *values = good ? blank((int64_t)rows * c.cols) : NULL;
    nb_status status = NB_OK;
    if (values && c.cols > 0) {
        ni_heat_map map = map_of(d, &s->items[first], &c);
        for (int32_t r = 0; r < rows; r++) {
            const ni_sampled *item = &s->items[first + r];
            names[r] = item->module;
            for (int64_t p = 0; p < ni_sampled_points(s, item); p++) {
                ni_series_point point = ni_sampled_at(s, item, p);
                if (point.count == 1)
                    keep_worst(&values[(int64_t)r * c.cols + column_at(&c, point.step)], point.values[0],
                               map.low_is_bad);
            }
        }
        map.y = names;
        map.rows = rows;
        map.values = values;
        status = ni_report_put_heat_map(d->run, &map, err);
    }
    if (!values)
        status = nb_fail(err, NB_NO_MEMORY, "report: no memory to draw %s", s->items[first].metric);
    free(values);
    free(names);
    free_columns(&c);
    return status;
}

static float median(const float *values, int64_t count, float *sorted) {
    memcpy(sorted, values, (size_t)count * sizeof *sorted);
    for (int64_t gap = count / 2; gap > 0; gap /= 2) /* Shell's sort: a thousand values, no callback */
        for (int64_t i = gap; i < count; i++) {
            float value = sorted[i];
            int64_t at = i;
            for (; at >= gap && sorted[at - gap] > value; at -= gap)
                sorted[at] = sorted[at - gap];
            sorted[at] = value;
        }
    return count ? sorted[count / 2] : 0;
}

/* One point's values into its column; channels over their median. False if memory ran out. */
static bool fill_column(float *values, const ni_heat_map *map, int32_t col, const ni_series_point *point,
                        bool relative) {
    float middle = 1;
    if (relative) {
        float *sorted = malloc((size_t)(point->count + 1) * sizeof *sorted);
        if (!sorted)
            return false;
        middle = median(point->values, point->count, sorted);
        free(sorted);
    }
    for (int64_t i = 0; i < point->count && i / map->y_every < map->rows; i++)
        keep_worst(&values[i / map->y_every * map->cols + col], middle > 0 ? point->values[i] / middle : 0,
                   map->low_is_bad);
    return true;
}

static int64_t length_of(const ni_samples *s, const ni_sampled *item) {
    return ni_sampled_points(s, item) ? ni_sampled_at(s, item, -1).count : 0;
}

/* Names of parts; NULL where they are numbers or memory ran out. */
static const char **part_names(const ni_measure *m, int32_t rows) {
    const char **names = m->part ? malloc((size_t)rows * sizeof *names) : NULL;
    for (int32_t r = 0; names && r < rows; r++)
        names[r] = m->part(rows - 1 - r) ? m->part(rows - 1 - r) : "?";
    return names;
}

/* Parts that are named stand with the greatest at the top, as on the axis of a chart. */
static void turn_over(float *values, int32_t rows, int32_t cols) {
    for (int32_t r = 0; r < rows / 2; r++)
        for (int32_t c = 0; c < cols; c++) {
            float *a = &values[(int64_t)r * cols + c], *b = &values[(int64_t)(rows - 1 - r) * cols + c], kept = *a;
            *a = *b;
            *b = kept;
        }
}

static nb_status put_parts(const drawing *d, const ni_measure *m, ni_heat_map *map, float *values, nb_error *err) {
    const char **names = part_names(m, map->rows);
    if (m->part)
        turn_over(values, map->rows, map->cols);
    map->y = names;
    map->y_label = m->y_label;
    map->values = values;
    nb_status status = ni_report_put_heat_map(d->run, map, err);
    free(names);
    return status;
}

/* Of one module: parts of its vectors x steps. */
static nb_status draw_one(const drawing *d, const ni_sampled *item, const columns *c, nb_error *err) {
    const ni_measure *m = item->measure;
    int64_t length = length_of(d->samples, item);
    ni_heat_map map = map_of(d, item, c);
    map.caption.module = item->module;
    map.bits = 8;
    map.y_every = (int32_t)((length + MOST_CHANNELS - 1) / MOST_CHANNELS);
    if (length == 0)
        return NB_OK;
    map.rows = (int32_t)((length + map.y_every - 1) / map.y_every);
    float *values = blank((int64_t)map.rows * map.cols);
    bool good = values != NULL;
    for (int64_t p = 0; good && p < ni_sampled_points(d->samples, item); p++) {
        ni_series_point point = ni_sampled_at(d->samples, item, p);
        good = fill_column(values, &map, column_at(c, point.step), &point, m->kind == NI_MEASURE_CHANNELS);
    }
    nb_status status = good ? put_parts(d, m, &map, values, err)
                            : nb_fail(err, NB_NO_MEMORY, "report: no memory to draw %s", item->module);
    free(values);
    return status;
}

/* The mean over the modules [first, end) of vectors whose parts mean the same in all. */
static nb_status draw_mean(const drawing *d, int32_t first, int32_t end, const columns *c, nb_error *err) {
    const ni_sampled *item = &d->samples->items[first];
    int64_t rows = length_of(d->samples, item), cells = rows * c->cols;
    ni_heat_map map = map_of(d, item, c);
    map.caption.module = "mean of all";
    map.rows = (int32_t)rows;
    if (rows == 0)
        return NB_OK;
    float *sums = calloc((size_t)(cells + c->cols), sizeof *sums), *counts = sums ? sums + cells : NULL;
    if (!sums)
        return nb_fail(err, NB_NO_MEMORY, "report: no memory to draw %s", item->metric);
    for (int32_t i = first; i < end; i++)
        for (int64_t p = 0; p < ni_sampled_points(d->samples, &d->samples->items[i]); p++) {
            ni_series_point point = ni_sampled_at(d->samples, &d->samples->items[i], p);
            int32_t col = column_at(c, point.step);
            for (int64_t r = 0; r < rows && point.count == rows; r++)
                sums[r * c->cols + col] += point.values[r];
            counts[col] += point.count == rows;
        }
    for (int64_t i = 0; i < cells; i++)
        sums[i] /= counts[i % c->cols];
    nb_status status = put_parts(d, item->measure, &map, sums, err);
    free(sums);
    return status;
}

/* "fprop.x" among "fprop.x fprop.w". */
static bool is_drawn(const ni_measure *m, const char *operand) {
    const char *found = m->operands ? strstr(m->operands, operand) : operand;
    size_t length = strlen(operand);
    return found && (!m->operands || found[length] == 0 || found[length] == ' ');
}

static nb_status draw_parts(const drawing *d, int32_t first, int32_t end, nb_error *err) {
    const ni_samples *s = d->samples;
    const ni_measure *m = s->items[first].measure;
    int64_t rows = 0;
    if (!is_drawn(m, s->items[first].operand))
        return NB_OK;
    for (int32_t i = first; i < end; i++)
        rows += length_of(s, &s->items[i]);
    int64_t most = PART_CELLS / (rows + 1);
    columns c;
    nb_status status = NB_OK;
    if (!columns_of(s, first, end, most > MOST_PART_COLS ? MOST_PART_COLS : most, &c))
        status = nb_fail(err, NB_NO_MEMORY, "report: no memory to draw %s", m->metric);
    if (status == NB_OK && m->part)
        status = draw_mean(d, first, end, &c, err);
    for (int32_t i = first; status == NB_OK && i < end; i++)
        status = draw_one(d, &s->items[i], &c, err);
    free_columns(&c);
    return status;
}

/* ---- maps of tiles ---- */

/* A number of a file as a count. */
static int32_t count_of(float number) {
    return number >= 1 && number < 1e9f ? (int32_t)number : 0;
}

/* The row and the column of numbers that cells begin at. */
static nb_status draw_tiles_at(const drawing *d, const ni_sampled *item, int64_t index, nb_error *err) {
    const ni_series_point point = ni_sampled_at(d->samples, item, index);
    const float *head = point.values, *cells = point.values + NI_TILE_HEAD;
    const int64_t count = point.count - NI_TILE_HEAD;
    const int32_t cols = point.count > NI_TILE_HEAD ? count_of(head[NI_TILE_CELLS_OF_A_ROW]) : 0;
    char module[256];
    if (cols < 1 || cols > NI_MOST_TILE_COLS || count % cols)
        return NB_OK;
    columns c = {.cols = cols, .x = malloc((size_t)cols * sizeof *c.x)};
    if (!c.x)
        return nb_fail(err, NB_NO_MEMORY, "report: no memory to draw tiles of %s", item->module);
    for (int32_t i = 0; i < cols; i++)
        c.x[i] = 16.0 * head[NI_TILE_COLS_PER_CELL] * i;
    ni_heat_map map = map_of(d, item, &c);
    snprintf(module, sizeof module, "%s, step %lld", item->module, (long long)point.step);
    map.caption.module = module;
    map.x_label = "column";
    map.y_label = "row";
    map.y_every = count_of(16 * head[NI_TILE_ROWS_PER_CELL]);
    map.rows = (int32_t)(count / cols);
    map.values = cells;
    map.bits = 8;
    nb_status status = ni_report_put_heat_map(d->run, &map, err);
    free(c.x);
    return status;
}

static nb_status draw_tiles(const drawing *d, int32_t first, int32_t end, nb_error *err) {
    for (int32_t i = first; i < end; i++) {
        const ni_sampled *item = &d->samples->items[i];
        int64_t points = ni_sampled_points(d->samples, item);
        if (points > 1)
            NB_TRY(draw_tiles_at(d, item, 0, err));
        if (points > 0)
            NB_TRY(draw_tiles_at(d, item, points - 1, err));
    }
    return NB_OK;
}

/* ---- all of a run ---- */

static bool only_scalars(const ni_samples *s, int32_t first, int32_t end) {
    for (int32_t i = first; i < end; i++)
        if (length_of(s, &s->items[i]) > 1)
            return false;
    return true;
}

static nb_status draw_all(drawing *d, nb_error *err) {
    const ni_samples *s = d->samples;
    for (int32_t first = 0, end; first < s->count; first = end) {
        const ni_measure *m = s->items[first].measure;
        end = ni_samples_group(s, first);
        if (m && m->kind == NI_MEASURE_TILES)
            NB_TRY(draw_tiles(d, first, end, err));
        else if (m && m->kind != NI_MEASURE_SCALAR)
            NB_TRY(draw_parts(d, first, end, err));
        else if (only_scalars(s, first, end) && *s->items[first].metric)
            NB_TRY(draw_modules(d, first, end, err));
    }
    return NB_OK;
}

static nb_status find_resets(drawing *d, nb_error *err) {
    const ni_samples *s = d->samples;
    for (int32_t first = 0, end; first < s->count && !d->marks; first = end) {
        end = ni_samples_group(s, first);
        if (strcmp(s->items[first].metric, "reset_share") != 0)
            continue;
        d->marks = steps_of(s, first, end, &d->mark_count);
        if (!d->marks)
            return nb_fail(err, NB_NO_MEMORY, "report: no memory for the steps of resets");
    }
    return NB_OK;
}

static nb_status add_findings(const drawing *d, nb_error *err) {
    ni_finding *found = calloc(MOST_FINDINGS, sizeof *found);
    json_t *list = json_array();
    int32_t count = found ? ni_findings(d->samples, found, MOST_FINDINGS) : 0;
    for (int32_t i = 0; i < count; i++) {
        const ni_measure *m = ni_measure_find(found[i].metric);
        ni_json_push(&list, json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I}", "kind", found[i].kind, "text",
                                      found[i].text, "theme", m ? m->theme : "", "title", m ? m->title : "", "operand",
                                      found[i].operand, "module", found[i].module, "step", (json_int_t)found[i].step));
    }
    free(found);
    return found && json_object_set_new(d->run, "findings", list) == 0
               ? NB_OK
               : nb_fail(err, NB_NO_MEMORY, "report: no memory for what stands out");
}

nb_status ni_report_add_lens(json_t *run, const char *folder, nb_error *err) {
    char path[1024];
    ni_series_reader *reader;
    ni_samples samples;
    if (snprintf(path, sizeof path, "%s/lens/series.nbs", folder) >= (int)sizeof path || access(path, F_OK) != 0)
        return NB_OK;
    NB_TRY(ni_series_read(path, &reader, NULL, err));
    nb_status status = ni_samples_of(reader, &samples, err);
    if (status == NB_OK) {
        drawing d = {.run = run, .samples = &samples};
        status = find_resets(&d, err);
        if (status == NB_OK)
            status = draw_all(&d, err);
        if (status == NB_OK)
            status = add_findings(&d, err);
        free(d.marks);
        ni_samples_free(&samples);
    }
    ni_series_reader_free(reader);
    return status;
}

json_t *ni_report_themes(void) {
    json_t *themes = json_array();
    for (const ni_theme *t = ni_themes; t->name; t++)
        ni_json_push(&themes, json_pack("{s:s, s:s}", "name", t->name, "about", t->about));
    return themes;
}
