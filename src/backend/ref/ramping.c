/* ramping.c: AdamW with a pace of its own for each element (Q-Ramping, arXiv:2502.20853), and the paces. */
#include "backend/ref/ref.h"

#include <math.h>

void ni_ref_adamw_ramped(nb_backend *be, const ni_ramped *t, const ni_adamw *step) {
    (void)be;
    const float beta1 = (float)step->beta1, beta2 = (float)step->beta2, eps = (float)step->eps;
    const float rest1 = (float)(1 - step->beta1), rest2 = (float)(1 - step->beta2);
    const float rate = (float)(step->lr / (1 - pow(step->beta1, (double)step->step)));
    const float correction = (float)(1 / (1 - pow(step->beta2, (double)step->step)));
    const float keep = (float)(1 - step->lr * t->weight_decay), scale = (float)step->grad_scale;
    for (int64_t i = 0; i < t->n; i++) {
        const float sum = t->sum[i] + scale * t->grad[i];
        const int32_t steps = t->steps[i] + 1;
        const bool moves = steps % t->period[i] == 0; /* the period may have become shorter meanwhile */
        t->param[i] = keep * t->param[i];
        t->sum[i] = moves ? 0 : sum;
        t->steps[i] = moves ? 0 : steps;
        if (!moves)
            continue;
        const float g = sum / (float)steps;
        t->m[i] = beta1 * t->m[i] + rest1 * g;
        t->v[i] = beta2 * t->v[i] + rest2 * (g * g);
        t->param[i] -= rate * (float)steps * t->m[i] / (sqrtf(t->v[i] * correction) + eps);
    }
}

void ni_ref_ramp_periods(nb_backend *be, int32_t *period, const float *moved_q, const float *moved_w, int64_t n,
                         double k1, double k2, int32_t most) {
    (void)be;
    for (int64_t i = 0; i < n; i++) {
        const float above = moved_q[i] / (float)k1, below = moved_w[i] + 1e-8f;
        const double steps = k2 * floor((double)above / (double)below) + 1;
        period[i] = steps < most ? (int32_t)steps : most; /* what is no number moves as seldom as can be */
    }
}
