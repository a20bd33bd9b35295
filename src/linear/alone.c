/* alone.c: a linear group without a model around it, for programs outside (nibble/linear.h): their matrices become what
 * a group reads (BF16, whole blocks of tokens), and what it writes becomes theirs.
 */
#include "linear/linear.h"

#include <stdlib.h>

struct nb_workspace {
    nb_backend *be;
    void *memory; /* of the backend */
    size_t size;
    uint32_t *clock;     /* [2] backend memory: step and micro-batch of the call */
    ni_master_room room; /* where a BF16 weight is widened */
    size_t room_bytes;
};

struct nb_linear {
    nb_workspace *workspace;
    ni_linear_group *group;
    nb_recipe recipe;
    int64_t rows;     /* most of a call, as the program sees them */
    int64_t multiple; /* of tokens that a training pass must have */
    float *sums;      /* backend memory: what mechanisms sum over the micro-batches of a step, so far; NULL: nothing */
};

/* ---- the workspace ---- */

nb_status nb_workspace_create(nb_backend *be, nb_workspace **out, nb_error *err) {
    nb_workspace *w = calloc(1, sizeof *w);
    *out = NULL;
    if (!w)
        return nb_fail(err, NB_NO_MEMORY, "no memory for a workspace");
    w->be = be;
    w->clock = nb_backend_alloc(be, 2 * sizeof *w->clock);
    if (!w->clock) {
        free(w);
        return nb_fail(err, NB_NO_MEMORY, "no memory for a workspace");
    }
    *out = w;
    return NB_OK;
}

void nb_workspace_free(nb_workspace *w) {
    if (!w)
        return;
    nb_backend_release(w->be, w->memory);
    nb_backend_release(w->be, w->room.data);
    nb_backend_release(w->be, w->clock);
    free(w);
}

size_t nb_workspace_bytes(const nb_workspace *w) {
    return w->size + w->room_bytes;
}

/* What was there before is lost. */
static nb_status reserve(nb_backend *be, void **memory, size_t *size, size_t bytes, nb_error *err) {
    if (bytes <= *size)
        return NB_OK;
    nb_backend_release(be, *memory);
    *memory = NULL;
    *size = 0;
    NB_TRY(ni_backend_take(be, bytes, "the workspace of linear layers", memory, err));
    *size = bytes;
    return NB_OK;
}

/* ---- making one ---- */

static nb_status check_spec(const nb_linear_spec *spec, nb_error *err) {
    if (spec->count < 1 || spec->count > NB_LINEAR_LAYERS)
        return nb_fail(err, NB_BAD_USAGE, "%s: %d layers made together; expected 1 to %d", spec->input, spec->count,
                       NB_LINEAR_LAYERS);
    if (spec->in < 1 || spec->rows < 1 || spec->rows > INT32_MAX)
        return nb_fail(err, NB_BAD_USAGE, "%s: inputs of %lld x %lld; expected at least 1 x 1", spec->input,
                       (long long)spec->rows, (long long)spec->in);
    if (spec->training && spec->recipe->late_switch.rho > 0)
        return nb_fail(
            err, NB_UNSUPPORTED,
            "%s: late_switch.rho is for runs of nibble train, which watch all layers; hint: a recipe without "
            "it",
            spec->input);
    if (spec->training && spec->recipe->mechanisms.has_qramping)
        return nb_fail(err, NB_UNSUPPORTED,
                       "%s: qramping is a matter of the optimizer, which is the program's own here; hint: a recipe "
                       "without it, as tetrajet-v1, or nibble train",
                       spec->input);
    for (int32_t i = 0; i < spec->count; i++) {
        const nb_linear_layer *l = &spec->layers[i];
        if (l->dtype != NB_F32 && l->dtype != NB_BF16)
            return nb_fail(err, NB_BAD_USAGE, "%s: a weight in %s; expected f32 or bf16", l->name,
                           nb_dtype_name(l->dtype));
        if (!l->weight || l->out < 1)
            return nb_fail(err, NB_BAD_USAGE, "%s: no weight, or no outputs", l->name);
    }
    return NB_OK;
}

/* The least number of tokens that divides into the blocks and rotations of wgrad's operands. */
static int64_t token_multiple(const nb_plan *plans, const nb_linear_spec *spec) {
    int64_t multiple = 1;
    for (int32_t i = 0; spec->training && i < spec->count; i++)
        for (nb_role role = NB_WGRAD_DY; role <= NB_WGRAD_X && plans[i].quantized; role++) {
            const nb_operand_rule *rule = &plans[i].roles[role];
            const int64_t rows = role == NB_WGRAD_DY ? spec->layers[i].out : spec->in;
            while (multiple < 128 && !(rule->from && !rule->requantize) &&
                   nb_quantizer_check_shape(&rule->quantizer, rows, multiple, NULL) != NB_OK)
                multiple *= 2;
        }
    return multiple;
}

static int64_t whole_blocks(const nb_linear *linear, int64_t rows) {
    return (rows + linear->multiple - 1) / linear->multiple * linear->multiple;
}

static nb_status make_group(nb_linear *linear, const nb_linear_spec *spec, nb_error *err) {
    nb_workspace *w = linear->workspace;
    nb_plan plans[NB_LINEAR_LAYERS];
    ni_linear_spec layers[NB_LINEAR_LAYERS];
    size_t widened = 0;
    for (int32_t i = 0; i < spec->count; i++) {
        const nb_linear_layer *l = &spec->layers[i];
        NB_TRY(nb_recipe_plan(spec->recipe, l->name, spec->block, spec->blocks, &plans[i], err));
        layers[i] = (ni_linear_spec){.name = l->name, .out = l->out, .plan = &plans[i]};
        if (l->dtype == w->be->real) {
            layers[i].master = l->weight;
            continue;
        }
        layers[i].narrow = (ni_scaled){.data = l->weight, .dtype = l->dtype};
        layers[i].room = &w->room;
        const size_t bytes = nb_dtype_size(w->be->real) * (size_t)(l->out * spec->in);
        widened = bytes > widened ? bytes : widened;
    }
    if (widened && !w->be->ops->scaled_decode)
        return nb_fail(err, NB_UNSUPPORTED, "%s: backend %s reads no weights in bf16; expected f32", spec->input,
                       w->be->name);
    w->room.holds = NULL;
    NB_TRY(reserve(w->be, &w->room.data, &w->room_bytes, widened, err));
    linear->multiple = token_multiple(plans, spec);
    const ni_group_spec group = {.input = spec->input,
                                 .in = spec->in,
                                 .max_rows = whole_blocks(linear, spec->rows),
                                 .training = spec->training,
                                 .early_wgrad_x = w->be->wants_amax,
                                 .layers = layers,
                                 .count = spec->count};
    return ni_linear_group_create(w->be, &group, &linear->group, err);
}

/* ---- sums over the micro-batches of a step: each writes its own, mechanisms read those of all ---- */

enum { MOST_SUMS = 16 };

static nb_status make_sums(nb_linear *linear, nb_error *err) {
    ni_mechanism_tensor list[MOST_SUMS];
    const int32_t count = ni_linear_group_combined(linear->group, NI_COMBINE_SUM, list, MOST_SUMS);
    int64_t elements = 0;
    if (count > MOST_SUMS)
        return nb_fail(err, NB_INTERNAL, "%s: mechanisms sum %d tensors; expected at most %d", linear->group->input,
                       count, MOST_SUMS);
    for (int32_t i = 0; i < count; i++)
        elements += list[i].elements;
    void *memory = NULL;
    if (elements)
        NB_TRY(ni_backend_take(linear->workspace->be, sizeof(float) * (size_t)elements, "sums of micro-batches",
                               &memory, err));
    linear->sums = memory;
    return NB_OK;
}

/* `take`: a micro-batch's are added to the sums, or begin them; else the sums are given back. */
static void pass_sums(nb_linear *linear, bool take, bool begins) {
    nb_backend *be = linear->workspace->be;
    ni_mechanism_tensor list[MOST_SUMS];
    float *sum = linear->sums;
    const int32_t count = sum ? ni_linear_group_combined(linear->group, NI_COMBINE_SUM, list, MOST_SUMS) : 0;
    for (int32_t i = 0; i < count; sum += list[i++].elements) {
        const size_t bytes = sizeof(float) * (size_t)list[i].elements;
        if (!list[i].data)
            continue;
        if (!take)
            be->ops->copy(be, list[i].data, sum, bytes);
        else if (begins)
            be->ops->copy(be, sum, list[i].data, bytes);
        else
            be->ops->axpy(be, sum, 1.0, list[i].data, list[i].elements);
    }
}

nb_status nb_linear_create(nb_workspace *workspace, const nb_linear_spec *spec, nb_linear **out, nb_error *err) {
    *out = NULL;
    if (workspace->be->real != NB_F32)
        return nb_fail(err, NB_UNSUPPORTED, "%s: backend %s computes in double; expected one with BF16 activations",
                       spec->input, workspace->be->name);
    NB_TRY(check_spec(spec, err));
    nb_linear *linear = calloc(1, sizeof *linear);
    if (!linear)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for its linear layers", spec->input);
    linear->workspace = workspace;
    linear->recipe = *spec->recipe;
    linear->rows = spec->rows;
    nb_status status = make_group(linear, spec, err);
    if (status == NB_OK)
        status = make_sums(linear, err);
    if (status == NB_OK)
        *out = linear;
    else
        nb_linear_free(linear);
    return status;
}

void nb_linear_free(nb_linear *linear) {
    if (!linear)
        return;
    linear->workspace->room.holds = NULL;
    nb_backend_release(linear->workspace->be, linear->sums);
    ni_linear_group_free(linear->group);
    free(linear);
}

/* ---- a call: matrices of the program, and what the group has instead ---- */

typedef struct call {
    nb_linear *linear;
    nb_backend *be;
    nb_pass pass;
    int64_t rows, filled; /* of the program's matrices; of the group's */
    ni_scratch staging;   /* for matrices, behind the group's scratch; counts first, then places */
    nb_mat x, y[NB_LINEAR_LAYERS], dy[NB_LINEAR_LAYERS], dx;
    void *dw[NB_LINEAR_LAYERS]; /* where nobody wants it */
} call;

/* Where matrices of the program are not what the group reads or writes. */
static bool is_theirs(const call *c, const nb_mat *m, bool written) {
    return c->rows == c->filled && (written || m->dtype == c->be->act);
}

static nb_status stage(call *c, int64_t rows, int64_t cols, nb_dtype type, void **memory, nb_error *err) {
    return ni_scratch_place(&c->staging, nb_dtype_size(type) * (size_t)(rows * cols), "matrices of a linear layer",
                            memory, err);
}

static nb_status place_input(call *c, const nb_mat *theirs, nb_mat *ours, nb_error *err) {
    *ours = *theirs;
    if (is_theirs(c, theirs, false))
        return NB_OK;
    *ours = nb_mat_of(NULL, c->be->act, c->filled, theirs->cols);
    return stage(c, c->filled, theirs->cols, c->be->act, &ours->data, err);
}

/* `theirs` NULL: nobody wants it. */
static nb_status place_output(call *c, const nb_mat *theirs, int64_t cols, nb_mat *ours, nb_error *err) {
    if (theirs && is_theirs(c, theirs, true)) {
        *ours = *theirs;
        return NB_OK;
    }
    *ours = nb_mat_of(NULL, theirs ? theirs->dtype : c->be->act, c->filled, cols);
    return stage(c, c->filled, cols, ours->dtype, &ours->data, err);
}

/* Rows of zeros change no product and no scale. */
static void fill_input(const call *c, const nb_mat *theirs, const nb_mat *ours) {
    const size_t element = nb_dtype_size(ours->dtype);
    if (ours->data == theirs->data)
        return;
    c->be->ops->cast(c->be, ours->data, ours->dtype, theirs->data, theirs->dtype, c->rows * theirs->cols);
    c->be->ops->fill_zero(c->be, (char *)ours->data + element * (size_t)(c->rows * ours->cols),
                          element * (size_t)((c->filled - c->rows) * ours->cols));
}

static void give_output(const call *c, const nb_mat *theirs, const nb_mat *ours) {
    if (theirs && ours->data != theirs->data)
        c->be->ops->copy(c->be, theirs->data, ours->data, nb_dtype_size(ours->dtype) * (size_t)(c->rows * ours->cols));
}

static nb_status check_matrix(const call *c, const char *what, const nb_mat *m, int64_t cols, nb_error *err) {
    const bool typed = m->dtype == NB_F32 || m->dtype == NB_BF16;
    if (m->rows == c->rows && m->cols == cols && m->stride == cols && typed && m->data)
        return NB_OK;
    return nb_fail(err, NB_BAD_USAGE,
                   "%s: %s is %lld x %lld of %s with rows %lld apart; expected dense %lld x %lld of "
                   "f32 or bf16",
                   c->linear->group->input, what, (long long)m->rows, (long long)m->cols, nb_dtype_name(m->dtype),
                   (long long)m->stride, (long long)c->rows, (long long)cols);
}

/* The two sizes of everything: what is placed by `place` is counted first, over addresses that nobody follows. */
static nb_status begin(call *c, const nb_pass *pass, bool training, const nb_mat *x, nb_error *err) {
    nb_linear *linear = c->linear;
    const ni_linear_group *group = linear->group;
    c->be = group->be;
    c->rows = x->rows;
    if (x->rows < 1 || x->rows > linear->rows)
        return nb_fail(err, NB_BAD_USAGE, "%s: an input of %lld rows; expected 1 to %lld", group->input,
                       (long long)x->rows, (long long)linear->rows);
    if (training && !group->training)
        return nb_fail(err, NB_BAD_USAGE, "%s: made for forward passes alone", group->input);
    NB_TRY(check_matrix(c, "x", x, group->in, err));
    c->filled = training ? whole_blocks(linear, c->rows) : c->rows;
    const bool switched = nb_recipe_switched(&linear->recipe, pass->step, pass->steps);
    c->pass = *pass;
    c->pass.clock = linear->workspace->clock;
    c->pass.forward_bf16 = switched && linear->recipe.late_switch.forward;
    c->pass.backward_bf16 = switched && linear->recipe.late_switch.backward;
    return NB_OK;
}

/* Makes room for the group's scratch and what `place` asks for, and hands it out. */
static nb_status with_room(call *c, nb_status (*place)(call *c, const void *matrices, nb_error *err),
                           const void *matrices, ni_scratch *scratch, nb_error *err) {
    nb_workspace *w = c->linear->workspace;
    const size_t group = ni_scratch_room(c->linear->group->scratch_bytes);
    c->staging = ni_scratch_counting();
    NB_TRY(place(c, matrices, err));
    const size_t staged = c->staging.used;
    NB_TRY(reserve(w->be, &w->memory, &w->size, group + staged, err));
    c->staging = (ni_scratch){.memory = (uint8_t *)w->memory + group, .size = staged};
    NB_TRY(place(c, matrices, err));
    *scratch = (ni_scratch){.memory = w->memory, .size = group};
    const uint32_t clock[2] = {c->pass.step, c->pass.micro_batch};
    w->be->ops->upload(w->be, w->clock, clock, sizeof clock);
    return NB_OK;
}

/* ---- forward ---- */

typedef struct forward_matrices {
    const nb_mat *x, *y;
} forward_matrices;

static nb_status place_forward(call *c, const void *matrices, nb_error *err) {
    const forward_matrices *m = matrices;
    const ni_linear_group *group = c->linear->group;
    NB_TRY(place_input(c, m->x, &c->x, err));
    for (int32_t i = 0; i < group->count; i++)
        NB_TRY(place_output(c, &m->y[i], group->layers[i].out, &c->y[i], err));
    return NB_OK;
}

nb_status nb_linear_forward(nb_linear *linear, const nb_pass *pass, bool training, const nb_mat *x, const nb_mat *y,
                            nb_error *err) {
    call c = {.linear = linear};
    ni_scratch scratch;
    const ni_linear_group *group = linear->group;
    NB_TRY(begin(&c, pass, training, x, err));
    for (int32_t i = 0; i < group->count; i++)
        NB_TRY(check_matrix(&c, "y", &y[i], group->layers[i].out, err));
    NB_TRY(with_room(&c, place_forward, &(forward_matrices){x, y}, &scratch, err));
    fill_input(&c, x, &c.x);
    NB_TRY(ni_linear_group_forward(linear->group, &c.pass, &scratch, training, &c.x, c.y, err));
    if (training)
        pass_sums(linear, true, pass->micro_batch == 0);
    for (int32_t i = 0; i < group->count; i++)
        give_output(&c, &y[i], &c.y[i]);
    return ni_backend_finish(c.be, err);
}

/* ---- backward ---- */

typedef struct backward_matrices {
    const nb_mat *x, *dy, *dx;
    float *const *dw;
    bool again;
} backward_matrices;

static nb_status place_backward(call *c, const void *matrices, nb_error *err) {
    const backward_matrices *m = matrices;
    const ni_linear_group *group = c->linear->group;
    NB_TRY(place_input(c, m->x, &c->x, err));
    NB_TRY(place_output(c, m->dx, group->in, &c->dx, err));
    for (int32_t i = 0; i < group->count; i++) {
        const ni_linear *layer = &group->layers[i];
        NB_TRY(place_input(c, &m->dy[i], &c->dy[i], err));
        if (m->again)
            NB_TRY(place_output(c, NULL, layer->out, &c->y[i], err));
        c->dw[i] = m->dw ? m->dw[i] : NULL;
        if (!c->dw[i])
            NB_TRY(stage(c, layer->out, layer->in, c->be->real, &c->dw[i], err));
    }
    return NB_OK;
}

static nb_status backward(call *c, const backward_matrices *m, ni_scratch *scratch, nb_error *err) {
    ni_linear_group *group = c->linear->group;
    fill_input(c, m->x, &c->x);
    if (m->again) {
        NB_TRY(ni_linear_group_again(group, &c->pass, scratch, &c->x, c->y, err));
        scratch->used = scratch->kept = 0;
    }
    ni_linear_group_begin_gradients(group);
    for (int32_t i = 0; i < group->count; i++) {
        fill_input(c, &m->dy[i], &c->dy[i]);
        group->layers[i].grad = c->dw[i];
    }
    NB_TRY(ni_linear_group_backward(group, &c->pass, scratch, &c->x, c->dy, &c->dx, err));
    give_output(c, m->dx, &c->dx);
    return ni_backend_finish(c->be, err);
}

nb_status nb_linear_backward(nb_linear *linear, const nb_pass *pass, bool again, const nb_mat *x, const nb_mat *dy,
                             const nb_mat *dx, float *const *dw, nb_error *err) {
    call c = {.linear = linear};
    ni_scratch scratch;
    const ni_linear_group *group = linear->group;
    const backward_matrices m = {x, dy, dx, dw, again};
    NB_TRY(begin(&c, pass, true, x, err));
    for (int32_t i = 0; i < group->count; i++)
        NB_TRY(check_matrix(&c, "dy", &dy[i], group->layers[i].out, err));
    if (dx)
        NB_TRY(check_matrix(&c, "dx", dx, group->in, err));
    NB_TRY(with_room(&c, place_backward, &m, &scratch, err));
    nb_status status = backward(&c, &m, &scratch, err);
    for (int32_t i = 0; i < group->count; i++)
        linear->group->layers[i].grad = NULL;
    return status;
}

/* ---- between steps ---- */

void nb_linear_changed(nb_linear *linear, void *const *weights) {
    for (int32_t i = 0; weights && i < linear->group->count; i++) {
        ni_linear *layer = &linear->group->layers[i];
        if (layer->room)
            layer->narrow.data = weights[i];
        else
            layer->master = weights[i];
    }
    linear->workspace->room.holds = NULL;
    ni_linear_group_changed(linear->group);
}

nb_status nb_linear_stepped(nb_linear *linear, const nb_pass *pass, nb_error *err) {
    nb_workspace *w = linear->workspace;
    const size_t bytes = ni_scratch_room(linear->group->scratch_bytes);
    nb_pass now = *pass;
    now.clock = w->clock;
    w->room.holds = NULL; /* the weights moved */
    NB_TRY(reserve(w->be, &w->memory, &w->size, bytes, err));
    const uint32_t clock[2] = {pass->step, pass->micro_batch};
    w->be->ops->upload(w->be, w->clock, clock, sizeof clock);
    ni_scratch scratch = {.memory = w->memory, .size = bytes};
    pass_sums(linear, false, false);
    NB_TRY(ni_linear_group_after_step(linear->group, &now, &scratch, err));
    ni_linear_group_changed(linear->group);
    return ni_backend_finish(w->be, err);
}

/* ---- what it keeps and says ---- */

int32_t nb_linear_state(nb_linear *linear, nb_state_tensor *tensors, int32_t most) {
    return ni_linear_group_state(linear->group, tensors, most);
}

nb_status nb_linear_state_loaded(nb_linear *linear, nb_error *err) {
    return ni_linear_group_loaded(linear->group, err);
}

int32_t nb_linear_census(const nb_linear *linear, nb_census_row *rows, int32_t most) {
    return ni_linear_group_census(linear->group, rows, most);
}

int32_t nb_linear_doubts(const nb_linear *linear, char *text, size_t size) {
    return ni_linear_group_doubts(linear->group, text, size);
}

size_t nb_linear_bytes(const nb_linear *linear) {
    return linear->group->bytes;
}
