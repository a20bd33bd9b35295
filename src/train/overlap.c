/* overlap.c: a thread that sums chunks as the backward pass leaves them. */
#include "overlap.h"
#include "backend/table.h"
#include "base/progress.h"

#include <sched.h>
#include <stdlib.h>

/* Waits until the pass has left what begins at `element`; false if the step was given up. */
static bool wait_for(ni_overlap *o, int64_t element) {
    pthread_mutex_lock(&o->thread->lock);
    while (!o->given_up && o->final > element)
        pthread_cond_wait(&o->thread->moved, &o->thread->lock);
    const bool come = !o->given_up;
    pthread_mutex_unlock(&o->thread->lock);
    return come;
}

static const ni_companion *worker_companion(const ni_overlap *o) {
    return o->grads->be->companion;
}

static int64_t chunk_at(const ni_overlap *o, int64_t i) {
    return ni_reducer_chunk_at(o->reducer, o->grads, i);
}

/* What begins at `element`, and all behind it, is summed. */
static nb_status tell_summed(ni_overlap *o, int64_t element) {
    NB_TRY(ni_reduce_done(o->reducer, &o->error));
    pthread_mutex_lock(&o->thread->lock);
    o->summed = element;
    pthread_cond_broadcast(&o->thread->moved);
    pthread_mutex_unlock(&o->thread->lock);
    return NB_OK;
}

/* The embedding is the head. */
static bool head_is_table(const ni_overlap *o) {
    const ni_touched *touched = o->reducer->rows.touched;
    return touched && touched->head;
}

/* Until the pass has come to the mark of chunk `i`, and so of all behind it. */
static nb_status await_mark(ni_overlap *o, int64_t i) {
    if (!o->marks || i >= o->met)
        return NB_OK;
    void *mark = o->marks[i];
    o->marks[i] = NULL;
    o->met = i;
    return worker_companion(o)->await(o->reducer->worker, mark, &o->error);
}

/* The chunk that is waited for before any goes, where GPUs read each other's memory: the pass has left four fifths of
 * what it has left when the first section comes. Links sleep once nothing has gone over them for a while (50 ms on an
 * H200), and while they are awake they take power that multiprocessors lack: so all goes in one piece. On two H200s
 * that is a tenth of a backward pass. */
static int64_t begin_with(const ni_overlap *o) {
    const int64_t first = chunk_at(o, 1), late = first + (o->grads->elements - first) / 5;
    int64_t i = ni_reducer_chunks(o->reducer, o->grads) - 1;
    while (o->marks && o->reducer->neighbours.theirs && i > 1 && chunk_at(o, i) > late)
        i--;
    return i;
}

/* Before this rank's pass has left the first section: the rows of one whose pass is over come while it goes on. */
static nb_status fetch_rows(ni_overlap *o) {
    o->fetched = o->marks && ni_reduce_may_fetch_rows(o->reducer);
    return o->fetched ? ni_reduce_fetch_rows(o->reducer, &o->error) : NB_OK;
}

static nb_status sum_chunk(ni_overlap *o, int64_t i) {
    ni_reducer *x = o->reducer;
    const int64_t from = chunk_at(o, i), n = chunk_at(o, i + 1) - from;
    NB_TRY(await_mark(o, i));
    if (o->grads->dtype == x->be->real)
        ni_accumulator_close_part(o->accumulator, o->grads, x->worker, from, n);
    if (o->fetched) {
        ni_reduce_add_rows(x, o->grads->data);
        return NB_OK;
    }
    if (i == 0 && head_is_table(o) && o->accumulator->count > 1) /* sub-sums had to be added first */
        NB_TRY(ni_reduce_untouched(x, o->grads, &o->error));
    return ni_reduce_chunk(x, o->grads, i, &o->error);
}

static nb_status meet_rows(ni_overlap *o) {
    if (o->reducer->rows.touched)
        ni_touched_note(o->reducer->rows.touched, o->tokens, o->token_count);
    return ni_reducer_meet_rows(o->reducer, &o->error);
}

static void sum_chunks(ni_overlap *o) {
    nb_backend *worker = o->reducer->worker;
    if (o->marks)
        o->status = worker_companion(o)->enter(worker, &o->error);
    const int64_t last = ni_reducer_chunks(o->reducer, o->grads) - 1, begin = begin_with(o);
    if (o->status == NB_OK && begin < last && wait_for(o, chunk_at(o, begin)))
        o->status = await_mark(o, begin);
    for (int64_t i = last; o->status == NB_OK && i >= 0; i--) {
        if (i == 0 && last > 0)
            o->status = fetch_rows(o);
        if (o->status != NB_OK || !wait_for(o, chunk_at(o, i)))
            break;
        if (i == last) /* the step's tokens are known by now, and there is time */
            o->status = meet_rows(o);
        if (o->status == NB_OK)
            o->status = sum_chunk(o, i);
        if (o->status == NB_OK && i == last && head_is_table(o) && o->accumulator->count == 1)
            o->status = ni_reduce_untouched(o->reducer, o->grads, &o->error); /* the head is the first that is left */
        if (o->status == NB_OK)
            o->status = tell_summed(o, chunk_at(o, i));
    }
}

/* ---- the thread ---- */

static void *serve(void *self) {
    ni_overlap *o = self;
    ni_overlap_thread *t = o->thread;
    pthread_mutex_lock(&t->lock);
    for (;;) {
        while (!t->asked && !t->leaves)
            pthread_cond_wait(&t->moved, &t->lock);
        if (!t->asked)
            break;
        t->asked = false;
        pthread_mutex_unlock(&t->lock);
        sum_chunks(o);
        pthread_mutex_lock(&t->lock);
        o->ended = true;
        pthread_cond_broadcast(&t->moved);
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

static bool has_thread(ni_overlap *o) {
    if (o->thread)
        return true;
    ni_overlap_thread *t = o->thread = malloc(sizeof *t);
    if (!t)
        return false;
    *t = (ni_overlap_thread){.lock = PTHREAD_MUTEX_INITIALIZER, .moved = PTHREAD_COND_INITIALIZER};
    if (pthread_create(&t->id, NULL, serve, o) == 0)
        return true;
    free(t);
    o->thread = NULL;
    return false;
}

/* Sets a flag of the thread's and wakes it. */
static void tell_thread(ni_overlap_thread *t, bool *flag) {
    pthread_mutex_lock(&t->lock);
    *flag = true;
    pthread_cond_broadcast(&t->moved);
    pthread_mutex_unlock(&t->lock);
}

void ni_overlap_free(ni_overlap *o) {
    if (!o->thread)
        return;
    tell_thread(o->thread, &o->thread->leaves);
    pthread_join(o->thread->id, NULL);
    pthread_mutex_destroy(&o->thread->lock);
    pthread_cond_destroy(&o->thread->moved);
    free(o->thread);
    o->thread = NULL;
}

/* ---- what the pass says ---- */

/* Before the thread hears of it: a chunk is final behind its mark. */
static void mark_chunks(ni_overlap *o, int64_t element) {
    while (o->marks && o->marked > 0 && chunk_at(o, o->marked - 1) >= element)
        o->marks[--o->marked] = worker_companion(o)->mark(o->grads->be);
}

static void announce(ni_overlap *o, int64_t element, bool given_up) {
    if (!given_up)
        mark_chunks(o, element);
    pthread_mutex_lock(&o->thread->lock);
    o->final = element < o->final ? element : o->final;
    o->given_up = given_up;
    pthread_cond_broadcast(&o->thread->moved);
    pthread_mutex_unlock(&o->thread->lock);
}

bool ni_overlap_begin(ni_overlap *o, ni_reducer *reducer, ni_accumulator *accumulator, ni_param_array *grads,
                      const int32_t *tokens, int64_t token_count) {
    const bool whole =
        grads->dtype == grads->be->real || accumulator->count == 1; /* narrow sub-sums are of whole tensors */
    const int64_t chunks = whole && ni_reducer_goes_beside(reducer, grads) ? ni_reducer_chunks(reducer, grads) : 0;
    const bool marked = reducer->worker && grads->be->companion;
    void **marks = marked && chunks > 0 ? calloc((size_t)chunks, sizeof *marks) : NULL;
    o->running = chunks > 0 && (marks || !marked) && has_thread(o);
    if (!o->running) {
        free(marks);
        return false;
    }
    *o = (ni_overlap){.thread = o->thread,
                      .running = true,
                      .reducer = reducer,
                      .accumulator = accumulator,
                      .grads = grads,
                      .tokens = tokens,
                      .token_count = token_count,
                      .final = grads->elements,
                      .summed = grads->elements,
                      .marks = marks,
                      .marked = chunks,
                      .met = chunks};
    reducer->aside = true;
    tell_thread(o->thread, &o->thread->asked);
    return true;
}

void ni_overlap_final(void *self, int64_t element) {
    ni_overlap *o = self;
    if (o->running)
        announce(o, element, false);
}

/* A thread that sleeps is late when it wakes. */
static void look_for(ni_overlap *o, int64_t element) {
    const double until = ni_seconds() + o->reducer->look;
    bool come = o->reducer->look <= 0;
    while (!come && ni_seconds() < until) {
        sched_yield();
        pthread_mutex_lock(&o->thread->lock);
        come = o->ended || o->summed <= element;
        pthread_mutex_unlock(&o->thread->lock);
    }
}

bool ni_overlap_wait(ni_overlap *o, int64_t element) {
    if (!o->running)
        return false;
    announce(o, 0, false);
    look_for(o, element);
    pthread_mutex_lock(&o->thread->lock);
    while (!o->ended && o->summed > element)
        pthread_cond_wait(&o->thread->moved, &o->thread->lock);
    const bool summed = o->summed <= element;
    pthread_mutex_unlock(&o->thread->lock);
    return summed;
}

static void wait_until_ended(ni_overlap *o) {
    look_for(o, 0);
    pthread_mutex_lock(&o->thread->lock);
    while (!o->ended)
        pthread_cond_wait(&o->thread->moved, &o->thread->lock);
    pthread_mutex_unlock(&o->thread->lock);
}

nb_status ni_overlap_end(ni_overlap *o, bool whole, nb_error *err) {
    if (!o->running)
        return NB_OK;
    announce(o, whole ? 0 : o->grads->elements, !whole);
    wait_until_ended(o);
    for (int64_t i = 0; o->marks && i < ni_reducer_chunks(o->reducer, o->grads); i++)
        worker_companion(o)->forget(o->marks[i]);
    free(o->marks);
    o->marks = NULL;
    o->running = o->reducer->aside = false;
    if (whole && o->status != NB_OK && err)
        *err = o->error;
    return whole ? o->status : NB_OK;
}
