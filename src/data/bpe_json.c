/* bpe_json.c: tokenizer.json -> words, merges, patterns, added tokens. What would give other ids than the file means is
 * refused by name. */
#include "bpe_model.h"
#include "compose.h"

#include "files/json.h"
#include "tokenizer_files.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { MOST_TEXT = 4096 };

/* ---- words ---- */

/* Byte-level BPE spells bytes as characters below U+0144. */
typedef struct spelling {
    int16_t byte[0x144]; /* -1: spells none */
} spelling;

static void learn_spelling(spelling *s) {
    memset(s->byte, 0xFF, sizeof s->byte);
    for (int byte = 0; byte < 256; byte++) {
        char name[3];
        ni_name_of_byte(byte, name);
        const unsigned char *c = (const unsigned char *)name;
        s->byte[c[0] < 0x80 ? c[0] : (c[0] & 0x1F) << 6 | (c[1] & 0x3F)] = (int16_t)byte;
    }
}

/* The bytes that a word spells; false if it spells none, and then `to` is the word itself. `to` has room for it. */
static bool spell(const spelling *s, const char *word, size_t size, char *to, size_t *used) {
    const unsigned char *c = (const unsigned char *)word;
    *used = 0;
    for (size_t i = 0; i < size; i++) {
        unsigned code = c[i];
        if (code >= 0x80)
            code = (code & 0xE0) == 0xC0 && i + 1 < size ? (code & 0x1Fu) << 6 | (c[++i] & 0x3F) : 0x144;
        if (code >= 0x144 || s->byte[code] < 0) {
            memcpy(to, word, size);
            *used = size;
            return false;
        }
        to[(*used)++] = (char)s->byte[code];
    }
    return true;
}

static nb_status id_of(const char *text, const json_t *value, int32_t *id, nb_error *err) {
    const json_int_t given = json_is_integer(value) ? json_integer_value(value) : -1;
    if (!text || given < 0 || given >= NI_BYTE_PAIRS_MOST)
        return nb_fail(err, NB_BAD_FILE, "token '%.40s' has no id, expected 0 to %d", text ? text : "",
                       NI_BYTE_PAIRS_MOST - 1);
    *id = (int32_t)given;
    return NB_OK;
}

static nb_status count_ids(const json_t *vocab, const json_t *added, int32_t *ids, nb_error *err) {
    const char *word;
    json_t *value;
    size_t i;
    int32_t id;
    json_object_foreach((json_t *)(uintptr_t)vocab, word, value) {
        NB_TRY(id_of(word, value, &id, err));
        *ids = id >= *ids ? id + 1 : *ids;
    }
    json_array_foreach(added, i, value) {
        NB_TRY(id_of(json_string_value(json_object_get(value, "content")), json_object_get(value, "id"), &id, err));
        *ids = id >= *ids ? id + 1 : *ids;
    }
    return NB_OK;
}

static nb_status read_words(const json_t *vocab, const spelling *s, ni_byte_pairs *pairs, nb_error *err) {
    const char *word;
    json_t *value;
    char bytes[MOST_TEXT];
    json_object_foreach((json_t *)(uintptr_t)vocab, word, value) {
        size_t used;
        if (strlen(word) > sizeof bytes)
            return nb_fail(err, NB_BAD_FILE, "word '%.40s...' is longer than %zu bytes", word, sizeof bytes);
        const bool reachable = spell(s, word, strlen(word), bytes, &used);
        NB_TRY(ni_byte_pairs_add(pairs, bytes, used, !reachable, (int32_t)json_integer_value(value), err));
    }
    return ni_byte_pairs_check(pairs, err);
}

/* ---- merges ---- */

/* Both forms: ["a", "b"], and "a b" of older files. */
static bool parts_of(const json_t *merge, const char **left, size_t *left_size, const char **right,
                     size_t *right_size) {
    const char *whole = json_string_value(merge), *space = whole ? strchr(whole, ' ') : NULL;
    if (whole) {
        if (!space || strchr(space + 1, ' '))
            return false;
        *left = whole;
        *left_size = (size_t)(space - whole);
        *right = space + 1;
        *right_size = strlen(space + 1);
        return true;
    }
    const json_t *a = json_array_get(merge, 0), *b = json_array_get(merge, 1);
    *left = json_string_value(a);
    *right = json_string_value(b);
    *left_size = json_string_length(a);
    *right_size = json_string_length(b);
    return json_array_size(merge) == 2 && *left && *right;
}

static int32_t id_of_word(const spelling *s, const ni_byte_pairs *pairs, const char *word, size_t size) {
    char bytes[2 * MOST_TEXT];
    size_t used;
    const bool reachable = spell(s, word, size, bytes, &used);
    return ni_byte_pairs_id(pairs, bytes, used, !reachable);
}

static nb_status read_merges(const json_t *merges, const spelling *s, ni_byte_pairs *pairs, nb_error *err) {
    size_t i;
    json_t *merge;
    json_array_foreach(merges, i, merge) {
        const char *left, *right;
        size_t left_size, right_size;
        char joined[2 * MOST_TEXT];
        if (!parts_of(merge, &left, &left_size, &right, &right_size) || left_size > MOST_TEXT || right_size > MOST_TEXT)
            return nb_fail(err, NB_BAD_FILE, "merge %zu is no pair of words, expected [\"a\", \"b\"] or \"a b\"", i);
        memcpy(joined, left, left_size);
        memcpy(joined + left_size, right, right_size);
        const int32_t a = id_of_word(s, pairs, left, left_size), b = id_of_word(s, pairs, right, right_size),
                      c = id_of_word(s, pairs, joined, left_size + right_size);
        if (a < 0 || b < 0 || c < 0)
            return nb_fail(err, NB_BAD_FILE,
                           "merge %zu joins '%.40s' and '%.40s', expected words of the vocabulary that "
                           "give one of it",
                           i, left, right);
        ni_byte_pairs_merge(pairs, a, b, c);
    }
    return NB_OK;
}

static bool is_empty(const json_t *value) {
    return !value || json_is_null(value) || json_is_false(value) ||
           (json_is_string(value) && !*json_string_value(value)) ||
           (json_is_number(value) && json_number_value(value) == 0);
}

static nb_status read_model(const json_t *model, const json_t *added, struct ni_bpe *bpe, nb_error *err) {
    static const char *const others[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"};
    const json_t *vocab = json_object_get(model, "vocab"), *merges = json_object_get(model, "merges");
    const char *type = json_string_value(json_object_get(model, "type"));
    if ((type && strcmp(type, "BPE") != 0) || !json_is_object(vocab) ||
        !json_is_array(merges)) /* older files: no type */
        return nb_fail(err, NB_UNSUPPORTED, "model: %.40s is not read, expected BPE with vocab and merges",
                       type ? type : "none");
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (!is_empty(json_object_get(model, others[i])))
            return nb_fail(err, NB_UNSUPPORTED, "model: %s is not read, expected byte-level BPE without it", others[i]);
    spelling s;
    learn_spelling(&s);
    NB_TRY(count_ids(vocab, added, &bpe->vocab, err));
    NB_TRY(ni_byte_pairs_create(bpe->vocab, json_object_size(vocab), json_array_size(merges), &bpe->pairs, err));
    NB_TRY(read_words(vocab, &s, bpe->pairs, err));
    bpe->whole_words = json_is_true(json_object_get(model, "ignore_merges"));
    return read_merges(merges, &s, bpe->pairs, err);
}

/* ---- the rest ---- */

static nb_status read_normalizer(const json_t *normalizer, int depth, bool *nfc, nb_error *err) {
    const char *type = json_string_value(json_object_get(normalizer, "type"));
    if (!normalizer || json_is_null(normalizer))
        return NB_OK;
    if (type && strcmp(type, "Sequence") == 0 && depth < 4) {
        size_t i;
        json_t *part;
        json_array_foreach(json_object_get(normalizer, "normalizers"), i, part) {
            NB_TRY(read_normalizer(part, depth + 1, nfc, err));
        }
        return NB_OK;
    }
    if (!type || strcmp(type, "NFC") != 0)
        return nb_fail(err, NB_UNSUPPORTED, "normalizer: %.40s is not read, expected NFC or none",
                       type ? type : "none");
    *nfc = true;
    return NB_OK;
}

static bool is_set(const json_t *token, const char *key) {
    return json_is_true(json_object_get(token, key));
}

static nb_status read_added(const json_t *token, struct ni_bpe *bpe, nb_error *err) {
    const json_t *content = json_object_get(token, "content");
    ni_added_token t = {.text = (char *)(uintptr_t)json_string_value(content),
                        .size = json_string_length(content),
                        .id = (int32_t)json_integer_value(json_object_get(token, "id")),
                        .left = is_set(token, "lstrip"),
                        .right = is_set(token, "rstrip"),
                        .special = is_set(token, "special")};
    if (is_set(token, "single_word"))
        return nb_fail(err, NB_UNSUPPORTED, "added token '%.40s' is a single_word, which is not read", t.text);
    if (!is_set(token, "normalized"))
        return ni_added_tokens_put(&bpe->raw, t, err);
    char *composed = NULL;
    if (bpe->nfc)
        NB_TRY(ni_compose(t.text, t.size, &composed, &t.size, err));
    t.text = composed ? composed : t.text;
    nb_status status = ni_added_tokens_put(&bpe->normalized, t, err);
    free(composed);
    return status;
}

/* One of the vocabulary has one id. */
static nb_status check_added(const json_t *token, const spelling *s, const ni_byte_pairs *pairs, nb_error *err) {
    const json_t *content = json_object_get(token, "content");
    const json_int_t id = json_integer_value(json_object_get(token, "id"));
    const size_t size = json_string_length(content);
    const int32_t word = size <= MOST_TEXT ? id_of_word(s, pairs, json_string_value(content), size) : -1;
    if (size > MOST_TEXT || (word >= 0 && word != id))
        return nb_fail(err, NB_BAD_FILE,
                       "added token '%.40s' of %zu bytes has id %" PRId32 " in the vocabulary and %lld "
                       "here; expected one id, and at most %d bytes",
                       json_string_value(content), size, word, (long long)id, MOST_TEXT);
    return NB_OK;
}

static int feed(const char *piece, size_t size, void *state) {
    return XXH3_64bits_update(state, piece, size) == XXH_OK ? 0 : -1;
}

static nb_status take_digest(const json_t *root, uint64_t *digest, nb_error *err) {
    static const char *const parts[] = {"added_tokens", "normalizer", "pre_tokenizer", "model"};
    XXH3_state_t *state = XXH3_createState();
    bool fed = state && XXH3_64bits_reset(state) == XXH_OK;
    for (size_t i = 0; fed && i < sizeof parts / sizeof parts[0]; i++) {
        const json_t *part = json_object_get(root, parts[i]);
        fed = feed(parts[i], strlen(parts[i]), state) == 0 &&
              (!part || json_dump_callback(part, feed, state, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY) == 0);
    }
    *digest = fed ? XXH3_64bits_digest(state) : 0;
    XXH3_freeState(state);
    return fed ? NB_OK : nb_fail(err, NB_NO_MEMORY, "no memory for a tokenizer");
}

static nb_status read_root(const json_t *root, struct ni_bpe *bpe, nb_error *err) {
    const json_t *added = json_object_get(root, "added_tokens");
    size_t i;
    json_t *token;
    NB_TRY(read_model(json_object_get(root, "model"), added, bpe, err));
    NB_TRY(read_normalizer(json_object_get(root, "normalizer"), 0, &bpe->nfc, err));
    NB_TRY(ni_pretokenizer_read(json_object_get(root, "pre_tokenizer"), &bpe->pre, err));
    spelling s;
    learn_spelling(&s);
    json_array_foreach(added, i, token) {
        NB_TRY(check_added(token, &s, bpe->pairs, err));
        NB_TRY(read_added(token, bpe, err));
    }
    return take_digest(root, &bpe->digest, err);
}

nb_status ni_bpe_read(const char *json, size_t size, struct ni_bpe *bpe, nb_error *err) {
    json_error_t where;
    json_t *root = ni_json_load(json, size, &where);
    if (!root)
        return nb_fail(err, NB_BAD_FILE, "line %d: %.120s", where.line, where.text);
    nb_status status = read_root(root, bpe, err);
    json_decref(root);
    return status;
}
