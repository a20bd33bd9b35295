/* backend.h: how an implementation of the operation table makes its nb_backend. */
#ifndef NI_BACKEND_BACKEND_H
#define NI_BACKEND_BACKEND_H

#include "backend/table.h"

/* What nb_backend_free gets back: the public struct first, then the table that it points to. */
typedef struct ni_backend_object {
    nb_backend backend;
    ni_backend_ops ops;
    void (*destroy)(nb_backend *be); /* releases backend.state; may be NULL */
} ni_backend_object;

/* A backend with an empty table for the implementation to fill (`(*out)->ops` entries start as NULL).
 * On failure `state` stays the caller's. */
nb_status ni_backend_create(const char *name, nb_dtype act, nb_dtype real, void *state, void (*destroy)(nb_backend *be),
                            ni_backend_object **out, nb_error *err);

/* At least *bytes of memory, 64-byte aligned and not cleared; *bytes becomes what there is. Large buffers lie on huge
 * pages where the system has them: products stream through megabytes of panels. free() releases it; NULL if none. */
void *ni_host_reserve(size_t *bytes);

/* Memory of the host, for every backend that computes there. */
#define NI_OP_MEMORY(type, name, arguments) type ni_host_##name arguments;
#define NI_OP_TYPED(type, name, arguments)
#define NI_OP_PLAIN(type, name, arguments)
#include "backend/ops.inc"

#endif
