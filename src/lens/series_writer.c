/* series_writer.c: appends chunks to a series file. */
#include "files/file.h"
#include "files/log.h"
#include "lens/series.h"
#include "lens/series_format.h"

#include <stdlib.h>
#include <string.h>

typedef struct buffer {
    unsigned char *bytes;
    size_t size, capacity;
    bool failed;
} buffer;

struct ni_series_writer {
    ni_log *log;
    char *path;
    char *aside;    /* what was set aside; NULL: nothing was */
    buffer payload; /* of the chunk being made */
    char **names;   /* [count], index = id */
    uint32_t count, capacity;
    uint32_t *table; /* open addressing over names: id + 1, 0 = empty */
    uint32_t slots;  /* a power of two */
};

static void append(buffer *b, const void *bytes, size_t size) {
    if (b->failed)
        return;
    if (b->size + size > b->capacity) {
        size_t capacity = b->capacity ? b->capacity : 4096;
        while (capacity < b->size + size)
            capacity *= 2;
        unsigned char *grown = realloc(b->bytes, capacity);
        if (!grown) {
            b->failed = true;
            return;
        }
        b->bytes = grown;
        b->capacity = capacity;
    }
    memcpy(b->bytes + b->size, bytes, size);
    b->size += size;
}

static void append_tag(buffer *b, char tag, uint32_t id) {
    append(b, &tag, 1);
    append(b, &id, sizeof id);
}

/* FNV-1a: short names, few of them. */
static uint32_t hash_name(const char *name) {
    uint32_t h = 2166136261u;
    for (; *name; name++)
        h = (h ^ (unsigned char)*name) * 16777619u;
    return h;
}

static void place(ni_series_writer *w, uint32_t id) {
    uint32_t slot = hash_name(w->names[id]) & (w->slots - 1);
    while (w->table[slot])
        slot = (slot + 1) & (w->slots - 1);
    w->table[slot] = id + 1;
}

static bool grow(ni_series_writer *w) {
    uint32_t capacity = w->capacity ? 2 * w->capacity : 256;
    char **names = realloc(w->names, capacity * sizeof *names);
    if (!names)
        return false;
    w->names = names;
    uint32_t *table = calloc((size_t)capacity * 2, sizeof *table);
    if (!table)
        return false;
    free(w->table);
    w->table = table;
    w->slots = capacity * 2;
    w->capacity = capacity;
    for (uint32_t i = 0; i < w->count; i++)
        place(w, i);
    return true;
}

/* Id of a name already known, or UINT32_MAX. */
static uint32_t find(const ni_series_writer *w, const char *name) {
    if (!w->slots)
        return UINT32_MAX;
    for (uint32_t slot = hash_name(name) & (w->slots - 1); w->table[slot]; slot = (slot + 1) & (w->slots - 1))
        if (strcmp(w->names[w->table[slot] - 1], name) == 0)
            return w->table[slot] - 1;
    return UINT32_MAX;
}

/* Makes `name` the next id. False when memory runs out. */
static bool define(ni_series_writer *w, const char *name) {
    if (w->count == w->capacity && !grow(w))
        return false;
    char *copy = strdup(name);
    if (!copy)
        return false;
    w->names[w->count] = copy;
    place(w, w->count++);
    return true;
}

static uint32_t id_of(ni_series_writer *w, const char *name) {
    uint32_t id = find(w, name);
    if (id != UINT32_MAX)
        return id;
    size_t length = strlen(name);
    if (length >= NI_SERIES_NAME_SIZE || !define(w, name)) {
        w->payload.failed = true;
        return 0;
    }
    id = w->count - 1;
    uint16_t short_length = (uint16_t)length;
    append_tag(&w->payload, NI_SERIES_RECORD_NAME, id);
    append(&w->payload, &short_length, sizeof short_length);
    append(&w->payload, name, length);
    return id;
}

void ni_series_put(ni_series_writer *writer, const char *name, double value) {
    float v = (float)value;
    uint32_t id = id_of(writer, name);
    append_tag(&writer->payload, NI_SERIES_RECORD_SCALAR, id);
    append(&writer->payload, &v, sizeof v);
}

void ni_series_put_vector(ni_series_writer *writer, const char *name, const float *values, int64_t count) {
    uint32_t n = (uint32_t)count;
    uint32_t id = id_of(writer, name);
    append_tag(&writer->payload, NI_SERIES_RECORD_VECTOR, id);
    append(&writer->payload, &n, sizeof n);
    append(&writer->payload, values, (size_t)n * sizeof *values);
}

nb_status ni_series_commit(ni_series_writer *w, int64_t step, nb_error *err) {
    if (w->payload.failed)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for the measurements of step %lld", w->path, (long long)step);
    ni_series_chunk head = {NI_SERIES_CHUNK_MAGIC, (uint32_t)w->payload.size, step,
                            ni_series_checksum(step, w->payload.bytes, w->payload.size)};
    ni_log_put(w->log, &head, sizeof head);
    ni_log_put(w->log, w->payload.bytes, w->payload.size);
    w->payload.size = 0;
    return ni_log_flush(w->log, err);
}

/* Names have their ids from now on, so their records stay. */
void ni_series_forget(ni_series_writer *w) {
    buffer *b = &w->payload;
    size_t kept = 0;
    uint32_t count;
    uint16_t length;
    for (size_t at = 0, size; at < b->size; at += size) {
        unsigned char *record = b->bytes + at, *body = record + 1 + sizeof(uint32_t);
        const bool name = *record == NI_SERIES_RECORD_NAME;
        size = (size_t)(body - record);
        if (name) {
            memcpy(&length, body, sizeof length);
            size += sizeof length + length;
        } else if (*record == NI_SERIES_RECORD_VECTOR) {
            memcpy(&count, body, sizeof count);
            size += sizeof count + (size_t)count * sizeof(float);
        } else {
            size += sizeof(float);
        }
        if (name) {
            memmove(b->bytes + kept, record, size);
            kept += size;
        }
    }
    b->size = kept;
}

nb_status ni_series_sync(ni_series_writer *w, nb_error *err) {
    return ni_log_sync(w->log, err);
}

const char *ni_series_aside(const ni_series_writer *w) {
    return w->aside ? w->aside : "";
}

/* What the writer takes over from a file that is there: its names, up to the step where it goes on. */
typedef struct continuation {
    ni_series_writer *writer;
    int64_t first_step;
    bool no_memory;
} continuation;

static bool keep_chunk(void *user, int64_t step) {
    return step < ((continuation *)user)->first_step;
}

static bool keep_name(void *user, const char *name) {
    continuation *c = user;
    c->no_memory = !define(c->writer, name);
    return !c->no_memory;
}

static bool pass_values(void *user, int64_t step, uint32_t id, uint32_t count, const unsigned char *f32) {
    (void)user, (void)step, (void)id, (void)count, (void)f32;
    return true;
}

/* A file with damage in it keeps its bytes under another name; its good beginning goes on. */
static nb_status set_aside(ni_series_writer *w, const char *bytes, size_t good, nb_error *err) {
    size_t room = strlen(w->path) + 32;
    w->aside = malloc(room);
    if (!w->aside)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory", w->path);
    NB_TRY(ni_file_set_aside(w->path, w->aside, room, err));
    return good ? ni_file_write(w->path, bytes, good, err) : NB_OK;
}

/* Reads what is there: its names, and how much of it goes on. */
static nb_status take_over(ni_series_writer *w, int64_t first_step, size_t *good, nb_error *err) {
    char *bytes;
    size_t size;
    bool exists, refused;
    *good = 0;
    NB_TRY(ni_file_exists(w->path, &exists, err));
    if (!exists)
        return NB_OK;
    NB_TRY(ni_file_read(w->path, SIZE_MAX / 2, &bytes, &size, err));
    continuation c = {w, first_step, false};
    ni_series_visitor visitor = {&c, keep_chunk, keep_name, pass_values};
    nb_status status = size ? ni_series_scan(bytes, size, &visitor, good, &refused, NULL) : NB_OK;
    if (c.no_memory)
        status = nb_fail(err, NB_NO_MEMORY, "%s: no memory for its names", w->path);
    else if (status == NB_BAD_FILE || (size && !refused && !ni_series_is_torn(bytes + *good, size - *good, first_step)))
        status = set_aside(w, bytes, status == NB_BAD_FILE ? 0 : *good, err);
    free(bytes);
    return status;
}

static nb_status open_log(ni_series_writer *w, size_t good, nb_error *err) {
    NB_TRY(ni_log_open(w->path, false, &w->log, err));
    NB_TRY(ni_log_cut(w->log, good, err));
    if (good == 0)
        ni_log_put(w->log, NI_SERIES_MAGIC, NI_SERIES_MAGIC_SIZE);
    return ni_log_flush(w->log, err);
}

nb_status ni_series_writer_open(const char *path, int64_t first_step, ni_series_writer **out, nb_error *err) {
    size_t good = 0;
    *out = NULL;
    ni_series_writer *w = calloc(1, sizeof *w);
    if (!w || !(w->path = strdup(path))) {
        free(w);
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory", path);
    }
    nb_status status = take_over(w, first_step, &good, err);
    if (status == NB_OK)
        status = open_log(w, good, err);
    if (status != NB_OK) {
        ni_series_writer_close(w);
        return status;
    }
    *out = w;
    return NB_OK;
}

void ni_series_writer_close(ni_series_writer *w) {
    if (!w)
        return;
    ni_log_close(w->log);
    free(w->aside);
    for (uint32_t i = 0; i < w->count; i++)
        free(w->names[i]);
    free(w->names);
    free(w->table);
    free(w->payload.bytes);
    free(w->path);
    free(w);
}
