/* model.h: decoder language models, forward and backward by hand over a backend's table of operations.
 *
 * Families: llama (RMSNorm, RoPE, grouped-query attention, SwiGLU), qwen3 (and QK-norm per head), olmo2 (post-norm,
 * QK-norm over the whole projection), gla (gated linear attention), ngpt (every vector of length 1). Parameter names
 * are Hugging Face's; ngpt, which it lacks, has names of our own.
 */
#ifndef NIBBLE_MODEL_H
#define NIBBLE_MODEL_H

#include "backend.h"
#include "linear.h"
#include "pass.h"
#include "recipe.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum nb_family { NB_LLAMA, NB_QWEN3, NB_OLMO2, NB_GLA, NB_NGPT } nb_family;
NB_API const char *nb_family_name(nb_family family);

typedef struct nb_model_config {
    char name[NB_NAME_SIZE];
    nb_family family;
    int32_t vocab;  /* rows of the embedding */
    int32_t hidden; /* width of the residual stream */
    int32_t layers;
    int32_t heads, kv_heads;
    int32_t head_dim;     /* softmax families */
    int32_t intermediate; /* width inside the MLP */
    int32_t max_seq;      /* max_position_embeddings */
    double rope_theta;
    double rope_factor, rope_low, rope_high,
        rope_original; /* LLaMA 3's scaling; factor 0: none, and the others are 0 */
    double norm_eps;
    double init_std;
    bool tied;                          /* lm_head is the embedding */
    double expand_k, expand_v;          /* gla: key and value width as shares of hidden */
    int32_t gate_low_rank;              /* gla: 16 */
    double gate_normalizer, gate_clamp; /* gla: 16, -INFINITY */
    double alpha;                       /* ngpt: how far a branch steps at first */
    bool fine;                          /* ngpt: what goes into o_proj and down_proj has length 1, too */
} nb_model_config;

/* Reads models/NAME.yaml, the path of a model file, or the config.json of a Hugging Face folder ("./folder"). */
NB_API nb_status nb_model_config_load(const char *name_or_path, const char *models_dir, nb_model_config *out,
                                      nb_error *err);

/* Checks sizes against each other (heads divide, widths are positive, nothing overflows). */
NB_API nb_status nb_model_config_check(const nb_model_config *config, nb_error *err);

/* Which vectors of a matrix have length 1 after every step (ngpt). */
typedef enum nb_unit { NB_UNIT_NONE, NB_UNIT_ROWS, NB_UNIT_COLUMNS } nb_unit;

/* One parameter tensor inside the model's flat arrays. */
typedef struct nb_param {
    char name[NB_NAME_SIZE]; /* "model.layers.0.self_attn.q_proj.weight" */
    int32_t rank;            /* 1 or 2 */
    int64_t rows, cols;      /* [rows, cols]; rank 1: cols = 1 */
    int64_t offset;          /* first element in params, grads and moments */
    bool decay;              /* a matrix: weight decay applies (to embeddings, norms and biases as the run file says) */
    bool embedding;
    nb_unit unit;
    double start; /* of a vector: what all of it is at first */
} nb_param;

/* One micro-batch, on the host. */
typedef struct nb_batch {
    int64_t batch, seq;
    const int32_t *tokens;    /* [batch, seq] */
    const int32_t *targets;   /* [batch, seq]; -1 = not scored */
    const int32_t *positions; /* [batch, seq]: position inside the document, for RoPE */
    const int32_t *doc_start; /* [batch, seq]: first position of the own document */
} nb_batch;

typedef struct nb_model nb_model;

/* Which activations are made a second time in the backward pass rather than kept from the forward pass. The results
 * are the same bits. */
typedef enum nb_recompute {
    NB_RECOMPUTE_NONE,
    NB_RECOMPUTE_MLP,  /* what lies inside of an MLP: gate, up and their product */
    NB_RECOMPUTE_BLOCK /* everything inside of a block: only the residual stream between blocks is kept */
} nb_recompute;

typedef struct nb_model_options {
    int64_t batch, seq; /* most of a micro-batch */
    bool training;      /* false: without gradients and saved activations */
    nb_recompute recompute;
    int64_t head_rows; /* tokens whose logits exist at one time: dW of the head is summed over so many at a time, and
                          written and read so often. 0: as many as the backend likes */
} nb_model_options;

/* Builds a model with buffers for micro-batches of at most batch x seq tokens. Parameters are zero until initialised or
 * loaded. The backend must outlive the model. */
NB_API nb_status nb_model_create_with(nb_backend *be, const nb_model_config *config, const nb_recipe *recipe,
                                      const nb_model_options *options, nb_model **out, nb_error *err);

/* The same with nothing recomputed and as many rows in the head as the backend likes. */
NB_API nb_status nb_model_create(nb_backend *be, const nb_model_config *config, const nb_recipe *recipe, int64_t batch,
                                 int64_t seq, bool training, nb_model **out, nb_error *err);
NB_API void nb_model_free(nb_model *model);

/* Draws parameters: N(0, init_std) for matrices, 1 for norms, 0 for biases; from Philox, the same on every machine. */
NB_API void nb_model_init(nb_model *model, uint32_t seed);
/* The same with every matrix within `cut` standard deviations (at least 0.5): what is drawn beyond is drawn again, so
 * that the rest is as it was. 0: none is cut. */
NB_API void nb_model_init_within(nb_model *model, uint32_t seed, double cut);

NB_API const nb_model_config *nb_model_get_config(const nb_model *model);
NB_API int32_t nb_model_param_count(const nb_model *model);
NB_API const nb_param *nb_model_param(const nb_model *model, int32_t index);
NB_API int64_t nb_model_param_elements(const nb_model *model); /* of all tensors together */
/* real [elements], in backend memory; NULL where the recipe keeps masters in fewer bits */
NB_API void *nb_model_params(nb_model *model);
/* real [elements]; NULL unless training, and where the recipe keeps gradients in fewer bits */
NB_API void *nb_model_grads(nb_model *model);

/* Tells the model that parameters changed: quantized and BF16 copies of weights are made anew at the next pass. */
NB_API void nb_model_params_changed(nb_model *model);

/* Mean loss over the scored targets; 0 where the batch scores none. */
NB_API nb_status nb_model_loss(nb_model *model, const nb_batch *batch, const nb_pass *pass, double *loss,
                               nb_error *err);

/* The same, and grads += d(mean loss + z_loss term)/d(params); where the recipe keeps gradients in fewer bits, they are
 * those of this batch alone. */
NB_API nb_status nb_model_loss_and_grads(nb_model *model, const nb_batch *batch, const nb_pass *pass, double *loss,
                                         nb_error *err);

/* Logits of every position, real-valued on the host: [batch*seq, vocab]. For generation and tests. */
NB_API nb_status nb_model_logits(nb_model *model, const nb_batch *batch, const nb_pass *pass, float *logits,
                                 nb_error *err);

/* Feeds one token behind those of positions 0 .. position - 1, whose keys, values and gates the model keeps, and gives
 * its logits [vocab]. Position 0 begins a text; the window is the `seq` that a model without gradients was made for. An
 * operand's tensor scale is that of the one token. */
NB_API nb_status nb_model_step(nb_model *model, int32_t token, int64_t position, const nb_pass *pass, float *logits,
                               nb_error *err);

/* Call once after each optimizer step, before nb_model_params_changed: mechanisms that act on the masters
 * (oscillation reset, moving averages of weights) act here. `pass` is that of the step just taken. */
NB_API nb_status nb_model_after_step(nb_model *model, const nb_pass *pass, nb_error *err);

/* What mechanisms keep between steps (linear.h); a checkpoint must hold it. */
NB_API int32_t nb_model_state(nb_model *model, nb_state_tensor *tensors,
                              int32_t max_tensors); /* returns how many there are */
/* Call after the tensors above were written from a checkpoint. */
NB_API nb_status nb_model_state_loaded(nb_model *model, nb_error *err);

/* How many groups of layers ask for a mechanism in vain (a share of channels that rounds to none, say), and a sentence
 * about the first. */
NB_API int32_t nb_model_doubts(const nb_model *model, char *text, size_t size);

/* FLOPs of one training token (forward and backward, GEMMs and attention), for MFU; formula in docs/training.md, "A
 * step". */
NB_API double nb_model_flops_per_token(const nb_model *model, int64_t seq);

/* One line of the memory table: where the bytes went. */
typedef struct nb_memory_row {
    const char *what; /* "parameters (f32)", "gradients (f32)", "saved activations", ... */
    size_t bytes;
} nb_memory_row;
NB_API int32_t nb_model_memory(const nb_model *model, nb_memory_row *rows, int32_t max_rows);

NB_API int32_t nb_model_census(const nb_model *model, nb_census_row *rows,
                               int32_t max_rows); /* returns how many there are */

#ifdef __cplusplus
}
#endif
#endif
