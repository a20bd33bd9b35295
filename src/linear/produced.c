/* produced.c: X or dY that is not there yet. Who makes the matrix hands over what would write it (ni_producer), and a
 * group that makes operands of it under scales of the step before lets the backend make them as the numbers come: the
 * matrix itself is then written only if somebody else reads it.
 *
 * That is so where no lens looks at more than weights, no product of the pass reads the numbers, and no mechanism does.
 * Everywhere else the matrix is written here and the pass goes on as if it had been there.
 */
#include "backend/table.h"
#include "linear/linear.h"

#include <assert.h>

enum { MOST = 2 * NI_PRODUCED_MOST }; /* operands: both of each matrix */

/* One call of make_produced. */
typedef struct production {
    ni_cached_operand *operands[MOST];
    ni_making makings[MOST];
    nb_noise noises[MOST];
    int32_t count; /* of operands */
    ni_produced matrices[NI_PRODUCED_MOST];
} production;

static bool reads_numbers(const ni_mechanism *m) {
    return m->observe || m->prepare_x || m->prepare_dy || m->wgrad_x || m->terms || m->after_dgrad || m->after_wgrad;
}

static bool is_made_of_numbers(const ni_cached_operand *o) {
    return !o->source && !o->fold && !nb_quantizer_is_bf16(&o->rule.quantizer);
}

static bool is_delayed(const ni_cached_operand *o) {
    return o->rule.headroom && is_made_of_numbers(o);
}

static bool are_dy_made_of_numbers(const ni_linear *layer) {
    return is_made_of_numbers(layer->operands[NB_DGRAD_DY]) && is_made_of_numbers(layer->operands[NB_WGRAD_DY]);
}

static bool are_dy_delayed(const ni_linear *layer) {
    return is_delayed(layer->operands[NB_DGRAD_DY]) && is_delayed(layer->operands[NB_WGRAD_DY]);
}

/* Slopes of q, k and v, whose maxima who writes them tells: they are small, and one launch makes all their operands. */
static bool are_made_together(const ni_linear_call *call) {
    const ni_wanted_amaxes wants = ni_linear_group_wants(call->group, true);
    return call->dy && call->from->kind == NI_PRODUCER_TURNED_BACK && wants.plain && wants.turned;
}

static bool is_made_in_forward(const ni_linear_call *call, const ni_cached_operand *o) {
    return o->name.role == NB_FPROP_X || (o->keeper == NI_FOR_BACKWARD && call->training && !call->pass->backward_bf16);
}

/* Whether operands are made of it in this pass before anything else is; `*alone`: and nobody reads the numbers. */
static bool goes_into_operands(const ni_linear_call *call, bool *alone) {
    const ni_linear_group *group = call->group;
    if (ni_lens_is_near(call->pass) || (call->dy ? call->pass->backward_bf16 : call->pass->forward_bf16))
        return false;
    for (int32_t i = 0; i < group->mechanism_count; i++)
        if (reads_numbers(group->mechanisms[i].table))
            return false;
    const bool together = are_made_together(call);
    *alone = true;
    for (int32_t i = 0; i < group->count; i++) {
        const ni_linear *layer = &group->layers[i];
        if (!layer->plan.quantized || (call->dy && !are_dy_made_of_numbers(layer)))
            return false;
        *alone &= call->dy ? are_dy_delayed(layer) : is_delayed(layer->operands[NB_FPROP_X]);
    }
    return call->dy ? *alone || together : *alone && group->x_count <= 2;
}

static nb_status add(const ni_linear_call *call, production *p, ni_produced *matrix, ni_cached_operand *o,
                     nb_error *err) {
    const int32_t at = p->count++;
    p->operands[at] = o;
    NB_TRY(ni_operand_begin(call, o, matrix->numbers, &p->noises[at], &p->makings[at], err));
    if (!matrix->count++)
        matrix->makings = &p->makings[at];
    return NB_OK;
}

/* X: its forward operands, and what the backward pass reads of it where that is made now. */
static nb_status add_inputs(const ni_linear_call *call, production *p, nb_error *err) {
    ni_linear_group *group = call->group;
    bool all = true;
    for (int32_t i = 0; i < group->x_count; i++) {
        ni_cached_operand *o = &group->x[i];
        if (is_made_in_forward(call, o) && is_delayed(o))
            NB_TRY(add(call, p, &p->matrices[0], o, err));
        else
            all = false;
    }
    p->matrices[0].kept = call->training && !all;
    return NB_OK;
}

static_assert(NB_WGRAD_DY == NB_DGRAD_DY + 2, "what reads dY is every other role");

static nb_status add_gradients(const ni_linear_call *call, production *p, nb_error *err) {
    for (int32_t i = 0; i < call->group->count; i++)
        for (nb_role role = NB_DGRAD_DY; role <= NB_WGRAD_DY; role += 2)
            NB_TRY(add(call, p, &p->matrices[i], &call->group->layers[i].own[role], err));
    return NB_OK;
}

nb_status ni_produce(const ni_linear_call *call, nb_error *err) {
    production p = {.count = 0};
    const int32_t count = call->dy ? call->group->count : 1;
    if (!call->from)
        return NB_OK;
    if (count > NI_PRODUCED_MOST)
        return nb_fail(err, NB_INTERNAL, "%s: %d matrices of one producer; expected at most %d", call->group->input,
                       count, NI_PRODUCED_MOST);
    bool alone = false;
    const bool fused = goes_into_operands(call, &alone);
    for (int32_t i = 0; i < count; i++)
        p.matrices[i] = (ni_produced){.numbers = call->dy ? &call->dy[i] : call->x, .kept = !fused || !alone};
    if (fused)
        NB_TRY(call->dy ? add_gradients(call, &p, err) : add_inputs(call, &p, err));
    NB_TRY(call->be->ops->make_produced(call->be, call->from, p.matrices, count, err));
    for (int32_t i = 0; i < p.count; i++) {
        p.operands[i]->fresh = p.operands[i]->shown = true;
        p.operands[i]->made++;
    }
    return NB_OK;
}
