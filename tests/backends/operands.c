/* operands.c: see operands.h. */
#include "operands.h"

nb_operand placed(trial *t, const nb_quantizer *q, int64_t rows, int64_t cols, ni_side side,
                  const nb_quantizer *other) {
    nb_operand o = {.quantizer = *q, .other = *other, .rows = rows, .cols = cols, .side = side, .reread = true};
    o.memory = scratch(t, t->be->ops->operand_bytes(t->be, &o));
    return o;
}

void make(trial *t, const ni_source *source, const ni_making *makings, int32_t count) {
    EXPECT_OK(t, t->be->ops->make_operands(t->be, source, makings, count, &err));
}

nb_operand made(trial *t, const nb_quantizer *q, const nb_mat *from, ni_side side, const nb_quantizer *other) {
    const nb_noise noise = noise_at(t);
    nb_operand o = placed(t, q, from->rows, from->cols, side, other);
    make(t, &(ni_source){.numbers = from}, &(ni_making){.out = &o, .noise = &noise}, 1);
    return o;
}

void keep_operand(trial *t, const char *what, const nb_operand *o) {
    nb_qtensor codes = new_codes(t, &o->quantizer, o->rows, o->cols);
    EXPECT_OK(t, t->be->ops->canonical(t->be, &codes, o, &err));
    keep_codes(t, what, &codes);
}

nb_mat uploaded(trial *t, data_kind kind, nb_dtype type, int64_t rows, int64_t cols, int64_t stride) {
    const nb_mat host = data_matrix(kind, type, rows, cols, stride);
    nb_mat m = host;
    m.data = upload(t, host.data, (size_t)(rows * stride) * nb_dtype_size(type));
    return m;
}
