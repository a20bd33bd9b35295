/* combine.c: one flat array for what is summed; words that say whether rank 0 chose anew. */
#include "combine.h"
#include "backend/table.h"
#include "model/state.h"

#include <stdlib.h>
#include <string.h>

/* The tensors of one kind, good until another is asked for. */
typedef struct tensors {
    const ni_mechanism_tensor *list;
    int32_t count;
} tensors;

static tensors list_of(const ni_combiner *c, nb_model *model, ni_combine how) {
    return (tensors){c->list, ni_model_combined(model, how, c->list, c->most)};
}

static size_t bytes_of(const ni_mechanism_tensor *tensor) {
    return (size_t)tensor->elements * nb_dtype_size(tensor->dtype);
}

/* ---- life ---- */

static nb_status take_sums(ni_combiner *c, const tensors *sums, int32_t world, int64_t count, nb_error *err) {
    nb_param flat = {.cols = 1};
    for (int32_t i = 0; i < sums->count; i++) {
        if (sums->list[i].dtype != NB_F32 || sums->list[i].on_host)
            return nb_fail(err, NB_INTERNAL, "%s: what is summed over ranks is FP32 in the backend's memory",
                           sums->list[i].name);
        flat.rows += sums->list[i].elements;
    }
    if (flat.rows == 0)
        return NB_OK;
    NB_TRY(ni_param_array_create(c->be, &flat, 1, NB_F32, NB_RULE_ABSMAX, "sums of mechanisms", &c->sums, err));
    if (world > 1) {
        c->all = malloc((size_t)world * (size_t)flat.rows * sizeof *c->all);
        if (!c->all)
            return nb_fail(err, NB_NO_MEMORY, "state of mechanisms: out of memory for the sums of %d ranks",
                           (int)world);
    }
    return ni_accumulator_create(&c->sums, count, &c->accumulator, err);
}

static nb_status take_memory(ni_combiner *c, nb_model *model, int32_t world, int64_t count, nb_error *err) {
    const int32_t sums = ni_model_combined(model, NI_COMBINE_SUM, NULL, 0);
    const int32_t firsts = ni_model_combined(model, NI_COMBINE_FIRST, NULL, 0);
    size_t words = 0;
    c->most = sums > firsts ? sums : firsts;
    c->list = calloc((size_t)c->most + 1, sizeof *c->list);
    if (!c->list)
        return nb_fail(err, NB_NO_MEMORY, "state of mechanisms: out of memory");
    const tensors sum = list_of(c, model, NI_COMBINE_SUM);
    NB_TRY(take_sums(c, &sum, world, count, err));
    const tensors first = list_of(c, model, NI_COMBINE_FIRST);
    for (int32_t i = 0; i < first.count; i++)
        words += first.list[i].on_host ? bytes_of(&first.list[i]) : 0;
    c->words = calloc(2, words + 1);
    return c->words ? NB_OK : nb_fail(err, NB_NO_MEMORY, "state of mechanisms: out of memory");
}

nb_status ni_combiner_create(nb_model *model, nb_backend *be, int32_t world, int64_t count, ni_combiner *out,
                             nb_error *err) {
    *out = (ni_combiner){.be = be};
    nb_status status = take_memory(out, model, world, count, err);
    if (status != NB_OK)
        ni_combiner_free(out);
    return status;
}

void ni_combiner_free(ni_combiner *c) {
    ni_accumulator_free(&c->accumulator);
    ni_param_array_free(&c->sums);
    free(c->all);
    free(c->words);
    free(c->list);
    memset(c, 0, sizeof *c);
}

/* ---- sums ---- */

/* Between the tensors and the flat array; false where no tensor has anything to add. */
static bool move_sums(ni_combiner *c, const tensors *sums, bool back) {
    float *flat = c->sums.data;
    bool any = false;
    for (int32_t i = 0; i < sums->count; i++) {
        const ni_mechanism_tensor *t = &sums->list[i];
        any = any || t->data;
        if (t->data)
            c->be->ops->copy(c->be, back ? t->data : flat, back ? flat : t->data, bytes_of(t));
        flat += t->elements;
    }
    return any;
}

void ni_combiner_begin(ni_combiner *c) {
    ni_accumulator_begin(&c->accumulator);
}

/* With one micro-batch and no other rank the tensor holds its sum as it is. */
void ni_combiner_take(ni_combiner *c, nb_model *model) {
    if (!c->sums.data)
        return;
    const tensors sums = list_of(c, model, NI_COMBINE_SUM);
    if (move_sums(c, &sums, false))
        ni_accumulator_add(&c->accumulator, &c->sums);
}

nb_status ni_combiner_sum(ni_combiner *c, nb_model *model, const ni_reducer *reducer, nb_error *err) {
    if (!c->sums.data || c->accumulator.seen == 0)
        return NB_OK;
    NB_TRY(ni_reduce_numbers(reducer, c->be, c->sums.data, c->sums.elements, c->all, err));
    const tensors sums = list_of(c, model, NI_COMBINE_SUM);
    move_sums(c, &sums, true);
    return NB_OK;
}

/* ---- what rank 0 has ---- */

static size_t read_words(const tensors *first, char *words) {
    size_t at = 0;
    for (int32_t i = 0; i < first->count; i++)
        if (first->list[i].on_host) {
            memcpy(words + at, first->list[i].data, bytes_of(&first->list[i]));
            at += bytes_of(&first->list[i]);
        }
    return at;
}

void ni_combiner_before(ni_combiner *c, nb_model *model, const ni_reducer *reducer) {
    if (!reducer->ranks)
        return;
    const tensors first = list_of(c, model, NI_COMBINE_FIRST);
    read_words(&first, c->words);
}

static nb_status take_over(ni_combiner *c, const ni_mechanism_tensor *t, nb_ranks *ranks, nb_error *err) {
    char *host = malloc(bytes_of(t) + 1);
    if (!host)
        return nb_fail(err, NB_NO_MEMORY, "state of mechanisms: out of memory");
    if (t->on_host)
        memcpy(host, t->data, bytes_of(t));
    else
        c->be->ops->download(c->be, host, t->data, bytes_of(t));
    nb_status status = ni_ranks_broadcast(ranks, host, bytes_of(t), err);
    if (status == NB_OK && t->on_host)
        memcpy(t->data, host, bytes_of(t));
    else if (status == NB_OK)
        c->be->ops->upload(c->be, t->data, host, bytes_of(t));
    free(host);
    return status;
}

nb_status ni_combiner_after(ni_combiner *c, nb_model *model, const ni_reducer *reducer, nb_error *err) {
    size_t bytes = 0;
    if (!reducer->ranks)
        return NB_OK;
    const tensors first = list_of(c, model, NI_COMBINE_FIRST);
    for (int32_t i = 0; i < first.count; i++)
        bytes += first.list[i].on_host ? bytes_of(&first.list[i]) : 0;
    if (bytes == 0)
        return NB_OK;
    char *before = c->words, *after = c->words + bytes;
    read_words(&first, after);
    NB_TRY(ni_ranks_broadcast(reducer->ranks, after, bytes, err));
    if (memcmp(before, after, bytes) == 0)
        return NB_OK;
    for (int32_t i = 0; i < first.count; i++)
        NB_TRY(take_over(c, &first.list[i], reducer->ranks, err));
    return reducer->ranks->rank > 0 ? nb_model_state_loaded(model, err) : NB_OK;
}
