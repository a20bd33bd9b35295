/* recode.h: E2M1 codes under FP32 scales of rows or columns, rounded to E4M3 under one scale: weights that a product by
 * units for 8 bits wants under one scale (pow2_bytes.h), many a launch. */
#ifndef NI_BACKEND_CUDA_RECODE_H
#define NI_BACKEND_CUDA_RECODE_H

#include "nibble/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ni_cuda_recoding {
    nb_qtensor from;         /* columns in sixteens */
    uint8_t *bytes, *turned; /* [rows, cols], [cols, rows] */
    float *scale;            /* [1] */
    nb_scale_rule rule;      /* of that scale; numbers go to nearest */
} ni_cuda_recoding;

bool ni_cuda_recodes(const nb_quantizer *from, const nb_quantizer *to);
/* NI_CUDA_LIST_MOST at most; `amaxes`: a word each of scratch, of what they decode to. */
int ni_cuda_launch_recode(void *stream, const ni_cuda_recoding *list, int count, uint32_t *amaxes);

#ifdef __cplusplus
}
#endif
#endif
