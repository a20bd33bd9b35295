/* tokenizer.c: bytes, SentencePiece and byte-level BPE behind one interface; long texts cut and encoded in parallel. */
#include "tokenizer.h"
#include "bpe.h"
#include "files/file.h"
#include "sentencepiece.h"
#include "sentencepiece_check.h"
#include "tokenizer_files.h"
#include "tokenizer_kept.h"
#include "utf8.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
    BYTES_END = 256, /* end-of-text of the bytes tokenizer */
    SEGMENT = 1 << 16,
    BEHIND = 128 /* bytes that are looked at behind a part: a character, or an added token */
};

struct ni_tokenizer {
    ni_sp *sp;   /* one of these two; both NULL: bytes */
    ni_bpe *bpe; /* its tokenizer.json is among the kept files */
    char *model;
    size_t model_size; /* of SentencePiece, else 0 */
    int32_t vocab, end_of_text;
    int32_t begin_of_text;                 /* -1: nothing opens a text */
    int32_t newline_ids[4], newline_count; /* of a lone line break; 0: texts go on without context */
    ni_tokenizer_kept kept;                /* where it came from a folder */
};

/* ---- encoding ---- */

/* Of any script: patterns of byte-level BPE join all of it. */
static bool space_at(const char *text, size_t size, size_t at) {
    return ni_utf8_space(text + at, size - at) > 0;
}

static bool space_before(const char *text, size_t at) {
    for (size_t n = 1; n <= 3 && n <= at; n++)
        if (ni_utf8_space(text + at - n, n) == n)
            return true;
    return false;
}

size_t ni_tokenizer_cut(const char *text, size_t size, size_t limit) {
    if (size <= limit || limit < 4)
        return size;
    for (size_t at = limit; at > limit / 2; at--) /* the lower half is too little to be worth a part */
        if (text[at - 1] == '\n' && !space_at(text, size, at))
            return at;
    for (size_t at = limit - 1; at > limit / 2; at--)
        if (text[at] == ' ' && !space_before(text, at) && !space_at(text, size, at + 1))
            return at;
    size_t at = limit;
    while (at > limit - 3 && ((unsigned char)text[at] & 0xC0) == 0x80)
        at--;
    return at;
}

static nb_status sp_ids(const ni_tokenizer *t, const char *text, size_t size, ni_tokens *out, nb_error *err) {
    char why[NI_SP_WHY];
    int32_t *ids = NULL;
    size_t count = 0;
    if (!ni_sp_encode(t->sp, text, size, &ids, &count, why))
        return nb_fail(err, NB_INTERNAL, "SentencePiece cannot encode a text of %zu bytes: %s", size, why);
    nb_status status = ni_tokens_add(out, ids, (int64_t)count, err);
    free(ids);
    return status;
}

/* The rest of a document: encoded behind a line break, whose own ids (and any marked beginning) are then taken away.
 * `size` bytes of `text` have a line break before them in `behind_newline`. */
static nb_status sp_continue(const ni_tokenizer *t, const char *behind_newline, size_t size, ni_tokens *out,
                             nb_error *err) {
    int64_t begin = out->count, n = t->newline_count;
    NB_TRY(sp_ids(t, behind_newline, size + 1, out, err));
    if (out->count - begin < n || memcmp(out->ids + begin, t->newline_ids, (size_t)n * sizeof *out->ids) != 0) {
        out->count = begin; /* the break merged with what follows */
        return sp_ids(t, behind_newline + 1, size, out, err);
    }
    out->count -= n;
    memmove(out->ids + begin, out->ids + begin + n, (size_t)(out->count - begin) * sizeof *out->ids);
    return NB_OK;
}

/* What is looked at behind a part: whole characters, repaired as well. */
static size_t repair_behind(const char *text, size_t more, char *to) {
    size_t size = more < BEHIND ? more : BEHIND;
    while (size < more && size > BEHIND - 3 && ((unsigned char)text[size] & 0xC0) == 0x80)
        size--;
    return ni_utf8_repair(text, size, to, NULL);
}

static nb_status encode_segment(const ni_tokenizer *t, const char *text, size_t size, size_t more, bool continues,
                                ni_tokens *out, int64_t *invalid, nb_error *err) {
    char *clean = malloc(1 + 3 * (size + BEHIND) + 1);
    if (!clean)
        return nb_fail(err, NB_NO_MEMORY, "no memory to encode %zu bytes", size);
    clean[0] = '\n';
    size_t length = ni_utf8_repair(text, size, clean + 1, invalid);
    nb_status status;
    if (t->bpe)
        status =
            ni_bpe_encode(t->bpe, clean + 1, length, repair_behind(text + size, more, clean + 1 + length), out, err);
    else if (continues && t->newline_count)
        status = sp_continue(t, clean, length, out, err);
    else
        status = sp_ids(t, clean + 1, length, out, err);
    free(clean);
    return status;
}

typedef struct segment {
    const char *text;
    size_t size;
    ni_tokens ids;
    int64_t invalid;
    nb_status status;
    nb_error error;
} segment;

/* Cuts are a function of the text alone, so the threads share out segments and change nothing. */
static nb_status encode_in_parallel(const ni_tokenizer *t, const char *text, size_t size, size_t more, bool continues,
                                    ni_tokens *out, int64_t *invalid, nb_error *err) {
    int64_t count = 0;
    segment *segments = calloc(size / (SEGMENT / 2) + 1, sizeof *segments); /* no cut takes less than half */
    if (!segments)
        return nb_fail(err, NB_NO_MEMORY, "no memory to encode %zu bytes", size);
    for (size_t at = 0; at < size; at += segments[count++].size) {
        segments[count].text = text + at;
        segments[count].size = ni_tokenizer_cut(text + at, size - at, SEGMENT);
    }
#pragma omp parallel for schedule(dynamic, 1) if (count > 1)
    for (int64_t i = 0; i < count; i++) {
        segment *s = &segments[i];
        const size_t behind = (size_t)(text + size - (s->text + s->size)) + more;
        s->status = encode_segment(t, s->text, s->size, behind, continues || i > 0, &s->ids, &s->invalid, &s->error);
    }
    nb_status status = NB_OK;
    for (int64_t i = 0; i < count; i++) {
        if (status == NB_OK && segments[i].status != NB_OK)
            status = nb_fail(err, segments[i].status, "%s", segments[i].error.message);
        if (status == NB_OK)
            status = ni_tokens_add(out, segments[i].ids.ids, segments[i].ids.count, err);
        if (invalid)
            *invalid += segments[i].invalid;
        ni_tokens_free(&segments[i].ids);
    }
    free(segments);
    return status;
}

nb_status ni_tokenizer_encode_part(const ni_tokenizer *t, const char *text, size_t size, size_t more, bool continues,
                                   ni_tokens *out, int64_t *invalid, nb_error *err) {
    if (t->sp || t->bpe)
        return encode_in_parallel(t, text, size, more, continues, out, invalid, err);
    NB_TRY(ni_tokens_reserve(out, (int64_t)size, err));
    for (size_t i = 0; i < size; i++)
        out->ids[out->count++] = (unsigned char)text[i];
    return NB_OK;
}

nb_status ni_tokenizer_encode(const ni_tokenizer *t, const char *text, size_t size, bool continues, ni_tokens *out,
                              int64_t *invalid, nb_error *err) {
    return ni_tokenizer_encode_part(t, text, size, 0, continues, out, invalid, err);
}

nb_status ni_tokenizer_decode(const ni_tokenizer *t, const int32_t *ids, int64_t count, char **text, size_t *size,
                              nb_error *err) {
    *text = NULL;
    *size = 0;
    for (int64_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= t->vocab)
            return nb_fail(err, NB_BAD_USAGE, "token %" PRId32 " is not in the tokenizer's vocabulary of %" PRId32,
                           ids[i], t->vocab);
    char why[NI_SP_WHY];
    if (t->bpe)
        return ni_bpe_decode(t->bpe, ids, count, text, size, err);
    if (t->sp) {
        if (!ni_sp_decode(t->sp, ids, (size_t)count, text, size, why))
            return nb_fail(err, NB_INTERNAL, "SentencePiece cannot decode %" PRId64 " tokens: %s", count, why);
        return NB_OK;
    }
    *text = malloc((size_t)count + 1);
    if (!*text)
        return nb_fail(err, NB_NO_MEMORY, "no memory to decode %" PRId64 " tokens", count);
    for (int64_t i = 0; i < count; i++)
        if (ids[i] < BYTES_END)
            (*text)[(*size)++] = (char)ids[i];
    (*text)[*size] = 0;
    return NB_OK;
}

/* ---- what it is ---- */

const char *ni_tokenizer_kind(const ni_tokenizer *tokenizer) {
    return tokenizer->sp ? "sentencepiece" : tokenizer->bpe ? "bpe" : "bytes";
}

int32_t ni_tokenizer_vocab(const ni_tokenizer *tokenizer) {
    return tokenizer->vocab;
}

int32_t ni_tokenizer_end_of_text(const ni_tokenizer *tokenizer) {
    return tokenizer->end_of_text;
}

int32_t ni_tokenizer_begin_of_text(const ni_tokenizer *tokenizer) {
    return tokenizer->begin_of_text;
}

const struct ni_sp *ni_tokenizer_sp(const ni_tokenizer *tokenizer, const void **model, size_t *size) {
    *model = tokenizer->model;
    *size = tokenizer->model_size;
    return tokenizer->sp;
}

void ni_tokenizer_free(ni_tokenizer *tokenizer) {
    if (!tokenizer)
        return;
    ni_sp_free(tokenizer->sp);
    ni_bpe_free(tokenizer->bpe);
    free(tokenizer->model);
    ni_kept_free(&tokenizer->kept);
    free(tokenizer);
}

/* ---- loading ---- */

/* Whether texts may be continued behind a line break: tried on a few, since only the model knows its normalisation. */
static bool continues_behind_newline(ni_tokenizer *t) {
    static const char *const rests[] = {"Three 4 five.\n", "\"quoted\" \xc3\xa9\n\n", "a  b"};
    bool same = true;
    for (size_t i = 0; same && i < sizeof rests / sizeof rests[0]; i++) {
        char whole[64];
        ni_tokens joint = {0}, parts = {0};
        snprintf(whole, sizeof whole, "one two.\n%s", rests[i]);
        same = sp_ids(t, whole, strlen(whole), &joint, NULL) == NB_OK && sp_ids(t, whole, 9, &parts, NULL) == NB_OK &&
               sp_continue(t, whole + 8, strlen(rests[i]), &parts, NULL) == NB_OK && joint.count == parts.count &&
               memcmp(joint.ids, parts.ids, (size_t)joint.count * sizeof *joint.ids) == 0;
        ni_tokens_free(&joint);
        ni_tokens_free(&parts);
    }
    return same;
}

static void learn_newline(ni_tokenizer *t) {
    ni_tokens ids = {0};
    const int64_t most = sizeof t->newline_ids / sizeof t->newline_ids[0];
    if (sp_ids(t, "\n", 1, &ids, NULL) == NB_OK && ids.count > 0 && ids.count <= most) {
        memcpy(t->newline_ids, ids.ids, (size_t)ids.count * sizeof *ids.ids);
        t->newline_count = (int32_t)ids.count;
        if (!continues_behind_newline(t))
            t->newline_count = 0;
    }
    ni_tokens_free(&ids);
}

static int32_t id_of(const ni_tokenizer *t, const char *piece) {
    return t->bpe ? ni_bpe_id(t->bpe, piece) : ni_sp_id(t->sp, piece);
}

static const char *text_of(const ni_tokenizer *t, int32_t id) {
    return t->bpe ? ni_bpe_added(t->bpe, id) : ni_sp_piece(t->sp, id);
}

static nb_status find_end_of_text(ni_tokenizer *t, nb_error *err) {
    static const char *const names[] = {"</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>"};
    const ni_kept_file *config = ni_kept_find(&t->kept, NI_TOKENIZER_CONFIG);
    char piece[NI_PIECE_ROOM];
    t->end_of_text = t->sp                                                ? ni_sp_end_id(t->sp)
                     : ni_config_ends(config->bytes, config->size, piece) ? id_of(t, piece)
                                                                          : -1;
    for (size_t i = 0; t->end_of_text < 0 && i < sizeof names / sizeof names[0]; i++)
        t->end_of_text = id_of(t, names[i]);
    if (t->bpe && !text_of(t, t->end_of_text))
        return nb_fail(err, NB_BAD_FILE,
                       "tokenizer.json has no end-of-text among its added tokens, expected the eos_token of "
                       "tokenizer_config.json, or one named <|endoftext|>, <|end_of_text|>, </s> or <eos>");
    if (t->end_of_text < 0 || t->end_of_text >= t->vocab)
        return nb_fail(err, NB_BAD_FILE, "the SentencePiece model has no end-of-text piece, expected one named </s>");
    t->begin_of_text = t->end_of_text;
    return NB_OK;
}

nb_status ni_tokenizer_parse(const void *model, size_t size, ni_tokenizer **out, nb_error *err) {
    char why[NI_SP_WHY];
    *out = NULL;
    NB_TRY(ni_sp_check(model, size, err));
    ni_tokenizer *t = calloc(1, sizeof *t);
    if (t)
        t->model = malloc(size + 1);
    if (!t || !t->model) {
        ni_tokenizer_free(t);
        return nb_fail(err, NB_NO_MEMORY, "no memory for a tokenizer of %zu bytes", size);
    }
    if (size)
        memcpy(t->model, model, size);
    t->model_size = size;
    nb_status status = NB_OK;
    t->sp = ni_sp_load(t->model, size, why);
    if (!t->sp)
        status = nb_fail(err, NB_BAD_FILE, "not a SentencePiece model: %s", why);
    if (status == NB_OK) {
        t->vocab = ni_sp_pieces(t->sp);
        status = find_end_of_text(t, err);
    }
    if (status != NB_OK) {
        ni_tokenizer_free(t);
        return status;
    }
    learn_newline(t);
    *out = t;
    return NB_OK;
}

static nb_status make_bytes(ni_tokenizer **out, nb_error *err) {
    *out = calloc(1, sizeof **out);
    if (!*out)
        return nb_fail(err, NB_NO_MEMORY, "no memory for a tokenizer");
    (*out)->vocab = BYTES_END + 1;
    (*out)->end_of_text = (*out)->begin_of_text = BYTES_END;
    return NB_OK;
}

/* Takes over the files. Folders of another maker say what opens a text: their tokenizer.json, which transformers
 * believes before the other file and into which version 5 moves add_bos_token when it saves, else their
 * tokenizer_config.json. */
static void find_begin_of_text(ni_tokenizer *t) {
    const ni_kept_file *config = ni_kept_find(&t->kept, NI_TOKENIZER_CONFIG),
                       *fast = ni_kept_find(&t->kept, NI_TOKENIZER_JSON);
    char piece[NI_PIECE_ROOM];
    if ((!t->sp && !t->bpe) || ni_is_own_config(config->bytes, config->size))
        return;
    if (!ni_json_opens(fast->bytes, fast->size, piece)) {
        if (!config->bytes)
            return;
        ni_config_opens(config->bytes, config->size, piece);
    }
    t->begin_of_text = *piece ? id_of(t, piece) : -1;
}

/* From the tokenizer.json among `kept`, which it takes over and empties. One without tokenizer_config.json gets it. */
static nb_status make_bpe(ni_tokenizer_kept *kept, bool own, ni_tokenizer **out, nb_error *err) {
    const ni_kept_file *json = ni_kept_find(kept, NI_TOKENIZER_JSON);
    ni_tokenizer *t = calloc(1, sizeof *t);
    if (!t)
        return nb_fail(err, NB_NO_MEMORY, "no memory for a tokenizer");
    nb_status status = ni_bpe_parse(json->bytes, json->size, &t->bpe, err);
    if (status == NB_OK) {
        t->kept = *kept;
        *kept = (ni_tokenizer_kept){0};
        t->vocab = ni_bpe_vocab(t->bpe);
        status = find_end_of_text(t, err);
    }
    if (status == NB_OK && !t->kept.files[NI_KEPT_CONFIG].bytes) {
        char *config = ni_bpe_config_json(text_of(t, t->end_of_text), own);
        if (config)
            ni_kept_replace(&t->kept.files[NI_KEPT_CONFIG], config);
        else
            status = nb_fail(err, NB_NO_MEMORY, "no memory for the files of a tokenizer");
    }
    if (status != NB_OK) {
        ni_tokenizer_free(t);
        return status;
    }
    find_begin_of_text(t);
    *out = t;
    return NB_OK;
}

nb_status ni_tokenizer_from_json(char *json, ni_tokenizer **out, nb_error *err) {
    ni_tokenizer_kept kept = {0};
    *out = NULL;
    ni_kept_replace(&kept.files[NI_KEPT_JSON], json);
    nb_status status = make_bpe(&kept, true, out, err);
    ni_kept_free(&kept);
    return status;
}

static nb_status load_file(const char *path, ni_tokenizer **out, nb_error *err) {
    char *bytes;
    size_t size, at = 0;
    NB_TRY(ni_file_read(path, NI_KEPT_LIMIT, &bytes, &size, err));
    while (at < size && (bytes[at] == ' ' || bytes[at] == '\n' || bytes[at] == '\t' || bytes[at] == '\r'))
        at++;
    nb_status status;
    if (at < size && bytes[at] == '{') { /* no SentencePiece model begins so: its first field is number 1 */
        ni_tokenizer_kept kept = {0};
        kept.files[NI_KEPT_JSON] = (ni_kept_file){bytes, size};
        status = make_bpe(&kept, false, out, err);
        ni_kept_free(&kept);
    } else {
        status = ni_tokenizer_parse(bytes, size, out, err);
        free(bytes);
    }
    return status == NB_OK ? NB_OK : nb_fail_within(err, "%s", path);
}

/* What the files of a folder make; takes them over where it can. */
static nb_status make_from(ni_tokenizer_kept *kept, const char *folder, ni_tokenizer **out, nb_error *err) {
    const ni_kept_file *model = ni_kept_find(kept, NI_TOKENIZER_MODEL),
                       *config = ni_kept_find(kept, NI_TOKENIZER_CONFIG);
    if (model->bytes) {
        if (ni_tokenizer_parse(model->bytes, model->size, out, err) != NB_OK)
            return nb_fail_within(err, "%s/" NI_TOKENIZER_MODEL, folder);
    } else if (ni_is_bytes_config(config->bytes, config->size)) {
        NB_TRY(make_bytes(out, err));
    } else if (ni_kept_find(kept, NI_TOKENIZER_JSON)->bytes) {
        return make_bpe(kept, false, out, err) == NB_OK ? NB_OK : nb_fail_within(err, "%s/" NI_TOKENIZER_JSON, folder);
    } else {
        return nb_fail(err, NB_BAD_FILE,
                       "%s: no tokenizer that nibble reads, expected tokenizer.model (SentencePiece), tokenizer.json "
                       "(byte-level BPE) or a folder that nibble wrote",
                       folder);
    }
    (*out)->kept = *kept;
    *kept = (ni_tokenizer_kept){0};
    find_begin_of_text(*out);
    return NB_OK;
}

static nb_status load_folder(const char *folder, ni_tokenizer **out, nb_error *err) {
    ni_tokenizer_kept kept = {0};
    nb_status status = ni_kept_read(folder, &kept, err);
    if (status == NB_OK)
        status = make_from(&kept, folder, out, err);
    ni_kept_free(&kept);
    return status;
}

nb_status ni_tokenizer_load(const char *name, ni_tokenizer **out, nb_error *err) {
    struct stat st;
    *out = NULL;
    if (strcmp(name, "bytes") == 0)
        return make_bytes(out, err);
    if (stat(name, &st) != 0)
        return nb_fail(err, NB_IO_ERROR,
                       "%s: no such tokenizer, expected \"bytes\", a SentencePiece model, a tokenizer.json or a folder",
                       name);
    if (S_ISDIR(st.st_mode))
        return load_folder(name, out, err);
    return load_file(name, out, err);
}

bool ni_tokenizer_equal(const ni_tokenizer *a, const ni_tokenizer *b) {
    if (a->bpe || b->bpe)
        return a->bpe && b->bpe && ni_bpe_equal(a->bpe, b->bpe);
    return a->model_size == b->model_size && (!a->sp || memcmp(a->model, b->model, a->model_size) == 0);
}

/* ---- saving ---- */

static nb_status write_in(const char *folder, const char *name, const char *bytes, size_t size, nb_error *err) {
    char path[4096];
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path)
        return nb_fail(err, NB_BAD_USAGE, "%s: the name is too long", folder);
    return ni_file_write(path, bytes, size, err);
}

static nb_status write_made(const char *folder, const char *name, char *json, nb_error *err) {
    if (!json)
        return nb_fail(err, NB_NO_MEMORY, "%s/%s: no memory to write a tokenizer", folder, name);
    nb_status status = write_in(folder, name, json, strlen(json), err);
    free(json);
    return status;
}

nb_status ni_tokenizer_open_with_end(ni_tokenizer *t, nb_error *err) {
    if (t->begin_of_text == t->end_of_text)
        return NB_OK;
    ni_kept_file *config = &t->kept.files[NI_KEPT_CONFIG], *fast = &t->kept.files[NI_KEPT_JSON];
    const char *end = text_of(t, t->end_of_text);
    char *opening = ni_config_opening_with(config->bytes, config->size, end);
    if (!opening)
        return nb_fail(err, NB_NO_MEMORY, "no memory for the files of a tokenizer");
    ni_kept_replace(config, opening);
    char *processing = fast->bytes ? ni_json_opening_with(fast->bytes, fast->size, end, t->end_of_text) : NULL;
    if (processing)
        ni_kept_replace(fast, processing);
    t->begin_of_text = t->end_of_text;
    return NB_OK;
}

/* Files of our own are made anew: what earlier versions wrote left out what opens a text. */
nb_status ni_tokenizer_save(const ni_tokenizer *t, const char *folder, nb_error *err) {
    const ni_kept_file *kept_config = ni_kept_find(&t->kept, NI_TOKENIZER_CONFIG);
    bool own = !t->bpe && ni_is_own_config(kept_config->bytes, kept_config->size);
    NB_TRY(ni_kept_write(&t->kept, folder, err));
    if (t->sp)
        NB_TRY(write_in(folder, NI_TOKENIZER_MODEL, t->model, t->model_size, err));
    if (!own && ni_kept_count(&t->kept) > (t->sp != NULL))
        return NB_OK;
    if (!t->sp)
        NB_TRY(write_made(folder, NI_TOKENIZER_JSON, ni_bytes_tokenizer_json(), err));
    char *config = t->sp ? ni_sentencepiece_config_json(ni_sp_piece(t->sp, t->end_of_text)) : ni_bytes_config_json();
    return write_made(folder, NI_TOKENIZER_CONFIG, config, err);
}
