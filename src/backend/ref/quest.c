/* quest.c: gradients through QuEST's rotation and clipping by their definition (arXiv:2505.14669). */
#include "backend/ref/ref.h"
#include "format/bf16.h"
#include "format/quartet.h"

static float at(const nb_mat *m, int64_t r, int64_t c) {
    const int64_t i = r * m->stride + c;
    return m->dtype == NB_BF16 ? ni_bf16_value(((const uint16_t *)m->data)[i]) : ((const float *)m->data)[i];
}

static void put(const nb_mat *m, int64_t r, int64_t c, float value) {
    const int64_t i = r * m->stride + c;
    if (m->dtype == NB_BF16)
        ((uint16_t *)m->data)[i] = ni_bf16_even(value);
    else
        ((float *)m->data)[i] = value;
}

void ni_ref_quest_backward(nb_backend *be, const nb_mat *g, const nb_mat *x, const nb_quantizer *q) {
    (void)be;
    const int32_t span = ni_quest_span(q->hadamard_size);
    const ni_sign_mask signs = ni_signs_of(q->hadamard_signs, &(ni_noise_key){0});
    for (int64_t r = 0; r < g->rows; r++)
        for (int64_t c = 0; c < g->cols; c += span) {
            float gradients[NI_HADAMARD_MAX], numbers[NI_HADAMARD_MAX];
            for (int32_t i = 0; i < span; i++) {
                gradients[i] = at(g, r, c + i);
                numbers[i] = x ? at(x, r, c + i) : 0;
            }
            ni_quest_back(gradients, numbers, q->hadamard_size, signs, x != NULL);
            for (int32_t i = 0; i < span; i++)
                put(g, r, c + i, gradients[i]);
        }
}
