/* lens.h: the narrow door through which a pass is watched.
 *
 * A pass that carries an nb_lens (pass.h) tells it what passes through: every operand right after it was quantized,
 * what attention reads, what a mechanism replaced. A pass without one pays nothing. What is measured from it, and where
 * it goes, is the lens's affair; it changes no bit of the pass.
 *
 * A trainer takes a lens of one's own in nb_trainer_options (train.h; examples/watch.c). Callbacks run on the thread
 * that runs the pass, one at a time, in the order of the pass. What they are given is the library's and valid during
 * the call only; matrices lie in the memory of the backend, from where nb_backend_read (backend.h) copies them. A
 * callback has no way to fail: what it cannot do it leaves out, and tells its own program. What nb_backend_read told it
 * of work of the pass may be told to nobody else: the program must not go on with what the pass returned.
 */
#ifndef NIBBLE_LENS_H
#define NIBBLE_LENS_H

#include "backend.h"
#include "pass.h"
#include "recipe.h"

#ifdef __cplusplus
extern "C" {
#endif

struct nb_operand; /* an operand in the layout of its backend */

/* One operand of one GEMM. */
typedef struct nb_lens_operand {
    nb_backend *be;
    const nb_pass *pass; /* step, micro-batch */
    const char *module;  /* "layers.3.mlp.up_proj"; for operands that layers share (X), their input's name */
    nb_role role;
    const nb_mat *source;               /* the numbers that were quantized, X as it came before a mechanism changed it;
                                           NULL where they came from codes */
    const nb_qtensor *requantized_from; /* their quantizer and shape, no buffers; NULL where `source` is set */
    bool transposed;                    /* operand row r is source column r */
    const nb_qtensor *quantized;        /* canonical, in backend memory; NULL: this GEMM runs in BF16, or multiplies
                                           parts in formats of their own (then `stats` are of all parts) */
    const struct nb_operand *operand;   /* the same as the backend has it: opaque, for operations of the library */
    const nb_quantize_stats *stats;     /* [1] in backend memory; NULL in BF16, or where nobody counted */
} nb_lens_operand;

/* Who looks. Callbacks may be NULL: nothing is prepared for them then. */
typedef struct nb_lens {
    void *context; /* handed to every callback */
    bool counts;   /* quantizers count nb_quantize_stats for this pass */
    void (*operand)(void *context, const nb_lens_operand *seen);
    void (*attention)(void *context, nb_backend *be, const char *module, const nb_attention *attention, const void *q,
                      const void *k); /* q, k act, after RoPE and norms */
    /* What stands for a tensor after a mechanism is done with it: "occ", what is multiplied in all; "occ_clamped", what
     * is quantized; "hcp". exact act [M, K], approximate act or F32. */
    void (*approximation)(void *context, nb_backend *be, const char *module, const char *mechanism, const nb_mat *exact,
                          const nb_mat *approximate);
    void (*scalar)(void *context, const char *module, const char *name, double value); /* what a mechanism counts */
    void (*gate)(void *context, nb_backend *be, const char *module, const nb_mat *pre_activation, /* GLA, act */
                 const void *bias);                                                               /* real [cols] */
    /* What comes out: of a linear layer ("layers.3.mlp.up_proj"), of attention before its last projection
     * ("layers.3.attn.scan", "layers.3.self_attn.heads"), of a block ("layers.3.residual"). act [M, N]. */
    void (*output)(void *context, nb_backend *be, const char *module, const nb_mat *y);
    uint32_t roles; /* which operands are shown, a bit 1 << nb_role each; 0: all */
    /* Who looks at block `index` of a decoder in the place of this lens: it stays where it is until another is asked
     * for, and what nobody looks at costs nothing. NULL: this lens looks at all of them. */
    const struct nb_lens *(*block)(void *context, int32_t index);
} nb_lens;

/* ---- what a run's own lens wrote: RUN/lens/series.nbs ---- */

typedef struct nb_series nb_series;

/* One number or vector of one name at one step (0-based). */
typedef struct nb_series_point {
    int64_t step;
    int64_t count;       /* 1 for a number */
    const float *values; /* [count]; lives as long as the series */
} nb_series_point;

/* Reads a whole file; a tail that a crash cut short is left out. Names are MODULE/ROLE/METRIC or MODULE/METRIC, as in
 * docs/lens.md. Free with nb_series_free (NULL is allowed). */
NB_API nb_status nb_series_read(const char *path, nb_series **out, nb_error *err);
NB_API void nb_series_free(nb_series *series);

NB_API int32_t nb_series_names(const nb_series *series);
NB_API const char *nb_series_name(const nb_series *series, int32_t name);
NB_API int64_t nb_series_points(const nb_series *series, int32_t name);
NB_API nb_series_point nb_series_at(const nb_series *series, int32_t name,
                                    int64_t index); /* in the order of the file */

#ifdef __cplusplus
}
#endif
#endif
