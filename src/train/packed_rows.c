/* packed_rows.c: in the host's memory any thread moves them; elsewhere the backend does. */
#include "packed_rows.h"
#include "backend/table.h"

#include <string.h>

size_t ni_packed_rows_bytes(const ni_packed_rows *p) {
    return p->data ? (size_t)(p->most * p->touched->width) * sizeof *p->data : 0;
}

nb_status ni_packed_rows_create(ni_touched *touched, nb_backend *be, bool elsewhere, int64_t elements,
                                ni_packed_rows *out, nb_error *err) {
    void *data, *list;
    *out = (ni_packed_rows){0};
    if (!touched || !touched->mine || elements < touched->width)
        return NB_OK;
    const int64_t most = elements / touched->width;
    out->touched = touched;
    out->most = most < touched->rows ? most : touched->rows;
    NB_TRY(
        ni_backend_take(be, (size_t)(out->most * touched->width) * sizeof *out->data, "rows of gradients", &data, err));
    out->data = data;
    if (!elsewhere)
        return NB_OK;
    NB_TRY(ni_backend_take(be, (size_t)touched->rows * sizeof *out->list, "which rows they are", &list, err));
    out->list = list;
    return NB_OK;
}

void ni_packed_rows_free(ni_packed_rows *p, nb_backend *be) {
    ni_neighbours_free(&p->seen);
    if (p->data)
        be->ops->release(be, p->data);
    if (p->list)
        be->ops->release(be, p->list);
    memset(p, 0, sizeof *p);
}

nb_status ni_packed_rows_meet(const ni_packed_rows *p, nb_backend *be, nb_error *err) {
    NB_TRY(ni_touched_meet(p->touched, err));
    if (p->list)
        be->ops->upload(be, p->list, p->touched->list, (size_t)p->touched->rows * sizeof *p->list);
    return NB_OK;
}

void ni_pack_rows(const ni_packed_rows *p, nb_backend *be, const float *table, int64_t from, int64_t n) {
    const int64_t width = p->touched->width;
    if (p->list) {
        be->ops->take_rows(be, p->data, table, p->list + from, n, width);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        memcpy(p->data + i * width, table + p->touched->list[from + i] * width, (size_t)width * sizeof *table);
}

void ni_unpack_rows(const ni_packed_rows *p, nb_backend *be, float *table, const float *packed, int64_t from,
                    int64_t n) {
    const int64_t width = p->touched->width;
    if (p->list) {
        be->ops->put_rows(be, table, packed, p->list + from, n, width);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        memcpy(table + p->touched->list[from + i] * width, packed + i * width, (size_t)width * sizeof *table);
}
