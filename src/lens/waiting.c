/* waiting.c: see waiting.h. */
#include "lens/waiting.h"
#include "backend/table.h"
#include "lens/record.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ON_A_GPU = 64 << 20, ALIGNED = 8, FIRST_ENTRIES = 64 };

static size_t aligned(size_t bytes) {
    return (bytes + ALIGNED - 1) / ALIGNED * ALIGNED;
}

size_t ni_waiting_room(const nb_backend *be, size_t need) {
    return be->host_memory || need > ON_A_GPU ? need : ON_A_GPU;
}

static bool make_room(ni_waiting *w, nb_backend *be, size_t need) {
    if (w->be == be && need <= w->room)
        return true;
    const size_t room = ni_waiting_room(be, need);
    if (w->be)
        nb_backend_release(w->be, w->there);
    w->there = be->ops->alloc(be, room, "what the lens measures");
    w->be = w->there ? be : NULL;
    w->room = w->there ? room : 0;
    if (w->there)
        be->ops->fill_zero(be, w->there, room);
    return w->there;
}

static bool make_entry(ni_waiting *w) {
    if (w->count < w->capacity)
        return true;
    const int32_t capacity = w->capacity ? 2 * w->capacity : FIRST_ENTRIES;
    ni_asked *list = realloc(w->list, (size_t)capacity * sizeof *list);
    if (!list)
        return false;
    w->list = list;
    ni_crest_map *crests = realloc(w->crests, (size_t)capacity * sizeof *crests);
    if (!crests)
        return false;
    w->crests = crests;
    w->capacity = capacity;
    return true;
}

ni_asked *ni_ask(ni_record *record, nb_backend *be, const char *prefix, size_t bytes, int64_t tiles, ni_take *take) {
    ni_waiting *w = &record->waiting;
    const size_t results = aligned(bytes), maps = aligned((size_t)tiles * sizeof(float));
    if (w->be != be || w->results + w->maps + results + maps > w->room)
        ni_take_all(record);
    if (!make_room(w, be, w->results + w->maps + results + maps) || !make_entry(w))
        return NULL;
    ni_asked *asked = &w->list[w->count++];
    *asked = (ni_asked){.take = take, .at = w->results, .bytes = bytes};
    snprintf(asked->prefix, sizeof asked->prefix, "%s", prefix);
    w->results += results;
    w->maps += maps;
    if (tiles)
        asked->map.crests = (float *)(void *)(w->there + w->room / ALIGNED * ALIGNED - w->maps);
    return asked;
}

void *ni_asked_results(const ni_record *record, const ni_asked *asked) {
    return record->waiting.there + asked->at;
}

void ni_asked_now(ni_record *record) {
    if (record->waiting.be->host_memory)
        ni_take_all(record);
}

static void keep_map(ni_record *record, ni_asked *asked) {
    nb_backend *be = record->waiting.be;
    const size_t bytes = (size_t)(asked->map.rows * asked->map.cols) * sizeof(float);
    asked->map_here = malloc(bytes);
    if (asked->map_here)
        be->ops->download(be, asked->map_here, asked->map.crests, bytes);
    else
        ni_record_lost(record, asked->prefix, "tiles");
}

static void summarize_crests(ni_record *record) {
    ni_waiting *w = &record->waiting;
    int32_t count = 0;
    for (ni_asked *a = w->list; a < w->list + w->count; a++) {
        if (!a->map.crests)
            continue;
        if (a->keeps_map)
            keep_map(record, a);
        if (a->map.summary)
            w->crests[count++] = a->map;
    }
    if (count)
        w->be->ops->summarize_crests(w->be, w->crests, count);
}

/* The host's copy of all results; NULL: out of memory. */
static const char *fetch(ni_waiting *w) {
    if (w->results > w->here_room) {
        void *grown = realloc(w->here, w->results);
        if (!grown)
            return NULL;
        w->here = grown;
        w->here_room = w->results;
    }
    w->be->ops->download(w->be, w->here, w->there, w->results);
    return w->here;
}

void ni_take_all(ni_record *record) {
    ni_waiting *w = &record->waiting;
    if (w->count == 0)
        return;
    summarize_crests(record);
    const char *results = fetch(w);
    if (!results && record->failure.status == NB_OK)
        nb_fail(&record->failure, NB_NO_MEMORY, "no memory for what the lens measured");
    for (ni_asked *a = w->list; a < w->list + w->count; a++) {
        if (results)
            a->take(record, a, results + a->at);
        free(a->map_here);
    }
    ni_drop_all(w);
}

void ni_drop_all(ni_waiting *w) {
    if (w->count)
        w->be->ops->fill_zero(w->be, w->there, w->room); /* results may lie where maps were */
    w->count = 0;
    w->results = w->maps = 0;
}

size_t ni_waiting_bytes(const ni_waiting *w) {
    return w->room + w->here_room + (size_t)w->capacity * (sizeof *w->list + sizeof *w->crests);
}

void ni_waiting_free(ni_waiting *w) {
    if (w->be)
        nb_backend_release(w->be, w->there);
    free(w->here);
    free(w->list);
    free(w->crests);
    *w = (ni_waiting){0};
}
