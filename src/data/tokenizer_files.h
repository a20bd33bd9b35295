/* tokenizer_files.h: the JSON files from which Hugging Face's AutoTokenizer makes our tokenizers.
 *
 * Functions return fresh text (free with free()), NULL without memory.
 */
#ifndef NI_DATA_TOKENIZER_FILES_H
#define NI_DATA_TOKENIZER_FILES_H

#include <stdbool.h>
#include <stddef.h>

/* tokenizer.json of the bytes tokenizer: byte-level BPE without merges. */
char *ni_bytes_tokenizer_json(void);

/* tokenizer_config.json of either kind. */
char *ni_bytes_config_json(void);
char *ni_sentencepiece_config_json(const char *end_of_text);

/* Whether a tokenizer_config.json is one of ni_bytes_config_json. */
bool ni_is_bytes_config(const char *json, size_t size);

#endif
