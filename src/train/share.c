/* share.c: who has which tensors, and masters on their way from those who moved them. */
#include "share.h"
#include "backend/backend.h"
#include "model/handed.h"

#include <stdlib.h>
#include <string.h>

/* A tensor, or a section, is that rank's in whose part of all numbers its middle lies. */
static int64_t middle_of(const nb_model *model, int32_t first, int32_t next) {
    const nb_param *from = nb_model_param(model, first), *to = nb_model_param(model, next - 1);
    return (from->offset + to->offset + to->rows * to->cols) / 2;
}

/* first[r], from what must not be torn: `count` runs of tensors, which begin at run[i], or one tensor each (NULL). */
static void cut(const nb_model *model, const ni_param_array *grads, int32_t world, const int32_t *run, int32_t count,
                ni_share *share) {
    const int32_t tensors = nb_model_param_count(model);
    const nb_param *last = nb_model_param(model, tensors - 1);
    const int64_t elements = last->offset + last->rows * last->cols;
    int32_t i = 0;
    for (int32_t r = 0; r <= world; r++) {
        const int64_t until = elements * r / world;
        while (i < count && (r == world || middle_of(model, run ? run[i] : i, run ? run[i + 1] : i + 1) < until))
            i++;
        share->first[r] = i == count ? tensors : run ? run[i] : i;
        share->elements[r] = share->first[r] < tensors ? grads->at[share->first[r]].offset : grads->elements;
        share->parts[r] = (size_t)i * sizeof(double);
    }
}

nb_status ni_share_create(const nb_ranks *ranks, nb_model *model, nb_share what, ni_share *share, nb_error *err) {
    const int32_t count = nb_model_param_count(model), world = nb_ranks_world(ranks), rank = nb_ranks_rank(ranks);
    *share = (ni_share){.world = world, .end = count, .out = what != NB_SHARE_NONE && world > 1};
    if (!share->out)
        return NB_OK;
    const ni_param_array *grads = ni_model_gradients(model);
    share->gradients = what == NB_SHARE_GRADIENTS;
    share->sums = share->gradients || (world == 2 && grads->sections > 0 && grads->dtype == grads->be->real);
    share->elements = calloc((size_t)world + 1, sizeof *share->elements);
    share->first = calloc((size_t)world + 1, sizeof *share->first);
    share->at = calloc((size_t)world + 1, sizeof *share->at);
    share->parts = calloc((size_t)world + 1, sizeof *share->parts);
    if (!share->first || !share->elements || !share->at || !share->parts) {
        ni_share_free(share);
        return nb_fail(err, NB_NO_MEMORY, "what ranks share out: out of memory");
    }
    cut(model, grads, world, share->sums ? grads->section : NULL, share->sums ? grads->sections : count, share);
    share->begin = share->first[rank];
    share->end = share->first[rank + 1];
    return NB_OK;
}

void ni_share_free(ni_share *share) {
    free(share->first);
    free(share->elements);
    free(share->at);
    free(share->parts);
    memset(share, 0, sizeof *share);
}

int32_t ni_share_owner(const ni_share *share, int32_t index) {
    int32_t r = 0;
    while (index >= share->first[r + 1])
        r++;
    return r;
}

/* ---- masters ---- */

/* Where in an array, in bytes, the masters from tensor `index` on begin; its end where there are none. */
static size_t array_at(const nb_model *model, const ni_master_array *array, int32_t index) {
    size_t end = 0;
    for (int32_t i = 0; i < nb_model_param_count(model); i++) {
        const ni_scaled master = ni_model_master(model, i);
        const nb_param *p = nb_model_param(model, i);
        const uintptr_t at = (uintptr_t)master.data - (uintptr_t)array->data;
        if (!master.data || at >= array->bytes || ni_model_handed_bytes(model, i) > 0) /* that goes another way */
            continue;
        if (i >= index)
            return at;
        end = at + (size_t)(p->rows * p->cols) * nb_dtype_size(master.dtype);
    }
    return end;
}

void ni_share_place(const ni_share *share, const nb_model *model, const ni_master_array *array) {
    for (int32_t r = 0; r <= share->world; r++)
        share->at[r] = array_at(model, array, share->first[r]);
}

static nb_status share_array(const ni_share *share, nb_model *model, const ni_reducer *x, const ni_master_array *array,
                             nb_error *err) {
    if (!array->data)
        return NB_OK;
    ni_share_place(share, model, array);
    return ni_reducer_gather(x, array->data, share->at, err);
}

nb_status ni_share_masters(const ni_share *share, nb_model *model, const ni_reducer *x, nb_error *err) {
    ni_master_array arrays[NI_MASTER_ARRAYS];
    float *scales = NULL; /* of tensor 0 */
    if (!share->out)
        return NB_OK;
    ni_model_master_arrays(model, arrays);
    for (int i = 0; i < NI_MASTER_ARRAYS; i++)
        NB_TRY(share_array(share, model, x, &arrays[i], err));
    for (int32_t i = 0; i < nb_model_param_count(model); i++) {
        const ni_scaled master = ni_model_master(model, i);
        scales = master.scale ? master.scale - i : scales;
    }
    for (int32_t r = 0; scales && r <= nb_ranks_world(x->ranks); r++)
        share->at[r] = (size_t)share->first[r] * sizeof *scales;
    return scales ? ni_reducer_gather(x, (char *)scales, share->at, err) : NB_OK;
}
