/* micro_batches.c: the gradients of a step: this rank's micro-batches one after the other, and with them those of the
 * other ranks. */
#include "trainer.h"

#include "base/progress.h"
#include "model/loss.h"

#include <assert.h>
#include <string.h>

/* ---- whose they are, and their numbers ---- */

static bool is_power_of_two(int64_t n) {
    return n > 0 && (n & (n - 1)) == 0;
}

/* A rank's micro-batches are an aligned block of the tree that sums them (accumulate.h), so that the bits do not depend
 * on how many ranks there are. */
nb_status ni_share_of(const nb_run_config *config, int64_t ranks, int64_t *count, nb_error *err) {
    const int64_t micro_batches = config->accumulation;
    *count = micro_batches / ranks;
    if (ranks == 1 || (micro_batches % ranks == 0 && is_power_of_two(*count)))
        return NB_OK;
    int64_t share = 1;
    while (share * ranks < micro_batches)
        share *= 2;
    return nb_fail(err, NB_BAD_CONFIG,
                   "accumulation: %lld micro-batches a step cannot be shared out over %lld ranks; expected 1, 2, 4, 8, "
                   "... for each rank; hint: accumulation: %lld",
                   (long long)micro_batches, (long long)ranks, (long long)(share * ranks));
}

int64_t ni_trainer_share(const nb_trainer *t, int64_t *first) {
    const int64_t count = t->config.accumulation / nb_ranks_world(t->ranks);
    *first = nb_ranks_rank(t->ranks) * count;
    return count;
}

nb_pass ni_run_pass(const nb_run_config *config, const nb_recipe *recipe, int64_t step, int64_t micro_batch) {
    const nb_late_switch *late = &recipe->late_switch;
    int64_t steps = nb_run_steps(config);
    const bool switched = nb_recipe_switched(recipe, step, steps);
    nb_pass pass = {.step = (uint32_t)step,
                    .steps = (uint32_t)steps,
                    .micro_batch = (uint32_t)micro_batch,
                    .rounding_seed = (uint32_t)config->seeds.rounding,
                    .forward_bf16 = switched && late->forward,
                    .backward_bf16 = switched && late->backward,
                    .z_loss = config->z_loss};
    return pass;
}

enum { CALIBRATION_SHIFT = 20 }; /* accumulation is 2^20 at most */

/* The micro-batches of a calibration have numbers that no step has, and random bits of their own with them; none is the
 * first, which mechanisms take for a sample. */
nb_pass ni_trainer_pass(const nb_trainer *t, int64_t micro_batch) {
    nb_pass pass = ni_run_pass(&t->config, &t->recipe, t->at.step,
                               micro_batch + ((int64_t)t->calibration.update << CALIBRATION_SHIFT));
    pass.backward_bf16 = pass.backward_bf16 || (t->recipe.late_switch.rho > 0 && t->at.drowned > 0);
    return pass;
}

/* ---- their sum ---- */

static bool asked_to_stop(const nb_trainer *t) {
    return t->callbacks.stop && t->callbacks.stop(t->callbacks.user);
}

nb_status ni_trainer_micro_batch(nb_trainer *t, int64_t index, const nb_lens *lens, nb_error *err) {
    int64_t number = (t->calibration.update ? t->calibration.batch : t->at.next_batch) * t->config.accumulation + index;
    if (t->train)
        NB_TRY(ni_dataset_fill(t->train, number, t->config.micro_batch, &t->batch.buffers, err));
    if (!t->overlap.running) /* else it does so, beside the pass */
        ni_touched_note(&t->touched, t->batch.buffers.tokens, t->config.micro_batch * t->config.seq);
    nb_pass pass = ni_trainer_pass(t, index);
    pass.lens = lens;
    return ni_model_queue_loss_and_grads(t->model, &t->batch.view, &pass, t->results.memory + index,
                                         t->results.scored + index, err);
}

static nb_status stopped(const nb_trainer *t, nb_error *err) {
    return nb_fail(err, NB_INTERRUPTED, "stopped by a signal after %lld steps", (long long)t->at.step);
}

/* What ranks tell each other before a step. */
typedef struct greeting {
    int64_t step;
    double norm;         /* of the step before */
    int64_t stop, looks; /* a lens sees this step */
    int64_t keeps;       /* all masters */
} greeting;
static_assert(sizeof(greeting) <= NI_RANKS_WORD, "ranks tell each other so much at once");

/* All ranks have done the same so far, to the bit, and nobody was asked to stop. */
static nb_status check_greetings(const nb_trainer *t, const greeting *all, nb_error *err) {
    bool stop = false;
    for (int32_t r = 0; r < nb_ranks_world(t->ranks); r++) {
        stop = stop || all[r].stop;
        if (all[r].step != all[0].step || memcmp(&all[r].norm, &all[0].norm, sizeof all[0].norm) != 0)
            return nb_fail(err, NB_INTERNAL,
                           "after step %lld rank %d has the gradient norm %.17g and rank 0 %.17g; expected the same "
                           "bits; hint: the same processors, libraries and program on all machines, or bad memory",
                           (long long)all[r].step, (int)r, all[r].norm, all[0].norm);
    }
    return stop ? stopped(t, err) : NB_OK;
}

/* A lens that looks at weights sees masters: on rank 0, whose micro-batch it looks at. */
static nb_status show_masters(nb_trainer *t, const greeting *first, nb_error *err) {
    t->handed.looks = first->keeps;
    t->seen = first->looks && first->keeps;
    return t->seen ? ni_hand_over_whole(&t->handed, err) : NB_OK;
}

/* What passes read of weights whose masters are elsewhere. */
static nb_status hand_over_due(nb_trainer *t, nb_error *err) {
    const nb_pass pass = ni_trainer_pass(t, 0);
    return ni_hand_over_due(&t->handed, &pass, err);
}

/* Ranks stop between steps alone, so that all stop at the same. `looks`: a lens sees this rank's step. */
static nb_status greet(nb_trainer *t, bool looks, nb_error *err) {
    const greeting mine = {t->at.step, t->last_norm, asked_to_stop(t), looks, ni_trainer_looks(t)};
    if (nb_ranks_world(t->ranks) == 1)
        return NB_OK;
    greeting *all = ni_ranks_words(t->ranks);
    NB_TRY(ni_ranks_gather(t->ranks, &mine, all, sizeof mine, err));
    const greeting first = all[0];
    const nb_status status = check_greetings(t, all, err);
    if (status != NB_OK) /* all found it: one says it */
        return nb_ranks_agree(t->ranks, status, err);
    NB_TRY(hand_over_due(t, err));
    return show_masters(t, &first, err);
}

/* One whose gradients are handed on as its backward pass leaves them. */
static nb_status shared_micro_batch(nb_trainer *t, int64_t index, const nb_lens *lens, nb_error *err) {
    ni_shared_gradients_begin(&t->shared, t->model);
    const nb_status status = ni_trainer_micro_batch(t, index, lens, err);
    NB_TRY(ni_shared_gradients_end(&t->shared, t->model, status, err));
    ni_combiner_take(&t->combiner, t->model);
    return NB_OK;
}

const ni_param_array *ni_trainer_gradients(nb_trainer *t) {
    const ni_param_array *all = ni_model_gradients(t->model);
    t->own = ni_param_array_part(all, t->share.sums ? t->share.begin : 0, t->share.sums ? t->share.end : all->count);
    return t->share.gradients ? &t->shared.own : &t->own;
}

/* The norm of all but the first section, whose gradients are the last to come, while ranks exchange those. */
static void square_what_is_there(nb_trainer *t, const ni_param_array *grads) {
    if (grads->dtype == t->be->real && grads->sections > 1 &&
        ni_overlap_wait(&t->overlap, grads->at[grads->section[1]].offset))
        ni_results_square_early(&t->results, grads);
}

/* The last one of this rank: its gradients go to other ranks as its backward pass leaves them, where that can be. */
static nb_status last_micro_batch(nb_trainer *t, int64_t index, const nb_lens *lens, nb_error *err) {
    ni_param_array *grads = ni_model_gradients(t->model);
    if (t->share.gradients)
        return shared_micro_batch(t, index, lens, err);
    const bool behind = ni_overlap_begin(&t->overlap, &t->reducer, &t->accumulator, grads, t->batch.buffers.tokens,
                                         t->config.micro_batch * t->config.seq);
    ni_model_watch_gradients(t->model, behind ? ni_overlap_final : NULL, &t->overlap);
    nb_status status = ni_trainer_micro_batch(t, index, lens, err);
    ni_model_watch_gradients(t->model, NULL, NULL);
    if (status == NB_OK && behind)
        status =
            t->be->ops->synchronize(t->be, err); /* the last chunk waits for it too: what comes now is not hidden */
    const double begin = ni_seconds();
    if (status == NB_OK && behind)
        square_what_is_there(t, ni_trainer_gradients(t));
    const nb_status summed = ni_overlap_end(&t->overlap, status == NB_OK, err);
    t->waited.exchange += behind ? ni_seconds() - begin : 0;
    status = status == NB_OK ? summed : status;
    if (status != NB_OK)
        return status;
    ni_combiner_take(&t->combiner, t->model);
    if (behind)
        return NB_OK;
    ni_accumulator_add(&t->accumulator, grads);
    NB_TRY(ni_auto_scale_before(&t->auto_scale, grads, err));
    NB_TRY(ni_reduce(&t->reducer, grads, err));
    return ni_auto_scale_after(&t->auto_scale, grads, err);
}

nb_status ni_trainer_accumulate(nb_trainer *t, const nb_lens *lens, nb_error *err) {
    int64_t first, count = ni_trainer_share(t, &first);
    t->results.squared = false; /* of a step that was given up */
    ni_accumulator_begin(&t->accumulator);
    ni_touched_begin(&t->touched);
    ni_combiner_begin(&t->combiner);
    const double begin = ni_seconds();
    NB_TRY(greet(t, lens, err));
    t->waited.words += ni_seconds() - begin;
    t->waited.steps++;
    for (int64_t i = first; i < first + count - 1; i++) {
        if (!t->ranks && asked_to_stop(t))
            return stopped(t, err);
        if (t->share.gradients) {
            NB_TRY(shared_micro_batch(t, i, i == 0 ? lens : NULL, err));
            continue;
        }
        NB_TRY(ni_trainer_micro_batch(t, i, i == 0 ? lens : NULL, err));
        ni_combiner_take(&t->combiner, t->model);
        ni_accumulator_add(&t->accumulator, ni_model_gradients(t->model));
    }
    if (!t->ranks && asked_to_stop(t))
        return stopped(t, err);
    NB_TRY(last_micro_batch(t, first + count - 1, first + count == 1 ? lens : NULL, err));
    return ni_combiner_sum(&t->combiner, t->model, &t->reducer, err);
}
