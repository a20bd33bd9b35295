/* byte_pairs.c: two hash tables, words by their bytes and merges by their pair, and a queue of merges to do. */
#include "byte_pairs.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

typedef struct word {
    size_t at; /* in the heap of bytes */
    uint32_t size;
    uint8_t here, unreachable;
} word;

typedef struct merge {
    uint64_t pair; /* left id and right id */
    int32_t rank, joined;
} merge;

struct ni_byte_pairs {
    word *words; /* [ids] */
    int32_t ids;
    char *bytes;
    size_t used, room;
    int32_t *by_bytes; /* [word_mask + 1]: ids, -1: empty */
    size_t word_mask;
    merge *merges; /* [merge_mask + 1]: rank -1: empty */
    size_t merge_mask;
    int32_t ranks;
    int32_t byte_ids[256];
};

static size_t table_size(size_t count) {
    size_t size = 16;
    while (size < 2 * count)
        size *= 2;
    return size;
}

nb_status ni_byte_pairs_create(int32_t ids, size_t words, size_t merges, ni_byte_pairs **out, nb_error *err) {
    *out = NULL;
    if (ids < 1 || ids > NI_BYTE_PAIRS_MOST || words > NI_BYTE_PAIRS_MOST || merges > NI_BYTE_PAIRS_MOST)
        return nb_fail(err, NB_BAD_FILE,
                       "%zu words with ids below %" PRId32 " and %zu merges cannot be, expected at least one word "
                       "and at most %d of each",
                       words, ids, merges, NI_BYTE_PAIRS_MOST);
    ni_byte_pairs *p = calloc(1, sizeof *p);
    if (p) {
        p->ids = ids;
        p->word_mask = table_size(words) - 1;
        p->merge_mask = table_size(merges) - 1;
        p->words = calloc((size_t)ids, sizeof *p->words);
        p->by_bytes = malloc((p->word_mask + 1) * sizeof *p->by_bytes);
        p->merges = malloc((p->merge_mask + 1) * sizeof *p->merges);
    }
    if (!p || !p->words || !p->by_bytes || !p->merges) {
        ni_byte_pairs_free(p);
        return nb_fail(err, NB_NO_MEMORY, "no memory for a tokenizer of %zu words", words);
    }
    memset(p->by_bytes, 0xFF, (p->word_mask + 1) * sizeof *p->by_bytes);
    memset(p->merges, 0xFF, (p->merge_mask + 1) * sizeof *p->merges);
    *out = p;
    return NB_OK;
}

void ni_byte_pairs_free(ni_byte_pairs *p) {
    if (!p)
        return;
    free(p->words);
    free(p->bytes);
    free(p->by_bytes);
    free(p->merges);
    free(p);
}

/* ---- words ---- */

/* Where a word is or belongs. */
static size_t slot_of(const ni_byte_pairs *p, const char *bytes, size_t size, bool unreachable) {
    for (size_t slot = (size_t)XXH3_64bits_withSeed(bytes, size, unreachable) & p->word_mask;;
         slot = (slot + 1) & p->word_mask) {
        const int32_t id = p->by_bytes[slot];
        if (id < 0 || (p->words[id].size == size && p->words[id].unreachable == unreachable &&
                       memcmp(p->bytes + p->words[id].at, bytes, size) == 0))
            return slot;
    }
}

static nb_status keep_bytes(ni_byte_pairs *p, const char *bytes, size_t size, nb_error *err) {
    if (p->used + size > p->room || !p->bytes) {
        const size_t room = 2 * (p->used + size) + 4096;
        char *larger = realloc(p->bytes, room);
        if (!larger)
            return nb_fail(err, NB_NO_MEMORY, "no memory for the words of a tokenizer");
        p->bytes = larger;
        p->room = room;
    }
    if (size)
        memcpy(p->bytes + p->used, bytes, size);
    p->used += size;
    return NB_OK;
}

nb_status ni_byte_pairs_add(ni_byte_pairs *p, const char *bytes, size_t size, bool unreachable, int32_t id,
                            nb_error *err) {
    if (id < 0 || id >= p->ids || p->words[id].here || size > UINT32_MAX)
        return nb_fail(err, NB_BAD_FILE,
                       "word '%.40s' has id %" PRId32 ", expected one below %" PRId32 " that no other word has",
                       unreachable ? bytes : "...", id, p->ids);
    const size_t slot = slot_of(p, bytes, size, unreachable), at = p->used;
    if (p->by_bytes[slot] >= 0)
        return nb_fail(err, NB_BAD_FILE, "words %" PRId32 " and %" PRId32 " are the same", p->by_bytes[slot], id);
    NB_TRY(keep_bytes(p, bytes, size, err));
    p->words[id] = (word){at, (uint32_t)size, 1, unreachable};
    p->by_bytes[slot] = id;
    return NB_OK;
}

int32_t ni_byte_pairs_id(const ni_byte_pairs *p, const char *bytes, size_t size, bool unreachable) {
    return p->by_bytes[slot_of(p, bytes, size, unreachable)];
}

const char *ni_byte_pairs_word(const ni_byte_pairs *p, int32_t id, size_t *size) {
    *size = p->words[id].size;
    return p->words[id].here ? p->bytes + p->words[id].at : NULL;
}

int32_t ni_byte_pairs_ids(const ni_byte_pairs *p) {
    return p->ids;
}

nb_status ni_byte_pairs_check(ni_byte_pairs *p, nb_error *err) {
    for (int byte = 0; byte < 256; byte++) {
        const char c = (char)byte;
        p->byte_ids[byte] = ni_byte_pairs_id(p, &c, 1, false);
        if (p->byte_ids[byte] < 0)
            return nb_fail(err, NB_BAD_FILE,
                           "byte 0x%02X is no word, so that texts with it could not be encoded; expected all 256 bytes "
                           "as words",
                           (unsigned)byte);
    }
    return NB_OK;
}

/* ---- merges ---- */

static merge *find_merge(const ni_byte_pairs *p, int32_t left, int32_t right) {
    const uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t slot = (size_t)((pair * 0x9E3779B97F4A7C15u) >> 20) & p->merge_mask;
    while (p->merges[slot].rank >= 0 && p->merges[slot].pair != pair)
        slot = (slot + 1) & p->merge_mask;
    return &p->merges[slot];
}

void ni_byte_pairs_merge(ni_byte_pairs *p, int32_t left, int32_t right, int32_t joined) {
    merge *m = find_merge(p, left, right);
    *m = (merge){(uint64_t)(uint32_t)left << 32 | (uint32_t)right, p->ranks++, joined};
}

/* ---- encoding ---- */

typedef struct symbol {
    int32_t id;             /* -1: joined to the one before */
    int32_t before, behind; /* -1: none */
} symbol;

typedef struct pending {
    int32_t rank, at, joined;
} pending;

typedef struct queue {
    pending *heap;
    size_t count;
} queue;

void ni_byte_pairs_room_free(ni_byte_pairs_room *room) {
    free(room->symbols);
    free(room->heap);
    *room = (ni_byte_pairs_room){0};
}

/* A piece of n bytes is joined n - 1 times at most; each time two pairs are new. */
static nb_status make_room(ni_byte_pairs_room *room, size_t size, nb_error *err) {
    if (size <= room->size)
        return NB_OK;
    const size_t wanted = size + size / 2 + 64;
    ni_byte_pairs_room_free(room);
    room->symbols = malloc(wanted * sizeof(symbol));
    room->heap = malloc(3 * wanted * sizeof(pending));
    if (!room->symbols || !room->heap)
        return nb_fail(err, NB_NO_MEMORY, "no memory to encode a piece of %zu bytes", size);
    room->size = wanted;
    return NB_OK;
}

static bool comes_first(const pending *a, const pending *b) {
    return a->rank < b->rank || (a->rank == b->rank && a->at < b->at);
}

static void put(queue *q, pending p) {
    size_t at = q->count++;
    for (size_t parent; at > 0 && comes_first(&p, &q->heap[parent = (at - 1) / 2]); at = parent)
        q->heap[at] = q->heap[parent];
    q->heap[at] = p;
}

static pending take(queue *q) {
    const pending first = q->heap[0], last = q->heap[--q->count];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < q->count; at = child) {
        child += child + 1 < q->count && comes_first(&q->heap[child + 1], &q->heap[child]);
        if (!comes_first(&q->heap[child], &last))
            break;
        q->heap[at] = q->heap[child];
    }
    q->heap[at] = last;
    return first;
}

static void ask(const ni_byte_pairs *p, const symbol *s, int32_t at, queue *q) {
    const int32_t behind = at >= 0 ? s[at].behind : -1;
    if (behind < 0)
        return;
    const merge *m = find_merge(p, s[at].id, s[behind].id);
    if (m->rank >= 0)
        put(q, (pending){m->rank, at, m->joined});
}

/* What waits may be out of date: it is done if its place has a pair that gives the same word all the same, be it by
 * another merge. */
static void join_all(const ni_byte_pairs *p, symbol *s, queue *q) {
    while (q->count) {
        const pending next = take(q);
        symbol *left = &s[next.at];
        if (left->id < 0 || left->behind < 0)
            continue;
        symbol *right = &s[left->behind];
        const merge *m = find_merge(p, left->id, right->id);
        if (m->rank < 0 || m->joined != next.joined)
            continue;
        left->id = next.joined;
        right->id = -1;
        left->behind = right->behind;
        if (left->behind >= 0)
            s[left->behind].before = next.at;
        ask(p, s, left->before, q);
        ask(p, s, next.at, q);
    }
}

nb_status ni_byte_pairs_encode(const ni_byte_pairs *p, const char *bytes, size_t size, bool whole,
                               ni_byte_pairs_room *room, ni_tokens *out, nb_error *err) {
    const int32_t own = whole ? ni_byte_pairs_id(p, bytes, size, false) : -1;
    if (own >= 0)
        return ni_tokens_add(out, &own, 1, err);
    if (size > INT32_MAX / 4)
        return nb_fail(err, NB_UNSUPPORTED, "a piece of %zu bytes that no space divides cannot be encoded", size);
    NB_TRY(make_room(room, size, err));
    NB_TRY(ni_tokens_reserve(out, (int64_t)size, err));
    symbol *s = room->symbols;
    queue q = {room->heap, 0};
    const int32_t n = (int32_t)size;
    for (int32_t i = 0; i < n; i++)
        s[i] = (symbol){p->byte_ids[(unsigned char)bytes[i]], i - 1, i + 1 < n ? i + 1 : -1};
    for (int32_t i = 0; i + 1 < n; i++)
        ask(p, s, i, &q);
    join_all(p, s, &q);
    for (int32_t i = 0; i < n; i++)
        if (s[i].id >= 0)
            out->ids[out->count++] = s[i].id;
    return NB_OK;
}
