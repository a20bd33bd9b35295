/* census.c: what a linear layer says about each of its GEMMs: formats, kernel, reason. */
#include "backend/table.h"
#include "linear/linear.h"

#include <stdio.h>
#include <string.h>

static const char *element_name(const nb_quantizer *q) {
    bool block_e4m3 = q->element == NB_ELEMENT_E2M1 && q->scale_type == NB_SCALE_E4M3;
    if (block_e4m3)
        return q->outer == NB_OUTER_TENSOR ? "nvfp4"
               : q->outer == NB_OUTER_UNIT ? "nvfp4-unit"
               : q->outer == NB_OUTER_NONE ? "e2m1/e4m3"
                                           : "nvfp4-outer128";
    if (q->scale_type == NB_SCALE_E8M0)
        return q->element == NB_ELEMENT_E2M1 ? "mxfp4" : "mxfp8";
    switch (q->element) {
    case NB_ELEMENT_BF16:
        return "bf16";
    case NB_ELEMENT_E2M1:
        return "e2m1";
    case NB_ELEMENT_INT4:
        return "int4";
    case NB_ELEMENT_E4M3:
        return "e4m3";
    case NB_ELEMENT_E5M2:
        return "e5m2";
    case NB_ELEMENT_S1P2:
        return "hifloat4";
    case NB_ELEMENT_COUNT:
        break;
    }
    return "?";
}

/* "nvfp4 1x16 sr rht16", "e2m1 row", "bf16". */
static void describe(const nb_quantizer *q, char *text, size_t size) {
    char block[32];
    if (nb_quantizer_is_bf16(q)) {
        snprintf(text, size, "bf16");
        return;
    }
    if (q->scale_type == NB_SCALE_NONE)
        snprintf(block, sizeof block, "folded"); /* its scales are in the other operand */
    else if (q->block_cols == NB_BLOCK_ALL)
        snprintf(block, sizeof block, q->block_rows == NB_BLOCK_ALL ? "tensor" : "row");
    else if (q->block_rows == NB_BLOCK_ALL)
        snprintf(block, sizeof block, "column");
    else
        snprintf(block, sizeof block, "%dx%d", q->block_rows, q->block_cols);
    int used = snprintf(text, size, "%s %s%s%s", element_name(q), block, q->four_six ? " 4/6" : "",
                        q->round == NB_ROUND_STOCHASTIC ? " sr" : "");
    if (q->hadamard_size && used > 0 && (size_t)used < size)
        snprintf(text + used, size - (size_t)used, " rht%d", q->hadamard_size);
}

/* Decoding E2M1 x E4M3 or a single scale leaves few significant bits; with an FP32 scale that varies it does not. */
static const char *decoded_kernel(const nb_quantizer *a, const nb_quantizer *b) {
    if (nb_quantizer_is_bf16(a) && nb_quantizer_is_bf16(b))
        return "bf16 gemm";
    return "bf16 gemm, operands decoded (bf16-rounded)";
}

static void mechanism_words(const ni_linear_group *group, const ni_linear *layer, ni_gemm gemm, char *text,
                            size_t size) {
    for (int32_t i = 0; i < group->mechanism_count; i++) {
        const ni_attached_mechanism *m = &group->mechanisms[i];
        char words[64] = "";
        if (!(layer->mechanisms >> i & 1) || !m->table->text)
            continue;
        m->table->text(m->state, layer, gemm, words, sizeof words);
        size_t used = strlen(text);
        if (words[0] && used < size)
            snprintf(text + used, size - used, ", %s", words);
    }
}

void ni_linear_census(const ni_linear_group *group, const ni_linear *layer, ni_gemm gemm, char *formats, size_t size,
                      const char **kernel, const char **reason) {
    const nb_role left = (nb_role)(2 * gemm), right = (nb_role)(2 * gemm + 1);
    nb_quantizer a = ni_role_quantizer(&layer->plan, left), b = ni_role_quantizer(&layer->plan, right);
    char first[48], second[48];
    describe(&a, first, sizeof first);
    describe(&b, second, sizeof second);
    snprintf(formats, size, "%s x %s", first, second);
    *kernel = layer->packed[gemm] ? group->be->ops->product_kernel(group->be, &a, &b) : decoded_kernel(&a, &b);
    *reason = layer->plan.quantized ? "recipe" : layer->plan.reason ? layer->plan.reason : "recipe is bf16";
    mechanism_words(group, layer, gemm, formats, size);
}
