/* decoder.h: the parts of a decoder, as the files of this room see each other.
 *
 *     tokens -> embedding -> x_0 -> [ x + mixer ] -> [ x + mlp ] -> ... -> x_2L -> head -> loss
 *                                    \_____ block 0 ____________/
 *
 * Each bracket is a branch: x + f(norm(x)), or x + norm(f(x)) in post-norm families, or a step on the sphere
 * (sphere.c). f is a layer: attention.c, gla.c or mlp.c. What a layer needs again in the backward pass it saves in
 * buffers of its own, taken from one arena when the model is made; what lives only inside a pass is shared by all
 * layers. A step allocates nothing.
 */
#ifndef NI_MODEL_DECODER_H
#define NI_MODEL_DECODER_H

#include "backend/table.h"
#include "linear/linear.h"
#include "model/arena.h"
#include "model/handed.h"
#include "model/loss.h"
#include "model/params.h"
#include "nibble/model.h"

enum { NI_INPUTS = 5 }; /* arrays of a micro-batch */

/* One pass over one micro-batch. */
typedef struct ni_run {
    nb_backend *be;
    const nb_pass *pass;
    ni_scratch *scratch;
    int64_t batch, seq, rows;                                          /* rows = batch * seq: the tokens */
    const int32_t *tokens, *targets, *positions, *doc_start, *doc_end; /* [rows], backend memory */
    int64_t documents;                                                 /* in the micro-batch; not of a kept token */
    bool training;                                                     /* a backward pass follows */
    bool again;   /* a forward pass was here already: what it saved is made once more, and nobody looks */
    int64_t kept; /* one token after so many whose keys, values and gates are kept (step.c); -1: a whole micro-batch */
    const ni_producer *x_from; /* what is to write the X of the branch at hand; NULL: it is there */
    const int32_t *kept_start,
        *kept_document; /* [kept + 1] backend memory: doc_start over all of them, for attention and GLA */
} ni_run;

/* Shows the lens what "MODULE.WHAT" gives. */
void ni_show_output(const ni_run *run, const char *module, const char *what, const nb_mat *y);

/* y[i] = X W_i^T of this pass, be it the first or one that is made again. */
static inline nb_status ni_run_group(const ni_run *run, ni_linear_group *group, const nb_mat *x, const nb_mat *y,
                                     nb_error *err) {
    if (run->again)
        return ni_linear_group_again(group, run->pass, run->scratch, x, y, err);
    return ni_linear_group_forward(group, run->pass, run->scratch, run->training, x, y, err);
}

/* The same of an X that `from` is to write first. */
static inline nb_status ni_run_group_of(const ni_run *run, ni_linear_group *group, const ni_producer *from,
                                        const nb_mat *x, const nb_mat *y, nb_error *err) {
    const ni_forward_kind kind = run->again ? NI_FORWARD_AGAIN : run->training ? NI_FORWARD_TRAINING : NI_FORWARD_ALONE;
    return ni_linear_group_forward_of(group, run->pass, run->scratch, kind, from, x, y, err);
}

/* [rows, cols] of type act. */
static inline nb_mat ni_act(const ni_run *run, void *data, int64_t cols) {
    return nb_mat_of(data, run->be->act, run->rows, cols);
}

/* Words for the maxima of a matrix, in backend memory; NULL where nobody asks. */
typedef struct ni_amaxes {
    uint32_t *plain, *turned; /* nb_mat.amax, nb_mat.turned_amax */
} ni_amaxes;

static inline nb_mat ni_act_with(const ni_run *run, void *data, int64_t cols, ni_amaxes amaxes) {
    nb_mat m = ni_act(run, data, cols);
    m.amax = amaxes.plain;
    m.turned_amax = amaxes.turned;
    return m;
}

/* Row `row` of an array of act [.., cols]. */
static inline void *ni_act_row(const ni_run *run, void *data, int64_t row, int64_t cols) {
    return (uint8_t *)data + (size_t)(row * cols) * nb_dtype_size(run->be->act);
}

/* ---- norms ---- */

typedef struct ni_norm {
    int32_t param;
    void *weight, *grad; /* real [dim] */
    int64_t dim;
    double eps;
} ni_norm;

void ni_norm_forward(nb_backend *be, const ni_norm *norm, void *y, void *rstd, const void *x, int64_t rows);
void ni_norm_backward(nb_backend *be, const ni_norm *norm, const nb_mat *dx, const void *dy, const void *x,
                      const void *rstd);

struct ni_builder;
struct nb_model;

/* ---- the sphere: what ngpt has in the place of norms (sphere.c) ---- */

/* N(v), a vector over its length: RMSNorm under a weight of 1/sqrt(dim) that nobody learns. */
typedef struct ni_unit {
    ni_norm norm;
    void *raw, *rstd; /* saved: act [rows, cols]; real [rows * cols / dim] */
} ni_unit;

/* A learned vector of factors: what is stored is factor * s^power smaller, so that AdamW moves it by shares. */
typedef struct ni_gain {
    int32_t param;
    int64_t dim;
    double factor;
    int32_t power;
    void *s, *grad; /* real [dim] */
    void *raw;      /* saved: act [rows, dim]: what it multiplies */
} ni_gain;

/* Declares "model.MODULE.suffix" [dim], which begins at `start` and multiplies by first * (s / start)^power. */
nb_status ni_gain_declare(struct ni_builder *builder, const char *inner, const char *suffix, int64_t dim, double start,
                          double first, int32_t power, ni_gain *gain, nb_error *err);
void ni_gain_build(const struct ni_builder *builder, ni_gain *gain);
void ni_unit_place(const struct ni_builder *builder, ni_unit *unit, int64_t cols, int64_t dim, ni_arena *saved);
void ni_unit_forward(const ni_run *run, const ni_unit *unit, const nb_mat *y); /* of unit->raw */
void ni_unit_backward(const ni_run *run, const ni_unit *unit, const nb_mat *dx, const void *dy);
void ni_gain_forward(const ni_run *run, const ni_gain *gain, const nb_mat *y); /* of gain->raw */
void ni_gain_backward(const ni_run *run, const ni_gain *gain, const nb_mat *dx, const void *dy);

/* ---- layers: what a branch holds ---- */

/* One kind of layer. build runs once the parameters have their memory; place runs twice (arena.h). */
typedef struct ni_layer_kind {
    void *(*create)(const nb_model_config *config); /* zeroed state; NULL if memory ran out */
    nb_status (*declare)(void *layer, struct ni_builder *builder, nb_error *err); /* parameters */
    nb_status (*build)(void *layer, struct ni_builder *builder, nb_error *err);   /* linear groups, norms */
    void (*place)(void *layer, const struct ni_builder *builder, ni_arena *saved, ni_arena *working);
    ni_wanted_amaxes (*wants)(const void *layer, bool gradients); /* of its input; of the gradient of its output */
    /* y NULL: not wanted, only what is saved for the backward pass. */
    nb_status (*forward)(void *layer, const ni_run *run, const nb_mat *x, const nb_mat *y, nb_error *err);
    nb_status (*backward)(void *layer, const ni_run *run, const nb_mat *x, const nb_mat *dy, const nb_mat *dx,
                          nb_error *err);
    double (*flops)(const void *layer, int64_t seq); /* of one training token, beside the linear layers */
    /* What the census says of what it computes beside them; NULL: nothing. */
    void (*census)(const void *layer, const struct nb_model *model, nb_census_row *row);
    /* Bytes that `rows` tokens leave behind for those after them; takes `memory` for it unless NULL. NULL: nothing. */
    size_t (*keep)(void *layer, nb_backend *be, int64_t rows, void *memory);
    /* The parameters of a projection that gates and of the one that it gates; NULL: the layer has no such pair. */
    void (*gated)(const void *layer, int32_t *gate, int32_t *up);
} ni_layer_kind;

extern const ni_layer_kind ni_attention_kind, ni_mlp_kind, ni_gla_kind;

/* ---- families ---- */

typedef enum ni_qk_norm { NI_QK_NORM_NONE, NI_QK_NORM_HEAD, NI_QK_NORM_WHOLE } ni_qk_norm;

/* What tells one family from another. Names are Hugging Face's. */
typedef struct ni_family_traits {
    nb_family family;
    const char *embedding; /* parameter under "model." */
    const char *mixer_norm, *mlp_norm;
    bool post_norm;
    bool sphere;        /* every vector has length 1 (sphere.c) */
    ni_qk_norm qk_norm; /* before RoPE: over each head, or over the whole projection */
    const ni_layer_kind *mixer_kind;
} ni_family_traits;
const ni_family_traits *ni_family_find(nb_family family); /* NULL if there is none */

/* ---- the model ---- */

typedef struct ni_branch {
    const ni_layer_kind *kind;
    void *layer;
    ni_norm norm;
    void *normed;                /* act [rows, hidden]: pre-norm: f's input; post-norm: f's output, before the norm */
    void *rstd;                  /* real [rows] */
    ni_amaxes amaxes;            /* of f's input where it is `normed` */
    ni_amaxes dy_amaxes;         /* of the gradient that goes into f */
    ni_gain alpha;               /* sphere: how far a step goes */
    int32_t first_group, groups; /* of model->groups */
} ni_branch;

typedef struct ni_head {
    ni_norm norm;
    int32_t param; /* of the weight: the embedding's if tied */
    ni_linear_group *linear;
    int64_t asked_rows;     /* nb_model_options.head_rows */
    int64_t chunk;          /* rows whose logits exist at one time */
    void *normed, *dnormed; /* act [rows, hidden] */
    void *rstd, *loss;      /* real [rows] */
    void *logits;           /* act [chunk, vocab] */
    int64_t wide_rows;      /* of them as F32, for whoever asks for logits */
    void *wide;             /* F32 [wide_rows, vocab] */
    ni_gain gain;           /* sphere: of the logits; what it multiplies is [chunk, vocab] */
} ni_head;

/* The linear layer whose weight a parameter is; group NULL: it is none's. */
typedef struct ni_weight_reader {
    ni_linear_group *group;
    int32_t layer;
} ni_weight_reader;

struct nb_model {
    nb_backend *be;
    nb_model_config config;
    const ni_family_traits *traits;
    bool training, hands_codes;
    nb_recompute recompute;
    int64_t max_batch, max_seq, max_rows;
    ni_params params;
    int32_t embedding;   /* parameter */
    ni_branch *branches; /* [2 * layers] */
    ni_head head;
    ni_linear_group **groups; /* every group, in the order of the forward pass */
    int32_t group_count, group_capacity;
    ni_weight_reader *readers; /* [parameters]: who multiplies with each */
    ni_arena saved, working;
    ni_arena maxima;         /* words of matrices' maxima, all of a micro-batch; part of `working` */
    uint32_t *weight_maxima; /* [parameters] backend memory: of masters, by the optimizer; NULL: nobody asks */
    ni_scratch scratch;
    size_t saved_bytes, working_bytes, group_bytes;
    void **stream;                    /* [2 * layers + 1] act [rows, hidden]: the residual stream */
    void *dstream, *branch_buffer[2]; /* act [rows, hidden] */
    ni_producer x_from;               /* the norm that the next branch begins with */
    bool x_waits;                     /* there is one */
    nb_pass pass;                     /* of the micro-batch at hand, with its clock */
    uint32_t *clock;                  /* backend [2]: its step and micro-batch */
    int32_t *inputs;                  /* backend int32 [NI_INPUTS, rows], as in ni_run */
    int32_t *doc_end;                 /* host [rows] */
    int64_t documents;                /* of the micro-batch at hand */
    void *unit_weight;                /* sphere: real; 1/sqrt(dim), dim times, for each dim of dims_of (sphere.c) */
    void *unit_grad;                  /* sphere: real [the largest of them]: slopes of weights that nobody learns */
    double *losses;                   /* backend [NI_LOSS_SLOTS] (model/loss.h) */
    void *kept;                       /* what layers keep between nb_model_step; NULL until the first */
    int32_t *kept_start; /* backend [2, max_rows]; part of `kept`: where attention begins to look, and zeros */
    int64_t kept_rows;   /* tokens in there */
    struct {
        ni_weight_watch *watch; /* NULL: nobody is told what a pass reads next */
        void *self;
    } weights;
};

/* What the parts of a model need while it is made. */
typedef struct ni_builder {
    struct nb_model *model;
    const nb_recipe *recipe;
    int32_t block; /* -1 outside the blocks */
} ni_builder;

/* builder.c */

/* "layers.3.self_attn.q_proj": a module of the builder's block, or a module outside the blocks. */
void ni_module_name(const ni_builder *builder, const char *inner, char name[NB_NAME_SIZE]);
/* Declares "model.MODULE.suffix" ("weight", "bias"). cols = 0: a vector. */
nb_status ni_declare(ni_builder *builder, const char *inner, const char *suffix, int64_t rows, int64_t cols,
                     int32_t *index, nb_error *err);
nb_status ni_declare_norm(ni_builder *builder, const char *inner, int64_t dim, ni_norm *norm, nb_error *err);
void ni_build_norm(const ni_builder *builder, ni_norm *norm);

/* One linear layer of a group: its module name inside the block, and its weight. */
typedef struct ni_projection {
    const char *inner; /* "self_attn.q_proj" */
    int32_t param;
} ni_projection;
/* Makes a group of layers that read the same input and puts it on the model's list, which owns it. */
nb_status ni_build_group(ni_builder *builder, const char *input, const ni_projection *projections, int32_t count,
                         int64_t max_rows, ni_linear_group **out, nb_error *err);

/* Words for what somebody wants, side by side among the model's. */
ni_amaxes ni_amax_words(const ni_builder *builder, ni_wanted_amaxes wants);

/* Bytes of [rows of the model, cols] in act and in real. */
size_t ni_act_bytes(const ni_builder *builder, int64_t cols);
size_t ni_real_bytes(const ni_builder *builder, int64_t cols);

/* head.c: what follows the head's norm, which the decoder takes */
nb_status ni_head_declare(ni_builder *builder, nb_error *err);
nb_status ni_head_build(ni_builder *builder, nb_error *err);
void ni_head_place(const ni_builder *builder, ni_arena *working);
/* Sum of the losses of the scored targets, into backend memory; with `dx`, also the gradients of their mean, into the
 * parameters and dx. */
nb_status ni_head_loss(struct nb_model *model, const ni_run *run, const void *x, int64_t scored, void *dx,
                       double *sum_of_losses, nb_error *err);
nb_status ni_head_logits(struct nb_model *model, const ni_run *run, float *logits, nb_error *err);

/* model.c: uploads a micro-batch. */
ni_run ni_model_begin(struct nb_model *model, const nb_batch *batch, const nb_pass *pass, bool targets, bool training);

/* decoder.c */
/* The last of the stream, and the head's norm of it. */
nb_status ni_decoder_forward(struct nb_model *model, const ni_run *run, nb_error *err);
nb_status ni_decoder_backward(struct nb_model *model, const ni_run *run, nb_error *err); /* from dstream */

/* sphere.c */
void ni_sphere_place(const ni_builder *builder, ni_arena *working);
nb_status ni_sphere_upload(struct nb_model *model, nb_error *err);
nb_status ni_sphere_declare(ni_builder *builder, ni_branch *branch, nb_error *err);
nb_status ni_sphere_forward(struct nb_model *model, const ni_run *run, int32_t i, nb_error *err);
nb_status ni_sphere_backward(struct nb_model *model, const ni_run *run, int32_t i, nb_error *err);
void ni_sphere_project(struct nb_model *model); /* brings parameters back to it */

/* build.c: puts a model together; on failure the caller frees what there is. */
nb_status ni_model_assemble(struct nb_model *model, const nb_recipe *recipe, nb_error *err);

#endif
