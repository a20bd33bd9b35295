/* decoder.h: the parts of a decoder, as the files of this room see each other.
 *
 *     tokens -> embedding -> x_0 -> [ x + mixer ] -> [ x + mlp ] -> ... -> x_2L -> head -> loss
 *                                    \_____ block 0 ____________/
 *
 * Each bracket is a branch: x + f(norm(x)), or x + norm(f(x)) in post-norm families. f is a layer: attention.c, gla.c
 * or mlp.c. What a layer needs again in the backward pass it saves in buffers of its own, taken from one arena when the
 * model is made; what lives only inside a pass is shared by all layers. A step allocates nothing.
 */
#ifndef NB_MODEL_DECODER_H
#define NB_MODEL_DECODER_H

#include "backend/table.h"
#include "linear/linear.h"
#include "model/arena.h"
#include "model/loss.h"
#include "model/params.h"
#include "nibble/model.h"

enum { NB_INPUTS = 5 }; /* arrays of a micro-batch */

/* One pass over one micro-batch. */
typedef struct nb_run {
    nb_backend *be;
    const nb_pass *pass;
    nb_scratch *scratch;
    int64_t batch, seq, rows;                                          /* rows = batch * seq: the tokens */
    const int32_t *tokens, *targets, *positions, *doc_start, *doc_end; /* [rows], backend memory */
    bool training;                                                     /* a backward pass follows */
} nb_run;

/* [rows, cols] of type act. */
static inline nb_mat nb_act(const nb_run *run, void *data, int64_t cols) {
    return nb_mat_of(data, run->be->act, run->rows, cols);
}

static inline nb_mat nb_act_with(const nb_run *run, void *data, int64_t cols, uint32_t *amax) {
    nb_mat m = nb_act(run, data, cols);
    m.amax = amax;
    return m;
}

/* ---- norms ---- */

typedef struct nb_norm {
    int32_t param;
    void *weight, *grad; /* real [dim] */
    int64_t dim;
    double eps;
} nb_norm;

void nb_norm_forward(nb_backend *be, const nb_norm *norm, void *y, void *rstd, const void *x, int64_t rows);
void nb_norm_backward(nb_backend *be, const nb_norm *norm, const nb_mat *dx, const void *dy, const void *x,
                      const void *rstd);

/* ---- layers: what a branch holds ---- */

struct nb_builder;

/* One kind of layer. build runs once the parameters have their memory; place runs twice (arena.h). */
typedef struct nb_layer_kind {
    void *(*create)(const nb_model_config *config); /* zeroed state; NULL if memory ran out */
    nb_status (*declare)(void *layer, struct nb_builder *builder, nb_error *err); /* parameters */
    nb_status (*build)(void *layer, struct nb_builder *builder, nb_error *err);   /* linear groups, norms */
    void (*place)(void *layer, const struct nb_builder *builder, nb_arena *saved, nb_arena *working);
    bool (*wants_amax)(const void *layer, bool gradients); /* of its input; of the gradient of its output */
    nb_status (*forward)(void *layer, const nb_run *run, const nb_mat *x, const nb_mat *y, nb_error *err);
    nb_status (*backward)(void *layer, const nb_run *run, const nb_mat *x, const nb_mat *dy, const nb_mat *dx,
                          nb_error *err);
    double (*flops)(const void *layer, int64_t seq); /* of one training token, beside the linear layers */
} nb_layer_kind;

extern const nb_layer_kind nb_attention_kind, nb_mlp_kind, nb_gla_kind;

/* ---- families ---- */

typedef enum nb_qk_norm { NB_QK_NORM_NONE, NB_QK_NORM_HEAD, NB_QK_NORM_WHOLE } nb_qk_norm;

/* What tells one family from another. Names are Hugging Face's. */
typedef struct nb_family_traits {
    nb_family family;
    const char *embedding; /* parameter under "model." */
    const char *mixer_norm, *mlp_norm;
    bool post_norm;
    nb_qk_norm qk_norm; /* before RoPE: over each head, or over the whole projection */
    const nb_layer_kind *mixer_kind;
} nb_family_traits;
const nb_family_traits *nb_family_find(nb_family family); /* NULL if there is none */

/* ---- the model ---- */

typedef struct nb_branch {
    const nb_layer_kind *kind;
    void *layer;
    nb_norm norm;
    void *normed;   /* act [rows, hidden]: pre-norm: f's input; post-norm: f's output, before the norm */
    void *rstd;     /* real [rows] */
    uint32_t *amax; /* of f's input where it is `normed`; NULL where nobody asks */
} nb_branch;

typedef struct nb_head {
    nb_norm norm;
    int32_t param; /* of the weight: the embedding's if tied */
    nb_linear_group *linear;
    int64_t chunk;          /* rows whose logits exist at one time */
    void *normed, *dnormed; /* act [rows, hidden] */
    void *rstd, *loss;      /* real [rows] */
    void *logits;           /* act [chunk, vocab] */
} nb_head;

struct nb_model {
    nb_backend *be;
    nb_model_config config;
    const nb_family_traits *traits;
    bool training;
    int64_t max_batch, max_seq, max_rows;
    nb_params params;
    int32_t embedding;   /* parameter */
    nb_branch *branches; /* [2 * layers] */
    nb_head head;
    nb_linear_group **groups; /* every group, in the order of the forward pass */
    int32_t group_count, group_capacity;
    nb_arena saved, working;
    nb_scratch scratch;
    size_t saved_bytes, working_bytes, group_bytes;
    void **stream;                    /* [2 * layers + 1] act [rows, hidden]: the residual stream */
    void *dstream, *branch_buffer[2]; /* act [rows, hidden] */
    nb_pass pass;                     /* of the micro-batch at hand, with its clock */
    uint32_t *clock;                  /* backend [2]: its step and micro-batch */
    uint32_t *dy_amax;                /* of the gradient that goes into a branch; NULL where nobody asks */
    int32_t *inputs;                  /* backend int32 [NB_INPUTS, rows], as in nb_run */
    int32_t *doc_end;                 /* host [rows] */
    double *losses;                   /* backend [NB_LOSS_SLOTS] (model/loss.h) */
};

/* What the parts of a model need while it is made. */
typedef struct nb_builder {
    struct nb_model *model;
    const nb_recipe *recipe;
    int32_t block; /* -1 outside the blocks */
} nb_builder;

/* builder.c */

/* "layers.3.self_attn.q_proj": a module of the builder's block, or a module outside the blocks. */
void nb_module_name(const nb_builder *builder, const char *inner, char name[NB_NAME_SIZE]);
/* Declares "model.MODULE.suffix" ("weight", "bias"). cols = 0: a vector. */
nb_status nb_declare(nb_builder *builder, const char *inner, const char *suffix, int64_t rows, int64_t cols,
                     int32_t *index, nb_error *err);
nb_status nb_declare_norm(nb_builder *builder, const char *inner, int64_t dim, nb_norm *norm, nb_error *err);
void nb_build_norm(const nb_builder *builder, nb_norm *norm);

/* One linear layer of a group: its module name inside the block, and its weight. */
typedef struct nb_projection {
    const char *inner; /* "self_attn.q_proj" */
    int32_t param;
} nb_projection;
/* Makes a group of layers that read the same input and puts it on the model's list, which owns it. */
nb_status nb_build_group(nb_builder *builder, const char *input, const nb_projection *projections, int32_t count,
                         int64_t max_rows, nb_linear_group **out, nb_error *err);

/* A word for the amax of what the group reads, taken from `arena`; NULL where it does not ask for one. */
uint32_t *nb_amax_word(const nb_linear_group *group, bool gradients, nb_arena *arena);

/* Bytes of [rows of the model, cols] in act and in real. */
size_t nb_act_bytes(const nb_builder *builder, int64_t cols);
size_t nb_real_bytes(const nb_builder *builder, int64_t cols);

/* head.c: what follows the head's norm, which the decoder takes */
nb_status nb_head_declare(nb_builder *builder, nb_error *err);
nb_status nb_head_build(nb_builder *builder, nb_error *err);
void nb_head_place(const nb_builder *builder, nb_arena *working);
/* Sum of the losses of the scored targets, into backend memory; with `dx`, also the gradients of their mean, into the
 * parameters and dx. */
nb_status nb_head_loss(struct nb_model *model, const nb_run *run, const void *x, int64_t scored, void *dx,
                       double *sum_of_losses, nb_error *err);
nb_status nb_head_logits(struct nb_model *model, const nb_run *run, float *logits, nb_error *err);

/* decoder.c */
/* The last of the stream, and the head's norm of it. */
nb_status nb_decoder_forward(struct nb_model *model, const nb_run *run, nb_error *err);
nb_status nb_decoder_backward(struct nb_model *model, const nb_run *run, nb_error *err); /* from dstream */

/* build.c: puts a model together; on failure the caller frees what there is. */
nb_status nb_model_assemble(struct nb_model *model, const nb_recipe *recipe, nb_error *err);

#endif
