/* drowned.c: counts gradients that drown in their rounding noise. */
#include "drowned.h"
#include "backend/table.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static void on_operand(void *context, const nb_lens_operand *seen) {
    ni_drowned_watch *w = context;
    nb_quantize_stats s = {.elements = 0};
    if ((seen->role != NB_DGRAD_DY && seen->role != NB_WGRAD_DY) || !seen->stats)
        return;
    seen->be->ops->download(seen->be, &s, seen->stats, sizeof s);
    if (s.sum_sq == 0)
        return;
    const double rho = sqrt(s.sum_sq / s.sum_sq_error);
    w->operands++;
    w->drowned += rho < w->rho;
    if (w->operands > 1 && rho >= w->least)
        return;
    w->least = rho;
    snprintf(w->where, sizeof w->where, "%s %s", seen->module, nb_role_name(seen->role));
}

bool ni_drowned_is_due(const nb_late_switch *late, int64_t step) {
    return late->rho > 0 && step % late->every == 0;
}

const nb_lens *ni_drowned_begin(ni_drowned_watch *w, const nb_late_switch *late) {
    memset(w, 0, sizeof *w);
    w->rho = late->rho;
    w->lens = (nb_lens){.context = w, .counts = true, .operand = on_operand};
    return &w->lens;
}

bool ni_drowned_too_many(const ni_drowned_watch *w, const nb_late_switch *late) {
    return w->drowned > late->layers * w->operands;
}
