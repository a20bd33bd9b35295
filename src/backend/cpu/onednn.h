/* onednn.h: oneDNN 2 (Debian 12) and 3 (Debian 13, Ubuntu 24.04) by the same calls.
 *
 * In version 3 descriptions of memory are objects behind pointers, and an operation has no description but its
 * primitive's. Here both speak as version 3.
 */
#ifndef NI_BACKEND_CPU_ONEDNN_H
#define NI_BACKEND_CPU_ONEDNN_H

#include <oneapi/dnnl/dnnl.h>
#include <stdbool.h>

#if DNNL_VERSION_MAJOR < 3
typedef dnnl_memory_desc_t ni_onednn_desc;
typedef const dnnl_memory_desc_t *ni_onednn_const_desc;

static inline void ni_onednn_desc_free(ni_onednn_desc *md) {
    (void)md;
}

static inline ni_onednn_const_desc ni_onednn_desc_of(const ni_onednn_desc *md) {
    return md;
}

static inline bool ni_onednn_desc_copy(ni_onednn_desc *to, ni_onednn_const_desc from) {
    *to = *from;
    return true;
}

static inline dnnl_status_t ni_onednn_desc_make(ni_onednn_desc *md, const dnnl_dims_t dims, dnnl_data_type_t type,
                                                const dnnl_dims_t strides) {
    return dnnl_memory_desc_init_by_strides(md, 2, dims, type, strides);
}

static inline dnnl_status_t ni_onednn_append_sum(dnnl_post_ops_t post) {
    return dnnl_post_ops_append_sum(post, 1.0f);
}

static inline dnnl_status_t ni_onednn_matmul_desc(dnnl_primitive_desc_t *pd, dnnl_engine_t engine,
                                                  const ni_onednn_desc *a, const ni_onednn_desc *b,
                                                  const ni_onednn_desc *c, dnnl_primitive_attr_t attr) {
    dnnl_matmul_desc_t matmul;
    dnnl_status_t status = dnnl_matmul_desc_init(&matmul, a, b, NULL, c);
    return status == dnnl_success ? dnnl_primitive_desc_create(pd, &matmul, attr, engine, NULL) : status;
}
#else
typedef dnnl_memory_desc_t ni_onednn_desc;
typedef const_dnnl_memory_desc_t ni_onednn_const_desc;

static inline void ni_onednn_desc_free(ni_onednn_desc *md) {
    if (*md)
        dnnl_memory_desc_destroy(*md);
}

static inline ni_onednn_const_desc ni_onednn_desc_of(const ni_onednn_desc *md) {
    return *md;
}

static inline bool ni_onednn_desc_copy(ni_onednn_desc *to, ni_onednn_const_desc from) {
    return dnnl_memory_desc_clone(to, from) == dnnl_success;
}

/* Version 3.6 takes a column of one, or a row, whose elements lie apart for a vector without gaps: it reads, and
 * writes, what lies between. With a stride of its own on the side of one it takes it for a matrix. */
static inline dnnl_status_t ni_onednn_desc_make(ni_onednn_desc *md, const dnnl_dims_t dims, dnnl_data_type_t type,
                                                const dnnl_dims_t strides) {
    dnnl_dims_t apart = {strides[0], strides[1]};
    for (int i = 0; i < 2; i++)
        if (dims[i] == 1 && strides[1 - i] != 1)
            apart[i] = dims[1 - i] * strides[1 - i];
    return dnnl_memory_desc_create_with_strides(md, 2, dims, type, apart);
}

static inline dnnl_status_t ni_onednn_append_sum(dnnl_post_ops_t post) {
    return dnnl_post_ops_append_sum(post, 1.0f, 0, dnnl_data_type_undef);
}

static inline dnnl_status_t ni_onednn_matmul_desc(dnnl_primitive_desc_t *pd, dnnl_engine_t engine,
                                                  const ni_onednn_desc *a, const ni_onednn_desc *b,
                                                  const ni_onednn_desc *c, dnnl_primitive_attr_t attr) {
    return dnnl_matmul_primitive_desc_create(pd, engine, *a, *b, NULL, *c, attr);
}
#endif

#endif
