/* linear.h: quantized linear layers on their own, for models that nibble does not build: a program brings weights,
 * inputs and gradients, and gets the three products of a recipe, with everything that the recipe's mechanisms keep.
 * Python's nibble.torch is written over this header; examples/linear.c trains a layer with it.
 *
 *     fprop   Y  = X W^T      X [M, K], W [N, K], Y [M, N]
 *     dgrad   dX = dY W       dY [M, N], dX [M, K]
 *     wgrad   dW = dY^T X     dW [N, K]
 *
 * Layers that read the same X may be made together (q, k and v, say): X is then quantized once for all that want it
 * alike, and dX is the sum over them, rounded once. A step of training:
 *
 *     nb_linear_forward, nb_linear_backward    for each micro-batch, with its number in the pass
 *     the program moves the weights            by whatever optimizer it has
 *     nb_linear_stepped                        mechanisms do what is theirs between steps
 *
 * The same calls give the same bits, whatever the number of threads.
 */
#ifndef NIBBLE_LINEAR_H
#define NIBBLE_LINEAR_H

#include "backend.h"
#include "pass.h"
#include "recipe.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Memory that layers use during a call and leave behind: one for all layers of a backend that do not run at one time.
 * It grows with them. The backend must outlive it, and it the layers. */
typedef struct nb_workspace nb_workspace;
NB_API nb_status nb_workspace_create(nb_backend *be, nb_workspace **out, nb_error *err);
NB_API void nb_workspace_free(nb_workspace *workspace); /* NULL is allowed */
NB_API size_t nb_workspace_bytes(const nb_workspace *workspace);

#define NB_LINEAR_LAYERS 8 /* most that are made together */

typedef struct nb_linear_layer {
    const char *name; /* "layers.0.self_attn.q_proj": keys its random bits; patterns of the recipe's `keep` meet it */
    int64_t out;      /* N */
    nb_dtype dtype;   /* of the weight: NB_F32, or NB_BF16 */
    void *weight;     /* [N, K] in backend memory, the program's; must outlive the layer */
} nb_linear_layer;

typedef struct nb_linear_spec {
    const nb_recipe *recipe; /* copied */
    int32_t block, blocks;   /* where the layers are, for the recipe's `keep`: see nb_recipe_plan */
    const char *input;       /* names X, as "layers.0.self_attn.input" */
    int64_t in;              /* K */
    int64_t rows;            /* most rows of X in a call */
    bool training;           /* false: forward passes alone, with less memory */
    const nb_linear_layer *layers;
    int32_t count;
} nb_linear_spec;

typedef struct nb_linear nb_linear;

/* Refused where the recipe cannot run at these sizes (N and K divide by its blocks), with the reason. */
NB_API nb_status nb_linear_create(nb_workspace *workspace, const nb_linear_spec *spec, nb_linear **out, nb_error *err);
NB_API void nb_linear_free(nb_linear *linear); /* NULL is allowed */

/* y[i] = X W_i^T of each layer. x [M, K] and y[i] [M, N_i] are dense, F32 or BF16, in backend memory; an F32 X is
 * rounded to BF16 first, an F32 Y is not rounded. M need not divide by anything: where the recipe's blocks run along
 * the tokens, rows of zeros fill the last block. `training`: a backward pass will follow, and mechanisms watch.
 *
 * Of `pass`, step, steps, micro_batch, rounding_seed and lens are read; the recipe's late switch goes by step and
 * steps. */
NB_API nb_status nb_linear_forward(nb_linear *linear, const nb_pass *pass, bool training, const nb_mat *x,
                                   const nb_mat *y, nb_error *err);

/* dx = sum of dY_i W_i and dw[i] = dY_i^T X, both written over. x and pass are those of the forward pass, unchanged,
 * and so are the weights; dy[i] and dx as y and x, dw[i] F32 [N_i, K]. dx, dw or a dw[i] may be NULL: not wanted.
 * `again`: a pass over another X ran since, and what was kept for this one is made a second time, to the same bits. */
NB_API nb_status nb_linear_backward(nb_linear *linear, const nb_pass *pass, bool again, const nb_mat *x,
                                    const nb_mat *dy, const nb_mat *dx, float *const *dw, nb_error *err);

/* The weights changed, or lie elsewhere now: `weights` [count], or NULL where they are where they were. Whoever writes
 * weights says so here, but for nb_linear_stepped, which says it itself. */
NB_API void nb_linear_changed(nb_linear *linear, void *const *weights);

/* An optimizer step was taken: `pass` is one of that step. Mechanisms choose channels, move averages and may move the
 * weights. */
NB_API nb_status nb_linear_stepped(nb_linear *linear, const nb_pass *pass, nb_error *err);

/* ---- what mechanisms keep between steps; a checkpoint must hold it ---- */

typedef struct nb_state_tensor {
    char name[2 * NB_NAME_SIZE]; /* "layers.0.mlp.up_proj/outcontrol.norms" */
    nb_dtype dtype;
    int64_t elements;
    void *data;   /* to be read on saving, written on loading */
    bool on_host; /* else in backend memory */
} nb_state_tensor;

/* Fills at most `most` of them; returns how many there are. */
NB_API int32_t nb_linear_state(nb_linear *linear, nb_state_tensor *tensors, int32_t most);
/* Call after the tensors above were written. */
NB_API nb_status nb_linear_state_loaded(nb_linear *linear, nb_error *err);

/* ---- what it says of itself ---- */

/* One line of the census: which GEMM of which layer runs in which format on which kernel, and why. */
typedef struct nb_census_row {
    char module[NB_NAME_SIZE]; /* "layers.0.self_attn.q_proj" */
    const char *gemm;          /* "fprop", "dgrad", "wgrad"; of a model "attn", "gla" too: what a mixer computes */
    char formats[96];          /* "nvfp4 1x16 x nvfp4 16x16" */
    const char *kernel;        /* "packed avx512-vnni", "bf16 onednn" */
    const char *reason;
} nb_census_row;

/* Fills at most `most` rows; returns how many there are. */
NB_API int32_t nb_linear_census(const nb_linear *linear, nb_census_row *rows, int32_t most);

/* How many of the recipe's mechanisms are asked for in vain here, and a sentence about the first. */
NB_API int32_t nb_linear_doubts(const nb_linear *linear, char *text, size_t size);

NB_API size_t nb_linear_bytes(const nb_linear *linear); /* of backend memory that it holds between calls */

#ifdef __cplusplus
}
#endif
#endif
