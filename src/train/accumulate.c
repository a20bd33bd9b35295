/* accumulate.c: the fixed tree over micro-batches, kept like the digits of a binary counter. */
#include "accumulate.h"
#include "backend/table.h"

#include <string.h>

int32_t ni_accumulator_buffers(int64_t count) {
    /* Most open subtrees after i < count micro-batches: the most ones in such an i, so floor(log2(count)). */
    int32_t buffers = 0;
    while (count >> (buffers + 1))
        buffers++;
    return buffers;
}

nb_status ni_accumulator_create(const ni_param_array *grads, int64_t count, ni_accumulator *out, nb_error *err) {
    memset(out, 0, sizeof *out);
    out->count = count;
    out->buffers = ni_accumulator_buffers(count);
    for (int32_t i = 0; i < out->buffers; i++)
        if (ni_param_array_create_like(grads, "accumulation", &out->buffer[i], err) != NB_OK) {
            ni_accumulator_free(out);
            return nb_fail(err, NB_NO_MEMORY,
                           "accumulation: %d buffers of %.1f MiB for the gradients of %lld micro-batches do not fit; "
                           "hint: a larger micro_batch with less accumulation needs fewer",
                           out->buffers, (double)ni_param_array_bytes(grads) / 1048576.0, (long long)count);
        }
    ni_accumulator_begin(out);
    return NB_OK;
}

void ni_accumulator_free(ni_accumulator *acc) {
    if (!acc)
        return;
    for (int32_t i = 0; i < NI_ACCUMULATE_LEVELS; i++)
        ni_param_array_free(&acc->buffer[i]);
    memset(acc, 0, sizeof *acc);
}

void ni_accumulator_begin(ni_accumulator *acc) {
    acc->seen = 0;
    for (int32_t i = 0; i < NI_ACCUMULATE_LEVELS; i++) {
        acc->at_level[i] = -1;
        acc->used[i] = false;
    }
}

static int32_t take_buffer(ni_accumulator *acc) {
    int32_t i = 0;
    while (acc->used[i])
        i++;
    acc->used[i] = true;
    return i;
}

/* The last micro-batch closes every open subtree: the sum runs through `grads`, smallest first. */
static void close_tree(ni_accumulator *acc, ni_param_array *grads) {
    for (int32_t level = 0; level < NI_ACCUMULATE_LEVELS; level++)
        if (acc->at_level[level] >= 0)
            ni_param_array_add(grads, &acc->buffer[acc->at_level[level]]);
}

void ni_accumulator_add(ni_accumulator *acc, ni_param_array *grads) {
    acc->seen++;
    if (acc->seen == acc->count) {
        close_tree(acc, grads);
        return;
    }
    if (acc->at_level[0] < 0) {
        int32_t fresh = take_buffer(acc);
        ni_param_array_copy(&acc->buffer[fresh], grads);
        acc->at_level[0] = fresh;
        return;
    }
    int32_t carry = acc->at_level[0];
    ni_param_array_add(&acc->buffer[carry], grads);
    acc->at_level[0] = -1;
    int32_t level = 1;
    for (; acc->at_level[level] >= 0; level++) {
        int32_t left = acc->at_level[level];
        ni_param_array_add(&acc->buffer[left], &acc->buffer[carry]);
        acc->used[carry] = false;
        carry = left;
        acc->at_level[level] = -1;
    }
    acc->at_level[level] = carry;
}

void ni_accumulator_close_part(const ni_accumulator *acc, ni_param_array *grads, nb_backend *worker, int64_t from,
                               int64_t n) {
    float *sum = (float *)grads->data + from;
    for (int32_t level = 0; level < NI_ACCUMULATE_LEVELS; level++) {
        if (acc->at_level[level] < 0)
            continue;
        const float *add = (const float *)acc->buffer[acc->at_level[level]].data + from;
        if (worker)
            worker->ops->axpy(worker, sum, 1.0, add, n);
        for (int64_t i = 0; i < n && !worker; i++)
            sum[i] += add[i];
    }
}
