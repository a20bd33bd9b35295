/* overlap.c: a thread that sums chunks as the backward pass leaves them. */
#include "overlap.h"

/* Waits until the pass has left what begins at `element`; false if the step was given up. */
static bool wait_for(ni_overlap *o, int64_t element) {
    pthread_mutex_lock(&o->lock);
    while (!o->given_up && o->final > element)
        pthread_cond_wait(&o->moved, &o->lock);
    const bool come = !o->given_up;
    pthread_mutex_unlock(&o->lock);
    return come;
}

static void *sum_chunks(void *self) {
    ni_overlap *o = self;
    for (int64_t i = ni_reducer_chunks(o->reducer, o->grads) - 1; o->status == NB_OK && i >= 0; i--) {
        const int64_t from = i * o->reducer->chunk;
        const int64_t left = o->grads->elements - from, n = left < o->reducer->chunk ? left : o->reducer->chunk;
        if (!wait_for(o, from))
            break;
        ni_accumulator_close_part(o->accumulator, o->grads, from, n);
        o->status = ni_reduce_chunk(o->reducer, o->grads, i, &o->error);
    }
    return NULL;
}

static void announce(ni_overlap *o, int64_t element, bool given_up) {
    pthread_mutex_lock(&o->lock);
    o->final = element < o->final ? element : o->final;
    o->given_up = given_up;
    pthread_cond_signal(&o->moved);
    pthread_mutex_unlock(&o->lock);
}

bool ni_overlap_begin(ni_overlap *o, ni_reducer *reducer, ni_accumulator *accumulator, ni_param_array *grads) {
    if (!ni_reducer_on_host(reducer, grads))
        return false;
    *o = (ni_overlap){.reducer = reducer,
                      .accumulator = accumulator,
                      .grads = grads,
                      .lock = PTHREAD_MUTEX_INITIALIZER,
                      .moved = PTHREAD_COND_INITIALIZER,
                      .final = grads->elements};
    reducer->aside = true;
    o->running = pthread_create(&o->thread, NULL, sum_chunks, o) == 0;
    reducer->aside = o->running;
    return o->running;
}

void ni_overlap_final(void *self, int64_t element) {
    ni_overlap *o = self;
    if (o->running)
        announce(o, element, false);
}

nb_status ni_overlap_end(ni_overlap *o, bool whole, nb_error *err) {
    if (!o->running)
        return NB_OK;
    announce(o, whole ? 0 : o->grads->elements, !whole);
    pthread_join(o->thread, NULL);
    pthread_mutex_destroy(&o->lock);
    pthread_cond_destroy(&o->moved);
    o->running = o->reducer->aside = false;
    if (whole && o->status != NB_OK && err)
        *err = o->error;
    return whole ? o->status : NB_OK;
}
