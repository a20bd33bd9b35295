/* mlp.c: the SwiGLU layer, y = W_down (silu(W_gate x) * (W_up x))  (arXiv:2002.05202). In ngpt gate and up have
 * learned factors, and what they make has length 1 where the model is `fine` (sphere.c). */
#include "backend/table.h"
#include "model/decoder.h"

#include <math.h>
#include <stdlib.h>

typedef struct ni_mlp {
    int64_t hidden, intermediate;
    int32_t gate_param, up_param, down_param;
    ni_linear_group *in, *out;
    void *gate, *up, *inner;    /* saved: act [rows, intermediate] */
    void *dgate, *dup, *dinner; /* of a pass */
    ni_amaxes inner_amaxes, dgate_amaxes, dup_amaxes;
    bool sphere, fine;
    ni_gain gate_gain, up_gain; /* sphere: s_v and s_u */
    ni_unit length;             /* fine: of the inner layer */
    void *dlong;                /* fine, of a pass: act [rows, intermediate] */
} ni_mlp;

static void *create(const nb_model_config *config) {
    ni_mlp *mlp = calloc(1, sizeof *mlp);
    if (mlp) {
        mlp->hidden = config->hidden;
        mlp->intermediate = config->intermediate;
        mlp->sphere = ni_family_find(config->family)->sphere;
        mlp->fine = mlp->sphere && config->fine;
    }
    return mlp;
}

/* u and v are as long as a coordinate of a unit vector, 1/sqrt(hidden), where SiLU is a line: sqrt(hidden) times that.
 */
static nb_status declare_factors(ni_mlp *mlp, ni_builder *builder, nb_error *err) {
    nb_param *list = builder->model->params.list;
    const double width = sqrt((double)mlp->hidden);
    list[mlp->gate_param].unit = list[mlp->up_param].unit = NB_UNIT_ROWS;
    list[mlp->down_param].unit = NB_UNIT_COLUMNS;
    NB_TRY(ni_gain_declare(builder, "mlp", "s_v", mlp->intermediate, 1, width, 1, &mlp->gate_gain, err));
    return ni_gain_declare(builder, "mlp", "s_u", mlp->intermediate, 1, width, 1, &mlp->up_gain, err);
}

static nb_status declare(void *layer, ni_builder *builder, nb_error *err) {
    ni_mlp *mlp = layer;
    NB_TRY(ni_declare(builder, "mlp.gate_proj", "weight", mlp->intermediate, mlp->hidden, &mlp->gate_param, err));
    NB_TRY(ni_declare(builder, "mlp.up_proj", "weight", mlp->intermediate, mlp->hidden, &mlp->up_param, err));
    NB_TRY(ni_declare(builder, "mlp.down_proj", "weight", mlp->hidden, mlp->intermediate, &mlp->down_param, err));
    return mlp->sphere ? declare_factors(mlp, builder, err) : NB_OK;
}

static nb_status build(void *layer, ni_builder *builder, nb_error *err) {
    ni_mlp *mlp = layer;
    const ni_projection in[] = {{"mlp.gate_proj", mlp->gate_param}, {"mlp.up_proj", mlp->up_param}};
    const ni_projection out[] = {{"mlp.down_proj", mlp->down_param}};
    int64_t rows = builder->model->max_rows;
    if (mlp->sphere) {
        ni_gain_build(builder, &mlp->gate_gain);
        ni_gain_build(builder, &mlp->up_gain);
    }
    NB_TRY(ni_build_group(builder, "mlp.input", in, 2, rows, &mlp->in, err));
    return ni_build_group(builder, "mlp.inner", out, 1, rows, &mlp->out, err);
}

/* What lies between SwiGLU and a factor or a length is not looked at for turned columns. */
static ni_wanted_amaxes wanted(const ni_mlp *mlp, const ni_linear_group *group, bool gradients) {
    ni_wanted_amaxes wants = ni_linear_group_wants(group, gradients);
    wants.turned &= !mlp->sphere;
    return wants;
}

static void place(void *layer, const ni_builder *builder, ni_arena *saved, ni_arena *working) {
    ni_mlp *mlp = layer;
    size_t bytes = ni_act_bytes(builder, mlp->intermediate);
    mlp->gate = ni_arena_take(saved, bytes);
    mlp->up = ni_arena_take(saved, bytes);
    mlp->inner = ni_arena_take(saved, bytes);
    mlp->inner_amaxes = ni_amax_words(builder, wanted(mlp, mlp->out, false));
    if (mlp->sphere) {
        mlp->gate_gain.raw = ni_arena_take(saved, bytes);
        mlp->up_gain.raw = ni_arena_take(saved, bytes);
    }
    if (mlp->fine)
        ni_unit_place(builder, &mlp->length, mlp->intermediate, mlp->intermediate, saved);
    if (!builder->model->training)
        return;
    mlp->dgate = ni_arena_take(working, bytes);
    mlp->dup = ni_arena_take(working, bytes);
    mlp->dinner = ni_arena_take(working, bytes);
    mlp->dgate_amaxes = ni_amax_words(builder, wanted(mlp, mlp->in, true));
    mlp->dup_amaxes = ni_amax_words(builder, wanted(mlp, mlp->in, true));
    mlp->dlong = mlp->fine ? ni_arena_take(working, bytes) : NULL;
}

static ni_wanted_amaxes wants(const void *layer, bool gradients) {
    const ni_mlp *mlp = layer;
    return ni_linear_group_wants(gradients ? mlp->out : mlp->in, gradients);
}

/* gate and up times their factors; their product, and N of it. */
static void inner_on_sphere(const ni_mlp *mlp, const ni_run *run, const nb_mat *inner) {
    const nb_mat gate = ni_act(run, mlp->gate, mlp->intermediate), up = ni_act(run, mlp->up, mlp->intermediate);
    const nb_mat product = mlp->fine ? ni_act(run, mlp->length.raw, mlp->intermediate) : *inner;
    ni_gain_forward(run, &mlp->gate_gain, &gate);
    ni_gain_forward(run, &mlp->up_gain, &up);
    run->be->ops->swiglu_forward(run->be, &product, mlp->gate, mlp->up);
    if (mlp->fine)
        ni_unit_forward(run, &mlp->length, inner);
}

static nb_status forward(void *layer, const ni_run *run, const nb_mat *x, const nb_mat *y, nb_error *err) {
    ni_mlp *mlp = layer;
    nb_mat gate_up[] = {ni_act(run, mlp->sphere ? mlp->gate_gain.raw : mlp->gate, mlp->intermediate),
                        ni_act(run, mlp->sphere ? mlp->up_gain.raw : mlp->up, mlp->intermediate)};
    nb_mat inner = ni_act_with(run, mlp->inner, mlp->intermediate, mlp->inner_amaxes);
    NB_TRY(ni_run_group_of(run, mlp->in, run->x_from, x, gate_up, err));
    const ni_producer product = {.kind = NI_PRODUCER_SWIGLU, .gate = mlp->gate, .up = mlp->up};
    if (y && !mlp->sphere)
        return ni_run_group_of(run, mlp->out, &product, &inner, y, err);
    if (mlp->sphere)
        inner_on_sphere(mlp, run, &inner);
    else
        run->be->ops->swiglu_forward(run->be, &inner, mlp->gate, mlp->up);
    return y ? ni_run_group(run, mlp->out, &inner, y, err) : NB_OK;
}

static void backward_on_sphere(const ni_mlp *mlp, const ni_run *run, const nb_mat dgate_up[2]) {
    const nb_mat dgate = ni_act(run, mlp->dgate, mlp->intermediate), dup = ni_act(run, mlp->dup, mlp->intermediate);
    const nb_mat dlong = ni_act(run, mlp->dlong, mlp->intermediate);
    if (mlp->fine)
        ni_unit_backward(run, &mlp->length, &dlong, mlp->dinner);
    run->be->ops->swiglu_backward(run->be, &dgate, &dup, mlp->fine ? mlp->dlong : mlp->dinner, mlp->gate, mlp->up);
    ni_gain_backward(run, &mlp->gate_gain, &dgate_up[0], mlp->dgate);
    ni_gain_backward(run, &mlp->up_gain, &dgate_up[1], mlp->dup);
}

static nb_status backward(void *layer, const ni_run *run, const nb_mat *x, const nb_mat *dy, const nb_mat *dx,
                          nb_error *err) {
    ni_mlp *mlp = layer;
    nb_mat inner = ni_act_with(run, mlp->inner, mlp->intermediate, mlp->inner_amaxes),
           dinner = ni_act(run, mlp->dinner, mlp->intermediate);
    nb_mat dgate_up[] = {ni_act_with(run, mlp->dgate, mlp->intermediate, mlp->dgate_amaxes),
                         ni_act_with(run, mlp->dup, mlp->intermediate, mlp->dup_amaxes)};
    NB_TRY(ni_linear_group_backward(mlp->out, run->pass, run->scratch, &inner, dy, &dinner, err));
    const ni_producer slopes = {.kind = NI_PRODUCER_SWIGLU_SLOPES, .gate = mlp->gate, .up = mlp->up, .dy = mlp->dinner};
    if (mlp->sphere)
        backward_on_sphere(mlp, run, dgate_up);
    return ni_linear_group_backward_of(mlp->in, run->pass, run->scratch, mlp->sphere ? NULL : &slopes, x, dgate_up, dx,
                                       err);
}

static double flops(const void *layer, int64_t seq) {
    (void)layer, (void)seq;
    return 0; /* its linear layers are counted by themselves */
}

static void gated(const void *layer, int32_t *gate, int32_t *up) {
    const ni_mlp *mlp = layer;
    *gate = mlp->gate_param;
    *up = mlp->up_param;
}

const ni_layer_kind ni_mlp_kind = {create, declare, build, place, wants, forward, backward, flops, NULL, NULL, gated};
