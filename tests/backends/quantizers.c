/* quantizers.c: which quantizers a case goes through: all of the grammar, or (--few) one of each kind that kernels tell
 * apart by what they read and write, for tools that make everything slow.
 */
#include "trial.h"

static bool is_narrow(const nb_quantizer *q) {
    return q->element == NB_ELEMENT_E2M1 || q->element == NB_ELEMENT_INT4;
}

static int kind_of_search(const nb_quantizer *q) {
    return q->four_six ? 1 : q->rule == NB_RULE_EDEN ? 2 : q->rule == NB_RULE_QUEST ? 3 : 0;
}

/* Codes under one scale a row, a column or a tensor are made by kernels of their element. */
static bool are_elements_alike(const nb_quantizer *a, const nb_quantizer *b) {
    return a->scale_type == NB_SCALE_F32 && a->hadamard_size == 0 ? a->element == b->element
                                                                  : is_narrow(a) == is_narrow(b);
}

/* Where a block's scale is made from: the tensor's maximum, nothing, the maximum of a 1x128. */
static int kind_of_outer(const nb_quantizer *q) {
    return q->outer == NB_OUTER_TENSOR ? 0 : q->outer > NB_OUTER_UNIT ? 2 : 1;
}

/* Random bits of a number. */
static int32_t bits_drawn(const nb_quantizer *q) {
    return q->round == NB_ROUND_STOCHASTIC ? q->sr_bits : 0;
}

/* 0 where it is not rotated; sixteens under the fixed signs have kernels of their own. */
static int kind_of_turn(const nb_quantizer *q) {
    return q->hadamard_size == 0                                                                             ? 0
           : q->hadamard_size > 16                                                                           ? 1
           : q->hadamard_signs == NB_SIGNS_FIXED && q->hadamard_round_bf16 && q->scale_type == NB_SCALE_E4M3 ? 2
                                                                                                             : 3;
}

static bool are_alike(const nb_quantizer *a, const nb_quantizer *b) {
    return are_elements_alike(a, b) && a->scale_type == b->scale_type && a->block_rows == b->block_rows &&
           a->block_cols == b->block_cols && kind_of_outer(a) == kind_of_outer(b) &&
           kind_of_search(a) == kind_of_search(b) && bits_drawn(a) == bits_drawn(b) &&
           kind_of_turn(a) == kind_of_turn(b);
}

static quantizer_list *chosen(const trial *t, quantizer_list *list) {
    int32_t kept = 0;
    for (int32_t i = 0; t->few && i < list->count; i++) {
        bool known = false;
        for (int32_t k = 0; k < kept && !known; k++)
            known = are_alike(&list->q[k], &list->q[i]);
        if (!known)
            list->q[kept++] = list->q[i];
    }
    list->count = t->few ? kept : list->count;
    return list;
}

const quantizer_list *formats_of(const trial *t) {
    return chosen(t, all_formats());
}

const quantizer_list *quantizers_of(const trial *t) {
    return chosen(t, all_quantizers());
}
