/* operand.c: making operands: of numbers, of another role's operand, or as a mechanism says; and showing them to the
 * lens.
 */
#include "backend/table.h"
#include "linear/linear.h"
#include "nibble/lens.h"

/* ---- the lens ---- */

static bool shows(const nb_lens *lens, nb_role role) {
    return lens && lens->operand && (!lens->roles || lens->roles >> role & 1);
}

bool ni_lens_looks(const ni_linear_call *call, nb_role role) {
    return call->measuring || shows(call->pass->lens, role);
}

bool ni_lens_is_near(const nb_pass *pass) {
    const nb_lens *lens = pass->lens;
    if (!lens)
        return false;
    bool near = lens->block || lens->counts || lens->attention || lens->approximation || lens->gate || lens->output;
    for (nb_role role = NB_FPROP_X; role < NB_ROLE_COUNT; role++)
        near |= role != NB_FPROP_W && role != NB_DGRAD_W && shows(lens, role);
    return near;
}

nb_status ni_counted(const ni_linear_call *call, int32_t count, nb_quantize_stats **out, nb_error *err) {
    const bool counts = call->pass->lens && call->pass->lens->counts;
    void *memory = NULL;
    if (counts || call->measuring)
        NB_TRY(ni_scratch_place(call->scratch, (size_t)count * sizeof **out, "what quantizers count", &memory, err));
    *out = counts ? memory : NULL;
    return NB_OK;
}

static nb_status to_canonical(const ni_linear_call *call, const nb_operand *o, nb_qtensor *out, nb_error *err) {
    void *memory;
    if (call->be->lends_codes && call->be->lends_codes(o, out))
        return NB_OK;
    NB_TRY(ni_scratch_place(call->scratch, nb_qtensor_bytes(&o->quantizer, o->rows, o->cols).total,
                            "codes for the lens", &memory, err));
    *out = nb_qtensor_place(&o->quantizer, o->rows, o->cols, memory);
    return call->be->ops->canonical(call->be, out, o, err);
}

nb_status ni_operand_show(const ni_linear_call *call, const ni_showing *showing, nb_error *err) {
    if (!ni_lens_looks(call, showing->name->role))
        return NB_OK;
    size_t mark = call->scratch->used;
    nb_qtensor codes, from;
    bool coded = showing->operand && !nb_quantizer_is_bf16(&showing->operand->quantizer);
    if (coded)
        NB_TRY(to_canonical(call, showing->operand, &codes, err));
    if (showing->from)
        from = (nb_qtensor){
            .quantizer = showing->from->quantizer, .rows = showing->from->rows, .cols = showing->from->cols};
    const nb_lens_operand seen = {.be = call->be,
                                  .pass = call->pass,
                                  .module = showing->name->module,
                                  .role = showing->name->role,
                                  .source = showing->source,
                                  .requantized_from = showing->from ? &from : NULL,
                                  .transposed = showing->transposed,
                                  .quantized = coded ? &codes : NULL,
                                  .operand = coded ? showing->operand : NULL,
                                  .stats = showing->stats};
    if (!call->measuring)
        call->pass->lens->operand(call->pass->lens->context, &seen);
    call->scratch->used = mark;
    return NB_OK;
}

nb_status ni_show_plain_weight(const ni_linear_call *call, ni_linear *layer, nb_role role, nb_error *err) {
    bool *shown = &layer->own[role].shown;
    if (!call->pass->lens || *shown || call->pass->micro_batch > 0 || layer->elsewhere)
        return NB_OK;
    *shown = true;
    nb_mat master = ni_master_of(call->be, layer);
    const ni_showing showing = {.name = &layer->names[role], .source = &master, .transposed = role == NB_DGRAD_W};
    return ni_operand_show(call, &showing, err);
}

nb_noise ni_noise_of(const nb_pass *pass, const ni_operand_name *name) {
    return (nb_noise){.seed = pass->rounding_seed, .tensor = name->tensor, .signs = name->signs, .clock = pass->clock};
}

/* ---- shapes and places ---- */

typedef struct shape {
    int64_t rows, cols;
} shape;

static shape shape_of(const ni_linear *layer, nb_role role, int64_t m) {
    int64_t n = layer->out, k = layer->in;
    const shape all[NB_ROLE_COUNT] = {{m, k}, {n, k}, {m, n}, {k, n}, {n, m}, {k, m}};
    return all[role];
}

static bool is_transposed(nb_role role) {
    return role >= NB_DGRAD_W; /* dgrad.w, wgrad.dy, wgrad.x */
}

static nb_operand describe(const ni_linear *layer, const ni_cached_operand *o, int64_t m) {
    nb_role role = o->name.role, opposite = role % 2 ? role - 1 : role + 1;
    shape s = shape_of(layer, role, m);
    return (nb_operand){.quantizer = ni_operand_quantizer(layer, role),
                        .other = ni_operand_quantizer(layer, opposite),
                        .rows = s.rows,
                        .cols = s.cols,
                        .side = role % 2 ? NI_RIGHT : NI_LEFT,
                        .reread = o->reread,
                        .turned = o->rule.from && !o->rule.requantize};
}

static nb_status place(const ni_linear_call *call, const ni_cached_operand *o, size_t bytes, void **memory,
                       nb_error *err) {
    const char *what = nb_role_name(o->name.role);
    *memory = o->memory;
    if (*memory || !bytes || (o->early && call->measuring)) /* whose room is not laid yet */
        return NB_OK;
    return o->keeper == NI_FOR_LAYER ? ni_scratch_place(call->scratch, bytes, what, memory, err)
                                     : ni_scratch_place_kept(call->scratch, bytes, what, memory, err);
}

static size_t number_bytes(const nb_backend *be, int64_t rows, int64_t cols) {
    return nb_dtype_size(be->act) * (size_t)(rows * cols);
}

/* The operand of this pass, with its memory: codes, or plain numbers as `stored` [rows, cols]. */
static nb_status open_operand(const ni_linear_call *call, ni_cached_operand *o, shape stored, nb_error *err) {
    nb_operand *out = &o->operand;
    *out = describe(&call->group->layers[o->layer], o, call->x->rows);
    bool plain = nb_quantizer_is_bf16(&out->quantizer);
    size_t bytes = plain ? number_bytes(call->be, out->rows, out->cols) : call->be->ops->operand_bytes(call->be, out);
    NB_TRY(place(call, o, bytes, &out->memory, err));
    if (!plain)
        return NB_OK;
    out->numbers = nb_mat_of(out->memory, call->be->act, stored.rows, stored.cols);
    out->transposed = is_transposed(o->name.role);
    out->memory = NULL;
    return NB_OK;
}

nb_status ni_operand_place(const ni_linear_call *call, const ni_operand_request *r, nb_operand *out, nb_error *err) {
    *out = (nb_operand){.quantizer = *r->quantizer,
                        .other = *r->other,
                        .rows = r->rows,
                        .cols = r->cols,
                        .side = r->side,
                        .reread = !r->multiplied_only};
    size_t bytes = call->be->ops->operand_bytes(call->be, out);
    if (!bytes)
        return NB_OK;
    return r->until_pass_ends ? ni_scratch_place_kept(call->scratch, bytes, "a mechanism's operand", &out->memory, err)
                              : ni_scratch_place(call->scratch, bytes, "a mechanism's operand", &out->memory, err);
}

/* ---- numbers ---- */

static nb_status prepare(const ni_linear_call *call, uint32_t mechanisms, nb_mat *x, nb_error *err) {
    *x = *call->x;
    for (int32_t i = 0; i < call->group->mechanism_count; i++) {
        const ni_attached_mechanism *m = &call->group->mechanisms[i];
        if ((mechanisms >> i & 1) && m->table->prepare_x)
            NB_TRY(m->table->prepare_x(m->state, call, x, err));
    }
    return NB_OK;
}

static nb_status prepare_dy(const ni_linear_call *call, ni_linear *layer, nb_mat *dy, nb_error *err) {
    *dy = call->dy[layer->index];
    for (int32_t i = 0; i < call->group->mechanism_count; i++) {
        const ni_attached_mechanism *m = &call->group->mechanisms[i];
        if ((layer->mechanisms >> i & 1) && m->table->prepare_dy)
            NB_TRY(m->table->prepare_dy(m->state, call, layer, dy, err));
    }
    return NB_OK;
}

/* What an operand without a source is made of. */
static nb_status numbers_of(const ni_linear_call *call, const ni_cached_operand *o, nb_mat *out, nb_error *err) {
    nb_role role = o->name.role;
    if (role == NB_FPROP_X || role == NB_WGRAD_X)
        return prepare(call, o->mechanisms, out, err);
    if (role == NB_FPROP_W || role == NB_DGRAD_W)
        return ni_weight_source(call, &call->group->layers[o->layer], out, err);
    return prepare_dy(call, &call->group->layers[o->layer], out, err);
}

/* Two operands of one matrix, neither of which wants it changed in its own way. */
static bool same_numbers(const ni_cached_operand *a, const ni_cached_operand *b) {
    nb_role r = a->name.role, s = b->name.role;
    bool pair = (r == NB_FPROP_X && s == NB_WGRAD_X) || (r == NB_DGRAD_DY && s == NB_WGRAD_DY);
    return pair && !a->source && !b->source && !a->fold && !b->fold && a->layer == b->layer &&
           a->mechanisms == b->mechanisms;
}

/* ---- making, of numbers ---- */

typedef struct request {
    ni_cached_operand *o;
    nb_noise noise;
    nb_quantize_stats *stats; /* backend memory; NULL: nobody asks */
} request;

static ni_making making_of(const ni_linear_call *call, request *r, bool transpose) {
    ni_history *h = &r->o->history;
    const bool delayed = call->training && h->past, seen = delayed && call->pass->micro_batch == 0;
    r->noise = ni_noise_of(call->pass, &r->o->name);
    r->o->legible = ni_lens_looks(call, r->o->name.role);
    h->seen |= seen && !call->measuring;
    return (ni_making){.out = &r->o->operand,
                       .transpose = transpose,
                       .past = delayed && *h->steps > 0 ? h->past : NULL,
                       .headroom = (float)r->o->rule.headroom,
                       .now = seen ? h->now : NULL,
                       .noise = &r->noise,
                       .stats = r->stats,
                       .shown = r->o->legible};
}

nb_status ni_operand_begin(const ni_linear_call *call, ni_cached_operand *o, const nb_mat *numbers, nb_noise *noise,
                           ni_making *out, nb_error *err) {
    request r = {.o = o};
    NB_TRY(open_operand(call, o, (shape){numbers->rows, numbers->cols}, err));
    *out = making_of(call, &r, is_transposed(o->name.role));
    *noise = r.noise;
    out->noise = noise;
    return NB_OK;
}

bool ni_comes_early(const ni_linear_call *call, const ni_cached_operand *o) {
    return o->name.role == NB_WGRAD_X && o->keeper == NI_FOR_BACKWARD && !call->dy && call->training &&
           !call->pass->backward_bf16;
}

static bool is_split(const ni_linear_call *call, const ni_cached_operand *o) {
    for (int32_t i = 0; i < call->group->mechanism_count; i++)
        if ((call->group->layers[o->layer].mechanisms >> i & 1) && call->group->mechanisms[i].table->splits)
            return true;
    return false;
}

/* The lens asks what a layer is given: X and dY as they came, whatever a mechanism made of them first, unless it took a
 * part off, and the master of W. */
static nb_mat as_it_came(const ni_linear_call *call, const ni_cached_operand *o, const nb_mat *numbers) {
    nb_role role = o->name.role;
    if (is_split(call, o) && role != NB_FPROP_W && role != NB_DGRAD_W)
        return *numbers;
    if (role == NB_FPROP_X || role == NB_WGRAD_X)
        return *call->x;
    if ((role == NB_DGRAD_DY || role == NB_WGRAD_DY) && !o->source)
        return call->dy[o->layer];
    if ((role == NB_FPROP_W || role == NB_DGRAD_W) && !o->source)
        return ni_master_of(call->be, &call->group->layers[o->layer]);
    return *numbers;
}

static nb_status show_made(const ni_linear_call *call, const ni_making *making, const ni_operand_name *name,
                           const nb_mat *source, nb_error *err) {
    bool coded = !nb_quantizer_is_bf16(&making->out->quantizer);
    const ni_showing showing = {.name = name,
                                .source = source,
                                .transposed = making->transpose,
                                .operand = coded ? making->out : NULL,
                                .stats = coded ? making->stats : NULL};
    return ni_operand_show(call, &showing, err);
}

/* Plain numbers that are where they are: nothing is made. */
static nb_status look_at(const ni_linear_call *call, ni_cached_operand *o, const nb_mat *numbers, bool transpose,
                         nb_error *err) {
    o->operand = describe(&call->group->layers[o->layer], o, call->x->rows);
    o->operand.numbers = *numbers;
    o->operand.transposed = transpose;
    const nb_mat source = as_it_came(call, o, numbers);
    return ni_operand_show(call, &(ni_showing){.name = &o->name, .source = &source, .transposed = transpose}, err);
}

/* One or two operands of the same numbers; row r of an operand is column r of them where `transpose`. What is to be
 * made *beside them, if it is of these numbers, is made too, and is then NULL. */
static nb_status make_of_numbers(const ni_linear_call *call, ni_cached_operand *const *list, int32_t count,
                                 const nb_mat *numbers, const bool *transpose, const ni_beside **beside,
                                 nb_error *err) {
    request requests[2];
    ni_making makings[3];
    int32_t made = 0;
    nb_quantize_stats *stats;
    ni_source source = {.numbers = numbers};
    NB_TRY(ni_counted(call, count, &stats, err));
    for (int32_t i = 0; i < count; i++) {
        ni_cached_operand *o = list[i];
        nb_quantizer q = ni_operand_quantizer(&call->group->layers[o->layer], o->name.role);
        if (nb_quantizer_is_bf16(&q) && numbers->dtype == call->be->act && !o->fold) {
            NB_TRY(look_at(call, o, numbers, transpose[i], err));
            continue;
        }
        NB_TRY(open_operand(call, o, (shape){numbers->rows, numbers->cols}, err));
        requests[made] = (request){.o = o, .stats = stats ? &stats[made] : NULL};
        makings[made] = making_of(call, &requests[made], transpose[i]);
        made++;
        if (o->fold && transpose[i])
            source.row_scales = &o->fold->operand;
        else if (o->fold)
            source.column_scales = &o->fold->operand;
    }
    const bool with =
        *beside && (*beside)->numbers->data == numbers->data && !source.row_scales && !source.column_scales;
    if (with)
        makings[made] = (*beside)->making;
    if (made + with)
        NB_TRY(call->be->ops->make_operands(call->be, &source, makings, made + with, err));
    *beside = with ? NULL : *beside;
    for (int32_t i = 0; i < made; i++) {
        const nb_mat shown = as_it_came(call, requests[i].o, numbers);
        NB_TRY(show_made(call, &makings[i], &requests[i].o->name, &shown, err));
    }
    return NB_OK;
}

/* ---- making, of another role's operand: the same tensor, other way up ---- */

static nb_status make_of_operand(const ni_linear_call *call, ni_cached_operand *o, const ni_beside **beside,
                                 nb_error *err) {
    nb_backend *be = call->be;
    const nb_operand *from = &o->source->operand;
    if (nb_quantizer_is_bf16(&from->quantizer)) { /* its numbers, which the rule may quantize */
        const bool transpose = !from->transposed;
        return make_of_numbers(call, &o, 1, &from->numbers, &transpose, beside, err);
    }
    NB_TRY(open_operand(call, o, (shape){from->rows, from->cols}, err));
    if (o->rule.requantize && !nb_quantizer_is_bf16(&o->rule.quantizer)) {
        request r = {.o = o};
        NB_TRY(ni_counted(call, 1, &r.stats, err));
        const ni_making making = making_of(call, &r, true);
        NB_TRY(be->ops->make_operands(be, &(ni_source){.operand = from}, &making, 1, err));
        const ni_showing showing = {
            .name = &o->name, .from = from, .transposed = true, .operand = &o->operand, .stats = making.stats};
        return ni_operand_show(call, &showing, err);
    }
    if (!nb_quantizer_is_bf16(&o->operand.quantizer))
        return be->ops->turn(be, &o->operand, from, err);
    return be->ops->decode(be, &o->operand.numbers, from, false, NULL, o->rule.via != NB_VIA_FOLD, err);
}

/* ---- making, as a mechanism or a weight in BF16 says ---- */

static nb_status replaced_wgrad_x(const ni_linear_call *call, ni_cached_operand *o, bool *done, nb_error *err) {
    ni_linear *layer = &call->group->layers[o->layer];
    nb_mat x;
    for (int32_t i = 0; i < call->group->mechanism_count && !*done; i++) {
        const ni_attached_mechanism *m = &call->group->mechanisms[i];
        if ((layer->mechanisms >> i & 1) && m->table->wgrad_x)
            NB_TRY(m->table->wgrad_x(m->state, call, layer, &x, done, err));
    }
    if (!*done)
        return NB_OK;
    o->operand = describe(layer, o, call->x->rows);
    o->operand.quantizer = nb_quantizer_bf16();
    o->operand.numbers = x;
    o->operand.transposed = true;
    return NB_OK;
}

/* X as the one mechanism that prepares it makes it at once. */
static nb_status made_x(const ni_linear_call *call, ni_cached_operand *o, bool *done, nb_error *err) {
    request r = {.o = o};
    for (int32_t i = 0; i < call->group->mechanism_count && !ni_lens_is_near(call->pass) && !call->measuring; i++) {
        const ni_attached_mechanism *m = &call->group->mechanisms[i];
        if (o->mechanisms != 1u << i || !m->table->make_x || o->fold || o->source)
            continue;
        NB_TRY(open_operand(call, o, (shape){call->x->rows, call->x->cols}, err));
        const ni_making making = making_of(call, &r, false);
        *done = true;
        return m->table->make_x(m->state, call, &making, err);
    }
    return NB_OK;
}

static nb_status replaced_w(const ni_linear_call *call, ni_cached_operand *o, bool *done, nb_error *err) {
    ni_linear *layer = &call->group->layers[o->layer];
    nb_mat master;
    for (int32_t i = 0; i < call->group->mechanism_count && !*done; i++) {
        const ni_attached_mechanism *m = &call->group->mechanisms[i];
        if (!(layer->mechanisms >> i & 1) || !m->table->quantize_w)
            continue;
        NB_TRY(open_operand(call, o, (shape){layer->out, layer->in}, err));
        NB_TRY(m->table->quantize_w(m->state, call, layer, &o->operand, done, err));
    }
    if (!*done)
        return NB_OK;
    o->legible = true;
    master = ni_master_of(call->be, layer);
    return ni_operand_show(call, &(ni_showing){.name = &o->name, .source = &master, .operand = &o->operand}, err);
}

/* W in act, which is kept apart from operands: both roles read it. */
static nb_status plain_weight(const ni_linear_call *call, ni_cached_operand *o, nb_error *err) {
    ni_linear *layer = &call->group->layers[o->layer];
    o->operand = describe(layer, o, call->x->rows);
    o->operand.transposed = o->name.role == NB_DGRAD_W;
    NB_TRY(ni_show_plain_weight(call, layer, o->name.role, err));
    return ni_weight_numbers(call, layer, o->keeper != NI_FOR_LAYER, &o->operand.numbers, err);
}

static nb_status make_otherwise(const ni_linear_call *call, ni_cached_operand *o, bool *done, nb_error *err) {
    nb_role role = o->name.role;
    bool weight = role == NB_FPROP_W || role == NB_DGRAD_W;
    if (role == NB_WGRAD_X)
        return replaced_wgrad_x(call, o, done, err);
    if (role == NB_FPROP_X)
        return made_x(call, o, done, err);
    if (weight && !o->source && nb_quantizer_is_bf16(&o->rule.quantizer)) {
        *done = true;
        return plain_weight(call, o, err);
    }
    return role == NB_FPROP_W ? replaced_w(call, o, done, err) : NB_OK;
}

/* ---- when ---- */

/* A weight is quantized in the first pass after a change, which may be an evaluation; a lens that looks at the training
 * step after it is shown what is there. One that counts sees it quantized again, to the same codes, and so does one
 * that would find no codes. Not where another rank has the master. */
static bool is_to_be_shown_anew(const ni_linear_call *call, const ni_cached_operand *o) {
    const nb_lens *lens = call->pass->lens;
    return o->keeper == NI_UNTIL_MOVED && lens && call->pass->micro_batch == 0 && !o->shown &&
           !call->group->layers[o->layer].elsewhere &&
           (lens->counts || (!o->legible && !o->source && ni_lens_looks(call, o->name.role)));
}

static bool is_stale(const ni_linear_call *call, const ni_cached_operand *o) {
    return !o->fresh || is_to_be_shown_anew(call, o);
}

static nb_status show_kept(const ni_linear_call *call, ni_cached_operand *o, nb_error *err) {
    if (o->keeper != NI_UNTIL_MOVED || !call->pass->lens || o->shown || call->pass->micro_batch > 0 || o->source ||
        call->group->layers[o->layer].elsewhere)
        return NB_OK;
    o->shown = true;
    nb_mat master = ni_master_of(call->be, &call->group->layers[o->layer]);
    const ni_showing showing = {
        .name = &o->name, .source = &master, .transposed = is_transposed(o->name.role), .operand = &o->operand};
    return ni_operand_show(call, &showing, err);
}

/* What an operand starts from. */
static nb_status sources_ready(const ni_linear_call *call, const ni_cached_operand *o, nb_error *err) {
    ni_linear *layer = &call->group->layers[o->layer];
    const nb_operand *ignored;
    if (o->source)
        NB_TRY(ni_operand_ready(call, layer, o->source->name.role, &ignored, err));
    return o->fold ? ni_operand_ready(call, layer, o->fold->name.role, &ignored, err) : NB_OK;
}

static nb_status make(const ni_linear_call *call, ni_cached_operand *const *list, int32_t count,
                      const ni_beside **beside, nb_error *err) {
    bool done = false, transpose[2];
    nb_mat numbers;
    NB_TRY(sources_ready(call, list[0], err));
    if (count == 1)
        NB_TRY(make_otherwise(call, list[0], &done, err));
    if (done)
        return NB_OK;
    if (list[0]->source)
        return make_of_operand(call, list[0], beside, err);
    for (int32_t i = 0; i < count; i++)
        transpose[i] = is_transposed(list[i]->name.role);
    NB_TRY(numbers_of(call, list[0], &numbers, err));
    return make_of_numbers(call, list, count, &numbers, transpose, beside, err);
}

nb_status ni_operands_ready(const ni_linear_call *call, ni_cached_operand *const *list, int32_t count,
                            const ni_beside *beside, nb_error *err) {
    for (int32_t i = 0; i < count; i++) {
        ni_cached_operand *now[2] = {list[i], NULL};
        int32_t together = 1;
        if (!is_stale(call, list[i])) {
            NB_TRY(show_kept(call, list[i], err));
            continue;
        }
        for (int32_t j = i + 1; j < count && together == 1; j++)
            if (is_stale(call, list[j]) && same_numbers(list[i], list[j]))
                now[together++] = list[j];
        NB_TRY(make(call, now, together, &beside, err));
        for (int32_t j = 0; j < together; j++) {
            now[j]->fresh = now[j]->shown = true;
            now[j]->made++;
        }
    }
    if (!beside)
        return NB_OK;
    return call->be->ops->make_operands(call->be, &(ni_source){.numbers = beside->numbers}, &beside->making, 1, err);
}

nb_status ni_operand_ready(const ni_linear_call *call, ni_linear *layer, nb_role role, const nb_operand **out,
                           nb_error *err) {
    ni_cached_operand *o = layer->operands[role];
    *out = &o->operand;
    return ni_operands_ready(call, &o, 1, NULL, err);
}

nb_status ni_operand_take(const ni_linear_call *call, ni_cached_operand *o, const nb_qtensor *codes, nb_error *err) {
    NB_TRY(open_operand(call, o, (shape){codes->rows, codes->cols}, err));
    NB_TRY(call->be->ops->take_codes(call->be, &o->operand, codes, err));
    o->fresh = o->legible = true;
    o->made++;
    return NB_OK;
}

nb_status ni_input_operand(const ni_linear_call *call, ni_linear *layer, nb_role role, nb_operand *out, nb_error *err) {
    const nb_operand *made;
    NB_TRY(ni_operand_ready(call, layer, role, &made, err));
    *out = *made;
    return NB_OK;
}

nb_status ni_weight_operand(const ni_linear_call *call, ni_linear *layer, nb_role role, nb_operand *out,
                            nb_error *err) {
    return ni_input_operand(call, layer, role, out, err);
}
