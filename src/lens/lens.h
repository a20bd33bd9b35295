/* lens.h: the narrow door through which training is watched.
 *
 * A pass that carries an nb_lens reports every operand right after it was quantized; a pass without one pays nothing.
 * What is measured from it, and where it goes, is the lens's affair.
 */
#ifndef NB_LENS_LENS_H
#define NB_LENS_LENS_H

#include "backend/operand.h"
#include "nibble/pass.h"
#include "nibble/recipe.h"

/* One operand of one GEMM. Valid during the call only. */
typedef struct nb_lens_operand {
    nb_backend *be;
    const nb_pass *pass;
    const char *module; /* "layers.3.mlp.up_proj"; for operands that layers share (X), their input's name */
    nb_role role;
    const nb_mat *source;               /* the numbers that were quantized; NULL where they came from codes */
    const nb_qtensor *requantized_from; /* their quantizer and shape, no buffers; NULL where `source` is set */
    bool transposed;                    /* operand row r is source column r */
    const nb_qtensor *quantized;        /* canonical, in backend memory; NULL: this GEMM runs in BF16 */
    const nb_operand *operand;          /* the same as the backend has it */
    const nb_quantize_stats *stats;     /* NULL where `quantized` is, or where nobody counted */
} nb_lens_operand;

typedef struct nb_lens {
    void *context;
    bool counts; /* quantizers count nb_quantize_stats for this pass */
    /* Members may be NULL. */
    void (*operand)(void *context, const nb_lens_operand *seen);
    void (*attention)(void *context, nb_backend *be, const char *module, const nb_attention *attention, const void *q,
                      const void *k); /* q, k act, after RoPE and norms */
    /* What stands for a tensor after a mechanism is done with it, both act [M, K]. */
    void (*approximation)(void *context, nb_backend *be, const char *module, const char *mechanism, const nb_mat *exact,
                          const nb_mat *approximate);
    void (*scalar)(void *context, const char *module, const char *name, double value); /* what a mechanism counts */
    void (*gate)(void *context, nb_backend *be, const char *module, const nb_mat *pre_activation, /* GLA, act */
                 const void *bias);                                                               /* real [cols] */
} nb_lens;

#endif
