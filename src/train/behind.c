/* behind.c: a thread that sums sections in the order in which they are given. */
#include "behind.h"
#include "backend/table.h"

#include <string.h>

/* ---- life ---- */

static int64_t largest_section(const ni_param_array *all) {
    int64_t largest = 0;
    for (int32_t i = 1; i < all->sections; i++) {
        const ni_param_place *first = &all->at[all->section[i]], *last = &all->at[all->section[i + 1] - 1];
        const int64_t n = last->offset + last->length - first->offset;
        largest = n > largest ? n : largest;
    }
    return largest;
}

nb_status ni_behind_create(ni_reducer *reducer, const ni_param_array *all, ni_behind *out, nb_error *err) {
    const size_t bytes = (size_t)largest_section(all) * sizeof(float);
    *out = (ni_behind){0};
    if (!ni_reducer_goes_beside(reducer, all) || bytes == 0)
        return NB_OK;
    out->reducer = reducer;
    for (int32_t i = 0; i < NI_BEHIND_SECTIONS; i++) {
        void *data;
        NB_TRY(ni_backend_take(reducer->be, bytes, "gradients on their way to their ranks", &data, err));
        out->section[i].data = data;
        out->bytes += bytes;
    }
    return NB_OK;
}

void ni_behind_free(ni_behind *b) {
    for (int32_t i = 0; i < NI_BEHIND_SECTIONS; i++)
        if (b->section[i].data)
            b->reducer->be->ops->release(b->reducer->be, b->section[i].data);
    memset(b, 0, sizeof *b);
}

/* ---- the thread ---- */

static bool wait_for(ni_behind *b, int64_t number) {
    pthread_mutex_lock(&b->lock);
    while (!b->last && b->asked <= number)
        pthread_cond_wait(&b->moved, &b->lock);
    const bool there = b->asked > number;
    pthread_mutex_unlock(&b->lock);
    return there;
}

static void count_done(ni_behind *b, nb_status status) {
    pthread_mutex_lock(&b->lock);
    b->done++;
    b->status = status;
    pthread_cond_signal(&b->moved);
    pthread_mutex_unlock(&b->lock);
}

static nb_status sum_section(ni_behind *b, ni_behind_section *s) {
    const ni_reducer *x = b->reducer;
    nb_backend *worker = x->worker;
    const size_t bytes = (size_t)s->n * sizeof *s->data;
    if (worker) {
        void *mark = s->mark;
        s->mark = NULL;
        NB_TRY(x->be->companion->await(worker, mark, &b->error));
    }
    NB_TRY(ni_reduce_to(x, s->data, s->n, s->owner, &b->error));
    if (s->own && !worker)
        memcpy(s->own, s->data, bytes);
    else if (s->own)
        worker->ops->copy(worker, s->own, s->data, bytes);
    return worker ? worker->ops->synchronize(worker, &b->error) : NB_OK;
}

static void *sum_sections(void *self) {
    ni_behind *b = self;
    nb_backend *worker = b->reducer->worker;
    nb_status status = worker ? b->reducer->be->companion->enter(worker, &b->error) : NB_OK;
    for (int64_t i = 0; wait_for(b, i); i++) {
        if (status == NB_OK) /* else it is taken and not looked at: the pass must not wait for it */
            status = sum_section(b, &b->section[i % NI_BEHIND_SECTIONS]);
        count_done(b, status);
    }
    return NULL;
}

/* ---- who gives ---- */

void ni_behind_begin(ni_behind *b) {
    if (!b->reducer)
        return;
    b->lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    b->moved = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
    b->last = false;
    b->asked = b->done = 0;
    b->status = NB_OK;
    b->reducer->aside = true;
    b->running = pthread_create(&b->thread, NULL, sum_sections, b) == 0;
    b->reducer->aside = b->running;
}

void ni_behind_give(ni_behind *b, const float *data, int64_t n, int32_t owner, float *own) {
    nb_backend *be = b->reducer->be;
    pthread_mutex_lock(&b->lock);
    while (b->asked - b->done == NI_BEHIND_SECTIONS)
        pthread_cond_wait(&b->moved, &b->lock);
    const bool good = b->status == NB_OK;
    ni_behind_section *s = &b->section[b->asked % NI_BEHIND_SECTIONS];
    pthread_mutex_unlock(&b->lock);
    if (!good)
        return;
    be->ops->copy(be, s->data, data, (size_t)n * sizeof *data);
    *s = (ni_behind_section){.data = s->data,
                             .own = own,
                             .n = n,
                             .owner = owner,
                             .mark = b->reducer->worker ? be->companion->mark(be) : NULL};
    pthread_mutex_lock(&b->lock);
    b->asked++;
    pthread_cond_signal(&b->moved);
    pthread_mutex_unlock(&b->lock);
}

nb_status ni_behind_end(ni_behind *b, nb_error *err) {
    if (!b->running)
        return NB_OK;
    pthread_mutex_lock(&b->lock);
    b->last = true;
    pthread_cond_signal(&b->moved);
    pthread_mutex_unlock(&b->lock);
    pthread_join(b->thread, NULL);
    for (int32_t i = 0; b->reducer->worker && i < NI_BEHIND_SECTIONS; i++) {
        b->reducer->be->companion->forget(b->section[i].mark);
        b->section[i].mark = NULL;
    }
    pthread_mutex_destroy(&b->lock);
    pthread_cond_destroy(&b->moved);
    b->running = b->reducer->aside = false;
    if (b->status != NB_OK && err)
        *err = b->error;
    return b->status;
}
