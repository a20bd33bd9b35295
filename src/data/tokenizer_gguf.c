/* tokenizer_gguf.c: what llama.cpp needs to cut texts as nibble and transformers do.
 *
 *     bytes           its "gpt2": byte-level BPE, with no merges
 *     SentencePiece   its "llama": byte pairs by score, byte fallback; U+2581 is a space
 *     tokenizer.json  its "gpt2", with the merges, and under the name that it has for the pre-tokenizer's pattern
 */
#include "data/tokenizer_gguf.h"
#include "data/sentencepiece.h"
#include "data/sentencepiece_check.h"
#include "data/tokenizer_files.h"
#include "files/json.h"

#include <inttypes.h>
#include <stdio.h>

/* Kinds of tokens by GGUF's numbers; SentencePiece's are the same. */
enum { NORMAL = 1, CONTROL = 3, USER_DEFINED = 4, UNUSED = 5 };

typedef struct token {
    const char *text;
    float score;
    int32_t type;
} token;

static void put_marks(ni_gguf *file, int32_t begin, int32_t end) {
    if (begin >= 0)
        ni_gguf_put_u32(file, "tokenizer.ggml.bos_token_id", (uint32_t)begin);
    if (end >= 0)
        ni_gguf_put_u32(file, "tokenizer.ggml.eos_token_id", (uint32_t)end);
    ni_gguf_put_bool(file, "tokenizer.ggml.add_bos_token", begin >= 0);
    ni_gguf_put_bool(file, "tokenizer.ggml.add_eos_token", false);
}

/* Embeddings beyond the tokenizer's words have names of their own: two tokens of one text would be one. */
static void put_tokens(ni_gguf *file, const token *tokens, int32_t count, bool scored) {
    ni_gguf_begin_texts(file, "tokenizer.ggml.tokens", (uint64_t)count);
    for (int32_t i = 0; i < count; i++) {
        char unused[32];
        snprintf(unused, sizeof unused, "[UNUSED%d]", (int)i);
        const char *text = tokens[i].text ? tokens[i].text : unused;
        ni_gguf_add_text(file, text, strlen(text));
    }
    if (scored) {
        ni_gguf_begin_floats(file, "tokenizer.ggml.scores", (uint64_t)count);
        for (int32_t i = 0; i < count; i++)
            ni_gguf_add_float(file, tokens[i].text ? tokens[i].score : -10000.0f);
    }
    ni_gguf_begin_ints(file, "tokenizer.ggml.token_type", (uint64_t)count);
    for (int32_t i = 0; i < count; i++)
        ni_gguf_add_int(file, tokens[i].text ? tokens[i].type : UNUSED);
}

static nb_status room_for(int32_t vocab, int32_t own, token **tokens, nb_error *err) {
    if (own > vocab)
        return nb_fail(err, NB_BAD_FILE, "the tokenizer has %d tokens, the model %d embeddings", (int)own, (int)vocab);
    *tokens = calloc((size_t)vocab + 1, sizeof **tokens);
    return *tokens ? NB_OK : nb_fail(err, NB_NO_MEMORY, "no memory for %d tokens", (int)vocab);
}

/* ---- bytes ---- */

static nb_status put_bytes(const ni_tokenizer *t, int32_t vocab, ni_gguf *file, nb_error *err) {
    char names[256][3];
    token *tokens;
    NB_TRY(room_for(vocab, ni_tokenizer_vocab(t), &tokens, err));
    for (int b = 0; b < 256; b++) {
        ni_name_of_byte(b, names[b]);
        tokens[b] = (token){names[b], 0, NORMAL};
    }
    tokens[ni_tokenizer_end_of_text(t)] = (token){"<|endoftext|>", 0, CONTROL};
    ni_gguf_put_text(file, "tokenizer.ggml.model", "gpt2");
    ni_gguf_put_text(file, "tokenizer.ggml.pre", "gpt-2");
    put_tokens(file, tokens, vocab, false);
    ni_gguf_begin_texts(file, "tokenizer.ggml.merges", 0);
    put_marks(file, ni_tokenizer_begin_of_text(t), ni_tokenizer_end_of_text(t));
    free(tokens);
    return NB_OK;
}

/* ---- SentencePiece ---- */

static nb_status put_pieces(const ni_tokenizer *t, const ni_sp *sp, ni_sp_traits traits, int32_t vocab, ni_gguf *file,
                            nb_error *err) {
    token *tokens;
    const int32_t own = ni_sp_pieces(sp);
    int32_t unknown = -1;
    NB_TRY(room_for(vocab, own, &tokens, err));
    for (int32_t i = 0; i < own; i++) {
        tokens[i] = (token){ni_sp_piece(sp, i), ni_sp_score(sp, i), (int32_t)ni_sp_piece_type(sp, i)};
        unknown = tokens[i].type == NI_SP_UNKNOWN ? i : unknown;
    }
    ni_gguf_put_text(file, "tokenizer.ggml.model", "llama");
    ni_gguf_put_text(file, "tokenizer.ggml.pre", "default");
    put_tokens(file, tokens, vocab, true);
    put_marks(file, ni_tokenizer_begin_of_text(t), ni_tokenizer_end_of_text(t));
    if (unknown >= 0)
        ni_gguf_put_u32(file, "tokenizer.ggml.unknown_token_id", (uint32_t)unknown);
    ni_gguf_put_bool(file, "tokenizer.ggml.add_space_prefix", traits.dummy_prefix);
    ni_gguf_put_bool(file, "tokenizer.ggml.remove_extra_whitespaces", traits.remove_extra_whitespace);
    free(tokens);
    return NB_OK;
}

nb_status ni_tokenizer_gguf(const ni_tokenizer *t, int32_t vocab, ni_gguf *file, nb_error *err) {
    const void *model;
    size_t size;
    const ni_sp *sp = ni_tokenizer_sp(t, &model, &size);
    if (!sp)
        return put_bytes(t, vocab, file, err);
    const ni_sp_traits traits = ni_sp_read_traits(model, size);
    if (!traits.byte_pairs || traits.normalizes || traits.remove_extra_whitespace)
        return nb_fail(err, NB_UNSUPPORTED,
                       "llama.cpp would cut texts otherwise than this SentencePiece model does (%s); expected byte "
                       "pairs over the text as it is",
                       !traits.byte_pairs  ? "unigrams"
                       : traits.normalizes ? "it replaces characters"
                                           : "it joins spaces");
    return put_pieces(t, sp, traits, vocab, file, err);
}

/* ---- tokenizer.json ---- */

/* Patterns that cut a text before byte pairs are merged, by llama.cpp's names for them; `about` is a part that only
 * this one has. */
static const struct {
    const char *about, *name;
} patterns[] = {
    {"\\p{N}{1,3}", "llama-bpe"},              /* LLaMA 3; OLMo 2's and cl100k's are the same */
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)", "qwen2"}, /* a digit at a time */
    {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+", "gpt-2"},
};

/* The pattern of a Split, or GPT-2's where a ByteLevel splits by itself; NULL where it is none of these. */
static const char *pattern_name(const json_t *pre) {
    const char *type = json_string_value(json_object_get(pre, "type")), *name = NULL;
    const char *regex = json_string_value(json_object_get(json_object_get(pre, "pattern"), "Regex"));
    size_t i;
    json_t *part;
    json_array_foreach(json_object_get(pre, "pretokenizers"), i, part) {
        const char *found = pattern_name(part);
        name = name ? name : found;
    }
    const bool other = (type && strcmp(type, "Digits") == 0) || (regex && strstr(regex, "\\p{Lu}"));
    for (size_t p = 0; regex && !other && !name && p < sizeof patterns / sizeof patterns[0]; p++)
        name = strstr(regex, patterns[p].about) ? patterns[p].name : NULL;
    const json_t *splits = json_object_get(pre, "use_regex");
    if (!name && type && strcmp(type, "ByteLevel") == 0 && !json_is_false(splits))
        name = "gpt-2";
    return name;
}

static nb_status take_token(token *tokens, int32_t vocab, const char *text, const json_t *id, int32_t type,
                            nb_error *err) {
    const json_int_t at = json_is_integer(id) ? json_integer_value(id) : -1;
    if (!text || at < 0 || at >= vocab)
        return nb_fail(err, NB_BAD_FILE, "tokenizer.json: token '%.64s' has no id below %d", text ? text : "",
                       (int)vocab);
    tokens[at] = (token){text, 0, type};
    return NB_OK;
}

static nb_status put_merges(const json_t *merges, ni_gguf *file, nb_error *err) {
    size_t i;
    json_t *merge;
    ni_gguf_begin_texts(file, "tokenizer.ggml.merges", json_array_size(merges));
    json_array_foreach(merges, i, merge) {
        char pair[4096];
        const char *left = json_string_value(json_array_get(merge, 0)),
                   *right = json_string_value(json_array_get(merge, 1));
        const char *whole = json_string_value(merge); /* "a b" of older files */
        if (!whole && (!left || !right))
            return nb_fail(err, NB_BAD_FILE, "tokenizer.json: merge %zu is no pair", i);
        const int n =
            whole ? snprintf(pair, sizeof pair, "%s", whole) : snprintf(pair, sizeof pair, "%s %s", left, right);
        if (n >= (int)sizeof pair)
            return nb_fail(err, NB_BAD_FILE, "tokenizer.json: merge %zu is longer than %zu bytes", i, sizeof pair);
        ni_gguf_add_text(file, pair, (size_t)n);
    }
    return NB_OK;
}

static nb_status put_json(const json_t *root, int32_t vocab, token *tokens, int32_t begin, int32_t end, ni_gguf *file,
                          nb_error *err) {
    const json_t *model = json_object_get(root, "model");
    const char *type = json_string_value(json_object_get(model, "type")), *text;
    const char *pattern = pattern_name(json_object_get(root, "pre_tokenizer"));
    json_t *id, *added;
    size_t i;
    if (!type || strcmp(type, "BPE") != 0 || json_is_true(json_object_get(model, "byte_fallback")) || !pattern)
        return nb_fail(err, NB_UNSUPPORTED,
                       "tokenizer.json: llama.cpp's name for how it cuts a text is not known; "
                       "expected byte-level BPE of GPT-2, LLaMA 3, OLMo 2 or Qwen");
    json_object_foreach(json_object_get(model, "vocab"), text, id) {
        NB_TRY(take_token(tokens, vocab, text, id, NORMAL, err));
    }
    json_array_foreach(json_object_get(root, "added_tokens"), i, added) {
        const bool special = json_is_true(json_object_get(added, "special"));
        NB_TRY(take_token(tokens, vocab, json_string_value(json_object_get(added, "content")),
                          json_object_get(added, "id"), special ? CONTROL : USER_DEFINED, err));
    }
    ni_gguf_put_text(file, "tokenizer.ggml.model", "gpt2");
    ni_gguf_put_text(file, "tokenizer.ggml.pre", pattern);
    put_tokens(file, tokens, vocab, false);
    put_marks(file, begin, end);
    return put_merges(json_object_get(model, "merges"), file, err);
}

nb_status ni_tokenizer_json_gguf(const char *json, size_t size, int32_t vocab, int32_t begin, int32_t end,
                                 ni_gguf *file, nb_error *err) {
    json_error_t where;
    token *tokens;
    json_t *root = ni_json_load(json, size, &where);
    if (!root)
        return nb_fail(err, NB_BAD_FILE, "tokenizer.json:%d: %s", where.line, where.text);
    nb_status status = room_for(vocab, 0, &tokens, err);
    if (status == NB_OK) {
        status = put_json(root, vocab, tokens, begin, end, file, err);
        free(tokens);
    }
    json_decref(root);
    return status;
}
