/* sentencepiece.h: the few calls of the SentencePiece library (C++) that nibble needs, in C.
 *
 * Functions that can fail return false (or NULL) and write one sentence into `why` of NI_SP_WHY bytes. No exception
 * leaves them. Encoding and decoding may be called by several threads at once.
 */
#ifndef NI_DATA_SENTENCEPIECE_H
#define NI_DATA_SENTENCEPIECE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { NI_SP_WHY = 512 };

typedef struct ni_sp ni_sp;

ni_sp *ni_sp_load(const char *model, size_t size, char *why);
void ni_sp_free(ni_sp *sp);

int32_t ni_sp_pieces(const ni_sp *sp);
int32_t ni_sp_end_id(const ni_sp *sp);                /* of </s>; -1 if the model has none */
int32_t ni_sp_id(const ni_sp *sp, const char *piece); /* -1 if there is no such piece */
const char *ni_sp_piece(const ni_sp *sp, int32_t id); /* belongs to the model */

/* What a piece is, by the numbers of the model's own protocol (and of GGUF). */
enum ni_sp_type { NI_SP_NORMAL = 1, NI_SP_UNKNOWN = 2, NI_SP_CONTROL = 3, NI_SP_UNUSED = 5, NI_SP_BYTE = 6 };
enum ni_sp_type ni_sp_piece_type(const ni_sp *sp, int32_t id);
float ni_sp_score(const ni_sp *sp, int32_t id);

/* Results are fresh memory of the caller (free with free()). */
bool ni_sp_encode(const ni_sp *sp, const char *text, size_t size, int32_t **ids, size_t *count, char *why);
bool ni_sp_decode(const ni_sp *sp, const int32_t *ids, size_t count, char **text, size_t *size, char *why);

/* Gives the next line without its end; false after the last. The bytes must live until the next call. */
typedef bool ni_sp_next_line(void *context, const char **line, size_t *size);

/* Trains byte-pair encoding with byte fallback, so that every text can be encoded and decoded without loss: no
 * normalisation, no added space, digits apart. Ids 0, 1, 2 are <unk>, <s>, </s>. */
bool ni_sp_train(ni_sp_next_line *next, void *context, int32_t vocab, char **model, size_t *size, char *why);

#ifdef __cplusplus
}
#endif
#endif
