/* decoder.c: the residual stream, forward and backward. */
#include "model/decoder.h"
#include "backend/table.h"

/* ---- norms ---- */

void nb_norm_forward(nb_backend *be, const nb_norm *norm, void *y, void *rstd, const void *x, int64_t rows) {
    be->ops->rmsnorm_forward(be, y, rstd, x, norm->weight, rows, norm->dim, norm->eps);
}

void nb_norm_backward(nb_backend *be, const nb_norm *norm, void *dx, const void *dy, const void *x, const void *rstd,
                      int64_t rows) {
    be->ops->rmsnorm_backward(be, dx, norm->grad, dy, x, norm->weight, rstd, rows, norm->dim);
}

/* ---- branches: out = x + f(norm(x)), or x + norm(f(x)) ---- */

static nb_status branch_forward(nb_model *model, const nb_run *run, nb_branch *branch, void *x, void *out,
                                nb_error *err) {
    nb_backend *be = run->be;
    int64_t hidden = model->config.hidden;
    void *change = model->branch_buffer[0];
    nb_mat in = nb_act(run, branch->post_norm ? x : branch->normed, hidden);
    nb_mat y = nb_act(run, branch->post_norm ? branch->normed : change, hidden);
    if (!branch->post_norm)
        nb_norm_forward(be, &branch->norm, branch->normed, branch->rstd, x, run->rows);
    NB_TRY(branch->kind->forward(branch->layer, run, &in, &y, err));
    if (branch->post_norm)
        nb_norm_forward(be, &branch->norm, change, branch->rstd, branch->normed, run->rows);
    be->ops->add(be, out, x, change, run->rows * hidden);
    return NB_OK;
}

/* dstream holds d(loss)/d(out) and ends as d(loss)/dx. */
static nb_status branch_backward(nb_model *model, const nb_run *run, nb_branch *branch, void *x, nb_error *err) {
    nb_backend *be = run->be;
    int64_t hidden = model->config.hidden;
    void *dout = model->dstream, *a = model->branch_buffer[0], *b = model->branch_buffer[1];
    nb_mat in = nb_act(run, branch->post_norm ? x : branch->normed, hidden);
    nb_mat dy = nb_act(run, branch->post_norm ? b : dout, hidden);
    nb_mat dx = nb_act(run, a, hidden);
    if (branch->post_norm)
        nb_norm_backward(be, &branch->norm, b, dout, branch->normed, branch->rstd, run->rows);
    NB_TRY(branch->kind->backward(branch->layer, run, &in, &dy, &dx, err));
    if (!branch->post_norm)
        nb_norm_backward(be, &branch->norm, b, a, x, branch->rstd, run->rows);
    be->ops->add(be, dout, dout, branch->post_norm ? a : b, run->rows * hidden);
    nb_params_pack(&model->params, branch->norm.param);
    return NB_OK;
}

/* ---- the whole stream ---- */

nb_status nb_decoder_forward(nb_model *model, const nb_run *run, nb_error *err) {
    const void *table = nb_params_value(&model->params, model->embedding);
    run->be->ops->embed_forward(run->be, model->stream[0], table, run->tokens, run->rows, model->config.hidden);
    for (int32_t i = 0; i < 2 * model->config.layers; i++)
        NB_TRY(branch_forward(model, run, &model->branches[i], model->stream[i], model->stream[i + 1], err));
    return NB_OK;
}

nb_status nb_decoder_backward(nb_model *model, const nb_run *run, nb_error *err) {
    for (int32_t i = 2 * model->config.layers - 1; i >= 0; i--)
        NB_TRY(branch_backward(model, run, &model->branches[i], model->stream[i], err));
    void *dtable = nb_params_grad(&model->params, model->embedding);
    run->be->ops->embed_backward(run->be, dtable, model->dstream, run->tokens, run->rows, model->config.hidden,
                                 model->config.vocab);
    nb_params_pack(&model->params, model->embedding);
    return NB_OK;
}
