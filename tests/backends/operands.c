/* operands.c: see operands.h. */
#include "operands.h"

#include <math.h>

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

nb_operand picker(trial *t, const nb_quantizer *q, int64_t n, int64_t cols, ni_side side, const nb_quantizer *other) {
    const int64_t apart = cols / n;
    float *one = poisoned(sizeof *one * (size_t)(n * cols));
    for (int64_t i = 0; i < n * cols; i++)
        one[i] = i % cols == i / cols * apart + i / cols % apart;
    const nb_mat numbers = nb_mat_of(upload(t, one, sizeof *one * (size_t)(n * cols)), NB_F32, n, cols);
    return made(t, q, &numbers, side, other);
}

nb_mat wild_columns(trial *t, nb_dtype type, int64_t rows, int64_t cols, int64_t stride, bool compared) {
    static const int powers[] = {100, -90, 0, -130};
    const nb_mat m = data_matrix(DATA_NORMAL, NB_F32, rows, cols, stride);
    float *x = m.data;
    uint16_t *narrow = poisoned(sizeof *narrow * (size_t)(rows * stride));
    for (int64_t i = 0; i < rows * stride; i++) {
        const int64_t r = i / stride, c = i % stride;
        if (c < cols)
            x[i] = c == 5 && r == 40   ? INFINITY
                   : c == 70 && r == 9 ? NAN
                                       : (float)ldexp(x[i], powers[c % (compared ? 3 : 4)]);
        narrow[i] = ni_bf16_even(x[i]);
    }
    nb_mat out = m;
    out.dtype = type;
    out.data = upload(t, type == NB_F32 ? (void *)x : narrow, (size_t)(rows * stride) * nb_dtype_size(type));
    out.amax = NULL;
    return out;
}

void keep_columns(trial *t, const char *what, const nb_quantizer *left, const nb_operand *right) {
    const nb_operand ones = picker(t, left, right->cols, right->cols, NI_LEFT, &right->quantizer);
    const nb_mat c = nb_mat_of(output(t, what, NB_F32, right->cols * right->rows), NB_F32, right->cols, right->rows);
    EXPECT_OK(t, t->be->ops->multiply(t->be, &c, &(ni_term){.a = &ones, .b = right}, 1, false, &err));
}

void expect_same_memory(trial *t, const char *what, const nb_operand *a, const nb_operand *b) {
    const size_t bytes = t->be->ops->operand_bytes(t->be, a);
    const int32_t unlike = differing(t, a->memory, b->memory, bytes) + (a->form != b->form);
    record(t, what, &unlike, NB_I32, 1, true);
}
