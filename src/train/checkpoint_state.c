/* checkpoint_state.c: moments and the state of mechanisms, to a file and back. */
#include "checkpoint_state.h"
#include "backend/table.h"

#include "backend/backend.h"
#include "files/safetensors.h"
#include "format/narrow.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One tensor of the file and where it lives. */
typedef struct slot {
    char name[3 * NB_NAME_SIZE];
    ni_tensor_dtype dtype;
    int32_t rank;
    int64_t shape[2];
    size_t bytes;
    void *data; /* in the backend's memory unless on_host */
    bool on_host;
    char mechanism[16]; /* that keeps it; empty for moments */
    bool anew;          /* loading leaves it as it is */
    int32_t master;     /* parameter + 1 whose master's scale this is; 0 = none */
    int32_t owner;      /* the rank that has it, where moments are shared out; -1: all have it */
} slot;

typedef struct slot_list {
    slot *slots;
    int32_t count;
} slot_list;

static ni_tensor_dtype file_dtype(nb_dtype type) {
    switch (type) {
    case NB_F32:
        return NI_ST_F32;
    case NB_BF16:
        return NI_ST_BF16;
    case NB_F64:
        return NI_ST_F64;
    case NB_I32:
        return NI_ST_I32;
    case NB_F16:
        return NI_ST_F16;
    case NB_E4M3:
        return NI_ST_F8_E4M3;
    case NB_E5M2:
        return NI_ST_F8_E5M2;
    case NB_U8:
        break;
    }
    return NI_ST_U8;
}

/* ---- the tensors of a trainer ---- */

static void add_moments(slot_list *list, const char *prefix, const nb_param *param, const ni_scaled *moments,
                        int32_t owner) {
    slot *to = &list->slots[list->count++];
    *to = (slot){.dtype = file_dtype(moments->dtype),
                 .rank = param->rank,
                 .shape = {param->rows, param->cols},
                 .bytes = (size_t)(param->rows * param->cols) * nb_dtype_size(moments->dtype),
                 .data = moments->data,
                 .owner = owner};
    snprintf(to->name, sizeof to->name, "%s/%s", prefix, param->name);
    if (!moments->scale)
        return;
    to = &list->slots[list->count++];
    *to = (slot){
        .dtype = NI_ST_F32, .rank = 1, .shape = {1, 1}, .bytes = sizeof(float), .data = moments->scale, .owner = owner};
    snprintf(to->name, sizeof to->name, "%s_scale/%s", prefix, param->name);
}

static void add_master_scale(slot_list *list, const nb_param *param, int32_t index, const ni_scaled *master) {
    if (!master->scale)
        return;
    slot *to = &list->slots[list->count++];
    *to = (slot){.dtype = NI_ST_F32,
                 .rank = 1,
                 .shape = {1, 1},
                 .bytes = sizeof(float),
                 .data = master->scale,
                 .master = index + 1,
                 .owner = -1};
    snprintf(to->name, sizeof to->name, "master_scale/%s", param->name);
}

static void add_mechanism(slot_list *list, const nb_state_tensor *state) {
    const char *name = strrchr(state->name, '/') + 1; /* "hcp.hcp.chosen" of "layers.0.mlp.input/hcp.hcp.chosen" */
    slot *to = &list->slots[list->count++];
    *to = (slot){.dtype = file_dtype(state->dtype),
                 .rank = 1,
                 .shape = {state->elements, 1},
                 .bytes = (size_t)state->elements * nb_dtype_size(state->dtype),
                 .data = state->data,
                 .on_host = state->on_host,
                 .owner = -1};
    snprintf(to->name, sizeof to->name, "state/%s", state->name);
    snprintf(to->mechanism, sizeof to->mechanism, "%.*s", (int)strcspn(name, "."), name);
}

static void add_auto_scale(slot_list *list, const ni_auto_scale *x) {
    if (x->count == 0)
        return;
    list->slots[list->count++] = (slot){.name = "state/gradients.exchange.mu",
                                        .dtype = NI_ST_F32,
                                        .rank = 1,
                                        .shape = {x->count, 1},
                                        .bytes = (size_t)x->count * sizeof *x->mu,
                                        .data = x->mu,
                                        .on_host = true,
                                        .mechanism = "exchange",
                                        .owner = -1};
}

/* Free list->slots with free(). */
static nb_status list_slots(nb_trainer *t, slot_list *list, nb_error *err) {
    int32_t params = nb_model_param_count(t->model), states = nb_model_state(t->model, NULL, 0);
    *list = (slot_list){calloc((size_t)(5 * params + states) + 2, sizeof *list->slots), 0};
    nb_state_tensor *state = calloc((size_t)states + 1, sizeof *state);
    if (!list->slots || !state) {
        free(list->slots);
        free(state);
        *list = (slot_list){0};
        return nb_fail(err, NB_NO_MEMORY, "checkpoint: out of memory");
    }
    nb_model_state(t->model, state, states);
    for (int32_t i = 0; i < params; i++) {
        const ni_scaled m = ni_param_array_at(&t->optimizer.m, i), v = ni_param_array_at(&t->optimizer.v, i);
        const int32_t owner = t->share.out ? ni_share_owner(&t->share, i) : -1;
        add_moments(list, "exp_avg", nb_model_param(t->model, i), &m, owner);
        add_moments(list, "exp_avg_sq", nb_model_param(t->model, i), &v, owner);
    }
    for (int32_t i = 0; i < params; i++) {
        const ni_scaled master = ni_model_master(t->model, i);
        add_master_scale(list, nb_model_param(t->model, i), i, &master);
    }
    for (int32_t i = 0; i < states; i++)
        add_mechanism(list, &state[i]);
    add_auto_scale(list, &t->auto_scale);
    free(state);
    return NB_OK;
}

/* ---- writing ---- */

/* Where the bytes of slots come from as the file asks for them. */
typedef struct source {
    nb_trainer *t;
    const slot *slots;
    int32_t count; /* of slots */
    char *room;    /* host: the largest slot */
} source;

static bool is_elsewhere(const nb_trainer *t, const slot *s) {
    return s->owner >= 0 && s->owner != nb_ranks_rank(t->ranks);
}

/* The bytes on the host. Copies are made only where the backend's memory is not the host's. */
static const void *on_host(const source *from, const slot *s) {
    nb_backend *be = from->t->be;
    if (s->on_host || be->ops->alloc == ni_host_alloc)
        return s->data;
    be->ops->download(be, from->room, s->data, s->bytes);
    return from->room;
}

/* What rank 0 asks for. */
enum { NOTHING_MORE, SLOT, MASTER };
typedef struct question {
    int32_t what, index; /* the index of the slot, or of the parameter whose master it is */
} question;

static size_t master_bytes(const nb_trainer *t, int32_t index) {
    const nb_param *p = nb_model_param(t->model, index);
    return (size_t)(p->rows * p->cols) * sizeof(float);
}

/* Rank 0, which writes, asks rank `owner` for `bytes` of something; the others hear it too (ni_state_serve). */
static nb_status ask(nb_trainer *t, question q, int32_t owner, void *to, size_t bytes, nb_error *err) {
    NB_TRY(ni_ranks_broadcast(t->ranks, &q, sizeof q, err));
    return ni_ranks_hand(t->ranks, owner, 0, to, bytes, err);
}

static nb_status give_slot(void *context, int32_t index, const void **data, nb_error *err) {
    const source *from = context;
    const slot *s = &from->slots[index];
    if (!is_elsewhere(from->t, s)) {
        *data = on_host(from, s);
        return NB_OK;
    }
    *data = from->room;
    return ask(from->t, (question){SLOT, index}, s->owner, from->room, s->bytes, err);
}

nb_status ni_state_master(void *self, int32_t index, void *host, nb_error *err) {
    nb_trainer *t = self;
    if (ni_hand_over_has(&t->handed, index)) {
        ni_model_param_read(t->model, index, host);
        return NB_OK;
    }
    return ask(t, (question){MASTER, index}, ni_share_owner(&t->share, index), host, master_bytes(t, index), err);
}

static nb_status take_room(nb_trainer *t, const slot_list *list, source *out, nb_error *err) {
    size_t most = 1;
    for (int32_t i = 0; i < list->count; i++)
        most = list->slots[i].bytes > most ? list->slots[i].bytes : most;
    for (int32_t i = 0; t->handed.any && i < nb_model_param_count(t->model); i++)
        most = master_bytes(t, i) > most ? master_bytes(t, i) : most;
    *out = (source){.t = t, .slots = list->slots, .count = list->count, .room = malloc(most)};
    return out->room ? NB_OK : nb_fail(err, NB_NO_MEMORY, "checkpoint: out of memory for %zu bytes", most);
}

static nb_status write_slots(nb_trainer *t, const slot_list *list, const char *path, nb_error *err) {
    ni_file_tensor *tensors = calloc((size_t)list->count + 1, sizeof *tensors);
    source from = {0};
    nb_status status =
        tensors ? take_room(t, list, &from, err) : nb_fail(err, NB_NO_MEMORY, "checkpoint: out of memory");
    for (int32_t i = 0; status == NB_OK && i < list->count; i++) {
        const slot *s = &list->slots[i];
        tensors[i] = (ni_file_tensor){.name = s->name,
                                      .dtype = s->dtype,
                                      .rank = s->rank,
                                      .shape = {s->shape[0], s->shape[1]},
                                      .bytes = s->bytes};
    }
    if (status == NB_OK)
        status = ni_safetensors_write_from(path, tensors, list->count, NULL, 0, give_slot, &from, err);
    free(from.room);
    free(tensors);
    return status;
}

nb_status ni_state_write(nb_trainer *t, const char *path, nb_error *err) {
    slot_list list;
    NB_TRY(t->be->ops->synchronize(t->be, err)); /* a fault that is still to be told must not become a checkpoint */
    NB_TRY(list_slots(t, &list, err));
    nb_status status = write_slots(t, &list, path, err);
    free(list.slots);
    return status;
}

/* ---- ranks that do not write ---- */

struct ni_state_server {
    slot_list list;
    source from;
};

nb_status ni_state_server_create(nb_trainer *t, ni_state_server **out, nb_error *err) {
    *out = NULL;
    if (!t->share.out)
        return NB_OK;
    ni_state_server *s = *out = calloc(1, sizeof *s);
    if (!s)
        return nb_fail(err, NB_NO_MEMORY, "checkpoint: out of memory");
    NB_TRY(list_slots(t, &s->list, err));
    return take_room(t, &s->list, &s->from, err);
}

void ni_state_server_free(ni_state_server *s) {
    if (!s)
        return;
    free(s->from.room);
    free(s->list.slots);
    free(s);
}

static bool knows(const source *from, question q) {
    const int32_t count = q.what == SLOT ? from->count : nb_model_param_count(from->t->model);
    return (q.what == SLOT || q.what == MASTER) && q.index >= 0 && q.index < count;
}

static nb_status answer(const source *from, question q, nb_error *err) {
    nb_trainer *t = from->t;
    if (!knows(from, q))
        return nb_fail(err, NB_INTERNAL, "checkpoint: rank 0 asks for piece %d of kind %d", (int)q.index, (int)q.what);
    const slot *s = q.what == SLOT ? &from->slots[q.index] : NULL;
    const int32_t owner = s ? s->owner : ni_share_owner(&t->share, q.index);
    const void *data = NULL;
    if (owner == nb_ranks_rank(t->ranks)) {
        data = s ? on_host(from, s) : from->room;
        if (!s)
            ni_model_param_read(t->model, q.index, from->room);
        NB_TRY(t->be->ops->synchronize(t->be, err));
    }
    return ni_ranks_hand(t->ranks, owner, 0, (void *)data, s ? s->bytes : master_bytes(t, q.index), err);
}

nb_status ni_state_serve(ni_state_server *server, nb_error *err) {
    while (server) {
        question q;
        NB_TRY(ni_ranks_broadcast(server->from.t->ranks, &q, sizeof q, err));
        if (q.what == NOTHING_MORE)
            return NB_OK;
        NB_TRY(answer(&server->from, q, err));
    }
    return NB_OK;
}

nb_status ni_state_served(nb_trainer *t, nb_error *err) {
    question q = {NOTHING_MORE, 0};
    return t->share.out ? ni_ranks_broadcast(t->ranks, &q, sizeof q, err) : NB_OK;
}

/* ---- reading ---- */

static nb_status find(const ni_safetensors *file, const char *path, const char *name, const ni_file_tensor **out,
                      nb_error *err) {
    *out = ni_safetensors_find(file, name);
    return *out ? NB_OK : nb_fail(err, NB_BAD_FILE, "%s: tensor %s is missing", path, name);
}

static bool fits(const slot *s, const ni_file_tensor *tensor) {
    return tensor && tensor->dtype == s->dtype && tensor->bytes == s->bytes;
}

/* The master was read as FP32 values and rounded under a scale made anew, which is as good and, unless scales are
 * powers of two, not the same to the bit. */
static nb_status restore_master_scale(nb_trainer *t, int32_t index, const ni_file_tensor *tensor) {
    const ni_scaled master = ni_model_master(t->model, index);
    const nb_param *param = nb_model_param(t->model, index);
    float scale;
    memcpy(&scale, tensor->data, sizeof scale);
    t->be->ops->scaled_rescale(t->be, &master, scale, param->rows * param->cols);
    return NB_OK;
}

static nb_status read_slot(nb_trainer *t, const slot *s, const ni_safetensors *file, const char *path, nb_error *err) {
    const ni_file_tensor *tensor;
    NB_TRY(find(file, path, s->name, &tensor, err));
    if (!fits(s, tensor))
        return nb_fail(err, NB_BAD_FILE, "%s: tensor %s is %s of %zu bytes; expected %s of %zu", path, s->name,
                       ni_tensor_dtype_name(tensor->dtype), tensor->bytes, ni_tensor_dtype_name(s->dtype), s->bytes);
    if (s->master)
        return restore_master_scale(t, s->master - 1, tensor);
    if (s->on_host)
        memcpy(s->data, tensor->data, s->bytes);
    else
        t->be->ops->upload(t->be, s->data, tensor->data, s->bytes);
    ni_safetensors_forget(file, tensor);
    return NB_OK;
}

/* ---- under another recipe ---- */

static void mark_what_begins_anew(slot_list *list, const ni_safetensors *file) {
    slot *slots = list->slots;
    for (int32_t i = 0; i < list->count; i++) {
        if (!slots[i].mechanism[0] || slots[i].anew || fits(&slots[i], ni_safetensors_find(file, slots[i].name)))
            continue;
        for (int32_t j = 0; j < list->count; j++)
            slots[j].anew = slots[j].anew || strcmp(slots[j].mechanism, slots[i].mechanism) == 0;
    }
}

static const nb_dtype moment_types[] = {NB_F32, NB_BF16, NB_F16, NB_E4M3, NB_E5M2};

static bool type_of(ni_tensor_dtype in_file, nb_dtype *out) {
    for (size_t i = 0; i < sizeof moment_types / sizeof *moment_types; i++)
        if (file_dtype(moment_types[i]) == in_file) {
            *out = moment_types[i];
            return true;
        }
    return false;
}

/* The values of a moment of the file, [n]; free with free(). */
static nb_status file_moment(const ni_safetensors *file, const char *path, const char *prefix, const nb_param *param,
                             float **values, nb_error *err) {
    char name[3 * NB_NAME_SIZE];
    const ni_file_tensor *tensor, *scale;
    nb_dtype type;
    float factor = 1;
    size_t n = (size_t)(param->rows * param->cols);
    snprintf(name, sizeof name, "%s/%s", prefix, param->name);
    NB_TRY(find(file, path, name, &tensor, err));
    if (!type_of(tensor->dtype, &type) || tensor->bytes != n * nb_dtype_size(type))
        return nb_fail(err, NB_BAD_FILE, "%s: tensor %s is %s of %zu bytes; expected %zu numbers", path, name,
                       ni_tensor_dtype_name(tensor->dtype), tensor->bytes, n);
    if (ni_narrow_max(type) > 0) {
        snprintf(name, sizeof name, "%s_scale/%s", prefix, param->name);
        NB_TRY(find(file, path, name, &scale, err));
        if (scale->bytes != sizeof factor)
            return nb_fail(err, NB_BAD_FILE, "%s: tensor %s is no scale", path, name);
        memcpy(&factor, scale->data, sizeof factor);
    }
    void *aligned = malloc(tensor->bytes + 1);
    *values = malloc((n + 1) * sizeof **values);
    if (!aligned || !*values) {
        free(aligned);
        free(*values);
        return nb_fail(err, NB_NO_MEMORY, "checkpoint: out of memory for %s", name);
    }
    memcpy(aligned, tensor->data, tensor->bytes);
    for (size_t i = 0; i < n; i++)
        (*values)[i] = ni_f32_mul(ni_narrow_load(aligned, type, (int64_t)i), factor);
    free(aligned);
    return NB_OK;
}

static nb_status convert_moment(nb_trainer *t, const ni_safetensors *file, const char *path, const char *prefix,
                                const ni_param_array *moments, int32_t index, nb_error *err) {
    const nb_param *param = nb_model_param(t->model, index);
    const ni_scaled to = ni_param_array_at(moments, index);
    const int64_t n = param->rows * param->cols;
    nb_backend *be = t->be;
    float *values = NULL;
    NB_TRY(file_moment(file, path, prefix, param, &values, err));
    float *wide = be->ops->alloc(be, (size_t)n * sizeof *wide, "a moment of another type");
    if (wide) {
        be->ops->upload(be, wide, values, (size_t)n * sizeof *wide);
        be->ops->scaled_encode(be, &to, wide, n);
        be->ops->release(be, wide);
    }
    free(values);
    return wide ? NB_OK : nb_fail(err, NB_NO_MEMORY, "checkpoint: out of memory for %s", param->name);
}

/* PREFIX/PARAMETER; NULL: there is none. */
static slot *slot_of(const slot_list *list, const char *prefix, const char *parameter) {
    char name[3 * NB_NAME_SIZE];
    snprintf(name, sizeof name, "%s/%s", prefix, parameter);
    for (int32_t i = 0; i < list->count; i++)
        if (strcmp(list->slots[i].name, name) == 0)
            return &list->slots[i];
    return NULL;
}

/* Moments that the file keeps in another type; their slots have nothing left to read. */
static nb_status convert_moments(nb_trainer *t, slot_list *list, const ni_safetensors *file, const char *path,
                                 nb_error *err) {
    const struct {
        const char *prefix, *scale;
        const ni_param_array *moments;
    } kinds[] = {{"exp_avg", "exp_avg_scale", &t->optimizer.m}, {"exp_avg_sq", "exp_avg_sq_scale", &t->optimizer.v}};
    for (int32_t i = 0; i < nb_model_param_count(t->model); i++)
        for (int k = 0; k < 2; k++) {
            const char *name = nb_model_param(t->model, i)->name;
            slot *number = slot_of(list, kinds[k].prefix, name), *scale = slot_of(list, kinds[k].scale, name);
            if (!number || is_elsewhere(t, number) || fits(number, ni_safetensors_find(file, number->name)))
                continue;
            NB_TRY(convert_moment(t, file, path, kinds[k].prefix, kinds[k].moments, i, err));
            number->anew = true;
            if (scale)
                scale->anew = true;
        }
    return NB_OK;
}

static nb_status read_slots(nb_trainer *t, slot_list *list, const ni_safetensors *file, const char *path,
                            bool same_recipe, nb_error *err) {
    if (!same_recipe) {
        mark_what_begins_anew(list, file);
        for (int32_t i = 0; i < list->count; i++)
            list->slots[i].anew = list->slots[i].anew || list->slots[i].master;
        NB_TRY(convert_moments(t, list, file, path, err));
    }
    for (int32_t i = 0; i < list->count; i++)
        if (!list->slots[i].anew && !is_elsewhere(t, &list->slots[i]))
            NB_TRY(read_slot(t, &list->slots[i], file, path, err));
    return NB_OK;
}

nb_status ni_state_read(nb_trainer *t, const char *path, bool same_recipe, nb_error *err) {
    ni_safetensors *file;
    slot_list list;
    NB_TRY(ni_safetensors_open(path, &file, err));
    nb_status status = list_slots(t, &list, err);
    if (status == NB_OK) {
        status = read_slots(t, &list, file, path, same_recipe, err);
        free(list.slots);
    }
    ni_safetensors_close(file);
    return status;
}
