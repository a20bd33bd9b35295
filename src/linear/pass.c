/* pass.c: what a forward and a backward pass of a group make of what, and when.
 *
 *     forward     each layer:  terms of Y     -> operands that they read -> Y = their sum
 *     backward    each layer:  terms of dX,
 *                              terms of dW    -> operands that they read -> dW (+)= their sum
 *                 the group:   dX = the sum of all layers' terms
 *
 * dW of all layers are multiplied together where the backend gains by it (multiply_many).
 *
 * The terms of a product are the layer's own two operands, unless mechanisms edit them. dgrad.dy and wgrad.dy are made
 * in one reading of dY; fprop.x and wgrad.x in one of X where the group was asked for it (early_wgrad_x).
 */
#include "backend/idle.h"
#include "backend/table.h"
#include "linear/linear.h"
#include "nibble/lens.h"

const char *ni_gemm_name(ni_gemm gemm) {
    static const char *const names[NI_GEMM_COUNT] = {"fprop", "dgrad", "wgrad"};
    return names[gemm];
}

nb_status ni_add_term(ni_terms *terms, const ni_term *term, nb_error *err) {
    if (terms->count == NI_MOST_TERMS)
        return nb_fail(err, NB_INTERNAL, "a product of more than %d terms", NI_MOST_TERMS);
    terms->list[terms->count++] = *term;
    return NB_OK;
}

/* ---- terms ---- */

static bool in_bf16(const ni_linear_call *call, const ni_linear *layer, ni_gemm gemm) {
    return !layer->plan.quantized || (gemm == NI_GEMM_FPROP ? call->pass->forward_bf16 : call->pass->backward_bf16);
}

/* Numbers [stored rows, stored cols] as the operand of a role; turned where the contraction runs down the rows. */
static nb_operand numbers_as(const nb_mat *numbers, bool turned, ni_side side) {
    return (nb_operand){.quantizer = nb_quantizer_bf16(),
                        .other = nb_quantizer_bf16(),
                        .rows = turned ? numbers->cols : numbers->rows,
                        .cols = turned ? numbers->rows : numbers->cols,
                        .side = side,
                        .numbers = *numbers,
                        .transposed = turned};
}

static nb_status bf16_operand(const ni_linear_call *call, ni_linear *layer, nb_role role, nb_error *err) {
    nb_mat numbers;
    if (role == NB_FPROP_W || role == NB_DGRAD_W)
        NB_TRY(ni_weight_numbers(call, layer, role == NB_DGRAD_W, &numbers, err));
    else
        numbers = role == NB_FPROP_X || role == NB_WGRAD_X ? *call->x : call->dy[layer->index];
    layer->plain[role] = numbers_as(&numbers, role >= NB_DGRAD_W, role % 2 ? NI_RIGHT : NI_LEFT);
    if (role == NB_FPROP_W)
        return ni_show_plain_weight(call, layer, role, err);
    if (role == NB_DGRAD_DY)
        return ni_operand_show(call, &(ni_showing){.name = &layer->names[role], .source = &numbers}, err);
    return NB_OK;
}

static nb_status edit_terms(const ni_linear_call *call, ni_linear *layer, ni_gemm gemm, ni_terms *terms,
                            nb_error *err) {
    for (int32_t i = 0; i < call->group->mechanism_count; i++) {
        const ni_attached_mechanism *m = &call->group->mechanisms[i];
        if ((layer->mechanisms >> i & 1) && m->table->terms)
            NB_TRY(m->table->terms(m->state, call, layer, gemm, terms, err));
    }
    return NB_OK;
}

static nb_status terms_of(const ni_linear_call *call, ni_linear *layer, ni_gemm gemm, ni_terms *terms, nb_error *err) {
    nb_role left = (nb_role)(2 * gemm), right = left + 1;
    bool plain = in_bf16(call, layer, gemm);
    if (plain) {
        NB_TRY(bf16_operand(call, layer, left, err));
        NB_TRY(bf16_operand(call, layer, right, err));
    }
    const nb_operand *a = plain ? &layer->plain[left] : &layer->operands[left]->operand;
    const nb_operand *b = plain ? &layer->plain[right] : &layer->operands[right]->operand;
    *terms = (ni_terms){.list = {{.a = a, .b = b}}, .count = 1};
    return plain ? NB_OK : edit_terms(call, layer, gemm, terms, err);
}

static bool reads(const ni_terms *terms, const nb_operand *operand) {
    for (int32_t i = 0; i < terms->count; i++)
        if (terms->list[i].a == operand || terms->list[i].b == operand)
            return true;
    return false;
}

/* The layer's own operands that these products read, those of one matrix side by side, and a mechanism's beside them.
 */
static nb_status make_what_is_read(const ni_linear_call *call, ni_linear *layer, const ni_terms *const *products,
                                   int32_t count, nb_error *err) {
    static const nb_role order[NB_ROLE_COUNT] = {NB_FPROP_X,  NB_WGRAD_X,  NB_FPROP_W,
                                                 NB_DGRAD_DY, NB_WGRAD_DY, NB_DGRAD_W};
    ni_cached_operand *list[NB_ROLE_COUNT];
    const ni_beside *beside = NULL;
    int32_t found = 0;
    for (int32_t p = 0; p < count; p++)
        beside = products[p]->beside.numbers ? &products[p]->beside : beside;
    for (int32_t i = 0; i < NB_ROLE_COUNT && layer->plan.quantized; i++) {
        ni_cached_operand *o = layer->operands[order[i]];
        bool wanted = false;
        for (int32_t p = 0; p < count; p++)
            wanted |= reads(products[p], &o->operand);
        if (wanted || (found == 1 && ni_comes_early(call, o)))
            list[found++] = o;
    }
    return ni_operands_ready(call, list, found, beside, err);
}

/* ---- staleness ---- */

/* `scratch`: what lay in this pass's scratch; `inputs`: X, which is another now. */
static void forget(ni_linear_group *group, bool inputs) {
    for (int32_t i = 0; i < group->x_count; i++)
        group->x[i].fresh &= !inputs && group->x[i].keeper >= NI_FOR_BACKWARD;
    for (int32_t i = 0; i < group->count; i++)
        for (nb_role role = NB_FPROP_X; role < NB_ROLE_COUNT; role++)
            group->layers[i].own[role].fresh &= group->layers[i].own[role].keeper == NI_UNTIL_MOVED;
}

static void forget_layer(ni_linear *layer) {
    for (nb_role role = NB_FPROP_X; role < NB_ROLE_COUNT; role++)
        layer->own[role].fresh &= layer->own[role].keeper != NI_FOR_LAYER;
}

/* A new micro-batch: weights that draw bits are drawn anew, and the lens may see all of them again, unless it is one
 * that it saw. */
static void begin_micro_batch(ni_linear_group *group, bool seen) {
    forget(group, true);
    for (int32_t i = 0; i < group->count; i++)
        for (nb_role role = NB_FPROP_X; role < NB_ROLE_COUNT; role++) {
            ni_cached_operand *o = &group->layers[i].own[role];
            o->fresh &= !o->random;
            o->shown &= seen;
        }
}

void ni_linear_group_changed(ni_linear_group *group) {
    group->moves++;
    for (int32_t i = 0; i < group->count; i++) {
        ni_linear *layer = &group->layers[i];
        layer->weight_fresh = layer->weight_found;
        layer->weight_found = false;
        layer->maximum_known = layer->maximum_found;
        layer->maximum_found = false;
        layer->own[NB_FPROP_W].fresh = layer->own[NB_DGRAD_W].fresh = false;
        if (layer->room)
            layer->room->holds = NULL;
    }
}

void ni_linear_group_begin_gradients(ni_linear_group *group) {
    for (int32_t i = 0; i < group->count; i++)
        group->layers[i].grad_written = false;
}

/* ---- forward ---- */

static nb_status check_rows(const ni_linear_group *group, const nb_mat *x, nb_error *err) {
    if (x->rows > group->max_rows || x->cols != group->in)
        return nb_fail(err, NB_INTERNAL, "%s: input of %lld x %lld; expected at most %lld x %lld", group->input,
                       (long long)x->rows, (long long)x->cols, (long long)group->max_rows, (long long)group->in);
    return NB_OK;
}

/* X of a pass in which no layer quantizes it. */
static nb_status show_plain_input(const ni_linear_call *call, nb_error *err) {
    const ni_linear_group *group = call->group;
    for (int32_t i = 0; i < group->count; i++)
        if (!in_bf16(call, &group->layers[i], NI_GEMM_FPROP))
            return NB_OK;
    return ni_operand_show(call, &(ni_showing){.name = &group->layers[0].names[NB_FPROP_X], .source = call->x}, err);
}

static nb_status observe(const ni_linear_call *call, nb_error *err) {
    for (int32_t i = 0; i < call->group->mechanism_count; i++) {
        const ni_attached_mechanism *m = &call->group->mechanisms[i];
        size_t mark = call->scratch->used;
        if (m->table->observe)
            NB_TRY(m->table->observe(m->state, call, err));
        call->scratch->used = mark;
    }
    return NB_OK;
}

static nb_status forward_layer(const ni_linear_call *call, ni_linear *layer, const nb_mat *y, nb_error *err) {
    ni_terms terms;
    const ni_terms *const products[] = {&terms};
    size_t mark = call->scratch->used;
    NB_TRY(terms_of(call, layer, NI_GEMM_FPROP, &terms, err));
    NB_TRY(make_what_is_read(call, layer, products, 1, err));
    NB_TRY(call->be->ops->multiply(call->be, y, terms.list, terms.count, false, err));
    forget_layer(layer);
    call->scratch->used = mark;
    return NB_OK;
}

static void show_output(const ni_linear_call *call, const ni_linear *layer, const nb_mat *y) {
    const nb_lens *lens = call->pass->lens;
    if (lens && lens->output && !call->measuring && y->dtype == call->be->act)
        lens->output(lens->context, call->be, layer->name, y);
}

static nb_status forward(const ni_linear_call *call, const nb_mat *y, nb_error *err) {
    ni_linear_group *group = call->group;
    size_t kept = call->scratch->kept;
    begin_micro_batch(group, call->again);
    NB_TRY(ni_produce(call, err));
    NB_TRY(show_plain_input(call, err));
    if (!call->again)
        NB_TRY(observe(call, err));
    for (int32_t i = 0; i < group->count; i++) {
        NB_TRY(forward_layer(call, &group->layers[i], &y[i], err));
        show_output(call, &group->layers[i], &y[i]);
    }
    forget(group, false);
    call->scratch->kept = kept;
    return NB_OK;
}

nb_status ni_linear_group_forward_of(ni_linear_group *group, const nb_pass *pass, ni_scratch *scratch,
                                     ni_forward_kind kind, const ni_producer *from, const nb_mat *x, const nb_mat *y,
                                     nb_error *err) {
    nb_pass unseen = *pass;
    unseen.lens = NULL;
    NB_TRY(check_rows(group, x, err));
    const ni_linear_call call = {.group = group,
                                 .be = group->be,
                                 .pass = kind == NI_FORWARD_AGAIN ? &unseen : pass,
                                 .scratch = scratch,
                                 .x = x,
                                 .training = kind != NI_FORWARD_ALONE,
                                 .from = from,
                                 .again = kind == NI_FORWARD_AGAIN};
    return forward(&call, y, err);
}

nb_status ni_linear_group_forward(ni_linear_group *group, const nb_pass *pass, ni_scratch *scratch, bool training,
                                  const nb_mat *x, const nb_mat *y, nb_error *err) {
    return ni_linear_group_forward_of(group, pass, scratch, training ? NI_FORWARD_TRAINING : NI_FORWARD_ALONE, NULL, x,
                                      y, err);
}

nb_status ni_linear_group_again(ni_linear_group *group, const nb_pass *pass, ni_scratch *scratch, const nb_mat *x,
                                const nb_mat *y, nb_error *err) {
    return ni_linear_group_forward_of(group, pass, scratch, NI_FORWARD_AGAIN, NULL, x, y, err);
}

/* ---- backward ---- */

/* What mechanisms do with the products of a layer's backward pass; nothing where that runs in BF16. */
typedef struct edits {
    bool dw, dx;
    bool alone; /* the terms of dW are gone with those of the next layer */
} edits;

static edits edits_of(const ni_linear_call *call, const ni_linear *layer) {
    edits e = {0};
    for (int32_t i = 0; i < call->group->mechanism_count && !in_bf16(call, layer, NI_GEMM_WGRAD); i++) {
        const ni_mechanism *m = call->group->mechanisms[i].table;
        const bool mine = layer->mechanisms >> i & 1;
        e.dw |= mine && m->after_wgrad;
        e.dx |= mine && m->after_dgrad;
        e.alone |= mine && m->one_layer;
    }
    return e;
}

static nb_status change_dw(const ni_linear_call *call, ni_linear *layer, const nb_mat *dw, nb_error *err) {
    for (int32_t i = 0; i < call->group->mechanism_count; i++) {
        const ni_attached_mechanism *m = &call->group->mechanisms[i];
        if ((layer->mechanisms >> i & 1) && m->table->after_wgrad)
            NB_TRY(m->table->after_wgrad(m->state, call, layer, dw, err));
    }
    return NB_OK;
}

/* Mechanisms see the dW of this micro-batch alone: the gradients themselves where it is the first, else scratch. */
static nb_status add_gradient(const ni_linear_call *call, ni_linear *layer, const ni_terms *terms, nb_error *err) {
    nb_backend *be = call->be;
    nb_mat grad = nb_mat_of(layer->grad, be->real, layer->out, layer->in), dw = grad;
    bool changes = edits_of(call, layer).dw, apart = changes && layer->grad_written;
    if (apart)
        NB_TRY(ni_scratch_place(call->scratch, nb_dtype_size(be->real) * (size_t)(layer->out * layer->in),
                                "dW of one micro-batch", &dw.data, err));
    NB_TRY(be->ops->multiply(be, &dw, terms->list, terms->count, layer->grad_written && !apart, err));
    if (changes)
        NB_TRY(change_dw(call, layer, &dw, err));
    if (apart)
        be->ops->axpy(be, layer->grad, 1.0, dw.data, layer->out * layer->in);
    layer->grad_written = true;
    return NB_OK;
}

/* dW of all layers of a group, which may be one, as one call of the backend. */
typedef struct gradients {
    ni_terms terms[NI_GROUP_LAYERS];
    ni_sum products[NI_GROUP_LAYERS];
    int32_t count;
} gradients;

static void list_gradient(const ni_linear_call *call, ni_linear *layer, const ni_terms *terms, gradients *list) {
    ni_terms *const kept = &list->terms[list->count];
    *kept = *terms;
    list->products[list->count++] = (ni_sum){.c = nb_mat_of(layer->grad, call->be->real, layer->out, layer->in),
                                             .terms = kept->list,
                                             .count = kept->count,
                                             .accumulate = layer->grad_written};
    layer->grad_written = true;
}

/* Where that may be worth something, no mechanism looks at one of them between, and all that they read stays. */
static bool are_listed(const ni_linear_call *call) {
    bool listed = call->be->multiply_many;
    for (int32_t i = 0; i < call->group->count && listed; i++) {
        const edits e = edits_of(call, &call->group->layers[i]);
        listed = !e.dw && !e.alone;
    }
    return listed;
}

typedef struct dx_terms {
    ni_term list[NI_GROUP_LAYERS * NI_MOST_TERMS];
    int32_t count;
} dx_terms;

static nb_status change_dx(const ni_linear_call *call, const nb_mat *dx, nb_error *err) {
    for (int32_t i = 0; i < call->group->mechanism_count; i++) {
        const ni_attached_mechanism *m = &call->group->mechanisms[i];
        if (m->table->after_dgrad)
            NB_TRY(m->table->after_dgrad(m->state, call, dx, err));
    }
    return NB_OK;
}

/* dX of the layers whose dX a mechanism changes, and the others' added to it. */
static nb_status sum_dx(const ni_linear_call *call, const dx_terms *changed, const dx_terms *others, const nb_mat *dx,
                        nb_error *err) {
    if (changed->count) {
        NB_TRY(call->be->ops->multiply(call->be, dx, changed->list, changed->count, false, err));
        NB_TRY(change_dx(call, dx, err));
    }
    if (others->count)
        NB_TRY(call->be->ops->multiply(call->be, dx, others->list, others->count, changed->count > 0, err));
    return NB_OK;
}

/* `later`: its dW is multiplied with the others', and what that reads stays; NULL: at once. */
static nb_status backward_layer(const ni_linear_call *call, ni_linear *layer, dx_terms *dx, gradients *later,
                                nb_error *err) {
    ni_terms dgrad, wgrad;
    const ni_terms *const products[] = {&dgrad, &wgrad};
    size_t mark = call->scratch->used;
    NB_TRY(terms_of(call, layer, NI_GEMM_DGRAD, &dgrad, err));
    NB_TRY(terms_of(call, layer, NI_GEMM_WGRAD, &wgrad, err));
    NB_TRY(make_what_is_read(call, layer, products, 2, err));
    for (int32_t i = 0; i < dgrad.count; i++)
        dx->list[dx->count++] = dgrad.list[i];
    if (later) {
        list_gradient(call, layer, &wgrad, later);
        return NB_OK;
    }
    NB_TRY(add_gradient(call, layer, &wgrad, err));
    forget_layer(layer);
    call->scratch->used = mark;
    return NB_OK;
}

static nb_status backward(const ni_linear_call *call, const nb_mat *dx, nb_error *err) {
    ni_linear_group *group = call->group;
    size_t kept = call->scratch->kept, mark = call->scratch->used;
    dx_terms changed = {.count = 0}, others = {.count = 0};
    gradients dw = {.count = 0};
    gradients *const later = are_listed(call) ? &dw : NULL;
    NB_TRY(ni_produce(call, err));
    for (int32_t i = 0; i < group->count; i++) {
        ni_linear *layer = &group->layers[i];
        NB_TRY(backward_layer(call, layer, edits_of(call, layer).dx ? &changed : &others, later, err));
    }
    if (later)
        NB_TRY(call->be->multiply_many(call->be, dw.products, dw.count, err));
    NB_TRY(sum_dx(call, &changed, &others, dx, err));
    forget(group, true);
    call->scratch->kept = kept;
    call->scratch->used = mark;
    return NB_OK;
}

nb_status ni_linear_group_backward_of(ni_linear_group *group, const nb_pass *pass, ni_scratch *scratch,
                                      const ni_producer *from, const nb_mat *x, const nb_mat *dy, const nb_mat *dx,
                                      nb_error *err) {
    NB_TRY(check_rows(group, x, err));
    const ni_linear_call call = {.group = group,
                                 .be = group->be,
                                 .pass = pass,
                                 .scratch = scratch,
                                 .x = x,
                                 .training = true,
                                 .dy = dy,
                                 .from = from};
    return backward(&call, dx, err);
}

nb_status ni_linear_group_backward(ni_linear_group *group, const nb_pass *pass, ni_scratch *scratch, const nb_mat *x,
                                   const nb_mat *dy, const nb_mat *dx, nb_error *err) {
    return ni_linear_group_backward_of(group, pass, scratch, NULL, x, dy, dx, err);
}

/* ---- between steps ---- */

/* What the optimizer left is not of these masters. */
static void forget_found(ni_linear_group *group) {
    for (int32_t i = 0; i < group->count; i++)
        group->layers[i].maximum_found = group->layers[i].weight_found = false;
}

nb_status ni_linear_group_after_step(ni_linear_group *group, const nb_pass *pass, ni_scratch *scratch, nb_error *err) {
    for (int32_t i = 0; i < group->mechanism_count; i++) {
        const ni_attached_mechanism *m = &group->mechanisms[i];
        size_t mark = scratch->used;
        if (m->table->after_step && !m->table->keeps_masters)
            forget_found(group);
        if (m->table->after_step)
            NB_TRY(m->table->after_step(m->state, group, pass, scratch, err));
        scratch->used = mark;
    }
    return NB_OK;
}

nb_status ni_linear_group_calibrate(ni_linear_group *group, const nb_pass *pass, int32_t taken, ni_scratch *scratch,
                                    nb_error *err) {
    for (int32_t i = 0; i < group->mechanism_count; i++) {
        const ni_attached_mechanism *m = &group->mechanisms[i];
        size_t mark = scratch->used;
        if (m->table->calibrate)
            NB_TRY(m->table->calibrate(m->state, group, pass, taken, scratch, err));
        scratch->used = mark;
    }
    return NB_OK;
}

bool ni_linear_ramp(const ni_linear_group *group, const ni_linear *layer, ni_ramped *out) {
    for (int32_t i = 0; i < group->mechanism_count; i++)
        if ((layer->mechanisms >> i & 1) && group->mechanisms[i].table->ramp) {
            group->mechanisms[i].table->ramp(group->mechanisms[i].state, layer, out);
            return true;
        }
    return false;
}

/* ---- what it takes: the same code over a backend that does nothing ---- */

static nb_status walk(ni_linear_group *group, const nb_pass *pass, bool produced, ni_scratch *scratch, nb_error *err) {
    static const ni_producer any = {.kind = NI_PRODUCER_SWIGLU}, turned = {.kind = NI_PRODUCER_TURNED_BACK};
    void *nowhere = (void *)(uintptr_t)64;
    nb_mat x = nb_mat_of(nowhere, group->be->act, group->max_rows, group->in), dx = x, y[NI_GROUP_LAYERS];
    for (int32_t i = 0; i < group->count; i++)
        y[i] = nb_mat_of(nowhere, group->be->act, group->max_rows, group->layers[i].out);
    ni_linear_call call = {.group = group,
                           .be = group->be,
                           .pass = pass,
                           .scratch = scratch,
                           .x = &x,
                           .training = group->training,
                           .from = produced ? &any : NULL,
                           .measuring = true};
    NB_TRY(forward(&call, y, err));
    call.dy = y;
    call.from = !produced || group->count > NI_PRODUCED_MOST ? NULL : group->count == NI_PRODUCED_MOST ? &turned : &any;
    for (int again = 0; again < 2 && group->training; again++) /* the second micro-batch adds to the gradients */
        NB_TRY(backward(&call, &dx, err));
    return NB_OK;
}

nb_status ni_measure_scratch(ni_linear_group *group, size_t *bytes, nb_error *err) {
    static const nb_pass passes[] = {{.steps = 1},
                                     {.steps = 1, .forward_bf16 = true},
                                     {.steps = 1, .backward_bf16 = true},
                                     {.steps = 1, .forward_bf16 = true, .backward_bf16 = true}};
    ni_scratch scratch = ni_scratch_counting();
    nb_backend *be = group->be;
    ni_idle_backend idle;
    nb_status status = NB_OK;
    ni_backend_idle(&idle, be);
    group->be = &idle.backend;
    for (size_t i = 0; i < 2 * sizeof passes / sizeof *passes && status == NB_OK; i++)
        status = walk(group, &passes[i / 2], i % 2, &scratch, err);
    group->be = be;
    begin_micro_batch(group, false);
    ni_linear_group_changed(group);
    ni_linear_group_begin_gradients(group);
    *bytes = scratch.peak;
    return status;
}
