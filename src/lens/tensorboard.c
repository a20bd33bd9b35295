/* tensorboard.c: event files by hand: four kinds of protocol-buffer fields and a checksum. */
#include "lens/tensorboard.h"
#include "files/file.h"
#include "files/log.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct ni_tensorboard {
    ni_log *log;
};

/* ---- CRC-32C, reflected polynomial 0x82F63B78, a nibble at a time ---- */

uint32_t ni_crc32c(const void *bytes, size_t size) {
    static const uint32_t table[16] = {0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3,
                                       0x61c69362, 0x7198540d, 0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
                                       0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75};
    uint32_t crc = ~0u;
    for (const unsigned char *at = bytes, *end = at + size; at < end; at++) {
        crc ^= *at;
        crc = (crc >> 4) ^ table[crc & 15];
        crc = (crc >> 4) ^ table[crc & 15];
    }
    return ~crc;
}

static uint32_t masked(uint32_t crc) {
    return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

/* ---- messages: a growing run of fields ---- */

typedef struct message {
    unsigned char *bytes;
    size_t size, capacity;
    bool no_memory;
} message;

static void append(message *m, const void *bytes, size_t size) {
    if (m->size + size > m->capacity && !m->no_memory) {
        size_t capacity = 2 * (m->size + size);
        unsigned char *grown = realloc(m->bytes, capacity);
        m->no_memory = !grown;
        if (grown) {
            m->bytes = grown;
            m->capacity = capacity;
        }
    }
    if (m->no_memory)
        return;
    memcpy(m->bytes + m->size, bytes, size);
    m->size += size;
}

static void append_varint(message *m, uint64_t value) {
    unsigned char byte;
    for (; value >= 0x80; value >>= 7) {
        byte = (unsigned char)(value | 0x80);
        append(m, &byte, 1);
    }
    byte = (unsigned char)value;
    append(m, &byte, 1);
}

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 }; /* wire types */

static void key(message *m, uint32_t field, uint32_t wire_type) {
    append_varint(m, field << 3 | wire_type);
}

static void field_double(message *m, uint32_t field, double value) {
    key(m, field, FIXED64);
    append(m, &value, sizeof value);
}

static void field_float(message *m, uint32_t field, float value) {
    key(m, field, FIXED32);
    append(m, &value, sizeof value);
}

static void field_bytes(message *m, uint32_t field, const void *bytes, size_t size) {
    key(m, field, BYTES);
    append_varint(m, size);
    append(m, bytes, size);
}

/* Puts `inner` into `outer` and lets it go. */
static void field_message(message *outer, uint32_t field, message *inner) {
    outer->no_memory |= inner->no_memory;
    if (!inner->no_memory)
        field_bytes(outer, field, inner->bytes, inner->size);
    free(inner->bytes);
}

/* ---- events ---- */

enum { EVENT_WALL_TIME = 1, EVENT_STEP = 2, EVENT_FILE_VERSION = 3, EVENT_SUMMARY = 5 };
enum { SUMMARY_VALUE = 1, VALUE_TAG = 1, VALUE_SIMPLE = 2, VALUE_HISTOGRAM = 5 };
enum {
    HISTOGRAM_MIN = 1,
    HISTOGRAM_MAX,
    HISTOGRAM_NUM,
    HISTOGRAM_SUM,
    HISTOGRAM_SUM_SQUARES,
    HISTOGRAM_LIMIT,
    HISTOGRAM_BUCKET
};

static nb_status write_event(ni_tensorboard *tb, message *event, nb_error *err) {
    uint64_t size = event->size;
    uint32_t size_crc = masked(ni_crc32c(&size, sizeof size)), crc = masked(ni_crc32c(event->bytes, event->size));
    if (!event->no_memory) {
        ni_log_put(tb->log, &size, sizeof size);
        ni_log_put(tb->log, &size_crc, sizeof size_crc);
        ni_log_put(tb->log, event->bytes, event->size);
        ni_log_put(tb->log, &crc, sizeof crc);
    }
    bool no_memory = event->no_memory;
    free(event->bytes);
    return no_memory ? nb_fail(err, NB_NO_MEMORY, "%s: no memory for an event", ni_log_path(tb->log)) : NB_OK;
}

static message event_at(int64_t step) {
    message event = {0};
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    field_double(&event, EVENT_WALL_TIME, (double)now.tv_sec + 1e-9 * (double)now.tv_nsec);
    key(&event, EVENT_STEP, VARINT);
    append_varint(&event, (uint64_t)step);
    return event;
}

static nb_status write_value(ni_tensorboard *tb, int64_t step, message *value, nb_error *err) {
    message event = event_at(step), summary = {0};
    field_message(&summary, SUMMARY_VALUE, value);
    field_message(&event, EVENT_SUMMARY, &summary);
    return write_event(tb, &event, err);
}

nb_status ni_tensorboard_scalar(ni_tensorboard *tb, const char *tag, int64_t step, double number, nb_error *err) {
    message value = {0};
    field_bytes(&value, VALUE_TAG, tag, strlen(tag));
    field_float(&value, VALUE_SIMPLE, (float)number);
    return write_value(tb, step, &value, err);
}

nb_status ni_tensorboard_histogram(ni_tensorboard *tb, const char *tag, int64_t step, const double *limits,
                                   const double *counts, int32_t buckets, nb_error *err) {
    double total = 0, sum = 0, sum_squares = 0; /* of the bucket limits: the values themselves are gone */
    for (int32_t i = 0; i < buckets; i++) {
        total += counts[i];
        sum += counts[i] * limits[i];
        sum_squares += counts[i] * limits[i] * limits[i];
    }
    message histogram = {0}, value = {0};
    field_double(&histogram, HISTOGRAM_MIN, buckets ? limits[0] : 0);
    field_double(&histogram, HISTOGRAM_MAX, buckets ? limits[buckets - 1] : 0);
    field_double(&histogram, HISTOGRAM_NUM, total);
    field_double(&histogram, HISTOGRAM_SUM, sum);
    field_double(&histogram, HISTOGRAM_SUM_SQUARES, sum_squares);
    field_bytes(&histogram, HISTOGRAM_LIMIT, limits, (size_t)buckets * sizeof *limits);
    field_bytes(&histogram, HISTOGRAM_BUCKET, counts, (size_t)buckets * sizeof *counts);
    field_bytes(&value, VALUE_TAG, tag, strlen(tag));
    field_message(&value, VALUE_HISTOGRAM, &histogram);
    return write_value(tb, step, &value, err);
}

/* The first name of its kind that is not taken: two files of one second must not meet. */
static nb_status create_file(ni_tensorboard *tb, const char *folder, nb_error *err) {
    size_t size = strlen(folder) + 80;
    char *path = malloc(size);
    if (!path)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for an event file", folder);
    nb_status status = NB_IO_ERROR;
    bool taken = true;
    for (int n = 0; taken && n < 1000; n++) {
        snprintf(path, size, "%s/events.out.tfevents.%010lld.nibble.%d", folder, (long long)time(NULL), n);
        status = ni_file_exists(path, &taken, err);
        if (status != NB_OK)
            break;
        if (!taken)
            status = ni_log_open(path, true, &tb->log, err);
    }
    if (taken && status == NB_OK)
        status = nb_fail(err, NB_IO_ERROR, "%s: all names of event files are taken", folder);
    free(path);
    return status;
}

nb_status ni_tensorboard_open(const char *folder, ni_tensorboard **out, nb_error *err) {
    *out = NULL;
    ni_tensorboard *tb = calloc(1, sizeof *tb);
    if (!tb)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for an event file", folder);
    nb_status status = create_file(tb, folder, err);
    if (status == NB_OK) {
        static const char version[] = "brain.Event:2";
        message event = event_at(0);
        field_bytes(&event, EVENT_FILE_VERSION, version, sizeof version - 1);
        status = write_event(tb, &event, err);
    }
    if (status != NB_OK) {
        ni_tensorboard_close(tb, NULL);
        return status;
    }
    *out = tb;
    return NB_OK;
}

nb_status ni_tensorboard_flush(ni_tensorboard *tb, nb_error *err) {
    return ni_log_flush(tb->log, err);
}

nb_status ni_tensorboard_sync(ni_tensorboard *tb, nb_error *err) {
    return ni_log_sync(tb->log, err);
}

nb_status ni_tensorboard_close(ni_tensorboard *tb, nb_error *err) {
    if (!tb)
        return NB_OK;
    nb_status status = tb->log ? ni_log_flush(tb->log, err) : NB_OK;
    ni_log_close(tb->log);
    free(tb);
    return status;
}

/* ---- what an earlier run left ---- */

size_t ni_events_good(const void *bytes, size_t size, bool *torn) {
    const unsigned char *file = bytes;
    size_t good = 0;
    *torn = false;
    while (size - good >= 12) {
        uint64_t length;
        uint32_t crc;
        memcpy(&length, file + good, sizeof length);
        memcpy(&crc, file + good + 8, sizeof crc);
        if (crc != masked(ni_crc32c(&length, sizeof length)))
            return good;
        if (size - good < 16 || length > size - good - 16) {
            *torn = true;
            return good;
        }
        memcpy(&crc, file + good + 12 + length, sizeof crc);
        if (crc != masked(ni_crc32c(file + good + 12, length)))
            return good;
        good += 16 + length;
    }
    for (size_t i = good; i < size; i++) /* fewer bytes than a record's head: zeros are no beginning of one */
        *torn = *torn || file[i] != 0;
    return good;
}
