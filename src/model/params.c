/* params.c: the flat store of parameters. */
#include "model/params.h"
#include "backend/table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 16 };

static int64_t aligned(int64_t elements) {
    return (elements + ALIGN - 1) / ALIGN * ALIGN;
}

static nb_status make_room(ni_params *params, nb_error *err) {
    int32_t capacity = params->capacity ? 2 * params->capacity : 64;
    nb_param *list = realloc(params->list, (size_t)capacity * sizeof *list);
    if (list)
        params->list = list;
    int32_t *section_of = realloc(params->section_of, (size_t)capacity * sizeof *section_of);
    if (section_of)
        params->section_of = section_of;
    if (!list || !section_of)
        return nb_fail(err, NB_NO_MEMORY, "no memory for a list of %d parameters", capacity);
    params->capacity = capacity;
    return NB_OK;
}

void ni_params_begin_section(ni_params *params) {
    params->section = params->count;
}

nb_status ni_params_declare(ni_params *params, const char *name, int64_t rows, int64_t cols, int32_t *index,
                            nb_error *err) {
    if (params->count == params->capacity)
        NB_TRY(make_room(params, err));
    nb_param *p = &params->list[params->count];
    *p = (nb_param){.rank = cols ? 2 : 1, .rows = rows, .cols = cols ? cols : 1, .decay = cols != 0};
    snprintf(p->name, sizeof p->name, "%s", name);
    const size_t length = strlen(name);
    p->start = length > 5 && strcmp(name + length - 5, ".bias") == 0 ? 0 : 1;
    p->offset = aligned(params->elements);
    params->elements = p->offset + p->rows * p->cols;
    params->section_of[params->count] = params->section;
    *index = params->count++;
    return NB_OK;
}

/* ---- gradients ---- */

static int64_t length_of(const ni_params *params, int32_t index) {
    return params->list[index].rows * params->list[index].cols;
}

/* The tensor that outlives its section lies first; after it all sections share one place. */
static nb_status place_window(ni_params *params, int32_t outlives, nb_error *err) {
    nb_backend *be = params->be;
    int64_t shared = outlives >= 0 ? aligned(length_of(params, outlives)) : 0, end = shared;
    params->window_at = calloc((size_t)params->count, sizeof *params->window_at);
    if (!params->window_at)
        return nb_fail(err, NB_NO_MEMORY, "no memory for a list of %d parameters", params->count);
    for (int32_t i = 0; i < params->count; i++) {
        int64_t within = params->list[i].offset - params->list[params->section_of[i]].offset;
        params->window_at[i] = i == outlives ? 0 : shared + within;
        int64_t last = params->window_at[i] + length_of(params, i);
        end = last > end ? last : end;
    }
    params->window_bytes = (size_t)end * nb_dtype_size(be->real);
    return ni_backend_take(be, params->window_bytes, "gradients while a block is worked on", &params->window, err);
}

static nb_status list_sections(ni_params *params, nb_error *err) {
    int32_t sections = 0;
    int32_t *first = calloc((size_t)params->count + 1, sizeof *first);
    if (!first)
        return nb_fail(err, NB_NO_MEMORY, "no memory for a list of %d parameters", params->count);
    for (int32_t i = 0; i < params->count; i++)
        if (params->section_of[i] == i)
            first[sections++] = i;
    first[sections] = params->count;
    const nb_status status = ni_param_array_take_sections(&params->grads, sections, first, err);
    free(first);
    return status;
}

static nb_status allocate_gradients(ni_params *params, const nb_gradient_store *gradients, int32_t outlives,
                                    nb_error *err) {
    nb_backend *be = params->be;
    bool narrow = gradients->format != NB_F32;
    params->outlives = outlives;
    if (narrow && !be->ops->scaled_encode)
        return nb_fail(err, NB_UNSUPPORTED, "gradients.format: backend %s keeps gradients in %s; expected fp32",
                       be->name, nb_dtype_name(be->real));
    const nb_dtype type = narrow ? gradients->format : be->real;
    NB_TRY(params->hands_on ? ni_param_array_place(be, params->list, params->count, type, &params->grads, err)
                            : ni_param_array_create(be, params->list, params->count, type, gradients->scale,
                                                    "gradients", &params->grads, err));
    NB_TRY(list_sections(params, err));
    return narrow || params->hands_on ? place_window(params, outlives, err) : NB_OK;
}

static void clear_many(nb_backend *be, void *const *at, const size_t *bytes, int32_t count) {
    if (be->clear_many) {
        be->clear_many(be, at, bytes, count);
        return;
    }
    for (int32_t i = 0; i < count; i++)
        be->ops->fill_zero(be, at[i], bytes[i]);
}

/* What is only added to: vectors, and an embedding that no product writes first. Weights of linear layers are written
 * over, whatever is there. */
static void clear_sums(ni_params *params, int32_t begin, int32_t end) {
    enum { MOST = 64 };
    void *at[MOST];
    size_t bytes[MOST];
    int32_t count = 0;
    for (int32_t i = begin; i < end; i++) {
        const nb_param *p = &params->list[i];
        if (p->rank == 1 || (p->embedding && i != params->outlives)) {
            at[count] = ni_params_grad(params, i);
            bytes[count++] = (size_t)length_of(params, i) * nb_dtype_size(params->be->real);
        }
        if (count < MOST && i + 1 < end)
            continue;
        clear_many(params->be, at, bytes, count);
        count = 0;
    }
}

void ni_params_clear_sums(ni_params *params) {
    clear_sums(params, 0, params->count);
}

void ni_params_begin_backward(ni_params *params, bool whole) {
    if (!params->window)
        return;
    params->be->ops->fill_zero(params->be, params->window, params->window_bytes);
    if (!params->hands_on && !whole)
        ni_param_array_zero(&params->grads);
}

/* What is handed on lies in the window as in the array, with zeroes between its tensors. */
static void clear_section(ni_params *params, int32_t section, int32_t end) {
    nb_backend *be = params->be;
    const int64_t n = params->list[end - 1].offset + length_of(params, end - 1) - params->list[section].offset;
    be->ops->fill_zero(be, ni_params_grad(params, section), (size_t)n * nb_dtype_size(be->real));
}

static void encode_section(ni_params *params, int32_t section, int32_t end) {
    enum { MOST = 32 };
    ni_scaled to[MOST];
    const float *from[MOST];
    int64_t n[MOST];
    int32_t count = 0;
    for (int32_t i = section; i < end; i++) {
        to[count] = ni_param_array_at(&params->grads, i);
        from[count] = ni_params_grad(params, i);
        n[count++] = length_of(params, i);
        if (count < MOST && i + 1 < end)
            continue;
        params->be->ops->scaled_encode_many(params->be, to, from, n, count);
        count = 0;
    }
}

void ni_params_pack(ni_params *params, int32_t section) {
    int32_t end = section;
    while (end < params->count && params->section_of[end] == section)
        end++;
    if (params->window && !params->hands_on)
        encode_section(params, section, end);
    else if (params->window && params->taker)
        params->taker(params->taker_self, section, end, ni_params_grad(params, section));
    if (params->hands_on && params->window)
        clear_section(params, section, end);
    else if (params->window && section > 0) /* the backward pass goes from the last section to the first */
        clear_sums(params, params->section_of[section - 1], section);
    if (!params->hands_on && params->final)
        params->final(params->final_self, params->list[section].offset);
}

void ni_params_pack_before(ni_params *params, int32_t section) {
    for (int32_t i = section - 1; i >= 0; i--)
        if (params->section_of[i] == i)
            ni_params_pack(params, i);
}

/* ---- masters ---- */

static bool is_narrow(const ni_params *params, int32_t index, nb_dtype master) {
    return master != NB_F32 && params->list[index].rank == 2 && !params->list[index].embedding;
}

bool ni_params_is_parted(const ni_params *params, int32_t index) {
    return params->parted && params->list[index].rank == 2 && !params->list[index].embedding;
}

/* Where each master lies in its array, in elements; the sizes of both arrays and of the largest narrow tensor. */
static void place_masters(ni_params *params, nb_dtype master, int64_t *at, int64_t *wide, int64_t *narrow,
                          int64_t *largest) {
    *wide = *narrow = *largest = 0;
    for (int32_t i = 0; i < params->count; i++) {
        bool few_bits = is_narrow(params, i, master);
        int64_t *end = few_bits ? narrow : wide, n = length_of(params, i);
        if (ni_params_is_parted(params, i))
            continue;
        at[i] = master == NB_F32 && !params->parted ? params->list[i].offset : *end;
        *end = aligned(at[i] + n);
        *largest = few_bits && n > *largest ? n : *largest;
    }
}

static nb_status take_masters(ni_params *params, bool any_narrow, nb_error *err) {
    nb_backend *be = params->be;
    void *scales, *room;
    NB_TRY(ni_backend_take(be, params->values_bytes, "parameters", &params->values, err));
    if (!any_narrow)
        return NB_OK;
    NB_TRY(ni_backend_take(be, params->narrow_bytes, "masters of linear layers", &params->narrow, err));
    NB_TRY(ni_backend_take(be, (size_t)params->count * sizeof *params->scales, "scales of masters", &scales, err));
    params->scales = scales;
    NB_TRY(ni_backend_take(be, params->room_bytes, "a master while its layer is worked on", &room, err));
    params->room.data = room;
    return NB_OK;
}

static nb_status allocate_masters(ni_params *params, nb_dtype master, nb_scale_rule rule, nb_error *err) {
    nb_backend *be = params->be;
    int64_t wide, narrow, largest;
    int64_t *at = calloc((size_t)params->count, sizeof *at);
    params->masters = calloc((size_t)params->count, sizeof *params->masters);
    if (!at || !params->masters) {
        free(at);
        return nb_fail(err, NB_NO_MEMORY, "no memory for a list of %d parameters", params->count);
    }
    params->parted = params->parted && master == NB_F32;
    place_masters(params, master, at, &wide, &narrow, &largest);
    params->values_bytes = (size_t)wide * nb_dtype_size(be->real);
    params->narrow_bytes = (size_t)narrow * nb_dtype_size(master);
    params->room_bytes = (size_t)largest * nb_dtype_size(be->real);
    nb_status status = take_masters(params, narrow > 0, err);
    for (int32_t i = 0; status == NB_OK && i < params->count; i++) {
        bool few_bits = is_narrow(params, i, master);
        nb_dtype type = few_bits ? master : be->real;
        uint8_t *array = few_bits ? params->narrow : params->values;
        if (ni_params_is_parted(params, i)) /* who is made before ni_params_place asks whether there is one */
            array = (uint8_t *)params->masters;
        params->masters[i] = (ni_scaled){.data = array + (size_t)at[i] * nb_dtype_size(type),
                                         .dtype = type,
                                         .rule = rule,
                                         .scale = few_bits && master != NB_BF16 ? params->scales + i : NULL};
    }
    free(at);
    return status;
}

void *ni_params_value(const ni_params *params, int32_t index) {
    return params->masters[index].dtype == params->be->real ? params->masters[index].data : NULL;
}

void *ni_params_open(ni_params *params, int32_t index) {
    const ni_scaled *master = &params->masters[index];
    if (master->dtype == params->be->real)
        return master->data;
    params->be->ops->scaled_decode(params->be, params->room.data, master, length_of(params, index));
    params->room.holds = NULL; /* what is written here is not what a layer would find */
    return params->room.data;
}

void ni_params_close(ni_params *params, int32_t index) {
    const ni_scaled *master = &params->masters[index];
    if (master->dtype != params->be->real)
        params->be->ops->scaled_encode(params->be, master, params->room.data, length_of(params, index));
}

/* ---- masters that ranks share out ---- */

static int64_t place_in(const ni_params *params, const ni_master_place *places, ni_master_place which, uint8_t *array) {
    int64_t end = 0;
    for (int32_t i = 0; i < params->count; i++) {
        if (!ni_params_is_parted(params, i) || places[i] != which)
            continue;
        if (array)
            params->masters[i].data = array + (size_t)end * nb_dtype_size(params->be->real);
        end = aligned(end + length_of(params, i));
    }
    return end;
}

nb_status ni_params_place(ni_params *params, const ni_master_place *places, nb_error *err) {
    nb_backend *be = params->be;
    params->common_bytes = (size_t)place_in(params, places, NI_MASTER_COMMON, NULL) * nb_dtype_size(be->real);
    params->own_bytes = (size_t)place_in(params, places, NI_MASTER_OWN, NULL) * nb_dtype_size(be->real);
    if (params->common_bytes)
        NB_TRY(ni_backend_take(be, params->common_bytes, "masters that every rank has", &params->common, err));
    if (params->own_bytes)
        NB_TRY(ni_backend_take(be, params->own_bytes, "masters of own weights", &params->own, err));
    place_in(params, places, NI_MASTER_COMMON, params->common);
    place_in(params, places, NI_MASTER_OWN, params->own);
    for (int32_t i = 0; i < params->count; i++)
        if (ni_params_is_parted(params, i) && places[i] == NI_MASTER_ELSEWHERE) {
            params->masters[i].data = NULL;
            params->lacks = true;
        }
    return NB_OK;
}

/* ---- memory ---- */

nb_status ni_params_allocate(ni_params *params, const nb_recipe *recipe, int32_t outlives, nb_error *err) {
    const nb_optimizer_state state = recipe ? recipe->optimizer_state : (nb_optimizer_state){0};
    if (state.master != NB_F32 && !params->be->ops->scaled_decode)
        return nb_fail(err, NB_UNSUPPORTED, "optimizer_state.master: backend %s keeps masters in %s; expected fp32",
                       params->be->name, nb_dtype_name(params->be->real));
    NB_TRY(allocate_masters(params, state.master, state.scale, err));
    return recipe ? allocate_gradients(params, &recipe->gradients, outlives, err) : NB_OK;
}

void ni_params_release(ni_params *params) {
    nb_backend *be = params->be;
    void *const memory[] = {params->values, params->narrow, params->scales, params->room.data,
                            params->window, params->common, params->own};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        if (memory[i])
            be->ops->release(be, memory[i]);
    ni_param_array_free(&params->grads);
    free(params->list);
    free(params->masters);
    free(params->section_of);
    free(params->window_at);
    *params = (ni_params){0};
}

static void *at(const ni_params *params, void *array, int64_t element) {
    return array ? (uint8_t *)array + (size_t)element * nb_dtype_size(params->be->real) : NULL;
}

void *ni_params_grad(const ni_params *params, int32_t index) {
    if (params->window)
        return at(params, params->window, params->window_at[index]);
    return at(params, params->grads.data, params->list[index].offset);
}
