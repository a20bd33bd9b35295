/* vector_scales.h: whose FP32 scale it is, where one serves a row, a column or a whole matrix (scale.h: how it is
 * made).
 */
#ifndef NI_FORMAT_VECTOR_SCALES_H
#define NI_FORMAT_VECTOR_SCALES_H

#include "base/philox.h"
#include "nibble/format.h"

static inline NI_HD bool ni_has_row_scales(const nb_quantizer *q) {
    return q->scale_type == NB_SCALE_F32 && q->block_rows == 1 && q->block_cols == NB_BLOCK_ALL;
}

static inline NI_HD bool ni_has_column_scales(const nb_quantizer *q) {
    return q->scale_type == NB_SCALE_F32 && q->block_rows == NB_BLOCK_ALL && q->block_cols == 1;
}

/* Alone: above no blocks. */
static inline NI_HD bool ni_has_tensor_scale(const nb_quantizer *q) {
    return q->scale_type == NB_SCALE_F32 && q->block_rows == NB_BLOCK_ALL && q->block_cols == NB_BLOCK_ALL;
}

#endif
