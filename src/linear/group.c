/* group.c: making a group: its layers, the mechanisms that work on them, its operands, its scratch. */
#include "backend/table.h"
#include "linear/linear.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- making a group ---- */

/* noise: shared is the release's, where the layers of a group are one matrix: row r of its dY^T and row r of X^T draw
 * the same bits. A layer whose first row in it is beyond those of X^T shares with none. */
static bool meets_x(const ni_linear_group *group, const ni_linear *layer) {
    int64_t first = 0;
    for (int32_t i = 0; i < layer->index; i++)
        first += group->layers[i].out;
    return first < group->in;
}

static void name_operands(const ni_linear_group *group, ni_linear *layer) {
    for (nb_role role = NB_FPROP_X; role < NB_ROLE_COUNT; role++) {
        bool shared = role == NB_FPROP_X || role == NB_WGRAD_X;
        ni_gemm gemm = ni_role_gemm(role);
        const char *module = shared ? group->input : layer->name;
        uint32_t both = nb_name_hash(gemm == NI_GEMM_DGRAD ? layer->name : group->input, ni_gemm_name(gemm));
        bool one_stream = layer->plan.roles[role].shared_noise && (role != NB_WGRAD_DY || meets_x(group, layer));
        layer->names[role] = (ni_operand_name){.module = module,
                                               .role = role,
                                               .tensor = one_stream ? both : nb_name_hash(module, nb_role_name(role)),
                                               .signs = both};
    }
}

static bool multiplies_codes(nb_backend *be, const nb_quantizer *a, const nb_quantizer *b) {
    return !nb_quantizer_is_bf16(a) && !nb_quantizer_is_bf16(b) && be->ops->product_kernel(be, a, b);
}

static nb_status take_layers(ni_linear_group *group, const ni_group_spec *spec, nb_error *err) {
    if (spec->count < 1 || spec->count > NI_GROUP_LAYERS)
        return nb_fail(err, NB_INTERNAL, "%s: %d layers in a group; expected 1 to %d", spec->input, spec->count,
                       NI_GROUP_LAYERS);
    for (int32_t i = 0; i < spec->count; i++) {
        const ni_linear_spec *s = &spec->layers[i];
        ni_linear *layer = &group->layers[i];
        snprintf(layer->name, sizeof layer->name, "%s", s->name);
        layer->index = i;
        layer->out = s->out;
        layer->in = spec->in;
        layer->plan = *s->plan;
        layer->master = s->master;
        layer->grad = s->grad;
        layer->narrow = s->narrow;
        layer->room = s->room;
        name_operands(group, layer);
        NB_TRY(ni_linear_check(group, layer, err));
        for (nb_role r = NB_FPROP_X; r < NB_ROLE_COUNT; r += 2) {
            nb_quantizer a = ni_role_quantizer(&layer->plan, r), b = ni_role_quantizer(&layer->plan, r + 1);
            layer->packed[ni_role_gemm(r)] = multiplies_codes(group->be, &a, &b);
        }
    }
    return NB_OK;
}

/* ---- mechanisms ---- */

static nb_status check_conflicts(const ni_linear_group *group, const ni_linear *layer, nb_error *err) {
    for (int32_t i = 0; i < group->mechanism_count; i++)
        for (int32_t j = i + 1; j < group->mechanism_count; j++) {
            const ni_mechanism *a = group->mechanisms[i].table, *b = group->mechanisms[j].table;
            if (!(layer->mechanisms >> i & layer->mechanisms >> j & 1))
                continue;
            const char *what = a->terms && b->terms             ? "edit the products"
                               : a->wgrad_x && b->wgrad_x       ? "replace the operand wgrad.x"
                               : a->quantize_w && b->quantize_w ? "replace the rounding of weights"
                                                                : NULL;
            if (what)
                return nb_fail(err, NB_BAD_CONFIG, "%s: mechanisms %s and %s both %s; use one of them", layer->name,
                               a->name, b->name, what);
        }
    return NB_OK;
}

static nb_status choose_mechanisms(ni_linear_group *group, const ni_group_spec *spec, nb_error *err) {
    const ni_mechanism *const *offered = spec->mechanisms ? spec->mechanisms : ni_mechanisms;
    for (; *offered; offered++) {
        uint32_t wanted = 0;
        for (int32_t i = 0; i < group->count; i++)
            if (group->layers[i].plan.quantized && (*offered)->wanted(&group->layers[i].plan))
                wanted |= 1u << i;
        if (!wanted)
            continue;
        if (group->mechanism_count == NI_GROUP_MECHANISMS)
            return nb_fail(err, NB_INTERNAL, "%s: more than %d mechanisms", group->input, NI_GROUP_MECHANISMS);
        int32_t index = group->mechanism_count++;
        group->mechanisms[index].table = *offered;
        for (int32_t i = 0; i < group->count; i++)
            group->layers[i].mechanisms |= (wanted >> i & 1) << index;
    }
    for (int32_t i = 0; i < group->count; i++)
        NB_TRY(check_conflicts(group, &group->layers[i], err));
    return NB_OK;
}

static nb_status attach_mechanisms(ni_linear_group *group, nb_error *err) {
    for (int32_t i = 0; i < group->mechanism_count; i++) {
        ni_attached_mechanism *m = &group->mechanisms[i];
        if (m->table->attach)
            NB_TRY(m->table->attach(group, i, &m->state, err));
        if (m->table->bytes)
            group->bytes += m->table->bytes(m->state);
    }
    return NB_OK;
}

/* ---- all of it ---- */

/* After a step nothing of the passes is there: the larger of both counts. */
static nb_status measure(ni_linear_group *group, nb_error *err) {
    NB_TRY(ni_measure_scratch(group, &group->scratch_bytes, err));
    for (int32_t i = 0; i < group->mechanism_count; i++) {
        const ni_attached_mechanism *m = &group->mechanisms[i];
        size_t bytes = m->table->scratch ? ni_scratch_room(m->table->scratch(m->state, group->max_rows)) : 0;
        group->scratch_bytes = bytes > group->scratch_bytes ? bytes : group->scratch_bytes;
    }
    return NB_OK;
}

static nb_status build(ni_linear_group *group, const ni_group_spec *spec, nb_error *err) {
    NB_TRY(take_layers(group, spec, err));
    NB_TRY(choose_mechanisms(group, spec, err));
    for (int32_t i = 0; i < group->count; i++)
        NB_TRY(ni_weight_layout(group, &group->layers[i], err));
    NB_TRY(ni_operands_layout(group, err));
    NB_TRY(attach_mechanisms(group, err));
    return measure(group, err);
}

nb_status ni_linear_group_create(nb_backend *be, const ni_group_spec *spec, ni_linear_group **out, nb_error *err) {
    ni_linear_group *group = calloc(1, sizeof *group);
    if (!group)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for its linear layers", spec->input);
    group->be = be;
    snprintf(group->input, sizeof group->input, "%s", spec->input);
    group->max_rows = spec->max_rows;
    group->in = spec->in;
    group->training = spec->training;
    group->early_wgrad_x = spec->early_wgrad_x;
    group->lays_early = spec->lays_early;
    group->hands_codes = spec->hands_codes;
    group->count = spec->count;
    nb_status status = build(group, spec, err);
    if (status != NB_OK) {
        ni_linear_group_free(group);
        return status;
    }
    *out = group;
    return NB_OK;
}

void ni_linear_group_free(ni_linear_group *group) {
    if (!group)
        return;
    for (int32_t i = 0; i < group->mechanism_count; i++)
        if (group->mechanisms[i].table->detach && group->mechanisms[i].state)
            group->mechanisms[i].table->detach(group->mechanisms[i].state);
    ni_operands_free(group);
    for (int32_t i = 0; i < group->count && i < NI_GROUP_LAYERS; i++)
        if (!group->layers[i].weight_lies)
            nb_backend_release(group->be, group->layers[i].weight);
    free(group);
}
