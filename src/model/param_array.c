/* param_array.c: arrays over all parameters, whole where their type is `real`, tensor by tensor where it is narrow. */
#include "model/param_array.h"
#include "backend/table.h"

#include <stdlib.h>
#include <string.h>

static bool has_scales(nb_dtype dtype) {
    return dtype == NB_F16 || dtype == NB_E4M3 || dtype == NB_E5M2;
}

static size_t data_bytes(const ni_param_array *array) {
    return (size_t)array->elements * nb_dtype_size(array->dtype);
}

static size_t scale_bytes(const ni_param_array *array) {
    return array->scales ? (size_t)array->count * sizeof(float) : 0;
}

/* Takes the memory of an array whose other fields are set. */
static nb_status take_memory(ni_param_array *array, const char *what, nb_error *err) {
    nb_backend *be = array->be;
    void *scales = NULL;
    array->at = calloc((size_t)array->count, sizeof *array->at);
    nb_status status = array->at ? ni_backend_take(be, data_bytes(array), what, &array->data, err)
                                 : nb_fail(err, NB_NO_MEMORY, "no memory for %s", what);
    if (status == NB_OK && has_scales(array->dtype))
        status = ni_backend_take(be, (size_t)array->count * sizeof(float), what, &scales, err);
    array->scales = scales;
    if (status != NB_OK)
        ni_param_array_free(array);
    return status;
}

nb_status ni_param_array_create(nb_backend *be, const nb_param *params, int32_t count, nb_dtype dtype,
                                nb_scale_rule rule, const char *what, ni_param_array *out, nb_error *err) {
    const nb_param *last = &params[count - 1];
    *out = (ni_param_array){.be = be,
                            .dtype = dtype,
                            .rule = rule,
                            .count = count,
                            .end = count,
                            .elements = last->offset + last->rows * last->cols};
    NB_TRY(take_memory(out, what, err));
    for (int32_t i = 0; i < count; i++)
        out->at[i] = (ni_param_place){params[i].offset, params[i].rows * params[i].cols};
    return NB_OK;
}

nb_status ni_param_array_place(nb_backend *be, const nb_param *params, int32_t count, nb_dtype dtype,
                               ni_param_array *out, nb_error *err) {
    const nb_param *last = &params[count - 1];
    *out = (ni_param_array){.be = be,
                            .dtype = dtype,
                            .count = count,
                            .end = count,
                            .elements = last->offset + last->rows * last->cols,
                            .at = calloc((size_t)count, sizeof *out->at)};
    for (int32_t i = 0; out->at && i < count; i++)
        out->at[i] = (ni_param_place){params[i].offset, params[i].rows * params[i].cols};
    return out->at ? NB_OK : nb_fail(err, NB_NO_MEMORY, "no memory for a list of %d parameters", count);
}

nb_status ni_param_array_create_part(nb_backend *be, const nb_param *params, int32_t count, int32_t begin, int32_t end,
                                     nb_dtype dtype, nb_scale_rule rule, const char *what, ni_param_array *out,
                                     nb_error *err) {
    const int64_t from = begin < end ? params[begin].offset : 0;
    const int64_t to = begin < end ? params[end - 1].offset + params[end - 1].rows * params[end - 1].cols : 1;
    *out = (ni_param_array){
        .be = be, .dtype = dtype, .rule = rule, .count = count, .begin = begin, .end = end, .elements = to - from};
    NB_TRY(take_memory(out, what, err));
    for (int32_t i = begin; i < end; i++)
        out->at[i] = (ni_param_place){params[i].offset - from, params[i].rows * params[i].cols};
    return NB_OK;
}

nb_status ni_param_array_create_like(const ni_param_array *like, const char *what, ni_param_array *out, nb_error *err) {
    *out = (ni_param_array){.be = like->be,
                            .dtype = like->dtype,
                            .rule = like->rule,
                            .count = like->count,
                            .begin = like->begin,
                            .end = like->end,
                            .elements = like->elements};
    NB_TRY(take_memory(out, what, err));
    for (int32_t i = 0; i < like->count; i++)
        out->at[i] = like->at[i];
    return NB_OK;
}

void ni_param_array_free(ni_param_array *array) {
    if (!array->be)
        return;
    if (array->data)
        array->be->ops->release(array->be, array->data);
    if (array->scales)
        array->be->ops->release(array->be, array->scales);
    free(array->at);
    free(array->section);
    *array = (ni_param_array){0};
}

ni_param_array ni_param_array_part(const ni_param_array *array, int32_t begin, int32_t end) {
    ni_param_array part = *array;
    part.begin = begin;
    part.end = end;
    part.elements = end < array->count ? array->at[end].offset : array->elements;
    return part;
}

ni_scaled ni_param_array_at(const ni_param_array *array, int32_t index) {
    size_t offset = (size_t)array->at[index].offset * nb_dtype_size(array->dtype);
    return (ni_scaled){.data = (char *)array->data + offset,
                       .dtype = array->dtype,
                       .rule = array->rule,
                       .scale = array->scales ? array->scales + index : NULL};
}

size_t ni_param_array_bytes(const ni_param_array *array) {
    return array->data ? data_bytes(array) + scale_bytes(array) : 0;
}

void ni_param_array_zero(ni_param_array *array) {
    array->be->ops->fill_zero(array->be, array->data, data_bytes(array));
    if (array->scales)
        array->be->ops->fill_zero(array->be, array->scales, scale_bytes(array));
}

void ni_param_array_copy(ni_param_array *to, const ni_param_array *from) {
    to->be->ops->copy(to->be, to->data, from->data, data_bytes(from));
    if (from->scales)
        to->be->ops->copy(to->be, to->scales, from->scales, scale_bytes(from));
}

void ni_param_array_add(ni_param_array *to, const ni_param_array *from) {
    nb_backend *be = to->be;
    if (to->dtype == be->real) {
        be->ops->axpy(be, to->data, 1.0, from->data, to->elements);
        return;
    }
    for (int32_t i = 0; i < to->count; i++) {
        const ni_scaled sum = ni_param_array_at(to, i), other = ni_param_array_at(from, i);
        be->ops->scaled_add(be, &sum, &sum, &other, to->at[i].length);
    }
}

nb_status ni_param_array_take_sections(ni_param_array *array, int32_t sections, const int32_t *section, nb_error *err) {
    array->section = calloc((size_t)sections + 1, sizeof *array->section);
    if (!array->section)
        return nb_fail(err, NB_NO_MEMORY, "no memory for a list of %d parameters", array->count);
    memcpy(array->section, section, ((size_t)sections + 1) * sizeof *section);
    array->sections = sections;
    return NB_OK;
}

int32_t ni_param_array_parts(const ni_param_array *array) {
    return array->dtype != array->be->real ? array->count : array->sections ? array->sections : 1;
}

static void square_many(nb_backend *be, double *out, const void *const *x, const int64_t *n, int32_t count) {
    if (be->square_many) {
        be->square_many(be, out, x, n, count);
        return;
    }
    for (int32_t i = 0; i < count; i++)
        be->ops->sum_squares(be, out + i, x[i], n[i]);
}

/* What lies between tensors is zero. */
void ni_param_array_square_sections(const ni_param_array *array, int32_t begin, int32_t end, double *parts) {
    enum { MOST = 64 };
    const void *x[MOST];
    int64_t n[MOST];
    int32_t count = 0; /* of sections before s, side by side */
    for (int32_t s = begin; s < end; s++) {
        const int32_t first = array->section[s], next = array->section[s + 1];
        const bool has = first >= array->begin && next <= array->end;
        if (!has || count == MOST) {
            square_many(array->be, parts + s - count, x, n, count);
            count = 0;
        }
        if (!has)
            continue;
        const int64_t from = array->at[first].offset, to = next < array->end ? array->at[next].offset : array->elements;
        x[count] = (const char *)array->data + (size_t)from * nb_dtype_size(array->dtype);
        n[count++] = to - from;
    }
    square_many(array->be, parts + end - count, x, n, count);
}

void ni_param_array_sum_squares(const ni_param_array *array, double *parts) {
    nb_backend *be = array->be;
    if (array->dtype == be->real && array->sections > 0) {
        ni_param_array_square_sections(array, 0, array->sections, parts);
        return;
    }
    if (array->dtype == be->real) {
        be->ops->sum_squares(be, parts, array->data, array->elements);
        return;
    }
    enum { MOST = 64 };
    for (int32_t first = 0; first < array->count; first += MOST) {
        const int32_t count = array->count - first < MOST ? array->count - first : MOST;
        ni_scaled tensors[MOST];
        int64_t n[MOST];
        for (int32_t i = 0; i < count; i++) {
            tensors[i] = ni_param_array_at(array, first + i);
            n[i] = array->at[first + i].length;
        }
        be->ops->scaled_squares_many(be, parts + first, tensors, n, count);
    }
}
