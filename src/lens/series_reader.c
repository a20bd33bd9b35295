/* series_reader.c: a series file in memory, by name. */
#include "files/file.h"
#include "lens/series.h"
#include "lens/series_format.h"

#include <stdlib.h>
#include <string.h>

typedef struct entry {
    char *name;
    ni_series_point *points; /* values: offsets into `values` while reading (it may move), pointers afterwards */
    int64_t count, capacity;
} entry;

struct ni_series_reader {
    entry *entries; /* [count], index = id */
    int32_t count, capacity;
    float *values;
    size_t value_count, value_capacity;
    int32_t *sorted; /* ids in order of their names */
    bool no_memory;
};

/* Makes room for `need` items of `size` bytes; false when memory runs out. */
static bool reserve(void **items, size_t *capacity, size_t need, size_t size) {
    if (need <= *capacity)
        return true;
    size_t wanted = *capacity ? *capacity : 16;
    while (wanted < need)
        wanted *= 2;
    void *grown = realloc(*items, wanted * size);
    if (!grown)
        return false;
    *items = grown;
    *capacity = wanted;
    return true;
}

static bool take_chunk(void *user, int64_t step) {
    (void)user, (void)step;
    return true;
}

static bool take_name(void *user, const char *name) {
    ni_series_reader *r = user;
    size_t capacity = (size_t)r->capacity;
    r->no_memory = !reserve((void **)&r->entries, &capacity, (size_t)r->count + 1, sizeof *r->entries);
    r->capacity = (int32_t)capacity;
    if (r->no_memory)
        return false;
    entry fresh = {strdup(name), NULL, 0, 0};
    r->no_memory = !fresh.name;
    if (!r->no_memory)
        r->entries[r->count++] = fresh;
    return !r->no_memory;
}

static bool take_values(void *user, int64_t step, uint32_t id, uint32_t count, const unsigned char *f32) {
    ni_series_reader *r = user;
    entry *e = &r->entries[id];
    size_t capacity = (size_t)e->capacity;
    r->no_memory = !reserve((void **)&e->points, &capacity, (size_t)e->count + 1, sizeof *e->points) ||
                   !reserve((void **)&r->values, &r->value_capacity, r->value_count + count, sizeof *r->values);
    e->capacity = (int64_t)capacity;
    if (r->no_memory)
        return false;
    memcpy(r->values + r->value_count, f32, (size_t)count * sizeof *r->values);
    ni_series_point point = {step, count, (const float *)(uintptr_t)r->value_count};
    e->points[e->count++] = point;
    r->value_count += count;
    return true;
}

static bool sort_names(ni_series_reader *r) {
    r->sorted = malloc(((size_t)r->count + 1) * sizeof *r->sorted);
    if (!r->sorted)
        return false;
    for (int32_t i = 0; i < r->count; i++) { /* insertion by bisection: names come nearly sorted, and seldom */
        int32_t low = 0, high = i;
        while (low < high) {
            int32_t middle = low + (high - low) / 2;
            if (strcmp(r->entries[r->sorted[middle]].name, r->entries[i].name) <= 0)
                low = middle + 1;
            else
                high = middle;
        }
        memmove(r->sorted + low + 1, r->sorted + low, (size_t)(i - low) * sizeof *r->sorted);
        r->sorted[low] = i;
    }
    return true;
}

nb_status ni_series_parse(const void *bytes, size_t size, ni_series_reader **out, int64_t *cut, nb_error *err) {
    *out = NULL;
    ni_series_reader *r = calloc(1, sizeof *r);
    if (!r)
        return nb_fail(err, NB_NO_MEMORY, "no memory to read measurements");
    ni_series_visitor visitor = {r, take_chunk, take_name, take_values};
    size_t good = 0;
    nb_status status = ni_series_scan(bytes, size, &visitor, &good, NULL, err);
    if (status == NB_OK && (r->no_memory || !sort_names(r)))
        status = nb_fail(err, NB_NO_MEMORY, "no memory for %zu bytes of measurements", size);
    if (status != NB_OK) {
        ni_series_reader_free(r);
        return status;
    }
    for (int32_t i = 0; i < r->count; i++)
        for (int64_t p = 0; p < r->entries[i].count; p++)
            r->entries[i].points[p].values = r->values + (uintptr_t)r->entries[i].points[p].values;
    if (cut)
        *cut = (int64_t)(size - good);
    *out = r;
    return NB_OK;
}

nb_status ni_series_read(const char *path, ni_series_reader **out, int64_t *cut, nb_error *err) {
    char *bytes;
    size_t size;
    *out = NULL;
    NB_TRY(ni_file_read(path, SIZE_MAX / 2, &bytes, &size, err));
    nb_status status = ni_series_parse(bytes, size, out, cut, err);
    free(bytes);
    return status == NB_OK ? NB_OK : nb_fail_within(err, "%s", path);
}

void ni_series_reader_free(ni_series_reader *r) {
    if (!r)
        return;
    for (int32_t i = 0; i < r->count; i++) {
        free(r->entries[i].name);
        free(r->entries[i].points);
    }
    free(r->entries);
    free(r->values);
    free(r->sorted);
    free(r);
}

int32_t ni_series_names(const ni_series_reader *reader) {
    return reader->count;
}

const char *ni_series_name(const ni_series_reader *reader, int32_t name) {
    return reader->entries[name].name;
}

int32_t ni_series_find(const ni_series_reader *reader, const char *name) {
    int32_t low = 0, high = reader->count;
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        int order = strcmp(reader->entries[reader->sorted[middle]].name, name);
        if (order == 0)
            return reader->sorted[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return -1;
}

int64_t ni_series_points(const ni_series_reader *reader, int32_t name) {
    return reader->entries[name].count;
}

ni_series_point ni_series_at(const ni_series_reader *reader, int32_t name, int64_t index) {
    return reader->entries[name].points[index];
}

/* Its block: "layers.3.mlp.up_proj/fprop.w/amax"; 0 of what is outside of blocks, which the first step looks at. */
static int64_t block_of(const char *name) {
    return strncmp(name, "layers.", 7) == 0 ? strtol(name + 7, NULL, 10) : 0;
}

int64_t ni_series_sample(const ni_series_reader *reader, int32_t name, int64_t step) {
    const int32_t spread = ni_series_find(reader, NI_SERIES_SPREAD);
    int64_t low = 0, high = spread < 0 ? 0 : reader->entries[spread].count; /* steps rise */
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (reader->entries[spread].points[middle].step <= step)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0)
        return step;
    const ni_series_point *sample = &reader->entries[spread].points[low - 1];
    const float steps = sample->count == 1 ? sample->values[0] : 0;
    const bool parts = steps >= 1 && steps < 1e6f;
    return parts && step - sample->step == block_of(reader->entries[name].name) % (int64_t)steps ? sample->step : step;
}
