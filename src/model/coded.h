/* coded.h: the weights of linear layers as the codes and scales that the forward pass multiplies, for other programs.
 *
 * A layer is coded where the plan's quantizer of fprop.w is plain NVFP4 (E2M1, an E4M3 byte per 16, one FP32 scale) or
 * plain MXFP4 (E2M1, an E8M0 byte per 32), in one dimension or in two: tiles of 16x16 have their byte in each row. All
 * else is left to be written as numbers, and says why.
 *
 * Readers fuse q, k, v and gate, up into one matrix with one FP32 scale. `sharing` says what becomes of layers whose
 * scales differ.
 */
#ifndef NI_MODEL_CODED_H
#define NI_MODEL_CODED_H

#include "nibble/model.h"

typedef enum ni_coding { NI_CODING_NONE, NI_CODING_NVFP4, NI_CODING_MXFP4 } ni_coding;

typedef enum ni_sharing {
    NI_SHARING_OWN,   /* each layer keeps its scale: the reader fuses nothing */
    NI_SHARING_EXACT, /* one scale where an exact change of the block scales gives it; else refused */
    NI_SHARING_AGAIN  /* quantized again from the masters as one matrix where it does not: other codes */
} ni_sharing;

typedef struct ni_coded_layer {
    int32_t param;             /* of the model */
    char module[NB_NAME_SIZE]; /* "layers.0.self_attn.q_proj" */
    int64_t rows, cols;
    nb_quantizer quantizer;
    nb_dtype quantize_from;
    ni_coding coding;
    char why[256];        /* where there is none */
    int32_t first, fused; /* the layers [first, first + fused) that readers make one of; 1: it stands alone */
    bool again;           /* quantized as one matrix with those */
    int32_t shift;        /* the block scales are multiplied by 2^shift */
    float scale;          /* NVFP4: the factor above the block scales; MXFP4: 1 */
    float divisor;        /* NVFP4: its reciprocal for readers that divide, see ni_coded_divisor */
    float input_amax;     /* largest magnitude of its input as the caller measured it; 0: activations stay numbers */
} ni_coded_layer;

typedef struct ni_coded_model {
    nb_backend *be; /* whose memory is the host's */
    nb_model *model;
    ni_sharing sharing;
    ni_coded_layer *layers;
    int32_t count, coded;
    ni_coding coding;       /* of those that are; one model has one */
    int64_t changed;        /* layers whose codes are not the trained ones (NI_SHARING_AGAIN) */
    void *numbers, *narrow; /* room for the largest matrix, fused ones together: F32, BF16 */
    void *codes, *operand;
    size_t codes_bytes, operand_bytes;
    int32_t held; /* the layer, or the first of the fused ones, whose codes are in `codes`; -1: none */
    nb_qtensor qtensor;
} ni_coded_model;

/* Looks at every matrix but the embedding; `wide`: NVFP4 comes in blocks of 64 columns, as GGUF has it. Codes are made
 * once to fix the scales, so that what is refused is refused before anything is written. */
nb_status ni_coded_open(nb_backend *be, nb_model *model, const nb_recipe *recipe, ni_sharing sharing, bool wide,
                        ni_coded_model *out, nb_error *err);
void ni_coded_close(ni_coded_model *m);

/* The layer that a parameter is; NULL where it is none, or not coded. */
const ni_coded_layer *ni_coded_find(const ni_coded_model *m, int32_t param);

/* Codes [rows, cols/2] and block scales [rows, cols/16 or 32] of a coded layer, valid until the next call. */
nb_status ni_coded_take(ni_coded_model *m, const ni_coded_layer *layer, const uint8_t **codes, const uint8_t **scales,
                        nb_error *err);

/* What a recipe's forward pass does that codes alone do not carry, a sentence a call; NULL after the last. */
const char *ni_coded_loss(const nb_recipe *recipe, int32_t index);

/* A divisor G for readers that decode code * (byte / G) or code * (byte * (1 / G)), so that what they round to BF16 is
 * what nibble's code * (byte * scale) rounds to, for every code and byte: 1 / scale, or one of its neighbours in FP32.
 * False if there is none within a few. *exact: the former's FP32 numbers are nibble's. */
bool ni_coded_divisor(float scale, float *divisor, bool *exact);

#endif
