/* calibrate.c: a branch of the run that ends where it began. Before every so many steps the parameters, moments and
 * states of mechanisms are copied to the host; some updates of plain AdamW follow, at the present learning rate, on
 * data that no step of the run reads; then everything is put back but for what a mechanism found out meanwhile
 * (Q-Ramping, arXiv:2502.20853).
 *
 * It is a function of the state before the step, so a run that stops in it begins it again. Ranks share its
 * micro-batches as those of a step, sum their gradients, and so find the same.
 */
#include "backend/table.h"
#include "model/state.h"
#include "state_copy.h"

#include <math.h>
#include <stdlib.h>

/* Epochs of the data from this one on are for calibrations: no run comes so far. */
#define FIRST_EPOCH ((int64_t)1 << 24)

/* What AdamW moves, on the host. */
typedef struct kept {
    char *params, *m, *v;
    size_t bytes; /* each */
    int64_t updates;
    ni_state_copy state;
} kept;

static void forget(kept *k) {
    free(k->params);
    free(k->m);
    free(k->v);
    ni_state_copy_free(&k->state);
}

/* All in F32, with a place for every parameter (recipe.c asks for that). */
static nb_status keep(nb_trainer *t, kept *k, nb_error *err) {
    const ni_backend_ops *const ops = t->be->ops;
    k->bytes = (size_t)t->optimizer.m.elements * sizeof(float);
    k->params = malloc(k->bytes + 1);
    k->m = malloc(k->bytes + 1);
    k->v = malloc(k->bytes + 1);
    if (!k->params || !k->m || !k->v)
        return nb_fail(err, NB_NO_MEMORY, "qramping: no memory on the host for a copy of parameters and moments");
    ops->download(t->be, k->params, nb_model_params(t->model), k->bytes);
    ops->download(t->be, k->m, t->optimizer.m.data, k->bytes);
    ops->download(t->be, k->v, t->optimizer.v.data, k->bytes);
    k->updates = t->optimizer.updates;
    return ni_state_copy_take(t, &k->state, err);
}

static nb_status put_back(nb_trainer *t, const kept *k, bool calibrated, nb_error *err) {
    const ni_backend_ops *const ops = t->be->ops;
    ops->upload(t->be, nb_model_params(t->model), k->params, k->bytes);
    ops->upload(t->be, t->optimizer.m.data, k->m, k->bytes);
    ops->upload(t->be, t->optimizer.v.data, k->v, k->bytes);
    t->optimizer.updates = k->updates;
    NB_TRY(ni_state_copy_put(t, &k->state, calibrated ? NI_CALIBRATED : NULL, err));
    nb_model_params_changed(t->model);
    return ops->synchronize(t->be, err);
}

/* One update, and its norm for ranks to compare before the next. */
static nb_status update(nb_trainer *t, double lr, nb_error *err) {
    const double scale = 1.0 / (double)t->config.accumulation;
    const ni_param_array *grads = ni_model_gradients(t->model);
    double loss, squares;
    NB_TRY(ni_trainer_accumulate(t, NULL, err));
    NB_TRY(ni_results_fetch(&t->results, grads, t->ranks, NULL, &loss, &squares, err));
    NB_TRY(t->be->ops->synchronize(t->be, err));
    const double norm = t->last_norm = sqrt(squares) * scale;
    if (!isfinite(loss) || !isfinite(norm)) {
        t->bad = NI_BAD_NONFINITE;
        return nb_fail(err, NB_BAD_NUMBER, "step %lld: in update %d of a calibration the loss is %.4g, the norm %.4g",
                       (long long)t->at.step + 1, t->calibration.update, loss, norm);
    }
    const nb_pass pass = ni_trainer_pass(t, 0);
    ni_optimizer_update(&t->optimizer, t->model, grads, &t->config, lr, scale * ni_clip_factor(norm, t->config.clip),
                        false);
    const nb_status status = ni_model_calibrate(t->model, &pass, t->calibration.update - 1, err);
    nb_model_params_changed(t->model);
    return status == NB_OK ? t->be->ops->synchronize(t->be, err) : status;
}

static nb_status branch(nb_trainer *t, int64_t number, int32_t updates, nb_error *err) {
    const double lr = t->config.optimizer.lr * nb_schedule_factor(&t->config.schedule, t->at.step, t->steps);
    const int64_t batch = t->config.micro_batch * t->config.accumulation;
    const int64_t first = FIRST_EPOCH * ni_dataset_sequences(t->train) / batch + 1 + number * updates;
    nb_status status = NB_OK;
    for (int32_t i = 0; i < updates && status == NB_OK; i++) {
        t->calibration = (ni_calibration){i + 1, first + i};
        status = update(t, lr, err);
    }
    t->calibration.update = 0;
    return status;
}

nb_status ni_trainer_calibrate(nb_trainer *t, nb_error *err) {
    const nb_qramping *how = &t->working_recipe.mechanisms.qramping;
    const int64_t every = nb_qramping_when(how, t->steps).every;
    kept k = {0};
    nb_error none = {0};
    if (!t->working_recipe.mechanisms.has_qramping || t->at.step % every != 0)
        return NB_OK;
    nb_status status = keep(t, &k, err);
    if (status == NB_OK) {
        t->torn = true;
        status = branch(t, t->at.step / every, how->window + 1, err);
        const nb_status back = put_back(t, &k, status == NB_OK, status == NB_OK ? err : &none);
        t->torn = back != NB_OK;
        status = status == NB_OK ? back : status;
    }
    forget(&k);
    return status;
}
