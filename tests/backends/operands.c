/* operands.c: see operands.h. */
#include "operands.h"

nb_quantizer unrotated(const nb_quantizer *q) {
    nb_quantizer straight = *q;
    straight.hadamard_size = 0;
    if (straight.rule == NB_RULE_EDEN) /* exists only rotated */
        straight.rule = NB_RULE_ABSMAX;
    return straight;
}

int32_t parts_of(const trial *t) {
    return t->few ? 2 : PARTS;
}

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

nb_operand some_of_identity(trial *t, const nb_quantizer *q, int64_t rows, int64_t n, ni_side side) {
    nb_quantizer format = unrotated(q);
    format.round = NB_ROUND_EVEN;
    if (format.scale_type == NB_SCALE_E8M0) /* 3/4 of a one is none, and QuEST clips it */
        format.rule = NB_RULE_FLOOR;
    float *one = poisoned(sizeof *one * (size_t)(rows * n));
    for (int64_t i = 0; i < rows * n; i++)
        one[i] = i % n == n - rows + i / n;
    const nb_mat numbers = nb_mat_of(upload(t, one, sizeof *one * (size_t)(rows * n)), NB_F32, rows, n);
    return made(t, &format, &numbers, side, q);
}

nb_operand identity(trial *t, const nb_quantizer *q, int64_t n, ni_side side) {
    return some_of_identity(t, q, n, n, side);
}

const int32_t *picked(trial *t, int count) {
    int32_t *columns = poisoned(sizeof *columns * (size_t)count);
    for (int i = 0; i < count; i++)
        columns[i] = 3 * i + i % 2;
    return upload(t, columns, sizeof *columns * (size_t)count);
}

const int32_t *shuffled(trial *t, int64_t count) {
    int32_t *columns = poisoned(sizeof *columns * (size_t)count);
    for (int64_t c = 0; c < count; c++)
        columns[c] = (int32_t)((11 * c + 3) % count);
    return upload(t, columns, sizeof *columns * (size_t)count);
}

nb_mat data_mat(trial *t, data_kind kind, nb_dtype type, int64_t rows, int64_t cols) {
    const nb_mat host = data_matrix(kind, type, rows, cols, cols);
    return input_mat(t, &host);
}

const int32_t *two_lists(trial *t, int64_t first, int64_t apart, int64_t second) {
    const int64_t count = first + second;
    int32_t *columns = poisoned(sizeof *columns * (size_t)(apart + second));
    for (int64_t c = 0; c < count; c++)
        columns[c < first ? c : apart + c - first] = (int32_t)((11 * c + 3) % count);
    return upload(t, columns, sizeof *columns * (size_t)(apart + second));
}

nb_mat normal_mat(trial *t, nb_dtype type, uint32_t stream, int64_t rows, int64_t cols) {
    return nb_mat_of(input(t, type, normals_in(NB_BF16, stream, rows * cols, 0, 1), rows * cols), type, rows, cols);
}

uint32_t largest_bits(data_kind kind, int64_t rows, int64_t cols, int64_t stride) {
    const nb_mat host = data_matrix(kind, NB_BF16, rows, cols, stride);
    uint32_t bits = 0;
    for (int64_t i = 0; i < rows * cols; i++) {
        const uint32_t its = ni_f32_magnitude(ni_bf16_value(((uint16_t *)host.data)[i / cols * stride + i % cols]));
        bits = its > bits ? its : bits;
    }
    return bits;
}

int32_t differing(trial *t, const void *a, const void *b, size_t bytes) {
    uint8_t *x = poisoned(bytes), *y = poisoned(bytes);
    int32_t count = 0;
    t->be->ops->download(t->be, x, a, bytes);
    t->be->ops->download(t->be, y, b, bytes);
    for (size_t i = 0; i < bytes; i++)
        count += x[i] != y[i];
    return count;
}
