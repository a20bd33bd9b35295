/* join.c: what a pass tells one lens, told to two. */
#include "lens/join.h"

/* Calls `hook` of each member that has it. */
#define TELL(hook, ...)                                                                                                \
    const ni_lens_both *pair = context;                                                                                \
    for (int i = 0; i < 2; i++)                                                                                        \
        if (pair->members[i]->hook)                                                                                    \
    pair->members[i]->hook(pair->members[i]->context, __VA_ARGS__)

static bool wants(const nb_lens *lens, nb_role role) {
    return lens->operand && (!lens->roles || lens->roles >> role & 1);
}

static void on_operand(void *context, const nb_lens_operand *seen) {
    const ni_lens_both *pair = context;
    for (int i = 0; i < 2; i++)
        if (wants(pair->members[i], seen->role))
            pair->members[i]->operand(pair->members[i]->context, seen);
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

/* What either wants; all where one that looks does not choose. */
static uint32_t roles_of(const nb_lens *a, const nb_lens *b) {
    const bool all = (a->operand && !a->roles) || (b->operand && !b->roles);
    return all ? 0 : (a->operand ? a->roles : 0) | (b->operand ? b->roles : 0);
}

/* A hook that neither has stays NULL: nothing is prepared for it. */
static void join(ni_lens_both *pair, const nb_lens *first, const nb_lens *second) {
    *pair = (ni_lens_both){
        .lens = {.context = pair,
                 .counts = first->counts || second->counts,
                 .operand = first->operand || second->operand ? on_operand : NULL,
                 .attention = first->attention || second->attention ? on_attention : NULL,
                 .approximation = first->approximation || second->approximation ? on_approximation : NULL,
                 .scalar = first->scalar || second->scalar ? on_scalar : NULL,
                 .gate = first->gate || second->gate ? on_gate : NULL,
                 .output = first->output || second->output ? on_output : NULL,
                 .roles = roles_of(first, second)},
        .members = {first, second}};
}

static const nb_lens *of_block(void *context, int32_t index) {
    ni_lens_pair *pair = context; /* of which context is the first member */
    const nb_lens *of[2];
    for (int i = 0; i < 2; i++) {
        const nb_lens *member = pair->all.members[i];
        of[i] = member->block ? member->block(member->context, index) : member;
    }
    join(&pair->block, of[0], of[1]);
    return &pair->block.lens;
}

const nb_lens *ni_lens_join(ni_lens_pair *pair, const nb_lens *first, const nb_lens *second) {
    if (!first || !second)
        return first ? first : second;
    join(&pair->all, first, second);
    if (first->block || second->block)
        pair->all.lens.block = of_block;
    return &pair->all.lens;
}
