/* idle.h: a table that does nothing. Code that takes working memory runs over it once to be measured: what it would
 * take is counted, nothing is computed, and no address is followed. */
#ifndef NI_BACKEND_IDLE_H
#define NI_BACKEND_IDLE_H

#include "backend/table.h"

typedef struct ni_idle_backend {
    nb_backend backend;
    ni_backend_ops ops;
} ni_idle_backend;

/* Names, types and sizes of operands are those of `be`; everything else succeeds and does nothing. What downloads would
 * bring is zero. */
void ni_backend_idle(ni_idle_backend *idle, const nb_backend *be);

#endif
