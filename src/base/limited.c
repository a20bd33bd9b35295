/* limited.c: one thread makes the call, another waits for it as long as it may. */
#include "base/limited.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

typedef struct limited {
    int (*call)(void *context);
    void *context;
    pthread_mutex_t lock;
    pthread_cond_t ended;
    bool done, left; /* left: nobody waits for it any more */
    int code;
} limited;

static void free_all(limited *l) {
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->ended);
    free(l);
}

static void *make_call(void *self) {
    limited *l = self;
    const int code = l->call(l->context);
    pthread_mutex_lock(&l->lock);
    l->code = code;
    l->done = true;
    const bool left = l->left;
    pthread_cond_signal(&l->ended);
    pthread_mutex_unlock(&l->lock);
    if (left) {
        free(l->context);
        free_all(l);
    }
    return NULL;
}

static limited *prepare(int (*call)(void *context), void *context) {
    pthread_condattr_t clock;
    limited *l = calloc(1, sizeof *l);
    if (!l)
        return NULL;
    l->call = call;
    l->context = context;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&l->ended, &clock);
    pthread_condattr_destroy(&clock);
    pthread_mutex_init(&l->lock, NULL);
    return l;
}

bool ni_call_within(int (*call)(void *context), void *context, double seconds, int *code) {
    pthread_t thread;
    struct timespec until;
    limited *l = prepare(call, context);
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)seconds;
    if (!l || pthread_create(&thread, NULL, make_call, l) != 0) {
        if (l)
            free_all(l);
        free(context);
        return false;
    }
    int waited = 0;
    pthread_mutex_lock(&l->lock);
    while (!l->done && waited == 0)
        waited = pthread_cond_timedwait(&l->ended, &l->lock, &until);
    const bool done = l->done;
    l->left = !done;
    *code = l->code;
    pthread_mutex_unlock(&l->lock);
    if (done) {
        pthread_join(thread, NULL);
        free_all(l);
    } else {
        pthread_detach(thread);
    }
    return done;
}
