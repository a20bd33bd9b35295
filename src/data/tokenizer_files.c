/* tokenizer_files.c: tokenizer.json and tokenizer_config.json for Hugging Face. */
#include "tokenizer_files.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static const char end_name[] = "<|endoftext|>";
static const char kind_key[] = "nibble_tokenizer"; /* others pass over it */

static char *dump_and_free(json_t *json) {
    char *text = json ? json_dumps(json, JSON_INDENT(2)) : NULL;
    json_decref(json);
    return text;
}

/* Byte-level BPE writes each byte as a printable character: itself where it is one, else U+0100 and up in order. */
static void name_of_byte(int byte, char name[3]) {
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

char *ni_bytes_tokenizer_json(void) {
    json_t *vocab = json_object();
    for (int byte = 0; byte < 256; byte++) {
        char name[3];
        name_of_byte(byte, name);
        json_object_set_new(vocab, name, json_integer(byte));
    }
    json_object_set_new(vocab, end_name, json_integer(256));
    json_t *end = json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", 256, "content", end_name, "single_word", 0,
                            "lstrip", 0, "rstrip", 0, "normalized", 0, "special", 1);
    const char *level = "{s:s, s:b, s:b, s:b}";
    json_t *before = json_pack(level, "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 0);
    json_t *decoder = json_pack(level, "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 0);
    json_t *model = json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:o, s:[]}", "type", "BPE", "dropout", "unk_token",
                              "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0,
                              "vocab", vocab, "merges");
    return dump_and_free(json_pack("{s:s, s:n, s:n, s:[o], s:n, s:o, s:n, s:o, s:o}", "version", "1.0", "truncation",
                                   "padding", "added_tokens", end, "normalizer", "pre_tokenizer", before,
                                   "post_processor", "decoder", decoder, "model", model));
}

char *ni_bytes_config_json(void) {
    return dump_and_free(json_pack("{s:s, s:s, s:s, s:s, s:b}", "tokenizer_class", "PreTrainedTokenizerFast",
                                   "eos_token", end_name, "bos_token", end_name, kind_key, "bytes",
                                   "clean_up_tokenization_spaces", 0));
}

char *ni_sentencepiece_config_json(const char *end_of_text) {
    return dump_and_free(json_pack("{s:s, s:s, s:s, s:s, s:b, s:b, s:b, s:b, s:b, s:s}", "tokenizer_class",
                                   "LlamaTokenizer", "bos_token", "<s>", "eos_token", end_of_text, "unk_token", "<unk>",
                                   "add_bos_token", 0, "add_eos_token", 0, "add_prefix_space", 0, "legacy", 0,
                                   "clean_up_tokenization_spaces", 0, kind_key, "sentencepiece"));
}

bool ni_is_bytes_config(const char *json, size_t size) {
    json_t *config = json ? json_loadb(json, size, JSON_REJECT_DUPLICATES, NULL) : NULL;
    const char *kind = json_string_value(json_object_get(config, kind_key));
    bool bytes = kind && strcmp(kind, "bytes") == 0;
    json_decref(config);
    return bytes;
}
