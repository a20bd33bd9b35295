/* ref64.c: the backend of gradient checks: every formula of the references in double, on one thread. */
#include "backend/backend.h"
#include "backend/ref/gemm.h"
#include "backend/ref/measure.h"
#include "backend/ref/ref.h"

nb_status nb_backend_ref64(nb_backend **out, nb_error *err) {
    nb_backend_object *object;
    NB_TRY(nb_backend_create("ref64", NB_F64, NB_F64, NULL, NULL, &object, err));
    nb_backend_ops *ops = &object->ops;
    ops->alloc = nb_host_alloc;
    ops->release = nb_host_release;
    ops->upload = nb_host_copy;
    ops->download = nb_host_copy;
    ops->copy = nb_host_copy;
    ops->fill_zero = nb_host_fill_zero;
    ops->synchronize = nb_host_synchronize;
    ops->cast = nb_ref_cast;
    ops->scale = nb_ref_scale;
    ops->gemm = nb_ref_gemm;
    ops->gemm_kernel = nb_ref_gemm_kernel;
    ops->gemm_kernel = nb_ref_gemm_kernel;
#define ROW(name) ops->name = nb_ref_f64_##name;
    NB_REF_OPS(ROW)
#undef ROW
    ops->measure = nb_ref_measure;
    ops->measure_attention = nb_ref_measure_attention;
    *out = &object->backend;
    return NB_OK;
}
