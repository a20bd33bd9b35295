/* tokenizer_files.h: the JSON files from which Hugging Face's AutoTokenizer makes our tokenizers.
 *
 * Functions return fresh text (free with free()), NULL without memory.
 */
#ifndef NI_DATA_TOKENIZER_FILES_H
#define NI_DATA_TOKENIZER_FILES_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* Byte-level BPE writes each byte as a printable character: itself where it is one, else U+0100 and up in order. */
void ni_name_of_byte(int byte, char name[3]);

/* tokenizer.json of the bytes tokenizer: byte-level BPE without merges. */
char *ni_bytes_tokenizer_json(void);

/* tokenizer_config.json of each kind; of a tokenizer.json, one that nibble trained, and one of somebody else that had
 * none. */
char *ni_bytes_config_json(void);
char *ni_bpe_config_json(const char *end_of_text, bool own);
char *ni_sentencepiece_config_json(const char *end_of_text);

/* tokenizer.json of byte-level BPE, from its model and the pattern that cuts texts: no normalization, and `end` opens
 * texts. Takes over both references. */
char *ni_bpe_tokenizer_json(json_t *vocab, json_t *merges, const char *pattern, int end_id);

/* The name of end-of-text in what nibble makes. */
#define NI_END_NAME "<|endoftext|>"

/* Whether a tokenizer_config.json is one of ni_bytes_config_json; of any kind of ours. `json` may be NULL. */
bool ni_is_bytes_config(const char *json, size_t size);
bool ni_is_own_config(const char *json, size_t size);

enum { NI_PIECE_ROOM = 128 };

/* Whether a tokenizer of another maker puts a piece before a text, by its tokenizer_config.json, as transformers does:
 * where the file does not say it, LLaMA's and Gemma's classes do and others do not. */
bool ni_config_opens(const char *json, size_t size, char piece[NI_PIECE_ROOM]);

/* Which piece ends a text by tokenizer_config.json; false where it does not say. */
bool ni_config_ends(const char *json, size_t size, char piece[NI_PIECE_ROOM]);

/* Whether a tokenizer.json says what it puts before a text, and that piece; "" for nothing. */
bool ni_json_opens(const char *json, size_t size, char piece[NI_PIECE_ROOM]);

/* Such a file and a tokenizer.json, changed so that `piece` opens a text. What is no JSON object gives a new file in
 * the first case, NULL in the second; NULL where memory runs out. */
char *ni_config_opening_with(const char *json, size_t size, const char *piece);
char *ni_json_opening_with(const char *json, size_t size, const char *piece, int id);

#endif
