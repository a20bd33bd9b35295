/* idle.c: every operation of the table as one that does nothing. */
#include "backend/idle.h"

#include <string.h>

#pragma GCC diagnostic ignored "-Wunused-parameter"

/* The return of an operation of this type: nothing, or a zero of it. */
#define NOTHING_void (void
#define NOTHING_const return (const
#define NOTHING_char return (char
#define NOTHING_double return (double
#define NOTHING_size_t return (size_t
#define NOTHING_bool return (bool
#define NOTHING_int64_t return (int64_t
#define NOTHING_nb_status return (nb_status

#define NI_OP_MEMORY(type, name, arguments)
#define NI_OP_TYPED(type, name, arguments)                                                                             \
    static type idle_##name arguments {                                                                                \
        NOTHING_##type)0;                                                                                              \
    }
#define NI_OP_PLAIN(type, name, arguments) NI_OP_TYPED(type, name, arguments)
#include "backend/ops.inc"

static void *idle_alloc(nb_backend *be, size_t bytes, const char *what) {
    return NULL;
}

static void idle_release(nb_backend *be, void *memory) {
}

static void idle_upload(nb_backend *be, void *to, const void *from_host, size_t bytes) {
}

static void idle_download(nb_backend *be, void *to_host, const void *from, size_t bytes) {
    memset(to_host, 0, bytes);
}

static void idle_copy(nb_backend *be, void *to, const void *from, size_t bytes) {
}

static void idle_fill_zero(nb_backend *be, void *to, size_t bytes) {
}

static nb_status idle_synchronize(nb_backend *be, nb_error *err) {
    return NB_OK;
}

static nb_status idle_multiply_many(nb_backend *be, const ni_sum *products, int32_t count, nb_error *err) {
    return NB_OK;
}

void ni_backend_idle(ni_idle_backend *idle, const nb_backend *be) {
    ni_backend_ops *ops = &idle->ops;
    idle->backend = *be;
    idle->backend.ops = ops;
#define NI_OP_MEMORY(type, name, arguments) ops->name = idle_##name;
#define NI_OP_TYPED(type, name, arguments) ops->name = be->ops->name ? idle_##name : NULL;
#define NI_OP_PLAIN(type, name, arguments) ops->name = be->ops->name ? idle_##name : NULL;
#include "backend/ops.inc"
    if (be->multiply_many)
        idle->backend.multiply_many = idle_multiply_many;
    ops->operand_bytes = be->ops->operand_bytes;
    ops->product_kernel = be->ops->product_kernel;
    ops->gemm_kernel = be->ops->gemm_kernel;
}
