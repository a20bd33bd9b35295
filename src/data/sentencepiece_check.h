/* sentencepiece_check.h: whether a SentencePiece model may be given to the library.
 *
 * The library trusts the normalisation table inside a model: a trie and strings that refer to each other by offsets. A
 * damaged table makes it read anywhere in memory, so the offsets are checked here first.
 */
#ifndef NI_DATA_SENTENCEPIECE_CHECK_H
#define NI_DATA_SENTENCEPIECE_CHECK_H

#include "nibble/status.h"
#include <stddef.h>

nb_status ni_sp_check(const void *model, size_t size, nb_error *err);

#endif
