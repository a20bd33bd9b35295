/* qramping.c: Q-Ramping (arXiv:2502.20853; facts from the authors' code): a weight that oscillates is updated once in N
 * steps, by the mean of the gradients since its last update and with as many times the learning rate.
 *
 * N is found every so often by a calibration, which the trainer runs (train/calibrate.c): window + 1 updates of plain
 * AdamW on data of their own, from the present parameters, moments and rate; then all is put back. After the first of
 * them weights are remembered, after the others distances add up, element by element,
 *     dist_w = sum |w_t - w_{t-1}|        dist_q = sum |q_t - q_{t-1}|        q = what the forward pass makes of w
 *     N = min(k2 floor((dist_q / k1) / (dist_w + 1e-8)) + 1, most)
 * What has been summed and not yet applied when a calibration comes stays, and goes on under the new N.
 *
 * While a calibration runs the optimizer asks for no pace, so its three arrays serve as w_{t-1}, dist_w and dist_q; sum
 * and steps are put back with all the rest.
 */
#include "backend/table.h"
#include "linear/linear.h"
#include "recipe/mechanism.h"

#include <stdio.h>
#include <stdlib.h>

/* Backend memory, [N, K] each: four bytes an element. */
typedef struct paced {
    int32_t *period;
    int32_t *steps;
    float *sum;
} paced;

typedef struct qramping {
    ni_linear_group *group;
    int32_t index;
    nb_qramping how;
    paced layers[NI_GROUP_LAYERS];
    size_t bytes, scratch_bytes;
} qramping;

/* ---- keys and times ---- */

static const ni_key qramping_rows[] = {
    {.path = "every",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_qramping, every),
     .fallback = "1251",
     .positive = true,
     .high = 1e9,
     .help = "steps from calibration to calibration, the first before step 0; below 1 a share of the run",
     .source = "an epoch of ImageNet at the batch of 1024 of arXiv:2502.20853's scripts"},
    {.path = "window",
     .type = NI_KEY_INT,
     NI_FIELD(nb_qramping, window),
     .fallback = "30",
     .low = 1,
     .high = 4000,
     .help = "calibration steps that distances are summed over; one more is taken before them",
     .source = "T0 of arXiv:2502.20853"},
    {.path = "k1",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_qramping, k1),
     .fallback = "16",
     .positive = true,
     .high = 1e6,
     .help = "a weight's updates become rarer by k2 steps for every k1 of dist_Q / dist_W",
     .source = "arXiv:2502.20853 and the scripts of its code"},
    {.path = "k2",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_qramping, k2),
     .fallback = "5",
     .high = 1e6,
     .help = "see k1",
     .source = "the scripts of arXiv:2502.20853's code (3 to 5 in the paper, 4 by default in the code)"},
    {.path = "most",
     .type = NI_KEY_INT,
     NI_FIELD(nb_qramping, most),
     .fallback = "0",
     .high = 1e9,
     .help = "most steps from update to update; 0: as many as `every`",
     .source = "arXiv:2502.20853's code"},
};

static nb_status finish_qramping(void *record, const ni_yaml_node *node, nb_error *err) {
    return ni_check_steps(node, "every", ((const nb_qramping *)record)->every, err);
}

nb_qramping_times nb_qramping_when(const nb_qramping *how, int64_t steps) {
    const int64_t every = ni_least_one(nb_step_of(how->every, steps)), most = how->most ? how->most : every;
    return (nb_qramping_times){.every = every, .most = (int32_t)(most < INT32_MAX ? most : INT32_MAX)};
}

const ni_mechanism_section ni_qramping_section = {
    .keys = {.name = "qramping",
             .rows = qramping_rows,
             .count = NI_COUNT(qramping_rows),
             .size = sizeof(nb_qramping),
             .finish = finish_qramping},
};

/* ---- life ---- */

static bool qramping_wanted(const nb_plan *plan) {
    return plan->mechanisms.has_qramping;
}

static int64_t elements_of(const ni_linear *layer) {
    return layer->out * layer->in;
}

static void qramping_detach(void *state) {
    qramping *r = state;
    for (int32_t i = 0; i < r->group->count; i++) {
        nb_backend_release(r->group->be, r->layers[i].period);
        nb_backend_release(r->group->be, r->layers[i].steps);
        nb_backend_release(r->group->be, r->layers[i].sum);
    }
    free(r);
}

static nb_status place(qramping *r, const ni_linear *layer, void *array, nb_error *err) {
    const size_t bytes = sizeof(float) * (size_t)elements_of(layer);
    void *memory = r->group->be->ops->alloc(r->group->be, bytes, "paces of weights");
    if (!memory)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for the pace of its weights", layer->name);
    r->group->be->ops->fill_zero(r->group->be, memory, bytes);
    *(void **)array = memory;
    r->bytes += bytes;
    return NB_OK;
}

static nb_status place_layer(qramping *r, const ni_linear *layer, paced *p, nb_error *err) {
    const nb_quantizer *w = &layer->plan.roles[NB_FPROP_W].quantizer;
    const size_t all = ni_scratch_room(sizeof(float) * (size_t)elements_of(layer));
    const size_t need = 2 * all + ni_weight_decode_scratch(r->group, layer);
    if (w->element != NB_ELEMENT_E2M1 || w->round == NB_ROUND_STOCHASTIC || w->hadamard_size)
        return nb_fail(err, NB_BAD_CONFIG,
                       "%s: qramping needs fprop.w in E2M1, rounded to nearest and not rotated: only then a weight has "
                       "a bin of its own",
                       layer->name);
    r->scratch_bytes = need > r->scratch_bytes ? need : r->scratch_bytes;
    r->how = layer->plan.mechanisms.qramping;
    NB_TRY(place(r, layer, &p->period, err));
    NB_TRY(place(r, layer, &p->steps, err));
    NB_TRY(place(r, layer, &p->sum, err));
    /* nothing moved yet: a period of 1 */
    r->group->be->ops->ramp_periods(r->group->be, p->period, p->sum, p->sum, elements_of(layer), 1, 1, 1);
    return NB_OK;
}

static nb_status qramping_attach(ni_linear_group *group, int32_t index, void **state, nb_error *err) {
    if (!group->be->ops->adamw_ramped || group->be->real != NB_F32)
        return nb_fail(err, NB_UNSUPPORTED, "%s: backend %s has no qramping", group->input, group->be->name);
    qramping *r = calloc(1, sizeof *r);
    if (!r)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for qramping", group->input);
    r->group = group;
    r->index = index;
    *state = r;
    for (int32_t i = 0; i < group->count && group->training; i++)
        if (group->layers[i].mechanisms >> index & 1)
            NB_TRY(place_layer(r, &group->layers[i], &r->layers[i], err));
    return NB_OK;
}

/* ---- a calibration ---- */

static nb_status take(ni_scratch *scratch, int64_t n, float **out, nb_error *err) {
    *out = ni_scratch_take(scratch, sizeof(float) * (size_t)n);
    return *out ? NB_OK : ni_scratch_short(scratch, "a decoded weight", sizeof(float) * (size_t)n, err);
}

static nb_status add_up(qramping *r, ni_linear *layer, const paced *p, const nb_pass *pass, ni_scratch *scratch,
                        nb_error *err) {
    nb_backend *be = r->group->be;
    const int64_t n = elements_of(layer);
    float *before = (float *)p->period, *moved_w = (float *)p->steps, *q, *q_before;
    NB_TRY(take(scratch, n, &q, err));
    NB_TRY(take(scratch, n, &q_before, err));
    NB_TRY(ni_weight_decode(r->group, layer, scratch, pass, before, q_before, NULL, err));
    NB_TRY(ni_weight_decode(r->group, layer, scratch, pass, layer->master, q, NULL, err));
    be->ops->add_distance(be, moved_w, layer->master, before, n);
    be->ops->add_distance(be, p->sum, q, q_before, n);
    be->ops->copy(be, before, layer->master, sizeof(float) * (size_t)n);
    return NB_OK;
}

static nb_status calibrate_layer(qramping *r, ni_linear *layer, const paced *p, const nb_pass *pass, int32_t taken,
                                 ni_scratch *scratch, nb_error *err) {
    nb_backend *be = r->group->be;
    const int64_t n = elements_of(layer);
    const size_t bytes = sizeof(float) * (size_t)n;
    if (taken == 0) {
        be->ops->copy(be, p->period, layer->master, bytes);
        be->ops->fill_zero(be, p->steps, bytes);
        be->ops->fill_zero(be, p->sum, bytes);
        return NB_OK;
    }
    NB_TRY(add_up(r, layer, p, pass, scratch, err));
    if (taken == r->how.window)
        be->ops->ramp_periods(be, p->period, p->sum, (const float *)p->steps, n, r->how.k1, r->how.k2,
                              nb_qramping_when(&r->how, pass->steps).most);
    return NB_OK;
}

static nb_status qramping_calibrate(void *state, ni_linear_group *group, const nb_pass *pass, int32_t taken,
                                    ni_scratch *scratch, nb_error *err) {
    qramping *r = state;
    for (int32_t i = 0; i < group->count; i++) {
        const size_t mark = scratch->used;
        if (r->layers[i].sum)
            NB_TRY(calibrate_layer(r, &group->layers[i], &r->layers[i], pass, taken, scratch, err));
        scratch->used = mark;
    }
    return NB_OK;
}

/* ---- what the optimizer asks, checkpoints, census ---- */

static void qramping_ramp(void *state, const ni_linear *layer, ni_ramped *out) {
    const paced *p = &((qramping *)state)->layers[layer->index];
    out->sum = p->sum;
    out->steps = p->steps;
    out->period = p->period;
}

static int32_t qramping_tensors(void *state, ni_mechanism_tensor *tensors, int32_t most) {
    qramping *r = state;
    int32_t count = 0;
    for (int32_t i = 0; i < r->group->count; i++) {
        const paced *p = &r->layers[i];
        const int64_t n = elements_of(&r->group->layers[i]);
        const ni_mechanism_tensor all[] = {
            {i, NI_CALIBRATED, NB_I32, n, p->period, false, NI_COMBINE_SAME},
            {i, "qramping.steps", NB_I32, n, p->steps, false, NI_COMBINE_SAME},
            {i, "qramping.sum", NB_F32, n, p->sum, false, NI_COMBINE_SAME},
        };
        for (size_t a = 0; p->sum && a < NI_COUNT(all); a++)
            if (count++ < most)
                tensors[count - 1] = all[a];
    }
    return count;
}

static size_t qramping_scratch(const void *state, int64_t rows) {
    (void)rows;
    return ((const qramping *)state)->scratch_bytes;
}

static size_t qramping_bytes(const void *state) {
    return ((const qramping *)state)->bytes;
}

static void qramping_text(const void *state, const ni_linear *layer, ni_gemm gemm, char *text, size_t size) {
    (void)state;
    const double every = layer->plan.mechanisms.qramping.every;
    if (gemm == NI_GEMM_FPROP)
        snprintf(text, size, "qramping every %g%s", every, every < 1 ? " of the run" : "");
}

const ni_mechanism ni_mechanism_qramping = {
    .name = "qramping",
    .wanted = qramping_wanted,
    .attach = qramping_attach,
    .detach = qramping_detach,
    .calibrate = qramping_calibrate,
    .ramp = qramping_ramp,
    .scratch = qramping_scratch,
    .tensors = qramping_tensors,
    .bytes = qramping_bytes,
    .text = qramping_text,
};
