/* handed.c: the weights of a group on their way to ranks that lack their masters.
 *
 * NVFP4 codes are 0.5625 bytes a weight where a master is four. An operand is what its owner made of it, so the bits of
 * a step do not depend on who has the master. Where anything else looks at the master (random bits that are drawn anew
 * for each micro-batch, a mechanism), it has to travel itself.
 */
#include "backend/table.h"
#include "linear/linear.h"

enum { ALIGNED = 64 };

static const nb_role weight_roles[] = {NB_FPROP_W, NB_DGRAD_W};
enum { WEIGHT_ROLES = 2 };

/* ---- what may be handed ---- */

/* Hooks that see a weight, or move it. */
static bool may_read(const ni_mechanism *m) {
    return m->quantize_w || m->decode_w || m->terms || m->after_wgrad || m->after_dgrad || m->after_step ||
           m->calibrate || m->ramp;
}

static const char *reader(const ni_linear_group *group, const ni_linear *layer) {
    for (int32_t i = 0; i < group->mechanism_count; i++)
        if ((layer->mechanisms >> i & 1) && may_read(group->mechanisms[i].table))
            return group->mechanisms[i].table->name;
    return NULL;
}

static bool is_handed(const ni_cached_operand *o) {
    return o->keeper == NI_UNTIL_MOVED && !o->source && !o->random;
}

/* Codes that are made once after the master moved, or something that is made of such codes. */
static bool is_of_codes(const ni_cached_operand *o) {
    return is_handed(o->source ? o->source : o);
}

ni_handed ni_weight_handed(const ni_linear_group *group, const ni_linear *layer, const char **why) {
    *why = group->hands_codes ? "a master in few bits" : "late_switch may ask for numbers";
    if (!group->hands_codes || (!layer->master && !layer->elsewhere))
        return NI_HANDED_MASTER;
    *why = "multiplied as it is";
    if (!layer->plan.quantized)
        return layer->weight ? NI_HANDED_NUMBERS : NI_HANDED_MASTER;
    *why = reader(group, layer);
    if (*why)
        return NI_HANDED_MASTER;
    *why = "rounded anew for each micro-batch, or read as numbers";
    for (int32_t i = 0; i < WEIGHT_ROLES; i++)
        if (!is_of_codes(layer->operands[weight_roles[i]]))
            return NI_HANDED_MASTER;
    return NI_HANDED_CODES;
}

/* ---- parcels ---- */

static size_t aligned(size_t bytes) {
    return (bytes + ALIGNED - 1) / ALIGNED * ALIGNED;
}

static size_t number_bytes(const ni_linear_group *group, const ni_linear *layer) {
    return (size_t)(layer->out * layer->in) * nb_dtype_size(group->be->act);
}

static nb_qtensor shape_of(const ni_linear *layer, nb_role role) {
    const bool turned = role == NB_DGRAD_W;
    return (nb_qtensor){.quantizer = ni_operand_quantizer(layer, role),
                        .rows = turned ? layer->in : layer->out,
                        .cols = turned ? layer->out : layer->in};
}

static size_t code_bytes(const nb_qtensor *t) {
    return aligned(nb_qtensor_bytes(&t->quantizer, t->rows, t->cols).total);
}

size_t ni_weight_handed_bytes(const ni_linear_group *group, const ni_linear *layer) {
    const char *why;
    const ni_handed how = ni_weight_handed(group, layer, &why);
    size_t bytes = how == NI_HANDED_NUMBERS ? aligned(number_bytes(group, layer)) : 0;
    for (int32_t i = 0; how == NI_HANDED_CODES && i < WEIGHT_ROLES; i++) {
        const nb_qtensor codes = shape_of(layer, weight_roles[i]);
        bytes += is_handed(layer->operands[weight_roles[i]]) ? code_bytes(&codes) : 0;
    }
    return bytes;
}

/* One layer's codes of one role, at a place of a parcel: out of it, or into it. */
static nb_status move_codes(const ni_linear_call *call, ni_linear *layer, nb_role role, char *place, bool out,
                            nb_error *err) {
    const nb_qtensor shape = shape_of(layer, role);
    const nb_qtensor codes = nb_qtensor_place(&shape.quantizer, shape.rows, shape.cols, place);
    const nb_operand *o;
    if (!out)
        return ni_operand_take(call, layer->operands[role], &codes, err);
    NB_TRY(ni_operand_ready(call, layer, role, &o, err));
    return call->be->ops->canonical(call->be, &codes, o, err);
}

static nb_status move_all_codes(const ni_linear_call *call, ni_linear *layer, char *parcel, bool out, nb_error *err) {
    for (int32_t i = 0; i < WEIGHT_ROLES; i++) {
        const nb_role role = weight_roles[i];
        const nb_qtensor shape = shape_of(layer, role);
        if (!is_handed(layer->operands[role]))
            continue;
        NB_TRY(move_codes(call, layer, role, parcel, out, err));
        parcel += code_bytes(&shape);
    }
    return NB_OK;
}

static nb_status put_numbers(const ni_linear_call *call, ni_linear *layer, void *parcel, nb_error *err) {
    nb_mat numbers;
    NB_TRY(ni_weight_numbers(call, layer, false, &numbers, err));
    if (parcel != numbers.data)
        call->be->ops->copy(call->be, parcel, numbers.data, number_bytes(call->group, layer));
    return NB_OK;
}

nb_status ni_weight_put(ni_linear_group *group, ni_linear *layer, const nb_pass *pass, ni_scratch *scratch,
                        void *parcel, nb_error *err) {
    nb_pass alone = *pass;
    const nb_mat x = {.rows = group->max_rows, .cols = group->in};
    const ni_linear_call call = {
        .group = group, .be = group->be, .pass = &alone, .scratch = scratch, .x = &x, .training = group->training};
    const size_t mark = scratch->used;
    const char *why;
    alone.lens = NULL; /* it looks at passes */
    const nb_status status = ni_weight_handed(group, layer, &why) == NI_HANDED_NUMBERS
                                 ? put_numbers(&call, layer, parcel, err)
                                 : move_all_codes(&call, layer, parcel, true, err);
    scratch->used = mark;
    return status;
}

nb_status ni_weight_take(ni_linear_group *group, ni_linear *layer, void *parcel, nb_error *err) {
    const nb_mat x = {.rows = group->max_rows, .cols = group->in};
    const ni_linear_call call = {.group = group, .be = group->be, .x = &x};
    const char *why;
    if (ni_weight_handed(group, layer, &why) == NI_HANDED_CODES)
        return move_all_codes(&call, layer, parcel, false, err);
    if (parcel != layer->weight)
        group->be->ops->copy(group->be, layer->weight, parcel, number_bytes(group, layer));
    layer->weight_fresh = true;
    return NB_OK;
}

void ni_weight_lay(ni_linear_group *group, ni_linear *layer, void *place) {
    if (!layer->weight_lies) {
        group->be->ops->release(group->be, layer->weight);
        group->bytes -= number_bytes(group, layer);
    }
    layer->weight = place;
    layer->weight_lies = true;
    layer->weight_fresh = false;
}
