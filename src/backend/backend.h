/* backend.h: how an implementation of the operation table makes its nb_backend. */
#ifndef NB_BACKEND_BACKEND_H
#define NB_BACKEND_BACKEND_H

#include "backend/table.h"

/* What nb_backend_free gets back: the public struct first, then the table that it points to. */
typedef struct nb_backend_object {
    nb_backend backend;
    nb_backend_ops ops;
    void (*destroy)(nb_backend *be); /* releases backend.state; may be NULL */
} nb_backend_object;

/* A backend with an empty table for the implementation to fill (`(*out)->ops` entries start as NULL).
 * On failure `state` stays the caller's. */
nb_status nb_backend_create(const char *name, nb_dtype act, nb_dtype real, void *state, void (*destroy)(nb_backend *be),
                            nb_backend_object **out, nb_error *err);

/* At least *bytes of memory, 64-byte aligned and not cleared; *bytes becomes what there is. Large buffers lie on huge
 * pages where the system has them: products stream through megabytes of panels. free() releases it; NULL if none. */
void *nb_host_reserve(size_t *bytes);

/* Memory of the host, for every backend that computes there. */
#define NB_OP_MEMORY(type, name, arguments) type nb_host_##name arguments;
#define NB_OP_TYPED(type, name, arguments)
#define NB_OP_PLAIN(type, name, arguments)
#include "backend/ops.inc"

#endif
