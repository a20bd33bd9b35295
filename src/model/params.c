/* params.c: the flat store of parameters. */
#include "model/params.h"

#include <stdio.h>
#include <stdlib.h>

nb_status nb_params_declare(nb_params *params, const char *name, int64_t rows, int64_t cols, int32_t *index,
                            nb_error *err) {
    enum { ALIGN = 16 };
    if (params->count == params->capacity) {
        int32_t capacity = params->capacity ? 2 * params->capacity : 64;
        nb_param *list = realloc(params->list, (size_t)capacity * sizeof *list);
        if (!list)
            return nb_fail(err, NB_NO_MEMORY, "no memory for a list of %d parameters", capacity);
        params->list = list;
        params->capacity = capacity;
    }
    nb_param *p = &params->list[params->count];
    *p = (nb_param){.rank = cols ? 2 : 1, .rows = rows, .cols = cols ? cols : 1, .decay = cols != 0};
    snprintf(p->name, sizeof p->name, "%s", name);
    p->offset = (params->elements + ALIGN - 1) / ALIGN * ALIGN;
    params->elements = p->offset + p->rows * p->cols;
    *index = params->count++;
    return NB_OK;
}

nb_status nb_params_allocate(nb_params *params, bool training, nb_error *err) {
    nb_backend *be = params->be;
    size_t bytes = (size_t)params->elements * nb_dtype_size(be->real);
    params->values = be->ops->alloc(be, bytes);
    params->grads = params->values && training ? be->ops->alloc(be, bytes) : NULL;
    if (params->values && (params->grads || !training))
        return NB_OK;
    return nb_fail(err, NB_NO_MEMORY, "no memory for %lld parameters (%zu MiB%s)", (long long)params->elements,
                   bytes >> 20, training ? ", and as much for gradients" : "");
}

void nb_params_release(nb_params *params) {
    if (params->values)
        params->be->ops->release(params->be, params->values);
    if (params->grads)
        params->be->ops->release(params->be, params->grads);
    free(params->list);
    *params = (nb_params){0};
}

static void *at(const nb_params *params, void *array, int32_t index) {
    size_t offset = (size_t)params->list[index].offset * nb_dtype_size(params->be->real);
    return array ? (uint8_t *)array + offset : NULL;
}

void *nb_params_value(const nb_params *params, int32_t index) {
    return at(params, params->values, index);
}

void *nb_params_grad(const nb_params *params, int32_t index) {
    return at(params, params->grads, index);
}
