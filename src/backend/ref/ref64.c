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

nb_status ni_backend_ref64(nb_backend **out, nb_error *err) {
    ni_backend_object *object;
    NB_TRY(ni_backend_create("ref64", NB_F64, NB_F64, NULL, NULL, &object, err));
    ni_backend_ops *ops = &object->ops;
#define NI_OP_MEMORY(type, name, arguments) ops->name = ni_host_##name;
#define NI_OP_TYPED(type, name, arguments) ops->name = ni_ref_f64_##name;
#define NI_OP_PLAIN(type, name, arguments)
#include "backend/ops.inc"
    ops->cast = ni_ref_cast;
    ops->scale = ni_ref_scale;
    ops->gemm = ni_ref_gemm;
    ops->operand_bytes = ni_ref_operand_bytes;
    ops->make_operands = ni_ref_make_operands; /* plain numbers; no codes: `canonical` stays NULL */
    ops->make_produced = ni_ref_make_produced;
    ops->decode = ni_ref_decode;
    ops->multiply = ni_ref_multiply;
    ops->product_kernel = no_codes;
    ops->gemm_kernel = ni_ref_gemm_kernel;
    ops->gemm_sums = ni_ref_gemm_sums;
    ops->gemm_take = ni_ref_gemm_take;
    ops->gemm_choices = ni_ref_gemm_choices;
    ops->gemm_choose = ni_ref_gemm_choose;
    ops->permit = ni_ref_permit;
    ops->attention_kernel = ni_ref_attention_kernel;
    ops->gla_kernel = ni_ref_gla_kernel;
    ops->gla_left_bytes = ni_ref_gla_left_bytes;
    ops->measure = ni_ref_measure;
    ops->summarize_crests = ni_ref_summarize_crests;
    ops->count_scales = ni_ref_count_scales;
    ops->measure_attention = ni_ref_measure_attention;
    ops->measure_gate = ni_ref_measure_gate;
    ops->measure_pair = ni_ref_measure_pair;
    ops->measure_alignment = ni_ref_measure_alignment;
    *out = &object->backend;
    return NB_OK;
}
