/* join.c: what a pass tells one lens, told to two. */
#include "lens/join.h"

/* Calls `hook` of each member that has it. */
#define TELL(hook, ...)                                                                                                \
    const ni_lens_pair *pair = context;                                                                                \
    for (int i = 0; i < 2; i++)                                                                                        \
        if (pair->members[i]->hook)                                                                                    \
    pair->members[i]->hook(pair->members[i]->context, __VA_ARGS__)

static void on_operand(void *context, const nb_lens_operand *seen) {
    TELL(operand, seen);
}

static void on_attention(void *context, nb_backend *be, const char *module, const nb_attention *attention,
                         const void *q, const void *k) {
    TELL(attention, be, module, attention, q, k);
}

static void on_approximation(void *context, nb_backend *be, const char *module, const char *mechanism,
                             const nb_mat *exact, const nb_mat *approximate) {
    TELL(approximation, be, module, mechanism, exact, approximate);
}

static void on_scalar(void *context, const char *module, const char *name, double value) {
    TELL(scalar, module, name, value);
}

static void on_gate(void *context, nb_backend *be, const char *module, const nb_mat *pre_activation, const void *bias) {
    TELL(gate, be, module, pre_activation, bias);
}

static void on_output(void *context, nb_backend *be, const char *module, const nb_mat *y) {
    TELL(output, be, module, y);
}

const nb_lens *ni_lens_join(ni_lens_pair *pair, const nb_lens *first, const nb_lens *second) {
    if (!first || !second)
        return first ? first : second;
    /* A hook that neither has stays NULL: nothing is prepared for it. */
    *pair = (ni_lens_pair){
        .lens = {.context = pair,
                 .counts = first->counts || second->counts,
                 .operand = first->operand || second->operand ? on_operand : NULL,
                 .attention = first->attention || second->attention ? on_attention : NULL,
                 .approximation = first->approximation || second->approximation ? on_approximation : NULL,
                 .scalar = first->scalar || second->scalar ? on_scalar : NULL,
                 .gate = first->gate || second->gate ? on_gate : NULL,
                 .output = first->output || second->output ? on_output : NULL},
        .members = {first, second}};
    return &pair->lens;
}
