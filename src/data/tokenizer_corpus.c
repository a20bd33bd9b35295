/* tokenizer_corpus.c: texts to token shards.
 *
 * Documents are cut into units of at most 64 KiB, which is what threads share out and what validation is made of. A
 * batch of units is encoded in parallel, then written in order.
 */
#include "tokenizer_corpus.h"
#include "files/file.h"
#include "files/json.h"
#include "shard.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { UNIT_MOST = 1 << 16, UNIT_LEAST = 1 << 12, UNIT_OF_SMALL = 64, BATCH_UNITS = 256, PATH_ROOM = 4096 };

/* A piece of a document. */
typedef struct unit {
    ni_text text;
    bool val;       /* which side it goes to */
    bool continues; /* the same side has the piece before it */
    size_t more;    /* bytes of the document that the same side has behind it */
    ni_tokens ids;
    int64_t invalid;
    nb_status status;
    nb_error error;
} unit;

/* The shards of one side. */
typedef struct side {
    const char *name;
    ni_shard_writer *writer; /* NULL: none is open */
    int64_t in_shard;
    ni_corpus_side counts;
} side;

typedef struct corpus {
    const ni_tokenizer *tokenizer;
    const ni_corpus_options *options;
    const char *folder;
    size_t unit_bytes;
    int64_t total, done;    /* bytes: of all texts, written */
    int64_t seen, seen_val; /* bytes: given to units, to validation's */
    int64_t seen_units;
    bool last_val; /* side of the unit before */
    int32_t units;
    unit *batch; /* [BATCH_UNITS] */
    side train, val;
    int64_t invalid;
} corpus;

/* ---- shards ---- */

static nb_status close_shard(side *s, nb_error *err) {
    ni_shard_writer *writer = s->writer;
    s->writer = NULL;
    s->in_shard = 0;
    return writer ? ni_shard_writer_commit(writer, err) : NB_OK;
}

static nb_status put_tokens(corpus *c, side *s, const int32_t *ids, int64_t count, nb_error *err) {
    const int32_t width = ni_tokenizer_vocab(c->tokenizer) <= 65536 ? 2 : 4;
    while (count > 0) {
        if (!s->writer) {
            char path[PATH_ROOM];
            snprintf(path, sizeof path, "%s/%s_%06" PRId64 ".bin", c->folder, s->name, s->counts.shards++);
            NB_TRY(ni_shard_writer_open(path, width, &s->writer, err));
        }
        int64_t room = c->options->shard_tokens - s->in_shard, n = count < room ? count : room;
        NB_TRY(ni_shard_writer_put(s->writer, ids, n, err));
        s->in_shard += n;
        s->counts.tokens += n;
        ids += n;
        count -= n;
        if (s->in_shard == c->options->shard_tokens)
            NB_TRY(close_shard(s, err));
    }
    return NB_OK;
}

static nb_status end_document(corpus *c, side *s, nb_error *err) {
    const int32_t end = ni_tokenizer_end_of_text(c->tokenizer);
    s->counts.documents++;
    return put_tokens(c, s, &end, 1, err);
}

static nb_status write_unit(corpus *c, unit *u, nb_error *err) {
    side *s = u->val ? &c->val : &c->train;
    if (u->status != NB_OK)
        return nb_fail(err, u->status, "%s", u->error.message);
    if (!u->continues && s->counts.tokens > 0)
        NB_TRY(end_document(c, s, err));
    NB_TRY(put_tokens(c, s, u->ids.ids, u->ids.count, err));
    s->counts.bytes += (int64_t)u->text.size;
    c->invalid += u->invalid;
    c->done += (int64_t)u->text.size;
    return NB_OK;
}

/* ---- units ---- */

static nb_status flush(corpus *c, nb_error *err) {
    const int32_t n = c->units;
    nb_status status = NB_OK;
#pragma omp parallel for schedule(dynamic, 1)
    for (int32_t i = 0; i < n; i++) {
        unit *u = &c->batch[i];
        u->ids.count = 0;
        u->invalid = 0;
        u->status = ni_tokenizer_encode_part(c->tokenizer, u->text.bytes, u->text.size, u->more, u->continues, &u->ids,
                                             &u->invalid, &u->error);
    }
    for (int32_t i = 0; status == NB_OK && i < n; i++)
        status = write_unit(c, &c->batch[i], err);
    c->units = 0;
    if (status == NB_OK && c->options->progress &&
        !c->options->progress(c->options->progress_context, c->done, c->total))
        status = nb_fail(err, NB_INTERRUPTED, "stopped after %" PRId64 " of %" PRId64 " bytes; nothing was kept",
                         c->done, c->total);
    return status;
}

/* Validation takes a unit whenever it lags behind its share of the bytes before by a twentieth of a mean unit, so that
 * small texts give it one too. The unit's own size has no say: else short documents would be preferred, and validation
 * would not be like training. */
static bool take_for_val(corpus *c, size_t size) {
    double behind = c->options->val_share * (double)c->seen - (double)c->seen_val;
    bool val = c->seen > 0 && behind >= 0.05 * (double)c->seen / (double)c->seen_units;
    c->seen += (int64_t)size;
    c->seen_units++;
    c->seen_val += val ? (int64_t)size : 0;
    return val;
}

static nb_status add_document(corpus *c, const ni_text *document, nb_error *err) {
    for (size_t at = 0, n; at < document->size; at += n) {
        n = ni_tokenizer_cut(document->bytes + at, document->size - at, c->unit_bytes);
        bool val = take_for_val(c, n);
        const bool continues = at > 0 && val == c->last_val;
        if (continues) /* what is before it is still there: a full batch waits for what comes next */
            c->batch[c->units - 1].more = n;
        if (c->units == BATCH_UNITS)
            NB_TRY(flush(c, err));
        unit *u = &c->batch[c->units++];
        u->text = (ni_text){document->bytes + at, n};
        u->val = val;
        u->continues = continues;
        u->more = 0;
        c->last_val = val;
    }
    return NB_OK;
}

static nb_status fail_without_validation(int64_t total, double share, nb_error *err) {
    return nb_fail(err, NB_BAD_FILE,
                   "%" PRId64 " bytes of text are too few to set %g of them aside for validation; give more text, a "
                   "larger share, or no validation share",
                   total, share);
}

static nb_status write_all(corpus *c, const ni_text *texts, int32_t count, nb_error *err) {
    for (int32_t i = 0; i < count; i++) {
        ni_document_reader reader = ni_documents(&texts[i]);
        ni_text document;
        while (ni_document_next(&reader, c->options, &document))
            NB_TRY(add_document(c, &document, err));
    }
    NB_TRY(flush(c, err));
    side *const sides[] = {&c->train, &c->val};
    for (int i = 0; i < 2; i++) {
        if (sides[i]->counts.tokens > 0)
            NB_TRY(end_document(c, sides[i], err));
        NB_TRY(close_shard(sides[i], err));
    }
    if (c->train.counts.tokens == 0)
        return nb_fail(err, NB_BAD_FILE, "the text is empty: there is nothing to tokenize");
    if (c->options->val_share > 0 && c->val.counts.tokens == 0)
        return fail_without_validation(c->total, c->options->val_share, err);
    return NB_OK;
}

static int64_t between(int64_t least, int64_t value, int64_t most) {
    return value < least ? least : value > most ? most : value;
}

/* Small units of small texts, so that a small share is spread, too; of the smallest, so that there is one to set aside.
 */
static void measure(corpus *c, const ni_text *texts, int32_t count) {
    for (int32_t i = 0; i < count; i++)
        c->total += (int64_t)texts[i].size;
    const int64_t least = between(UNIT_OF_SMALL, c->total / 20, UNIT_LEAST);
    c->unit_bytes = (size_t)between(least, c->total / 2000, UNIT_MOST);
}

nb_status ni_corpus_check(const ni_text *texts, int32_t count, const ni_corpus_options *options, nb_error *err) {
    corpus c = {.options = options};
    measure(&c, texts, count);
    for (int32_t i = 0; i < count && options->val_share > 0; i++) {
        ni_document_reader reader = ni_documents(&texts[i]);
        ni_text document;
        while (ni_document_next(&reader, options, &document))
            for (size_t at = 0, n; at < document.size; at += n) {
                n = ni_tokenizer_cut(document.bytes + at, document.size - at, c.unit_bytes);
                if (take_for_val(&c, n))
                    return NB_OK;
            }
    }
    return options->val_share > 0 ? fail_without_validation(c.total, options->val_share, err) : NB_OK;
}

/* ---- meta.json ---- */

static json_t *describe_side(const ni_corpus_side *s) {
    return json_pack("{s:I, s:I, s:I, s:I}", "tokens", (json_int_t)s->tokens, "documents", (json_int_t)s->documents,
                     "bytes", (json_int_t)s->bytes, "shards", (json_int_t)s->shards);
}

static nb_status write_meta(const corpus *c, nb_error *err) {
    char path[PATH_ROOM];
    snprintf(path, sizeof path, "%s/meta.json", c->folder);
    json_t *meta =
        json_pack("{s:s, s:s, s:i, s:i, s:s, s:f, s:I, s:o, s:o}", "format", "nibble tokens 1", "tokenizer",
                  ni_tokenizer_kind(c->tokenizer), "vocab", (int)ni_tokenizer_vocab(c->tokenizer), "end_of_text",
                  (int)ni_tokenizer_end_of_text(c->tokenizer), "split", ni_split_name(c->options->split), "val_share",
                  c->options->val_share, "invalid_utf8", (json_int_t)c->invalid, "train",
                  describe_side(&c->train.counts), "val", describe_side(&c->val.counts));
    char *text = ni_json_text(meta, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
    json_decref(meta);
    if (!text)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory to write it", path);
    nb_status status = ni_file_write(path, text, strlen(text), err);
    free(text);
    return status;
}

nb_status ni_corpus_write(const ni_tokenizer *tokenizer, const ni_text *texts, int32_t count, const char *folder,
                          const ni_corpus_options *options, ni_corpus_counts *counts, nb_error *err) {
    corpus c = {.tokenizer = tokenizer,
                .options = options,
                .folder = folder,
                .train = {.name = "train"},
                .val = {.name = "val"},
                .batch = calloc(BATCH_UNITS, sizeof(unit))};
    if (!(options->val_share >= 0 && options->val_share < 1) || options->shard_tokens < 1 ||
        options->shard_tokens > INT32_MAX) {
        free(c.batch);
        return nb_fail(err, NB_BAD_USAGE,
                       "a validation share of %g and shards of %" PRId64 " tokens cannot be, expected a share of 0 to "
                       "below 1 and shards of 1 to 2147483647",
                       options->val_share, options->shard_tokens);
    }
    if (!c.batch)
        return nb_fail(err, NB_NO_MEMORY, "no memory to tokenize");
    measure(&c, texts, count);
    nb_status status = write_all(&c, texts, count, err);
    if (status == NB_OK)
        status = ni_tokenizer_save(tokenizer, folder, err);
    if (status == NB_OK)
        status = write_meta(&c, err);
    ni_shard_writer_abandon(c.train.writer);
    ni_shard_writer_abandon(c.val.writer);
    for (int32_t i = 0; i < BATCH_UNITS; i++)
        ni_tokens_free(&c.batch[i].ids);
    free(c.batch);
    *counts = (ni_corpus_counts){c.train.counts, c.val.counts, c.invalid};
    return status;
}
