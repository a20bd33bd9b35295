/* decoder.c: the residual stream, forward and backward. */
#include "model/decoder.h"
#include "backend/table.h"

#include "nibble/lens.h"

#include <stdio.h>

/* ---- norms ---- */

void ni_norm_forward(nb_backend *be, const ni_norm *norm, void *y, void *rstd, const void *x, int64_t rows) {
    const nb_mat out = nb_mat_of(y, be->act, rows, norm->dim);
    be->ops->rmsnorm_forward(be, &out, rstd, x, norm->weight, norm->eps);
}

void ni_norm_backward(nb_backend *be, const ni_norm *norm, const nb_mat *dx, const void *dy, const void *x,
                      const void *rstd) {
    be->ops->rmsnorm_backward(be, dx, norm->grad, dy, x, norm->weight, rstd);
}

/* ---- branches: out = x + f(norm(x)) ----
 *
 * An addition goes with the norm that reads its sum: that of the next branch, or the head's. A branch's norm waits for
 * the branch, whose layers may have operands made of it at once; not where a lens looks at the stream, nor when it is
 * made again. In the backward pass the gradient that comes out of a norm is added to the residual gradient as it is
 * made. */

/* The norm that reads stream[i], and what it writes. */
static const ni_norm *norm_after(nb_model *model, const ni_run *run, int32_t i, nb_mat *normed, void **rstd) {
    const int64_t hidden = model->config.hidden;
    if (i == 2 * model->config.layers) { /* the head cuts it into chunks: no amax of the whole would serve */
        *normed = ni_act(run, model->head.normed, hidden);
        *rstd = model->head.rstd;
        return &model->head.norm;
    }
    *normed = ni_act_with(run, model->branches[i].normed, hidden, model->branches[i].amaxes);
    *rstd = model->branches[i].rstd;
    return &model->branches[i].norm;
}

/* As it is for branch i: whoever looks at its block. `pass` holds that. */
static ni_run run_of_branch(const nb_model *model, const ni_run *run, int32_t i, nb_pass *pass) {
    const nb_lens *lens = model->pass.lens;
    ni_run of = *run;
    if (run->again || !lens || !lens->block || i >= 2 * model->config.layers)
        return of;
    *pass = *run->pass;
    pass->lens = lens->block(lens->context, i / 2);
    of.pass = pass;
    return of;
}

/* The norm of stream[i], which with `change` becomes stream[i - 1] + change first. */
static nb_status norm_stream(nb_model *model, const ni_run *run, int32_t i, const void *change, nb_error *err) {
    nb_mat normed;
    void *rstd;
    const ni_norm *norm = norm_after(model, run, i, &normed, &rstd);
    const bool shown = ni_lens_is_near(run->pass); /* before another lens is asked for */
    nb_pass pass;
    const ni_run reader = run_of_branch(model, run, i, &pass);
    const ni_producer from = {.kind = NI_PRODUCER_NORM,
                              .x = model->stream[change ? i - 1 : i],
                              .change = change,
                              .sum = model->stream[i],
                              .rstd = rstd,
                              .w = norm->weight,
                              .eps = norm->eps};
    /* Neither who looks at the stream nor who looks at what is made of it finds it unmade. */
    const bool watched = shown || ni_lens_is_near(reader.pass);
    model->x_waits = !run->again && !watched && i < 2 * model->config.layers;
    model->x_from = from;
    const ni_produced out = {.numbers = &normed, .kept = true};
    return model->x_waits ? NB_OK : run->be->ops->make_produced(run->be, &from, &out, 1, err);
}

static nb_status pre_norm_forward(nb_model *model, const ni_run *run, int32_t i, nb_error *err) {
    ni_branch *branch = &model->branches[i];
    void *change = model->branch_buffer[0];
    const int64_t hidden = model->config.hidden;
    const nb_mat in = ni_act_with(run, branch->normed, hidden, branch->amaxes), y = ni_act(run, change, hidden);
    ni_run with = *run;
    with.x_from = model->x_waits ? &model->x_from : NULL;
    NB_TRY(branch->kind->forward(branch->layer, &with, &in, &y, err));
    return norm_stream(model, run, i + 1, change, err);
}

/* dstream holds d(loss)/d(out) and ends as d(loss)/dx. */
static nb_status pre_norm_backward(nb_model *model, const ni_run *run, int32_t i, nb_error *err) {
    ni_branch *branch = &model->branches[i];
    const ni_norm *norm = &branch->norm;
    const int64_t hidden = model->config.hidden;
    const nb_mat in = ni_act_with(run, branch->normed, hidden, branch->amaxes);
    const nb_mat dstream = ni_act_with(run, model->dstream, hidden, branch->dy_amaxes);
    const nb_mat next =
        i ? ni_act_with(run, model->dstream, hidden, branch[-1].dy_amaxes) : ni_act(run, model->dstream, hidden);
    const nb_mat dx = ni_act(run, model->branch_buffer[0], hidden);
    NB_TRY(branch->kind->backward(branch->layer, run, &in, &dstream, &dx, err));
    run->be->ops->rmsnorm_backward_add(run->be, &next, norm->grad, dx.data, model->stream[i], norm->weight,
                                       branch->rstd);
    ni_params_pack(&model->params, norm->param);
    return NB_OK;
}

/* ---- branches of post-norm families: out = x + norm(f(x)) ---- */

static nb_status post_norm_forward(nb_model *model, const ni_run *run, int32_t i, nb_error *err) {
    ni_branch *branch = &model->branches[i];
    const ni_norm *norm = &branch->norm;
    const nb_mat in = ni_act(run, model->stream[i], model->config.hidden);
    const nb_mat y = ni_act(run, branch->normed, model->config.hidden);
    NB_TRY(branch->kind->forward(branch->layer, run, &in, &y, err));
    run->be->ops->rmsnorm_add_forward(run->be, model->stream[i + 1], branch->rstd, in.data, y.data, norm->weight,
                                      run->rows, norm->dim, norm->eps);
    return NB_OK;
}

/* The branch's own dx is added to dstream by the branch before it, as that takes its gradient through its norm. */
static nb_status post_norm_backward(nb_model *model, const ni_run *run, int32_t i, nb_error *err) {
    nb_backend *be = run->be;
    ni_branch *branch = &model->branches[i];
    const ni_norm *norm = &branch->norm;
    const int64_t hidden = model->config.hidden;
    const nb_mat in = ni_act(run, model->stream[i], hidden);
    const nb_mat dy = ni_act_with(run, model->branch_buffer[1], hidden, branch->dy_amaxes);
    const nb_mat dx = ni_act(run, model->branch_buffer[0], hidden);
    if (i == 2 * model->config.layers - 1)
        ni_norm_backward(be, norm, &dy, model->dstream, branch->normed, branch->rstd);
    else
        be->ops->add_rmsnorm_backward(be, model->dstream, &dy, norm->grad, dx.data, branch->normed, norm->weight,
                                      branch->rstd);
    NB_TRY(branch->kind->backward(branch->layer, run, &in, &dy, &dx, err));
    if (i == 0)
        be->ops->add(be, model->dstream, model->dstream, dx.data, run->rows * hidden);
    ni_params_pack(&model->params, norm->param);
    return NB_OK;
}

/* ---- activations that are made again ---- */

/* Before the backward pass of an MLP: what others wrote over since the forward pass (build.c) is made as it was made
 * then: of the MLP, or of its whole block, from the residual stream before it. The last of all is still there. */
static nb_status make_again(nb_model *model, const ni_run *run, int32_t i, nb_error *err) {
    const int32_t last = 2 * model->config.layers - 1;
    if (model->recompute == NB_RECOMPUTE_NONE || i % 2 == 0 || i == last)
        return NB_OK;
    nb_pass unseen = *run->pass;
    unseen.lens = NULL;
    ni_run again = *run;
    again.pass = &unseen;
    again.again = true;
    ni_branch *mixer = &model->branches[i - 1], *mlp = &model->branches[i];
    const int64_t hidden = model->config.hidden;
    const bool block = model->recompute == NB_RECOMPUTE_BLOCK;
    if (block && model->traits->sphere) {
        NB_TRY(ni_sphere_forward(model, &again, i - 1, err));
        return ni_sphere_forward(model, &again, i, err);
    }
    if (block && model->traits->post_norm) {
        NB_TRY(post_norm_forward(model, &again, i - 1, err));
        return post_norm_forward(model, &again, i, err);
    }
    if (block) {
        const nb_mat normed = ni_act_with(&again, mixer->normed, hidden, mixer->amaxes);
        run->be->ops->rmsnorm_forward(run->be, &normed, mixer->rstd, model->stream[i - 1], mixer->norm.weight,
                                      mixer->norm.eps);
        NB_TRY(pre_norm_forward(model, &again, i - 1, err));
    }
    const nb_mat in = model->traits->post_norm || model->traits->sphere
                          ? ni_act(&again, model->stream[i], hidden)
                          : ni_act_with(&again, mlp->normed, hidden, mlp->amaxes);
    return mlp->kind->forward(mlp->layer, &again, &in, NULL, err);
}

/* ---- the whole stream ---- */

void ni_show_output(const ni_run *run, const char *module, const char *what, const nb_mat *y) {
    const nb_lens *lens = run->pass->lens;
    char name[2 * NB_NAME_SIZE];
    if (!lens || !lens->output)
        return;
    snprintf(name, sizeof name, "%s.%s", module, what);
    lens->output(lens->context, run->be, name, y);
}

/* After the MLP, the second branch of a block. */
static void show_stream(const nb_model *model, const ni_run *run, int32_t i) {
    char block[NB_NAME_SIZE];
    nb_pass pass;
    if (i % 2 == 0)
        return;
    const ni_run of = run_of_branch(model, run, i, &pass); /* the norm after it asked for the next block's */
    const nb_mat stream = ni_act(run, model->stream[i + 1], model->config.hidden);
    snprintf(block, sizeof block, "layers.%d", i / 2);
    ni_show_output(&of, block, "residual", &stream);
}

typedef nb_status branch_pass(nb_model *model, const ni_run *run, int32_t i, nb_error *err);

static branch_pass *forward_of(const nb_model *model) {
    return model->traits->sphere ? ni_sphere_forward : model->traits->post_norm ? post_norm_forward : pre_norm_forward;
}

static branch_pass *backward_of(const nb_model *model) {
    return model->traits->sphere      ? ni_sphere_backward
           : model->traits->post_norm ? post_norm_backward
                                      : pre_norm_backward;
}

static nb_status await_weights(const nb_model *model, int32_t section, nb_error *err) {
    return model->weights.watch ? model->weights.watch(model->weights.self, section, err) : NB_OK;
}

nb_status ni_decoder_forward(nb_model *model, const ni_run *run, nb_error *err) {
    const void *table = ni_params_value(&model->params, model->embedding);
    const bool post_norm = model->traits->post_norm, sphere = model->traits->sphere;
    const ni_head *head = &model->head;
    const int32_t branches = 2 * model->config.layers;
    if (run->be->clear_maxima && model->maxima.peak)
        run->be->clear_maxima(run->be, model->maxima.memory, model->maxima.peak);
    NB_TRY(await_weights(model, 0, err)); /* the embedding; each branch is a section after it */
    NB_TRY(ni_linear_groups_ready(model->groups, model->group_count, run->pass, err));
    run->be->ops->embed_forward(run->be, model->stream[0], table, run->tokens, run->rows, model->config.hidden);
    if (!post_norm && !sphere)
        NB_TRY(norm_stream(model, run, 0, NULL, err));
    for (int32_t i = 0; i < branches; i++) {
        NB_TRY(await_weights(model, 1 + i, err));
        nb_pass pass;
        const ni_run of = run_of_branch(model, run, i, &pass);
        NB_TRY(forward_of(model)(model, &of, i, err));
        show_stream(model, run, i);
    }
    NB_TRY(await_weights(model, INT32_MAX, err));
    if (post_norm)
        ni_norm_forward(run->be, &head->norm, head->normed, head->rstd, model->stream[branches], run->rows);
    return NB_OK;
}

nb_status ni_decoder_backward(nb_model *model, const ni_run *run, nb_error *err) {
    for (int32_t i = 2 * model->config.layers - 1; i >= 0; i--) {
        const ni_branch *branch = &model->branches[i];
        nb_pass pass;
        const ni_run of = run_of_branch(model, run, i, &pass);
        NB_TRY(make_again(model, run, i, err));
        NB_TRY(ni_linear_groups_ready_back(model->groups + branch->first_group, branch->groups, of.pass, err));
        NB_TRY(backward_of(model)(model, &of, i, err));
    }
    void *dtable = ni_params_grad(&model->params, model->embedding);
    run->be->ops->embed_backward(run->be, dtable, model->dstream, run->tokens, run->rows, model->config.hidden,
                                 model->config.vocab);
    ni_params_pack(&model->params, model->embedding);
    return NB_OK;
}
