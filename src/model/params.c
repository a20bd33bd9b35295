/* params.c: the flat store of parameters. */
#include "model/params.h"

#include <stdio.h>
#include <stdlib.h>

enum { ALIGN = 16 };

static int64_t aligned(int64_t elements) {
    return (elements + ALIGN - 1) / ALIGN * ALIGN;
}

static nb_status make_room(nb_params *params, nb_error *err) {
    int32_t capacity = params->capacity ? 2 * params->capacity : 64;
    nb_param *list = realloc(params->list, (size_t)capacity * sizeof *list);
    params->list = list ? list : params->list;
    int32_t *section_of = realloc(params->section_of, (size_t)capacity * sizeof *section_of);
    params->section_of = section_of ? section_of : params->section_of;
    if (!list || !section_of)
        return nb_fail(err, NB_NO_MEMORY, "no memory for a list of %d parameters", capacity);
    params->capacity = capacity;
    return NB_OK;
}

void nb_params_begin_section(nb_params *params) {
    params->section = params->count;
}

nb_status nb_params_declare(nb_params *params, const char *name, int64_t rows, int64_t cols, int32_t *index,
                            nb_error *err) {
    if (params->count == params->capacity)
        NB_TRY(make_room(params, err));
    nb_param *p = &params->list[params->count];
    *p = (nb_param){.rank = cols ? 2 : 1, .rows = rows, .cols = cols ? cols : 1, .decay = cols != 0};
    snprintf(p->name, sizeof p->name, "%s", name);
    p->offset = aligned(params->elements);
    params->elements = p->offset + p->rows * p->cols;
    params->section_of[params->count] = params->section;
    *index = params->count++;
    return NB_OK;
}

/* ---- gradients ---- */

static int64_t length_of(const nb_params *params, int32_t index) {
    return params->list[index].rows * params->list[index].cols;
}

/* The tensor that outlives its section lies first; after it all sections share one place. */
static nb_status place_window(nb_params *params, int32_t outlives, nb_error *err) {
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
    params->window = be->ops->alloc(be, params->window_bytes);
    if (!params->window)
        return nb_fail(err, NB_NO_MEMORY, "no memory for the gradients of one block (%zu MiB)",
                       params->window_bytes >> 20);
    return NB_OK;
}

static nb_status allocate_gradients(nb_params *params, const nb_gradient_store *gradients, int32_t outlives,
                                    nb_error *err) {
    nb_backend *be = params->be;
    bool narrow = gradients->format != NB_F32;
    if (narrow && !be->ops->scaled_encode)
        return nb_fail(err, NB_UNSUPPORTED, "gradients.format: backend %s keeps gradients in %s; expected fp32",
                       be->name, nb_dtype_name(be->real));
    NB_TRY(nb_param_array_create(be, params->list, params->count, narrow ? gradients->format : be->real,
                                 gradients->scale, "gradients", &params->grads, err));
    return narrow ? place_window(params, outlives, err) : NB_OK;
}

void nb_params_begin_backward(nb_params *params) {
    if (!params->window)
        return;
    params->be->ops->fill_zero(params->be, params->window, params->window_bytes);
    nb_param_array_zero(&params->grads);
}

void nb_params_pack(nb_params *params, int32_t section) {
    nb_backend *be = params->be;
    for (int32_t i = section; params->window && i < params->count && params->section_of[i] == section; i++) {
        const nb_scaled to = nb_param_array_at(&params->grads, i);
        be->ops->scaled_encode(be, &to, nb_params_grad(params, i), length_of(params, i));
        be->ops->fill_zero(be, nb_params_grad(params, i), (size_t)length_of(params, i) * nb_dtype_size(be->real));
    }
}

/* ---- memory ---- */

nb_status nb_params_allocate(nb_params *params, const nb_gradient_store *gradients, int32_t outlives, nb_error *err) {
    nb_backend *be = params->be;
    size_t bytes = (size_t)params->elements * nb_dtype_size(be->real);
    params->values = be->ops->alloc(be, bytes);
    if (!params->values)
        return nb_fail(err, NB_NO_MEMORY, "no memory for %lld parameters (%zu MiB)", (long long)params->elements,
                       bytes >> 20);
    return gradients ? allocate_gradients(params, gradients, outlives, err) : NB_OK;
}

void nb_params_release(nb_params *params) {
    nb_backend *be = params->be;
    if (params->values)
        be->ops->release(be, params->values);
    if (params->window)
        be->ops->release(be, params->window);
    nb_param_array_free(&params->grads);
    free(params->list);
    free(params->section_of);
    free(params->window_at);
    *params = (nb_params){0};
}

static void *at(const nb_params *params, void *array, int64_t element) {
    return array ? (uint8_t *)array + (size_t)element * nb_dtype_size(params->be->real) : NULL;
}

void *nb_params_value(const nb_params *params, int32_t index) {
    return at(params, params->values, params->list[index].offset);
}

void *nb_params_grad(const nb_params *params, int32_t index) {
    if (params->window)
        return at(params, params->window, params->window_at[index]);
    return at(params, params->grads.data, params->list[index].offset);
}
