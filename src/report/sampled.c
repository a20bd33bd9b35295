/* sampled.c: names taken apart and sorted. */
#include "report/sampled.h"

#include <stdlib.h>
#include <string.h>

static int32_t rank_of_operand(const char *operand) {
    static const char *const roles[] = {"fprop.x", "fprop.w", "dgrad.dy", "dgrad.w", "wgrad.dy", "wgrad.x"};
    for (int32_t i = 0; i < 6; i++)
        if (strcmp(roles[i], operand) == 0)
            return i;
    return 6;
}

static int by_metric(const void *one, const void *other) {
    const ni_sampled *a = one, *b = other;
    if (a->order != b->order)
        return a->order < b->order ? -1 : 1;
    int differs = strcmp(a->metric, b->metric);
    if (differs == 0)
        differs = rank_of_operand(a->operand) - rank_of_operand(b->operand);
    if (differs == 0)
        differs = strcmp(a->operand, b->operand);
    if (differs == 0)
        differs = a->place - b->place;
    return differs ? differs : a->name - b->name;
}

/* False if memory ran out. */
static bool take_apart(const char *name, ni_sampled *out) {
    char *text = strdup(name);
    if (!text)
        return false;
    char *first = strchr(text, '/'), *last = strrchr(text, '/');
    out->module = text;
    if (!first) { /* no name of ours; kept, so that nothing vanishes */
        out->operand = out->metric = text + strlen(text);
        return true;
    }
    *first = *last = 0;
    out->operand = first == last ? last : first + 1;
    out->metric = last + 1;
    return true;
}

static int by_module(const void *one, const void *other) {
    const ni_sampled *a = one, *b = other;
    int differs = strcmp(a->module, b->module);
    return differs ? differs : a->name - b->name;
}

/* The least name of each module is its first appearance. */
static void place_modules(ni_sampled *items, int32_t count) {
    qsort(items, (size_t)count, sizeof *items, by_module);
    for (int32_t i = 0, first = 0; i < count; i++) {
        if (strcmp(items[i].module, items[first].module) != 0)
            first = i;
        items[i].place = items[first].name;
    }
}

nb_status ni_samples_of(const ni_series_reader *reader, ni_samples *out, nb_error *err) {
    int32_t names = ni_series_names(reader);
    *out = (ni_samples){.reader = reader};
    out->items = calloc((size_t)names + 1, sizeof *out->items);
    for (int32_t i = 0; out->items && i < names; i++) {
        ni_sampled *item = &out->items[out->count];
        item->name = i;
        if (strcmp(ni_series_name(reader, i), NI_SERIES_SPREAD) == 0)
            continue;
        if (!take_apart(ni_series_name(reader, i), item)) {
            ni_samples_free(out);
            break;
        }
        out->count++;
        item->measure = ni_measure_find(item->metric);
        item->order = item->measure ? (int32_t)(item->measure - ni_measures) : INT32_MAX;
    }
    if (!out->items)
        return nb_fail(err, NB_NO_MEMORY, "report: no memory for %d names of measurements", names);
    place_modules(out->items, out->count);
    qsort(out->items, (size_t)out->count, sizeof *out->items, by_metric);
    return NB_OK;
}

void ni_samples_free(ni_samples *samples) {
    for (int32_t i = 0; i < samples->count; i++)
        free(samples->items[i].module);
    free(samples->items);
    *samples = (ni_samples){0};
}

int32_t ni_samples_group(const ni_samples *samples, int32_t first) {
    const ni_sampled *a = &samples->items[first];
    int32_t end = first + 1;
    while (end < samples->count && strcmp(samples->items[end].metric, a->metric) == 0 &&
           strcmp(samples->items[end].operand, a->operand) == 0)
        end++;
    return end;
}

const ni_sampled *ni_samples_find(const ni_samples *samples, const char *module, const char *operand,
                                  const char *metric) {
    for (int32_t i = 0; i < samples->count; i++) {
        const ni_sampled *item = &samples->items[i];
        if (strcmp(item->module, module) == 0 && strcmp(item->operand, operand) == 0 &&
            strcmp(item->metric, metric) == 0)
            return item;
    }
    return NULL;
}

int64_t ni_sampled_points(const ni_samples *samples, const ni_sampled *item) {
    return ni_series_points(samples->reader, item->name);
}

ni_series_point ni_sampled_at(const ni_samples *samples, const ni_sampled *item, int64_t index) {
    ni_series_point point =
        ni_series_at(samples->reader, item->name, index < 0 ? ni_sampled_points(samples, item) + index : index);
    point.step =
        ni_series_sample(samples->reader, item->name, point.step); /* modules of one sample stand side by side */
    return point;
}
