/* ref64.c: the backend of gradient checks: every formula of the references in double, on one thread. */
#include "backend/backend.h"
#include "backend/ref/gemm.h"
#include "backend/ref/measure.h"
#include "backend/ref/ref.h"
#include "backend/table.h"

static const char *no_codes(nb_backend *be, const nb_quantizer *a, const nb_quantizer *b) {
    (void)be, (void)a, (void)b;
    return NULL;
}

nb_status nb_backend_ref64(nb_backend **out, nb_error *err) {
    nb_backend_object *object;
    NB_TRY(nb_backend_create("ref64", NB_F64, NB_F64, NULL, NULL, &object, err));
    nb_backend_ops *ops = &object->ops;
#define NB_OP_MEMORY(type, name, arguments) ops->name = nb_host_##name;
#define NB_OP_TYPED(type, name, arguments) ops->name = nb_ref_f64_##name;
#define NB_OP_PLAIN(type, name, arguments)
#include "backend/ops.inc"
    ops->cast = nb_ref_cast;
    ops->scale = nb_ref_scale;
    ops->gemm = nb_ref_gemm;
    ops->operand_bytes = nb_ref_operand_bytes;
    ops->make_operands = nb_ref_make_operands; /* plain numbers; no codes: `canonical` stays NULL */
    ops->decode = nb_ref_decode;
    ops->multiply = nb_ref_multiply;
    ops->product_kernel = no_codes;
    ops->gemm_kernel = nb_ref_gemm_kernel;
    ops->gemm_sums = nb_ref_gemm_sums;
    ops->gemm_take = nb_ref_gemm_take;
    ops->measure = nb_ref_measure;
    ops->measure_attention = nb_ref_measure_attention;
    ops->measure_gate = nb_ref_measure_gate;
    ops->measure_pair = nb_ref_measure_pair;
    ops->measure_alignment = nb_ref_measure_alignment;
    *out = &object->backend;
    return NB_OK;
}
