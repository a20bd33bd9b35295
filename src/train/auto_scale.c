/* auto_scale.c: scales of all ranks become one; mu goes down at once and up slowly. */
#include "auto_scale.h"
#include "backend/backend.h"
#include "backend/table.h"
#include "format/narrow.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STAY, RISE, FALL };

static nb_status take_memory(ni_auto_scale *x, const ni_param_array *grads, nb_error *err) {
    const size_t count = (size_t)grads->count, world = (size_t)nb_ranks_world(x->ranks);
    int64_t most = 1;
    for (int32_t i = 0; i < grads->count; i++)
        most = grads->at[i].length > most ? grads->at[i].length : most;
    void *parts;
    NB_TRY(ni_backend_take(grads->be, count * sizeof *x->parts, "sizes of gradients", &parts, err));
    x->parts = parts;
    x->mu = calloc(count, sizeof *x->mu);
    x->scales = calloc((world + 1) * count, sizeof *x->scales);
    x->squares = calloc(count, sizeof *x->squares);
    x->moves = calloc(world * count, sizeof *x->moves);
    x->room = malloc(grads->be->ops->alloc == ni_host_alloc ? 1 : (size_t)most);
    if (!x->mu || !x->scales || !x->squares || !x->moves || !x->room)
        return nb_fail(err, NB_NO_MEMORY, "scales of all ranks: out of memory");
    return NB_OK;
}

nb_status ni_auto_scale_create(nb_ranks *ranks, const ni_param_array *grads, const nb_gradient_store *how,
                               ni_auto_scale *out, nb_error *err) {
    *out = (ni_auto_scale){.ranks = ranks, .how = *how};
    if (how->exchange.rule == NB_EXCHANGE_OWN)
        return NB_OK;
    out->be = grads->be;
    out->count = grads->count;
    nb_status status = take_memory(out, grads, err);
    if (status != NB_OK)
        ni_auto_scale_free(out);
    return status;
}

void ni_auto_scale_free(ni_auto_scale *x) {
    if (x->parts)
        x->be->ops->release(x->be, x->parts);
    free(x->mu);
    free(x->scales);
    free(x->squares);
    free(x->moves);
    free(x->room);
    memset(x, 0, sizeof *x);
}

void ni_auto_scale_restart(ni_auto_scale *x) {
    if (x->count > 0)
        memset(x->mu, 0, (size_t)x->count * sizeof *x->mu);
}

/* ---- before the sum ---- */

static float first_mu(const ni_auto_scale *x) {
    const double mu = x->how.exchange.mu;
    return (float)(mu > 0 ? mu : 1 / sqrt((double)nb_ranks_world(x->ranks)));
}

/* Own scales, by which codes are multiplied; 0 for a tensor of zeroes, whose scale means nothing. */
static void own_scales(const ni_auto_scale *x, const ni_param_array *grads) {
    nb_backend *be = grads->be;
    const size_t count = (size_t)x->count;
    ni_param_array_sum_squares(grads, x->parts);
    be->ops->download(be, x->squares, x->parts, count * sizeof *x->squares);
    be->ops->download(be, x->scales, grads->scales, count * sizeof *x->scales);
    for (size_t i = 0; i < count; i++)
        x->scales[i] = x->squares[i] == 0 ? 0 : x->scales[i];
}

/* What a code of the sum is worth: as what numbers are multiplied by is least where this is largest. */
static float common_scale(const ni_auto_scale *x, int32_t tensor) {
    const float *all = x->scales + x->count;
    float largest = 0;
    for (int32_t r = 0; r < nb_ranks_world(x->ranks); r++)
        largest = fmaxf(largest, all[r * x->count + tensor]);
    return largest > 0 ? largest / x->mu[tensor] : 1;
}

nb_status ni_auto_scale_before(ni_auto_scale *x, ni_param_array *grads, nb_error *err) {
    if (x->count == 0 || !x->ranks)
        return NB_OK;
    own_scales(x, grads);
    NB_TRY(ni_ranks_gather(x->ranks, x->scales, x->scales + x->count, (size_t)x->count * sizeof *x->scales, err));
    for (int32_t i = 0; i < x->count; i++) {
        const ni_scaled tensor = ni_param_array_at(grads, i);
        x->mu[i] = x->mu[i] > 0 ? x->mu[i] : first_mu(x);
        grads->be->ops->scaled_rescale(grads->be, &tensor, common_scale(x, i), grads->at[i].length);
    }
    return NB_OK;
}

/* ---- after it ---- */

/* What the codes of one sum ask of mu. Those of +-0 are 0 but for their sign. */
static int8_t move_of(const uint8_t *codes, int64_t n, nb_dtype type, double limit) {
    int64_t largest = 0, more = 0, zeroes = 0;
    const uint8_t most = type == NB_E4M3 ? ni_e4m3_even(ni_narrow_max(type)) : ni_e5m2_even(ni_narrow_max(type));
    for (int64_t i = 0; i < n; i++) {
        const uint8_t magnitude = codes[i] & 0x7f;
        largest += magnitude == most;
        more += magnitude > most; /* Inf and NaN lie above */
        zeroes += magnitude == 0;
    }
    if (more > 0 || zeroes == n)
        return STAY;
    return (double)largest > limit * (double)n ? FALL : RISE;
}

static const uint8_t *codes_of(const ni_auto_scale *x, const ni_param_array *grads, int32_t index) {
    nb_backend *be = grads->be;
    const ni_scaled tensor = ni_param_array_at(grads, index);
    if (be->ops->alloc == ni_host_alloc)
        return tensor.data;
    be->ops->download(be, x->room, tensor.data, (size_t)grads->at[index].length);
    return x->room;
}

/* All ranks have the sum; each counts in every world-th tensor. */
nb_status ni_auto_scale_after(ni_auto_scale *x, const ni_param_array *grads, nb_error *err) {
    const int32_t world = nb_ranks_world(x->ranks), rank = nb_ranks_rank(x->ranks);
    if (x->count == 0 || !x->ranks)
        return NB_OK;
    NB_TRY(grads->be->ops->synchronize(grads->be, err));
    int8_t *mine = x->moves + (size_t)rank * (size_t)x->count;
    for (int32_t i = rank; i < x->count; i += world)
        mine[i] = move_of(codes_of(x, grads, i), grads->at[i].length, grads->dtype, x->how.exchange.saturated);
    NB_TRY(ni_ranks_gather(x->ranks, mine, x->moves, (size_t)x->count, err));
    const double rise = exp2(1.0 / (double)x->how.exchange.steps);
    for (int32_t i = 0; i < x->count; i++) {
        const int8_t move = x->moves[(size_t)(i % world) * (size_t)x->count + (size_t)i];
        x->mu[i] = move == STAY ? x->mu[i] : (float)((double)x->mu[i] * (move == FALL ? 0.5 : rise));
    }
    return NB_OK;
}
