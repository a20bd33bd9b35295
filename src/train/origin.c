/* origin.c: where the number began that made a step bad.
 *
 * The step that failed is run again with a lens on every operand: passes are deterministic, so the first that is not
 * finite (or, where every gradient is zero, all zero) is the one. What no operand shows is searched for in the
 * gradients, from the head down, as the backward pass writes them.
 */
#include "backend/table.h"
#include "trainer.h"

#include "nibble/lens.h"
#include "scales.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct finder {
    char *where;
    size_t size;
} finder;

/* Zeros, which nobody takes for numbers that are not finite, where there is no memory to look. */
static ni_moments moments_of(nb_backend *be, const nb_mat *x) {
    ni_moments moments = {.count = 0};
    void *there = be->ops->alloc(be, sizeof moments, "a search for a bad number");
    if (there) {
        be->ops->fill_zero(be, there, sizeof moments);
        be->ops->measure(be, x, there, NULL, NULL);
        be->ops->download(be, &moments, there, sizeof moments);
    }
    nb_backend_release(be, there);
    return moments;
}

/* Of what was quantized; 1, of which nobody thinks anything, where nobody counted. */
static double counted_amax(const nb_lens_operand *seen) {
    nb_quantize_stats stats = {.amax = 1};
    if (seen->stats)
        seen->be->ops->download(seen->be, &stats, seen->stats, sizeof stats);
    return stats.amax;
}

static bool is_nonfinite(const nb_lens_operand *seen) {
    if (!seen->source)
        return !isfinite(counted_amax(seen));
    return moments_of(seen->be, seen->source).nonfinite != 0;
}

static bool is_zero(const nb_lens_operand *seen) {
    if (!seen->source)
        return counted_amax(seen) == 0;
    const ni_moments moments = moments_of(seen->be, seen->source);
    return moments.count > 0 && moments.nonfinite == 0 && moments.amax == 0;
}

static void look(finder *f, const nb_lens_operand *seen, bool (*is_it)(const nb_lens_operand *seen)) {
    if (f->where[0] == 0 && is_it(seen))
        snprintf(f->where, f->size, "%s %s", seen->module, nb_role_name(seen->role));
}

static void look_for_nonfinite(void *context, const nb_lens_operand *seen) {
    look(context, seen, is_nonfinite);
}

static void look_for_zeros(void *context, const nb_lens_operand *seen) {
    look(context, seen, is_zero);
}

/* Index of the last parameter of which this rank has the master, or of the last gradient, that holds a number that is
 * not finite; -1 if none does. */
static int32_t last_bad(nb_trainer *t, bool gradients) {
    if (gradients && t->share.gradients) /* nobody has those of one micro-batch */
        return -1;
    for (int32_t i = nb_model_param_count(t->model) - 1; i >= 0; i--) {
        if (!gradients && !ni_hand_over_has(&t->handed, i))
            continue;
        const nb_param *p = nb_model_param(t->model, i);
        const ni_scaled tensor =
            gradients ? ni_param_array_at(ni_model_gradients(t->model), i) : ni_model_master(t->model, i);
        if (!isfinite(ni_results_squares(&t->results, &tensor, p->rows * p->cols)))
            return i;
    }
    return -1;
}

nb_status ni_trainer_check_params(nb_trainer *t, nb_error *err) {
    int32_t bad = last_bad(t, false);
    if (bad < 0)
        return NB_OK;
    return nb_fail(err, NB_BAD_NUMBER, "step %lld: parameter %s holds numbers that are not finite",
                   (long long)t->at.step, nb_model_param(t->model, bad)->name);
}

/* The step's micro-batches again with `lens`, until the finder has found something. The gradients of the last stay. */
static void run_again(nb_trainer *t, const nb_lens *lens, const char *where) {
    for (int64_t i = 0; i < t->config.accumulation && !where[0]; i++)
        if (ni_trainer_micro_batch(t, i, lens, NULL) != NB_OK)
            return;
}

/* The last parameter that is bad on any rank; all come here alike. */
static int32_t last_bad_of_all(nb_trainer *t) {
    const ni_suspect mine = {.which = last_bad(t, false)};
    int32_t last = mine.which;
    if (t->share.out && ni_ranks_gather(t->ranks, &mine, t->suspects, sizeof mine, NULL) == NB_OK)
        for (int32_t r = 0; r < nb_ranks_world(t->ranks); r++)
            last = t->suspects[r].which > last ? t->suspects[r].which : last;
    return last;
}

static void find_nonfinite(nb_trainer *t, char *where, size_t size) {
    int32_t bad = last_bad_of_all(t);
    if (bad >= 0) {
        snprintf(where, size, "parameter %s", nb_model_param(t->model, bad)->name);
        return;
    }
    finder found = {where, size};
    nb_lens lens = {.context = &found, .counts = true, .operand = look_for_nonfinite};
    for (int64_t i = 0; i < t->config.accumulation; i++) {
        if (ni_trainer_micro_batch(t, i, &lens, NULL) != NB_OK || where[0])
            return;
        bad = last_bad(t, true);
        if (bad >= 0 || !isfinite(ni_results_loss(&t->results, i))) {
            snprintf(where, size, "%s%s", bad >= 0 ? "gradient of " : "the loss",
                     bad >= 0 ? nb_model_param(t->model, bad)->name : "");
            return;
        }
    }
}

/* The first operand without a number in it, forward or backward: nothing behind it learns. */
static void find_zero(nb_trainer *t, char *where, size_t size) {
    finder found = {where, size};
    nb_lens lens = {.context = &found, .counts = true, .operand = look_for_zeros};
    run_again(t, &lens, where);
}

/* Among all ranks, where each has its own. */
static ni_suspect find_among_all(nb_trainer *t, ni_suspect mine) {
    const ni_suspect *const all = t->suspects;
    ni_suspect out = {.which = -1};
    if (ni_ranks_gather(t->ranks, &mine, t->suspects, sizeof mine, NULL) == NB_OK)
        for (int32_t r = 0; r < nb_ranks_world(t->ranks); r++) {
            const double sum = out.sum + all[r].sum;
            if (all[r].squares > out.squares)
                out = all[r];
            out.sum = sum;
        }
    return out;
}

/* Whose gradient is the largest share of the norm. */
static void find_largest(nb_trainer *t, char *where, size_t size) {
    const ni_param_array *grads = ni_trainer_gradients(t);
    ni_suspect found = {.which = -1};
    for (int32_t i = grads->begin; i < grads->end; i++) {
        const ni_scaled tensor = ni_param_array_at(grads, i);
        const double squares = ni_results_squares(&t->results, &tensor, grads->at[i].length);
        found.sum += squares;
        if (squares > found.squares) {
            found.squares = squares;
            found.which = i;
        }
    }
    if (t->share.sums)
        found = find_among_all(t, found);
    if (found.which >= 0)
        snprintf(where, size, "the gradient of %s (%.0f %% of the squared norm)",
                 nb_model_param(t->model, found.which)->name, 100 * found.squares / found.sum);
}

void ni_trainer_find_origin(nb_trainer *t, char *where, size_t size) {
    where[0] = 0;
    switch (t->bad) {
    case NI_BAD_NONE:
        return;
    case NI_BAD_NONFINITE:
        find_nonfinite(t, where, size);
        return;
    case NI_BAD_ZERO:
    case NI_BAD_DEAD:
        find_zero(t, where, size);
        return;
    case NI_BAD_SPIKE:
        find_largest(t, where, size);
        return;
    case NI_BAD_SCALES:
        snprintf(where, size, "%s", t->scales->where);
        return;
    }
}

const char *ni_trainer_origin_words(const nb_trainer *t) {
    return t->bad == NI_BAD_SPIKE ? ", most in " : t->bad == NI_BAD_SCALES ? ", " : ", first in ";
}
