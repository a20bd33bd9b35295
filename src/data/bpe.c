/* bpe.c: a text to ids and back. */
#include "bpe.h"

#include "bpe_model.h"
#include "compose.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* ---- making it ---- */

void ni_bpe_free(ni_bpe *bpe) {
    if (!bpe)
        return;
    ni_byte_pairs_free(bpe->pairs);
    ni_pretokenizer_free(bpe->pre);
    ni_added_tokens_free(&bpe->raw);
    ni_added_tokens_free(&bpe->normalized);
    free(bpe->added);
    free(bpe);
}

static nb_status index_added(ni_bpe *bpe, nb_error *err) {
    ni_added_tokens *const lists[] = {&bpe->raw, &bpe->normalized};
    bpe->added = calloc((size_t)bpe->vocab, sizeof *bpe->added);
    if (!bpe->added)
        return nb_fail(err, NB_NO_MEMORY, "no memory for a tokenizer of %" PRId32 " tokens", bpe->vocab);
    for (int l = 0; l < 2; l++) {
        ni_added_tokens_sort(lists[l]);
        for (size_t i = 0; i < lists[l]->count; i++)
            bpe->added[lists[l]->list[i].id] = &lists[l]->list[i];
    }
    return NB_OK;
}

nb_status ni_bpe_parse(const char *json, size_t size, ni_bpe **out, nb_error *err) {
    *out = NULL;
    ni_bpe *bpe = calloc(1, sizeof *bpe);
    if (!bpe)
        return nb_fail(err, NB_NO_MEMORY, "no memory for a tokenizer");
    nb_status status = ni_bpe_read(json, size, bpe, err);
    if (status == NB_OK)
        status = index_added(bpe, err);
    if (status != NB_OK) {
        ni_bpe_free(bpe);
        return status;
    }
    *out = bpe;
    return NB_OK;
}

int32_t ni_bpe_vocab(const ni_bpe *bpe) {
    return bpe->vocab;
}

bool ni_bpe_equal(const ni_bpe *a, const ni_bpe *b) {
    return a->digest == b->digest;
}

int32_t ni_bpe_id(const ni_bpe *bpe, const char *text) {
    for (int32_t id = 0; id < bpe->vocab; id++)
        if (bpe->added[id] && strcmp(bpe->added[id]->text, text) == 0)
            return id;
    return ni_byte_pairs_id(bpe->pairs, text, strlen(text), false);
}

const char *ni_bpe_added(const ni_bpe *bpe, int32_t id) {
    return id >= 0 && id < bpe->vocab && bpe->added[id] ? bpe->added[id]->text : NULL;
}

/* ---- encoding ---- */

/* Words come again and again: where a piece was encoded before in the same text, its ids are copied. */
enum { KNOWN = 4096 };
typedef struct known {
    const char *piece; /* in the text of that epoch */
    uint32_t size, count;
    int64_t at;     /* in the list of ids */
    uint32_t epoch; /* 0: empty */
} known;

typedef struct encoder {
    const ni_bpe *bpe;
    ni_tokens *out;
    ni_byte_pairs_room room;
    known *seen; /* [KNOWN] or NULL */
    uint32_t epoch;
} encoder;

static nb_status encode_piece(void *context, const char *piece, size_t size, nb_error *err) {
    encoder *e = context;
    known *k = e->seen ? &e->seen[XXH3_64bits(piece, size) % KNOWN] : NULL;
    if (k && k->epoch == e->epoch && k->size == size && memcmp(k->piece, piece, size) == 0) {
        NB_TRY(ni_tokens_reserve(e->out, k->count, err)); /* may move the ids that are copied */
        memcpy(e->out->ids + e->out->count, e->out->ids + k->at, k->count * sizeof *e->out->ids);
        e->out->count += k->count;
        return NB_OK;
    }
    const int64_t at = e->out->count;
    NB_TRY(ni_byte_pairs_encode(e->bpe->pairs, piece, size, e->bpe->whole_words, &e->room, e->out, err));
    if (k && size <= UINT32_MAX)
        *k = (known){piece, (uint32_t)size, (uint32_t)(e->out->count - at), at, e->epoch};
    return NB_OK;
}

/* What lies between added tokens that are found in normalized text. `more` bytes lie behind it. */
static nb_status encode_normalized(encoder *e, const char *text, size_t size, size_t more, nb_error *err) {
    const ni_added_token *token;
    size_t at = 0, begin, end;
    while ((token = ni_added_tokens_find(&e->bpe->normalized, text, size, at, &begin, &end))) {
        NB_TRY(ni_pretokenizer_split(e->bpe->pre, text + at, begin - at, 0, encode_piece, e, err));
        NB_TRY(ni_tokens_add(e->out, &token->id, 1, err));
        at = end;
    }
    return ni_pretokenizer_split(e->bpe->pre, text + at, size - at, more, encode_piece, e, err);
}

/* The rest of the document behind a part is only looked at, so it may stay as it is. */
static nb_status encode_between(encoder *e, const char *text, size_t size, size_t more, nb_error *err) {
    char *composed = NULL;
    size_t length = 0;
    if (size == 0)
        return NB_OK;
    if (e->bpe->nfc)
        NB_TRY(ni_compose(text, size, &composed, &length, err));
    if (!composed)
        return encode_normalized(e, text, size, more, err);
    char *joined = more ? realloc(composed, length + more) : composed;
    nb_status status = NB_OK;
    if (!joined)
        status = nb_fail(err, NB_NO_MEMORY, "no memory to encode %zu bytes", size);
    composed = joined ? joined : composed;
    if (joined && more)
        memcpy(joined + length, text + size, more);
    if (status == NB_OK)
        status = encode_normalized(e, composed, length, more, err);
    e->epoch++; /* what is known of it lies in what is freed */
    free(composed);
    return status;
}

/* What lies behind a part and is looked at ends before an added token, as its own last piece would. */
static size_t before_added(const ni_added_tokens *tokens, const char *text, size_t size, size_t more) {
    size_t begin, end;
    return ni_added_tokens_find(tokens, text + size, more, 0, &begin, &end) ? begin : more;
}

nb_status ni_bpe_encode(const ni_bpe *bpe, const char *text, size_t size, size_t more, ni_tokens *out, nb_error *err) {
    enum { WORTH_IT = 2048 };
    encoder e = {.bpe = bpe, .out = out, .seen = size >= WORTH_IT ? calloc(KNOWN, sizeof(known)) : NULL, .epoch = 1};
    const ni_added_token *token;
    size_t at = 0, begin, end;
    nb_status status = NB_OK;
    more = before_added(&bpe->raw, text, size, more);
    more = before_added(&bpe->normalized, text, size, more);
    while (status == NB_OK && (token = ni_added_tokens_find(&bpe->raw, text, size, at, &begin, &end))) {
        status = encode_between(&e, text + at, begin - at, 0, err);
        if (status == NB_OK)
            status = ni_tokens_add(out, &token->id, 1, err);
        at = end;
    }
    if (status == NB_OK)
        status = encode_between(&e, text + at, size - at, more, err);
    ni_byte_pairs_room_free(&e.room);
    free(e.seen);
    return status;
}

/* ---- decoding ---- */

static const char *text_of(const ni_bpe *bpe, int32_t id, size_t *size) {
    if (bpe->added[id]) {
        *size = bpe->added[id]->size;
        return bpe->added[id]->text;
    }
    return id < ni_byte_pairs_ids(bpe->pairs) ? ni_byte_pairs_word(bpe->pairs, id, size) : NULL;
}

nb_status ni_bpe_decode(const ni_bpe *bpe, const int32_t *ids, int64_t count, char **text, size_t *size,
                        nb_error *err) {
    size_t total = 0, n;
    for (int64_t i = 0; i < count; i++)
        total += text_of(bpe, ids[i], &n) ? n : 0;
    *size = 0;
    *text = malloc(total + 1);
    if (!*text)
        return nb_fail(err, NB_NO_MEMORY, "no memory to decode %" PRId64 " tokens", count);
    for (int64_t i = 0; i < count; i++) {
        const char *piece = text_of(bpe, ids[i], &n);
        if (piece && n)
            memcpy(*text + *size, piece, n);
        *size += piece ? n : 0;
    }
    (*text)[*size] = 0;
    return NB_OK;
}
