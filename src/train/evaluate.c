/* evaluate.c: walks over validation data in micro-batches. */
#include "evaluate.h"
#include "trainer.h"
#include "tree.h"

#include "base/progress.h"
#include "model/loss.h"

#include <math.h>
#include <stdlib.h>

/* Targets from sequence `used` on are not scored. */
static void score_only(ni_batch_buffer *buffer, int64_t used) {
    int64_t seq = buffer->view.seq, all = buffer->view.batch * seq;
    for (int64_t i = used * seq; i < all; i++)
        buffer->buffers.targets[i] = -1;
}

/* What one micro-batch gives. */
typedef struct part {
    double sum;
    int64_t tokens;
} part;

static nb_status stopped(nb_error *err) {
    return nb_fail(err, NB_INTERRUPTED, "stopped by a signal during an evaluation");
}

/* An evaluation under way. */
typedef struct walk {
    nb_model *model;
    const ni_dataset *data;
    ni_batch_buffer *buffer;
    const nb_pass *pass;
    const nb_train_callbacks *callbacks; /* NULL: nobody asks for a stop */
} walk;

static bool stops(const walk *w) {
    return w->callbacks && w->callbacks->stop && w->callbacks->stop(w->callbacks->user);
}

/* Micro-batches first .. first + count, at most NI_LOSS_SLOTS, into parts[first] and on. */
static nb_status queue(const walk *w, int64_t first, int64_t count, part *parts, nb_error *err) {
    double sum[NI_LOSS_SLOTS], *slots = ni_model_loss_slots(w->model);
    const int64_t batch = w->buffer->view.batch, sequences = ni_dataset_sequences(w->data);
    for (int64_t i = 0; i < count; i++) {
        nb_pass here = *w->pass;
        if (stops(w))
            return stopped(err);
        int64_t left = sequences - (first + i) * batch;
        here.micro_batch = (uint32_t)(first + i);
        NB_TRY(ni_dataset_fill(w->data, first + i, batch, &w->buffer->buffers, err));
        score_only(w->buffer, left < batch ? left : batch);
        NB_TRY(ni_model_queue_loss(w->model, &w->buffer->view, &here, slots + i, &parts[first + i].tokens, err));
    }
    NB_TRY(ni_model_fetch_losses(w->model, count, sum, err));
    for (int64_t i = 0; i < count; i++)
        parts[first + i].sum = sum[i];
    return NB_OK;
}

/* The parts of all ranks: rank r has those from batches * r / world on. */
static nb_status all_parts(const walk *w, nb_ranks *ranks, int64_t batches, part *parts, nb_error *err) {
    const int64_t world = nb_ranks_world(ranks), rank = nb_ranks_rank(ranks);
    const int64_t begin = batches * rank / world, end = batches * (rank + 1) / world;
    for (int64_t first = begin; first < end; first += NI_LOSS_SLOTS)
        NB_TRY(queue(w, first, end - first < NI_LOSS_SLOTS ? end - first : NI_LOSS_SLOTS, parts, err));
    if (!ranks)
        return NB_OK;
    size_t *at = calloc((size_t)world + 1, sizeof *at);
    if (!at)
        return nb_fail(err, NB_NO_MEMORY, "evaluation: out of memory");
    for (int64_t r = 0; r <= world; r++)
        at[r] = (size_t)(batches * r / world) * sizeof *parts;
    nb_status status = ni_ranks_gather_pieces(ranks, parts, at, err);
    free(at);
    return status;
}

nb_status ni_evaluate(nb_model *model, const ni_dataset *data, ni_batch_buffer *buffer, const nb_pass *pass,
                      const nb_train_callbacks *callbacks, nb_ranks *ranks, nb_eval_report *report, nb_error *err) {
    const int64_t batch = buffer->view.batch, batches = (ni_dataset_sequences(data) + batch - 1) / batch;
    const double begin = ni_seconds();
    walk w = {model, data, buffer, pass, callbacks};
    ni_sum_tree sums = {0};
    int64_t tokens = 0;
    if (ranks) { /* who stopped alone would be waited for */
        bool stop;
        NB_TRY(ni_ranks_any(ranks, stops(&w), &stop, err));
        if (stop)
            return stopped(err);
        w.callbacks = NULL;
    }
    part *parts = calloc((size_t)batches + 1, sizeof *parts);
    if (!parts)
        return nb_fail(err, NB_NO_MEMORY, "evaluation: out of memory for %lld losses", (long long)batches);
    nb_status status = all_parts(&w, ranks, batches, parts, err);
    for (int64_t i = 0; i < batches; i++) {
        ni_tree_add(&sums, parts[i].sum);
        tokens += parts[i].tokens;
    }
    free(parts);
    NB_TRY(status);
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
    NB_TRY(ni_hand_over_due(&t->handed, &pass, err));
    return ni_evaluate(t->model, t->val, &t->batch, &pass, &t->callbacks, t->ranks, report, err);
}
