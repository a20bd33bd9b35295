/* group.c: linear layers that share an input: made, run forward and backward, told of changes. */
#include "backend/table.h"
#include "linear/linear.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *nb_gemm_name(nb_gemm gemm) {
    static const char *const names[NB_GEMM_COUNT] = {"fprop", "dgrad", "wgrad"};
    return names[gemm];
}

/* ---- making a group ---- */

static void name_operands(const nb_linear_group *group, nb_linear *layer) {
    for (nb_role role = NB_FPROP_X; role < NB_ROLE_COUNT; role++) {
        bool shared = role == NB_FPROP_X || role == NB_WGRAD_X;
        nb_gemm gemm = nb_role_gemm(role);
        const char *module = shared ? group->input : layer->name;
        uint32_t both = nb_name_hash(gemm == NB_GEMM_DGRAD ? layer->name : group->input, nb_gemm_name(gemm));
        bool one_stream = layer->plan.roles[role].shared_noise;
        layer->names[role] = (nb_operand_name){.module = module,
                                               .role = role,
                                               .tensor = one_stream ? both : nb_name_hash(module, nb_role_name(role)),
                                               .signs = both};
    }
}

static nb_status take_layers(nb_linear_group *group, const nb_group_spec *spec, nb_error *err) {
    if (spec->count < 1 || spec->count > NB_GROUP_LAYERS)
        return nb_fail(err, NB_INTERNAL, "%s: %d layers in a group; expected 1 to %d", spec->input, spec->count,
                       NB_GROUP_LAYERS);
    for (int32_t i = 0; i < spec->count; i++) {
        const nb_linear_spec *s = &spec->layers[i];
        nb_linear *layer = &group->layers[i];
        snprintf(layer->name, sizeof layer->name, "%s", s->name);
        layer->index = i;
        layer->out = s->out;
        layer->in = spec->in;
        layer->plan = *s->plan;
        layer->master = s->master;
        layer->grad = s->grad;
        layer->grad_written = true;
        layer->narrow = s->narrow;
        layer->room = s->room;
        name_operands(group, layer);
        NB_TRY(nb_linear_check(group, layer, err));
        for (nb_role r = NB_FPROP_X; r < NB_ROLE_COUNT; r += 2) {
            nb_quantizer a = nb_role_quantizer(&layer->plan, r), b = nb_role_quantizer(&layer->plan, r + 1);
            layer->packed[nb_role_gemm(r)] = nb_multiplies_codes(group->be, &a, &b);
        }
    }
    return NB_OK;
}

/* ---- mechanisms ---- */

static nb_status check_conflicts(const nb_linear_group *group, const nb_linear *layer, nb_error *err) {
    for (int32_t i = 0; i < group->mechanism_count; i++)
        for (int32_t j = i + 1; j < group->mechanism_count; j++) {
            const nb_mechanism *a = group->mechanisms[i].table, *b = group->mechanisms[j].table;
            if (!(layer->mechanisms >> i & layer->mechanisms >> j & 1))
                continue;
            const char *what = a->fprop && b->fprop             ? "fprop"
                               : a->dgrad && b->dgrad           ? "dgrad"
                               : a->wgrad && b->wgrad           ? "wgrad"
                               : a->wgrad_x && b->wgrad_x       ? "the operand wgrad.x"
                               : a->quantize_w && b->quantize_w ? "the rounding of weights"
                                                                : NULL;
            if (what)
                return nb_fail(err, NB_BAD_CONFIG, "%s: mechanisms %s and %s both replace %s; use one of them",
                               layer->name, a->name, b->name, what);
        }
    return NB_OK;
}

static nb_status choose_mechanisms(nb_linear_group *group, const nb_group_spec *spec, nb_error *err) {
    const nb_mechanism *const *offered = spec->mechanisms ? spec->mechanisms : nb_mechanisms;
    for (; *offered; offered++) {
        uint32_t wanted = 0;
        for (int32_t i = 0; i < group->count; i++)
            if (group->layers[i].plan.quantized && (*offered)->wanted(&group->layers[i].plan))
                wanted |= 1u << i;
        if (!wanted)
            continue;
        if (group->mechanism_count == NB_GROUP_MECHANISMS)
            return nb_fail(err, NB_INTERNAL, "%s: more than %d mechanisms", group->input, NB_GROUP_MECHANISMS);
        int32_t index = group->mechanism_count++;
        group->mechanisms[index].table = *offered;
        for (int32_t i = 0; i < group->count; i++)
            group->layers[i].mechanisms |= (wanted >> i & 1) << index;
    }
    for (int32_t i = 0; i < group->count; i++)
        NB_TRY(check_conflicts(group, &group->layers[i], err));
    return NB_OK;
}

static nb_status attach_mechanisms(nb_linear_group *group, nb_error *err) {
    for (int32_t i = 0; i < group->mechanism_count; i++) {
        nb_attached_mechanism *m = &group->mechanisms[i];
        if (m->table->attach)
            NB_TRY(m->table->attach(group, i, &m->state, err));
        if (m->table->bytes)
            group->bytes += m->table->bytes(m->state);
    }
    return NB_OK;
}

/* dX is summed in `real` if several layers or a mechanism add to it. */
static bool sums_dx(const nb_linear_group *group) {
    for (int32_t i = 0; i < group->mechanism_count; i++)
        if (group->mechanisms[i].table->after_dgrad)
            return true;
    return group->count > 1;
}

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

static size_t scratch_bytes(const nb_linear_group *group) {
    size_t forward = 0, backward = 0, hooks = 0;
    for (int32_t i = 0; i < group->count; i++) {
        const nb_linear *layer = &group->layers[i];
        forward = larger(forward, nb_fprop_scratch(group, layer));
        if (group->training)
            backward = larger(backward, larger(nb_dgrad_scratch(group, layer), nb_wgrad_scratch(group, layer)));
    }
    for (int32_t i = 0; i < group->mechanism_count; i++)
        if (group->mechanisms[i].table->scratch)
            hooks += nb_scratch_room(group->mechanisms[i].table->scratch(group->mechanisms[i].state, group->max_rows));
    forward += nb_input_scratch(group, NB_FPROP_X);
    if (group->training) {
        backward += nb_input_scratch(group, NB_WGRAD_X);
        if (sums_dx(group))
            backward += nb_scratch_room(nb_dtype_size(group->be->real) * (size_t)(group->max_rows * group->in));
    }
    return larger(forward, backward) + hooks;
}

static nb_status build(nb_linear_group *group, const nb_group_spec *spec, nb_error *err) {
    NB_TRY(take_layers(group, spec, err));
    NB_TRY(choose_mechanisms(group, spec, err));
    for (int32_t i = 0; i < group->count; i++)
        NB_TRY(nb_weight_layout(group, &group->layers[i], err));
    NB_TRY(nb_input_layout(group, err));
    NB_TRY(attach_mechanisms(group, err));
    group->scratch_bytes = scratch_bytes(group);
    return NB_OK;
}

nb_status nb_linear_group_create(nb_backend *be, const nb_group_spec *spec, nb_linear_group **out, nb_error *err) {
    nb_linear_group *group = calloc(1, sizeof *group);
    if (!group)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for its linear layers", spec->input);
    group->be = be;
    snprintf(group->input, sizeof group->input, "%s", spec->input);
    group->max_rows = spec->max_rows;
    group->in = spec->in;
    group->training = spec->training;
    group->count = spec->count;
    nb_status status = build(group, spec, err);
    if (status != NB_OK) {
        nb_linear_group_free(group);
        return status;
    }
    *out = group;
    return NB_OK;
}

static void release(nb_backend *be, void *memory) {
    if (memory)
        be->ops->release(be, memory);
}

void nb_linear_group_free(nb_linear_group *group) {
    if (!group)
        return;
    nb_backend *be = group->be;
    for (int32_t i = 0; i < group->mechanism_count; i++)
        if (group->mechanisms[i].table->detach && group->mechanisms[i].state)
            group->mechanisms[i].table->detach(group->mechanisms[i].state);
    for (int32_t i = 0; i < group->fprop_x_count; i++)
        release(be, group->fprop_x[i].memory);
    for (int32_t i = 0; i < group->count && i < NB_GROUP_LAYERS; i++) {
        nb_weight_cache *w = &group->layers[i].weight;
        release(be, w->plain);
        release(be, w->memory[0]);
        release(be, w->memory[1]);
    }
    free(group);
}

/* ---- running it ---- */

static nb_status check_rows(const nb_linear_group *group, const nb_mat *x, nb_error *err) {
    if (x->rows > group->max_rows || x->cols != group->in)
        return nb_fail(err, NB_INTERNAL, "%s: input of %lld x %lld; expected at most %lld x %lld", group->input,
                       (long long)x->rows, (long long)x->cols, (long long)group->max_rows, (long long)group->in);
    return NB_OK;
}

/* X of a pass in which no layer quantizes it. */
static void show_plain_input(const nb_linear_call *call) {
    const nb_linear_group *group = call->group;
    for (int32_t i = 0; i < group->count; i++)
        if (group->layers[i].plan.quantized && !call->pass->forward_bf16)
            return;
    nb_operand_show(call->be, call->pass, &group->layers[0].names[NB_FPROP_X], call->x, NULL, false, NULL, NULL);
}

/* What the last pass left: shared operands, and weights that draw random bits. */
static void forget(nb_linear_group *group) {
    for (int32_t i = 0; i < group->fprop_x_count; i++)
        group->fprop_x[i].fresh = false;
    for (int32_t i = 0; i < group->count; i++)
        for (int slot = 0; slot < 2; slot++) {
            nb_weight_cache *w = &group->layers[i].weight;
            w->fresh[slot] &= !w->random[slot];
            w->shown[slot] = false;
        }
}

nb_status nb_linear_group_forward(nb_linear_group *group, const nb_pass *pass, nb_scratch *scratch, bool training,
                                  const nb_mat *x, const nb_mat *y, nb_error *err) {
    NB_TRY(check_rows(group, x, err));
    nb_linear_call call = {group, group->be, pass, scratch, x, training};
    size_t begin = scratch->used, kept = scratch->kept;
    forget(group);
    if (pass->lens)
        show_plain_input(&call);
    for (int32_t i = 0; i < group->mechanism_count; i++) {
        const nb_attached_mechanism *m = &group->mechanisms[i];
        if (m->table->observe)
            NB_TRY(m->table->observe(m->state, &call, err));
    }
    for (int32_t i = 0; i < group->count; i++) {
        NB_TRY(nb_fprop(&call, &group->layers[i], &y[i], err));
        scratch->used = begin;
    }
    for (int32_t i = 0; i < group->fprop_x_count; i++)
        group->fprop_x[i].fresh &= group->fprop_x[i].memory != NULL;
    scratch->kept = kept;
    return NB_OK;
}

static nb_status layer_backward(const nb_linear_call *call, nb_linear *layer, const nb_mat *dy, const nb_mat *dx,
                                bool accumulate, nb_error *err) {
    size_t mark = call->scratch->used;
    NB_TRY(nb_dgrad(call, layer, dy, dx, accumulate, err));
    call->scratch->used = mark;
    NB_TRY(nb_wgrad(call, layer, dy, err));
    call->scratch->used = mark;
    return NB_OK;
}

nb_status nb_linear_group_backward(nb_linear_group *group, const nb_pass *pass, nb_scratch *scratch, const nb_mat *x,
                                   const nb_mat *dy, const nb_mat *dx, nb_error *err) {
    nb_backend *be = group->be;
    NB_TRY(check_rows(group, x, err));
    nb_linear_call call = {group, be, pass, scratch, x, true};
    size_t begin = scratch->used, kept = scratch->kept;
    for (int32_t i = 0; i < group->wgrad_x_count; i++)
        group->wgrad_x[i].fresh = false;
    nb_mat sum = *dx;
    if (sums_dx(group)) {
        size_t bytes = nb_dtype_size(be->real) * (size_t)(x->rows * x->cols);
        sum = nb_mat_of(nb_scratch_take(scratch, bytes), be->real, x->rows, x->cols);
        if (!sum.data)
            return nb_scratch_short(scratch, "the sum of dX", bytes, err);
    }
    for (int32_t i = 0; i < group->count; i++)
        NB_TRY(layer_backward(&call, &group->layers[i], &dy[i], &sum, i > 0, err));
    if (sum.data != dx->data)
        be->ops->cast(be, dx->data, dx->dtype, sum.data, sum.dtype, x->rows * x->cols);
    for (int32_t i = 0; i < group->fprop_x_count; i++)
        group->fprop_x[i].fresh = false;
    scratch->used = begin;
    scratch->kept = kept;
    return NB_OK;
}

static bool scales_by_amax(const nb_operand_rule *rule) {
    const nb_quantizer *q = &rule->quantizer;
    return !nb_quantizer_is_bf16(q) && q->outer == NB_OUTER_TENSOR && q->hadamard_size == 0;
}

bool nb_linear_group_wants_amax(const nb_linear_group *group, bool gradients) {
    const nb_role roles[] = {gradients ? NB_DGRAD_DY : NB_FPROP_X, gradients ? NB_WGRAD_DY : NB_WGRAD_X};
    for (int32_t i = 0; group->be->wants_amax && i < group->count; i++)
        for (int r = 0; group->layers[i].plan.quantized && r < 2; r++)
            if (scales_by_amax(&group->layers[i].plan.roles[roles[r]]))
                return true;
    return false;
}

void nb_linear_group_begin_gradients(nb_linear_group *group) {
    for (int32_t i = 0; i < group->count; i++)
        group->layers[i].grad_written = false;
}

int64_t nb_group_widest(const nb_linear_group *group) {
    int64_t out = 0;
    for (int32_t i = 0; i < group->count; i++)
        out = group->layers[i].out > out ? group->layers[i].out : out;
    return out;
}

void nb_linear_group_changed(nb_linear_group *group) {
    for (int32_t i = 0; i < group->count; i++) {
        nb_weight_cache *w = &group->layers[i].weight;
        w->plain_fresh = w->fresh[0] = w->fresh[1] = false;
        if (group->layers[i].room)
            group->layers[i].room->holds = NULL;
    }
}

nb_status nb_linear_group_after_step(nb_linear_group *group, const nb_pass *pass, nb_scratch *scratch, nb_error *err) {
    for (int32_t i = 0; i < group->mechanism_count; i++) {
        const nb_attached_mechanism *m = &group->mechanisms[i];
        size_t mark = scratch->used;
        if (m->table->after_step)
            NB_TRY(m->table->after_step(m->state, group, pass, scratch, err));
        scratch->used = mark;
    }
    return NB_OK;
}
