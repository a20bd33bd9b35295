/* backend.c: what all backends share: the object, and host memory. */
#include "backend/backend.h"
#include "backend/table.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

nb_status ni_backend_create(const char *name, nb_dtype act, nb_dtype real, void *state, void (*destroy)(nb_backend *be),
                            ni_backend_object **out, nb_error *err) {
    ni_backend_object *object = calloc(1, sizeof *object);
    if (!object)
        return nb_fail(err, NB_NO_MEMORY, "backend %s: no memory for its table of operations", name);
    object->backend.ops = &object->ops;
    object->backend.name = name;
    object->backend.act = act;
    object->backend.real = real;
    object->backend.logit_elements = NI_LOGITS_CPU;
    object->backend.state = state;
    object->destroy = destroy;
    *out = object;
    return NB_OK;
}

void nb_backend_free(nb_backend *be) {
    if (!be)
        return;
    ni_backend_object *object = (ni_backend_object *)be;
    if (object->destroy)
        object->destroy(be);
    free(object);
}

nb_status ni_backend_take(nb_backend *be, size_t bytes, const char *what, void **memory, nb_error *err) {
    *memory = be->ops->alloc(be, bytes, what);
    if (*memory)
        return NB_OK;
    return nb_fail(err, NB_NO_MEMORY, "no memory for %s: %.1f MiB", what, (double)bytes / 1048576.0);
}

/* ---- the table's doors for programs outside ---- */

nb_status nb_backend_use_stream(nb_backend *be, void *stream, nb_error *err) {
    if (!be->use_stream)
        return nb_fail(err, NB_UNSUPPORTED, "backend %s has no streams; expected cuda", be->name);
    NB_TRY(be->use_stream(be, stream, err));
    be->on_their_stream = true;
    return NB_OK;
}

nb_status ni_backend_finish(nb_backend *be, nb_error *err) {
    return be->on_their_stream ? NB_OK : be->ops->synchronize(be, err);
}

void *nb_backend_alloc(nb_backend *be, size_t bytes) {
    return be->ops->alloc(be, bytes, "arrays of the program");
}

void nb_backend_release(nb_backend *be, void *memory) {
    if (memory)
        be->ops->release(be, memory);
}

/* These wait and tell what they find. Who looks on inside of a pass downloads, and leaves it to the pass's end. */
nb_status nb_backend_read(nb_backend *be, void *to_host, const void *from, size_t bytes, nb_error *err) {
    be->ops->download(be, to_host, from, bytes);
    return be->ops->synchronize(be, err);
}

nb_status nb_backend_write(nb_backend *be, void *to, const void *from_host, size_t bytes, nb_error *err) {
    be->ops->upload(be, to, from_host, bytes);
    return be->ops->synchronize(be, err);
}

/* ---- host memory ---- */

void *ni_host_reserve(size_t *bytes) {
    const size_t huge = (size_t)2 << 20;
    size_t alignment = *bytes >= 2 * huge ? huge : 64;
    if (*bytes > SIZE_MAX - 64)
        return NULL;
    size_t rounded = *bytes ? (*bytes + 63) / 64 * 64 : 64;
    void *memory = NULL;
    if (posix_memalign(&memory, alignment, rounded) != 0)
        return NULL;
#ifdef MADV_HUGEPAGE
    if (alignment == huge) /* whole pages only, so that no memory is held beyond what was asked for */
        madvise(memory, rounded / huge * huge, MADV_HUGEPAGE); /* advice: nothing depends on it */
#endif
    *bytes = rounded;
    return memory;
}

void *ni_host_alloc(nb_backend *be, size_t bytes, const char *what) {
    (void)be, (void)what;
    void *memory = ni_host_reserve(&bytes);
    if (memory)
        memset(memory, 0, bytes);
    return memory;
}

void ni_host_release(nb_backend *be, void *memory) {
    (void)be;
    free(memory);
}

void ni_host_copy(nb_backend *be, void *to, const void *from, size_t bytes) {
    (void)be;
    if (bytes)
        memmove(to, from, bytes);
}

void ni_host_upload(nb_backend *be, void *to, const void *from_host, size_t bytes) {
    ni_host_copy(be, to, from_host, bytes);
}

void ni_host_download(nb_backend *be, void *to_host, const void *from, size_t bytes) {
    ni_host_copy(be, to_host, from, bytes);
}

void ni_host_fill_zero(nb_backend *be, void *to, size_t bytes) {
    (void)be;
    if (bytes)
        memset(to, 0, bytes);
}

nb_status ni_host_synchronize(nb_backend *be, nb_error *err) {
    (void)be, (void)err; /* every operation is done when it returns */
    return NB_OK;
}
