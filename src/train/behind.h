/* behind.h: sums sections over ranks behind the backward pass where gradients are shared out.
 *
 * A section that the pass is done with is copied out of the window that the next one needs; a thread sums it over ranks
 * and keeps it where it is this rank's, meanwhile the pass goes on. Two sections may be on their way. What is added to
 * what is the same as without it (overlap.h says how a GPU takes part).
 */
#ifndef NI_TRAIN_BEHIND_H
#define NI_TRAIN_BEHIND_H

#include "reduce.h"

#include <pthread.h>

enum { NI_BEHIND_SECTIONS = 2 };

typedef struct ni_behind_section {
    float *data; /* backend memory for the largest of them */
    float *own;  /* where it stays; NULL: with another rank */
    int64_t n;
    int32_t owner;
    void *mark; /* of a backend with a companion: behind it the section is there */
} ni_behind_section;

typedef struct ni_behind {
    ni_reducer *reducer; /* NULL: nothing goes on behind the pass */
    ni_behind_section section[NI_BEHIND_SECTIONS];
    size_t bytes; /* of all */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t moved;
    bool running, last; /* a thread is there; nothing is to come */
    int64_t asked, done;
    nb_status status;
    nb_error error;
} ni_behind;

/* For sections of `all` but the first, which is the pass's last. */
nb_status ni_behind_create(ni_reducer *reducer, const ni_param_array *all, ni_behind *out, nb_error *err);
void ni_behind_free(ni_behind *b);

/* Before a backward pass; then b->running says whether sections may be given. */
void ni_behind_begin(ni_behind *b);
/* `n` numbers at `data`, which may be written over once this returns and the backend has done what it was asked. */
void ni_behind_give(ni_behind *b, const float *data, int64_t n, int32_t owner, float *own);
/* What was given is summed; afterwards nobody else sums. NB_OK where nothing runs. */
nb_status ni_behind_end(ni_behind *b, nb_error *err);

#endif
