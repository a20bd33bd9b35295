/* accumulate.c: the fixed tree over micro-batches, kept like the digits of a binary counter. */
#include "accumulate.h"

#include <string.h>

int32_t nb_accumulator_buffers(int64_t count) {
    /* Most open subtrees after i < count micro-batches: the most ones in such an i, so floor(log2(count)). */
    int32_t buffers = 0;
    while (count >> (buffers + 1))
        buffers++;
    return buffers;
}

nb_status nb_accumulator_create(nb_backend *be, int64_t elements, int64_t count, nb_accumulator *out, nb_error *err) {
    memset(out, 0, sizeof *out);
    out->be = be;
    out->elements = elements;
    out->count = count;
    out->buffers = nb_accumulator_buffers(count);
    size_t bytes = (size_t)elements * nb_dtype_size(be->real);
    for (int32_t i = 0; i < out->buffers; i++) {
        out->buffer[i] = be->ops->alloc(be, bytes);
        if (!out->buffer[i]) {
            nb_accumulator_free(out);
            return nb_fail(err, NB_NO_MEMORY,
                           "accumulation: %d buffers of %.1f MiB for the gradients of %lld micro-batches do not fit; "
                           "hint: a larger micro_batch with less accumulation needs fewer",
                           out->buffers, (double)bytes / 1048576.0, (long long)count);
        }
    }
    nb_accumulator_begin(out);
    return NB_OK;
}

void nb_accumulator_free(nb_accumulator *acc) {
    if (!acc || !acc->be)
        return;
    for (int32_t i = 0; i < NB_ACCUMULATE_LEVELS; i++)
        if (acc->buffer[i])
            acc->be->ops->release(acc->be, acc->buffer[i]);
    memset(acc, 0, sizeof *acc);
}

void nb_accumulator_begin(nb_accumulator *acc) {
    acc->seen = 0;
    for (int32_t i = 0; i < NB_ACCUMULATE_LEVELS; i++) {
        acc->at_level[i] = -1;
        acc->used[i] = false;
    }
}

static int32_t take_buffer(nb_accumulator *acc) {
    int32_t i = 0;
    while (acc->used[i])
        i++;
    acc->used[i] = true;
    return i;
}

/* The last micro-batch closes every open subtree: the sum runs through `grads`, smallest first. */
static void close_tree(nb_accumulator *acc, void *grads, double *loss) {
    for (int32_t level = 0; level < NB_ACCUMULATE_LEVELS; level++) {
        int32_t open = acc->at_level[level];
        if (open < 0)
            continue;
        acc->be->ops->axpy(acc->be, grads, 1.0, acc->buffer[open], acc->elements);
        *loss += acc->loss[level];
    }
}

void nb_accumulator_add(nb_accumulator *acc, void *grads, double *loss) {
    nb_backend *be = acc->be;
    acc->seen++;
    if (acc->seen == acc->count) {
        close_tree(acc, grads, loss);
        return;
    }
    if (acc->at_level[0] < 0) {
        int32_t fresh = take_buffer(acc);
        be->ops->copy(be, acc->buffer[fresh], grads, (size_t)acc->elements * nb_dtype_size(be->real));
        acc->at_level[0] = fresh;
        acc->loss[0] = *loss;
        return;
    }
    int32_t carry = acc->at_level[0];
    be->ops->axpy(be, acc->buffer[carry], 1.0, grads, acc->elements);
    double carried_loss = acc->loss[0] + *loss;
    acc->at_level[0] = -1;
    int32_t level = 1;
    for (; acc->at_level[level] >= 0; level++) {
        int32_t left = acc->at_level[level];
        be->ops->axpy(be, acc->buffer[left], 1.0, acc->buffer[carry], acc->elements);
        carried_loss = acc->loss[level] + carried_loss;
        acc->used[carry] = false;
        carry = left;
        acc->at_level[level] = -1;
    }
    acc->at_level[level] = carry;
    acc->loss[level] = carried_loss;
}
