/* evaluate.c: walks over validation data in micro-batches. */
#include "evaluate.h"
#include "trainer.h"
#include "tree.h"

#include "base/progress.h"
#include "model/loss.h"

#include <math.h>

/* Targets from sequence `used` on are not scored. */
static void score_only(ni_batch_buffer *buffer, int64_t used) {
    int64_t seq = buffer->view.seq, all = buffer->view.batch * seq;
    for (int64_t i = used * seq; i < all; i++)
        buffer->buffers.targets[i] = -1;
}

/* Micro-batches first .. first + count; the sum of each goes into `sums`, in order, once all are through. */
static nb_status sum_losses(nb_model *model, const ni_dataset *data, ni_batch_buffer *buffer, const nb_pass *pass,
                            const nb_train_callbacks *callbacks, int64_t first, int64_t count, ni_sum_tree *sums,
                            int64_t *tokens, nb_error *err) {
    double sum[NI_LOSS_SLOTS], *slots = ni_model_loss_slots(model);
    const int64_t batch = buffer->view.batch, sequences = ni_dataset_sequences(data);
    for (int64_t i = 0; i < count; i++) {
        nb_pass here = *pass;
        if (callbacks && callbacks->stop && callbacks->stop(callbacks->user))
            return nb_fail(err, NB_INTERRUPTED, "stopped by a signal during an evaluation");
        int64_t scored, left = sequences - (first + i) * batch;
        here.micro_batch = (uint32_t)(first + i);
        NB_TRY(ni_dataset_fill(data, first + i, batch, &buffer->buffers, err));
        score_only(buffer, left < batch ? left : batch);
        NB_TRY(ni_model_queue_loss(model, &buffer->view, &here, slots + i, &scored, err));
        *tokens += scored;
    }
    NB_TRY(ni_model_fetch_losses(model, count, sum, err));
    for (int64_t i = 0; i < count; i++)
        ni_tree_add(sums, sum[i]);
    return NB_OK;
}

nb_status ni_evaluate(nb_model *model, const ni_dataset *data, ni_batch_buffer *buffer, const nb_pass *pass,
                      const nb_train_callbacks *callbacks, nb_eval_report *report, nb_error *err) {
    const int64_t batch = buffer->view.batch, batches = (ni_dataset_sequences(data) + batch - 1) / batch;
    const double begin = ni_seconds();
    ni_sum_tree sums = {0};
    int64_t tokens = 0;
    for (int64_t first = 0; first < batches; first += NI_LOSS_SLOTS) {
        int64_t count = batches - first < NI_LOSS_SLOTS ? batches - first : NI_LOSS_SLOTS;
        NB_TRY(sum_losses(model, data, buffer, pass, callbacks, first, count, &sums, &tokens, err));
    }
    report->step = pass->step;
    report->tokens = tokens;
    report->loss = tokens ? ni_tree_total(&sums) / (double)tokens : NAN;
    report->seconds = ni_seconds() - begin;
    return NB_OK;
}

nb_status nb_trainer_evaluate(nb_trainer *t, nb_eval_report *report, nb_error *err) {
    if (!t->val)
        return nb_fail(err, NB_BAD_CONFIG, "data.val: no validation data is given; expected a shard");
    nb_pass pass = ni_trainer_pass(t, 0);
    return ni_evaluate(t->model, t->val, &t->batch, &pass, &t->callbacks, report, err);
}
