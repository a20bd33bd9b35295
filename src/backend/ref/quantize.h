/* quantize.h: the scalar reference of quantized operands, the definition that every faster path must equal bit by bit.
 *
 * The operations of ops.inc over plain memory; `be` is not looked at and may be NULL. Scratch memory is taken
 * from the heap (NB_NO_MEMORY when there is none). Shapes, buffers and noise are checked (NB_BAD_USAGE).
 */
#ifndef NB_BACKEND_REF_QUANTIZE_H
#define NB_BACKEND_REF_QUANTIZE_H

#include "backend/ref/ref.h"

#endif
