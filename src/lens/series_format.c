/* series_format.c: one careful walk through a series file, for readers and for writers that go on. */
#include "lens/series_format.h"

#include <string.h>
#include <xxhash.h>

uint64_t ni_series_checksum(int64_t step, const void *payload, size_t bytes) {
    return XXH3_64bits_withSeed(payload, bytes, (XXH64_hash_t)step);
}

typedef struct record {
    unsigned char tag;
    uint32_t id;
    uint32_t count;             /* of values, or of characters */
    const unsigned char *bytes; /* those values or characters */
} record;

/* Takes the record at *at; false if it does not fit or makes no sense. `names` is how many ids are defined so far. */
static bool next_record(const unsigned char *payload, size_t size, size_t *at, uint32_t names, record *out) {
    if (size - *at < 5)
        return false;
    out->tag = payload[*at];
    memcpy(&out->id, payload + *at + 1, sizeof out->id);
    *at += 5;
    size_t left = size - *at, bytes = 0;
    uint16_t length;
    switch (out->tag) {
    case NI_SERIES_RECORD_NAME:
        if (left < sizeof length || out->id != names || names >= NI_SERIES_NAMES_MOST)
            return false;
        memcpy(&length, payload + *at, sizeof length);
        *at += sizeof length;
        left -= sizeof length;
        out->count = length;
        bytes = length;
        if (length == 0 || length >= NI_SERIES_NAME_SIZE || length > left || memchr(payload + *at, 0, length))
            return false;
        break;
    case NI_SERIES_RECORD_SCALAR:
        out->count = 1;
        bytes = sizeof(float);
        break;
    case NI_SERIES_RECORD_VECTOR:
        if (left < sizeof out->count)
            return false;
        memcpy(&out->count, payload + *at, sizeof out->count);
        *at += sizeof out->count;
        left -= sizeof out->count;
        bytes = (size_t)out->count * sizeof(float);
        break;
    default:
        return false;
    }
    if (bytes > left || (out->tag != NI_SERIES_RECORD_NAME && out->id >= names))
        return false;
    out->bytes = payload + *at;
    *at += bytes;
    return true;
}

/* True if every record of the payload is sound; *names goes on by those it defines. */
static bool sound(const unsigned char *payload, size_t size, uint32_t *names) {
    uint32_t defined = *names;
    record r;
    for (size_t at = 0; at < size;) {
        if (!next_record(payload, size, &at, defined, &r))
            return false;
        defined += r.tag == NI_SERIES_RECORD_NAME;
    }
    *names = defined;
    return true;
}

static bool visit(const unsigned char *payload, size_t size, uint32_t names, int64_t step,
                  const ni_series_visitor *visitor) {
    record r;
    for (size_t at = 0; at < size;) {
        if (!next_record(payload, size, &at, names, &r))
            return false;
        if (r.tag == NI_SERIES_RECORD_NAME) {
            char name[NI_SERIES_NAME_SIZE] = {0};
            memcpy(name, r.bytes, r.count);
            names++;
            if (!visitor->name(visitor->user, name))
                return false;
        } else if (!visitor->values(visitor->user, step, r.id, r.count, r.bytes)) {
            return false;
        }
    }
    return true;
}

bool ni_series_is_torn(const void *bytes, size_t size, int64_t first_step) {
    ni_series_chunk head;
    const uint32_t magic = NI_SERIES_CHUNK_MAGIC;
    if (size == 0)
        return true;
    if (memcmp(bytes, &magic, size < sizeof magic ? size : sizeof magic) != 0)
        return false;
    if (size < sizeof head)
        return true;
    memcpy(&head, bytes, sizeof head);
    return head.step >= first_step && head.bytes > size - sizeof head;
}

nb_status ni_series_scan(const void *bytes, size_t size, const ni_series_visitor *visitor, size_t *good, bool *refused,
                         nb_error *err) {
    const unsigned char *file = bytes;
    if (refused)
        *refused = false;
    if (size < NI_SERIES_MAGIC_SIZE || memcmp(file, NI_SERIES_MAGIC, NI_SERIES_MAGIC_SIZE) != 0)
        return nb_fail(err, NB_BAD_FILE, "not a series of measurements; expected \"nibble series 1\" at its start");
    uint32_t names = 0;
    for (*good = NI_SERIES_MAGIC_SIZE; size - *good >= sizeof(ni_series_chunk);) {
        ni_series_chunk head;
        memcpy(&head, file + *good, sizeof head);
        const unsigned char *payload = file + *good + sizeof head;
        uint32_t before = names;
        if (head.magic != NI_SERIES_CHUNK_MAGIC || head.bytes > size - *good - sizeof head ||
            head.checksum != ni_series_checksum(head.step, payload, head.bytes) || !sound(payload, head.bytes, &names))
            return NB_OK;
        if (!visitor->chunk(visitor->user, head.step) || !visit(payload, head.bytes, before, head.step, visitor)) {
            if (refused)
                *refused = true;
            return NB_OK;
        }
        *good += sizeof head + head.bytes;
    }
    return NB_OK;
}
