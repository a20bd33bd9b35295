/* origin.c: where a number that is not finite began.
 *
 * The step that failed is run again with a lens on every quantized operand: passes are deterministic, so the first
 * operand that is not finite is the one. Operands of BF16 layers are not seen; then the gradients are searched, from
 * the head down, as the backward pass writes them.
 */
#include "trainer.h"

#include "lens/lens.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct finder {
    char *where;
    size_t size;
} finder;

static bool is_finite(const nb_lens_operand *seen) {
    if (!seen->source)
        return !seen->stats || isfinite(seen->stats->amax);
    nb_moments moments;
    seen->be->ops->measure(seen->be, seen->source, &moments, NULL, NULL);
    return moments.nonfinite == 0;
}

static void look_at_operand(void *context, const nb_lens_operand *seen) {
    finder *f = context;
    if (f->where[0] == 0 && !is_finite(seen))
        snprintf(f->where, f->size, "%s %s", seen->module, nb_role_name(seen->role));
}

/* Index of the last parameter, or of the last gradient, that holds a number that is not finite; -1 if none does. */
static int32_t last_bad(nb_trainer *t, bool gradients) {
    for (int32_t i = nb_model_param_count(t->model) - 1; i >= 0; i--) {
        const nb_param *p = nb_model_param(t->model, i);
        const nb_scaled tensor =
            gradients ? nb_param_array_at(nb_model_gradients(t->model), i) : nb_model_master(t->model, i);
        if (!isfinite(t->be->ops->scaled_sum_squares(t->be, &tensor, p->rows * p->cols)))
            return i;
    }
    return -1;
}

void nb_trainer_find_origin(nb_trainer *t, char *where, size_t size) {
    where[0] = 0;
    int32_t bad = last_bad(t, false);
    if (bad >= 0) {
        snprintf(where, size, "parameter %s", nb_model_param(t->model, bad)->name);
        return;
    }
    finder found = {where, size};
    nb_lens lens = {.context = &found, .counts = true, .operand = look_at_operand};
    for (int64_t i = 0; i < t->config.accumulation; i++) {
        double loss = 0;
        if (nb_trainer_micro_batch(t, i, &lens, &loss, NULL) != NB_OK || where[0])
            return;
        bad = last_bad(t, true);
        if (bad >= 0 || !isfinite(loss)) {
            snprintf(where, size, "%s%s", bad >= 0 ? "gradient of " : "the loss",
                     bad >= 0 ? nb_model_param(t->model, bad)->name : "");
            return;
        }
    }
}
