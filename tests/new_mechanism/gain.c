/* gain.c: a mechanism for tests and for docs/new-mechanism.md: from step `start` on dW is multiplied by `by`. */
#include "backend/table.h"
#include "linear/linear.h"
#include "recipe/mechanism.h"

#include <stdio.h>

/* ---- keys and times ---- */

static const ni_key gain_rows[] = {
    {.path = "by",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_gain, by),
     .fallback = "2",
     .low = 0.5,
     .high = 100,
     .help = "what dW is multiplied by",
     .source = "an example"},
    {.path = "start",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_gain, start),
     .fallback = "0.5",
     .high = 1e9,
     .help = "from this step on; below 1 a share of the run",
     .source = "an example"},
};

static nb_status finish_gain(void *record, const ni_yaml_node *node, nb_error *err) {
    return ni_check_steps(node, "start", ((const nb_gain *)record)->start, err);
}

static int64_t gain_start(const void *how, int64_t steps) {
    return nb_step_of(((const nb_gain *)how)->start, steps);
}

const ni_mechanism_section ni_gain_section = {
    .keys = {.name = "gain",
             .rows = gain_rows,
             .count = NI_COUNT(gain_rows),
             .size = sizeof(nb_gain),
             .finish = finish_gain},
    .first = gain_start,
    .acts = gain_start,
    .act = "first multiply",
};

/* ---- what it does ---- */

static bool gain_wanted(const nb_plan *plan) {
    return plan->mechanisms.has_gain;
}

static nb_status gain_attach(ni_linear_group *group, int32_t index, void **state, nb_error *err) {
    (void)group, (void)index, (void)err;
    *state = NULL; /* nothing is kept from call to call */
    return NB_OK;
}

static nb_status gain_after_wgrad(void *state, const ni_linear_call *call, ni_linear *layer, const nb_mat *dw,
                                  nb_error *err) {
    (void)state, (void)err;
    const nb_gain *gain = &layer->plan.mechanisms.gain;
    if (call->pass->step >= gain_start(gain, call->pass->steps))
        call->be->ops->axpy(call->be, dw->data, gain->by - 1, dw->data, dw->rows * dw->cols);
    return NB_OK;
}

static void gain_text(const void *state, const ni_linear *layer, ni_gemm gemm, char *text, size_t size) {
    (void)state;
    if (gemm == NI_GEMM_WGRAD)
        snprintf(text, size, "gain %g", layer->plan.mechanisms.gain.by);
}

const ni_mechanism ni_mechanism_gain = {
    .name = "gain",
    .wanted = gain_wanted,
    .attach = gain_attach,
    .after_wgrad = gain_after_wgrad,
    .text = gain_text,
};
