/* tokenizer_files.c: tokenizer.json and tokenizer_config.json for Hugging Face. */
#include "tokenizer_files.h"

#include "files/json.h"

#include <stdlib.h>
#include <string.h>

static const char end_name[] = NI_END_NAME;
static const char kind_key[] = "nibble_tokenizer"; /* others pass over it */

static char *dump_and_free(json_t *json) {
    char *text = ni_json_text(json, JSON_INDENT(2));
    json_decref(json);
    return text;
}

void ni_name_of_byte(int byte, char name[3]) {
    int beyond = 0, code = byte;
    for (int b = 0; b <= byte; b++) {
        bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        if (!printable)
            code = 256 + beyond++;
        else
            code = b;
    }
    int at = 0;
    if (code < 0x80) {
        name[at++] = (char)code;
    } else {
        name[at++] = (char)(0xC0 | code >> 6);
        name[at++] = (char)(0x80 | (code & 0x3F));
    }
    name[at] = 0;
}

/* What puts a piece before every text (and before each of a pair). */
static json_t *opening_with(const char *piece, int id) {
    json_t *first = json_pack("{s:{s:s, s:i}}", "SpecialToken", "id", piece, "type_id", 0);
    json_t *second = json_pack("{s:{s:s, s:i}}", "SpecialToken", "id", piece, "type_id", 1);
    json_t *a = json_pack("{s:{s:s, s:i}}", "Sequence", "id", "A", "type_id", 0);
    json_t *b = json_pack("{s:{s:s, s:i}}", "Sequence", "id", "B", "type_id", 1);
    return json_pack("{s:s, s:[O, O], s:[o, o, o, o], s:{s:{s:s, s:[i], s:[s]}}}", "type", "TemplateProcessing",
                     "single", first, a, "pair", first, a, second, b, "special_tokens", piece, "id", piece, "ids", id,
                     "tokens", piece);
}

static json_t *byte_level(void) {
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex",
                     0);
}

/* Takes over the references. */
static char *tokenizer_json(json_t *vocab, json_t *merges, json_t *pre_tokenizer, int end_id) {
    json_t *end = json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", end_id, "content", end_name, "single_word", 0,
                            "lstrip", 0, "rstrip", 0, "normalized", 0, "special", 1);
    json_t *model = json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout", "unk_token",
                              "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0,
                              "vocab", vocab, "merges", merges);
    return dump_and_free(json_pack("{s:s, s:n, s:n, s:[o], s:n, s:o, s:o, s:o, s:o}", "version", "1.0", "truncation",
                                   "padding", "added_tokens", end, "normalizer", "pre_tokenizer", pre_tokenizer,
                                   "post_processor", opening_with(end_name, end_id), "decoder", byte_level(), "model",
                                   model));
}

char *ni_bytes_tokenizer_json(void) {
    json_t *vocab = json_object();
    for (int byte = 0; byte < 256; byte++) {
        char name[3];
        ni_name_of_byte(byte, name);
        ni_json_put(&vocab, name, json_integer(byte));
    }
    ni_json_put(&vocab, end_name, json_integer(256));
    return tokenizer_json(vocab, json_array(), byte_level(), 256);
}

char *ni_bpe_tokenizer_json(json_t *vocab, json_t *merges, const char *pattern, int end_id) {
    json_t *split = json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex", pattern, "behavior",
                              "Isolated", "invert", 0);
    json_t *both = json_pack("{s:s, s:[o, o]}", "type", "Sequence", "pretokenizers", split, byte_level());
    return tokenizer_json(vocab, merges, both, end_id);
}

char *ni_bpe_config_json(const char *end_of_text, bool own) {
    json_t *config = json_pack("{s:s, s:s, s:b}", "tokenizer_class", "PreTrainedTokenizerFast", "eos_token",
                               end_of_text, "clean_up_tokenization_spaces", 0);
    if (own) {
        ni_json_put(&config, "bos_token", json_string(end_of_text));
        ni_json_put(&config, "add_bos_token", json_true());
        ni_json_put(&config, "add_eos_token", json_false());
        ni_json_put(&config, kind_key, json_string("bpe"));
    }
    return dump_and_free(config);
}

char *ni_bytes_config_json(void) {
    return dump_and_free(json_pack("{s:s, s:s, s:s, s:b, s:b, s:s, s:b}", "tokenizer_class", "PreTrainedTokenizerFast",
                                   "eos_token", end_name, "bos_token", end_name, "add_bos_token", 1, "add_eos_token", 0,
                                   kind_key, "bytes", "clean_up_tokenization_spaces", 0));
}

char *ni_sentencepiece_config_json(const char *end_of_text) {
    return dump_and_free(json_pack("{s:s, s:s, s:s, s:s, s:b, s:b, s:b, s:b, s:b, s:s}", "tokenizer_class",
                                   "LlamaTokenizer", "bos_token", end_of_text, "eos_token", end_of_text, "unk_token",
                                   "<unk>", "add_bos_token", 1, "add_eos_token", 0, "add_prefix_space", 0, "legacy", 0,
                                   "clean_up_tokenization_spaces", 0, kind_key, "sentencepiece"));
}

/* transformers writes "no limit" as the integer 1000000000000000019884624838656, which jansson refuses: to be looked at
 * it is a fraction as all others, to be written again what has more digits than it can hold gets one, in a copy. */
static json_t *look_at_config(const char *json, size_t size) {
    return json ? ni_json_read(json, size, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, NULL) : NULL;
}

static json_t *load_config(const char *json, size_t size, bool *no_memory) {
    enum { DIGITS_MOST = 18 };
    char *copy = json ? malloc(size + size / DIGITS_MOST * 2 + 2) : NULL, before = 0;
    size_t used = 0, digits = 0;
    bool in_string = false, escaped = false;
    for (size_t i = 0; copy && i < size; i++) {
        char c = json[i];
        bool is_digit = !in_string && c >= '0' && c <= '9';
        if (!is_digit && digits > DIGITS_MOST && !memchr(".eE+", before, 4) && !memchr(".eE", c, 3)) {
            memcpy(copy + used, ".0", 2);
            used += 2;
        }
        before = is_digit ? before : c;
        digits = is_digit ? digits + 1 : 0;
        if (c == '"' && !escaped)
            in_string = !in_string;
        escaped = in_string && c == '\\' && !escaped;
        copy[used++] = c;
    }
    json_error_t where;
    json_t *config = copy ? ni_json_load(copy, used, &where) : NULL;
    *no_memory = json && !config && (!copy || ni_json_lacked_memory(&where));
    free(copy);
    return config;
}

static bool is_of_kind(const char *json, size_t size, const char *wanted) {
    json_t *config = look_at_config(json, size);
    const char *kind = json_string_value(json_object_get(config, kind_key));
    bool is = kind && (!wanted || strcmp(kind, wanted) == 0);
    json_decref(config);
    return is;
}

bool ni_is_bytes_config(const char *json, size_t size) {
    return is_of_kind(json, size, "bytes");
}

bool ni_is_own_config(const char *json, size_t size) {
    return is_of_kind(json, size, NULL);
}

bool ni_config_opens(const char *json, size_t size, char piece[NI_PIECE_ROOM]) {
    json_t *config = look_at_config(json, size);
    const json_t *adds = json_object_get(config, "add_bos_token"), *token = json_object_get(config, "bos_token");
    const char *class = json_string_value(json_object_get(config, "tokenizer_class"));
    const char *text = json_string_value(json_is_object(token) ? json_object_get(token, "content") : token);
    bool by_class = class && (strstr(class, "Llama") || strstr(class, "Gemma"));
    bool opens = json_is_boolean(adds) ? json_is_true(adds) : by_class;
    strcpy(piece, "");
    if (opens && !json_is_null(token))
        strncat(piece, text ? text : "<s>", NI_PIECE_ROOM - 1);
    json_decref(config);
    return *piece != 0; /* one that is asked for and not named opens nothing */
}

bool ni_config_ends(const char *json, size_t size, char piece[NI_PIECE_ROOM]) {
    json_t *config = look_at_config(json, size);
    const json_t *token = json_object_get(config, "eos_token");
    const char *text = json_string_value(json_is_object(token) ? json_object_get(token, "content") : token);
    strcpy(piece, "");
    strncat(piece, text ? text : "", NI_PIECE_ROOM - 1);
    json_decref(config);
    return *piece != 0;
}

/* The template among what a tokenizer.json does after encoding: it itself, or one of a sequence. */
static const json_t *find_template(const json_t *processor) {
    const char *type = json_string_value(json_object_get(processor, "type"));
    if (type && strcmp(type, "TemplateProcessing") == 0)
        return processor;
    const json_t *found = NULL, *all = json_object_get(processor, "processors");
    for (size_t i = 0; !found && i < json_array_size(all); i++) {
        const json_t *one = json_array_get(all, i);
        type = json_string_value(json_object_get(one, "type"));
        found = type && strcmp(type, "TemplateProcessing") == 0 ? one : NULL;
    }
    return found;
}

bool ni_json_opens(const char *json, size_t size, char piece[NI_PIECE_ROOM]) {
    json_t *tokenizer = json ? ni_json_load(json, size, NULL) : NULL;
    const json_t *template = find_template(json_object_get(tokenizer, "post_processor"));
    const json_t *first = json_array_get(json_object_get(template, "single"), 0);
    const char *text = json_string_value(json_object_get(json_object_get(first, "SpecialToken"), "id"));
    bool says = first != NULL;
    strcpy(piece, "");
    strncat(piece, text ? text : "", NI_PIECE_ROOM - 1);
    json_decref(tokenizer);
    return says;
}

char *ni_config_opening_with(const char *json, size_t size, const char *piece) {
    bool no_memory;
    json_t *config = load_config(json, size, &no_memory);
    if (no_memory)
        return NULL;
    if (!json_is_object(config)) {
        json_decref(config);
        config = json_object();
    }
    ni_json_put(&config, "bos_token", json_string(piece));
    ni_json_put(&config, "add_bos_token", json_true());
    return dump_and_free(config);
}

char *ni_json_opening_with(const char *json, size_t size, const char *piece, int id) {
    json_t *tokenizer = ni_json_load(json, size, NULL);
    if (json_is_object(tokenizer))
        ni_json_put(&tokenizer, "post_processor", opening_with(piece, id));
    return dump_and_free(tokenizer);
}
