/* multiply.c: sums of products, rounded once. A single product goes straight into C; a sum into BF16 is one contraction
 * where that can be (joined.h), else it goes through one FP32 matrix, in the order of its terms.
 */
#include "backend/cuda/multiply.h"
#include "backend/cuda/alphas.h"
#include "backend/cuda/finish.h"
#include "backend/cuda/joined.h"
#include "backend/cuda/kernels.h"
#include "backend/ref/gemm_q.h"
#include "backend/ref/operand_parts.h"
#include "format/vector_scales.h"

static void *stream_of(nb_backend *be) {
    return ni_cuda_of(be)->stream;
}

static ni_cuda_coded coded_of(const nb_operand *o) {
    return (ni_cuda_coded){ni_codes_of(o), o->form & NI_CUDA_BYTES    ? (const uint8_t *)ni_cuda_values_of(o)
                                           : o->form & NI_CUDA_BESIDE ? ni_cuda_bytes_beside(o)
                                                                      : NULL};
}

/* ---- one product ---- */

static ni_cuda_finish finish_of(const nb_mat *c, const nb_mat *sum, const ni_cuda_side *x, const ni_cuda_side *y) {
    return (ni_cuda_finish){.out = c->data,
                            .out_stride = c->stride,
                            .sum = sum->data,
                            .rows_count = c->rows,
                            .cols = c->cols,
                            .rows = x->outer,
                            .columns = y->outer};
}

/* Two words' product. Factors of plain numbers are another's, who may change them at any time. */
static nb_status alpha_of(nb_backend *be, const nb_operand *a, const nb_operand *b, const ni_cuda_side *x,
                          const ni_cuda_side *y, const float **alpha, nb_error *err) {
    float *const word = ni_cuda_of(be)->words + NI_CUDA_ALPHA;
    if (!ni_is_plain(a) && !ni_is_plain(b))
        return ni_cuda_alpha(be, x->outer.at, y->outer.at, alpha, err);
    *alpha = word;
    return ni_cuda_status(be, ni_cuda_launch_multiply_words(stream_of(be), word, x->outer.at, y->outer.at),
                          "multiply: alpha", err);
}

/* A width that is no whole vector costs the library its fast kernels: where the values lie across, in rows of whole
 * vectors, it multiplies those, whatever stands in what fills the last one up. */
static void multiply_eights(ni_cuda_product *p, const nb_operand *b) {
    const int64_t wide = (b->rows + 7) / 8 * 8;
    if (!p->trans_b && !ni_is_plain(b) && !(b->form & NI_CUDA_BORROWED) && p->b.stride >= wide)
        p->b.cols = p->c.cols = wide;
}

/* C (+)= A B^T. Scales of rows cannot go into the library's alpha: then the bare sum is scaled afterwards. `open`: behind
 * the columns of C there is room for whole eights of them, which nobody reads. */
static nb_status product_in(nb_backend *be, ni_cuda_room scratch, const nb_mat *c, const nb_operand *a,
                            const nb_operand *b, bool accumulate, bool open, nb_error *err) {
    ni_cuda *cuda = ni_cuda_of(be);
    ni_cuda_side x, y;
    size_t bytes;
    const ni_units units = ni_cuda_term_units(be, a, b, &bytes);
    if (units == NI_UNITS_FP8_POW2)
        return ni_cuda_multiply_pow2(be, c, a, b, accumulate, err);
    if (units != NI_UNITS_BF16) {
        const ni_cuda_coded first = coded_of(a), second = coded_of(b);
        void *memory = ni_cuda_take(&scratch, bytes);
        if (bytes && !memory)
            return nb_fail(err, NB_INTERNAL, "cuda: multiply took more scratch than it asked for");
        return ni_cuda_multiply_coded(be, units, c, &first, &second, accumulate, memory, err);
    }
    NB_TRY(ni_cuda_side_of(be, &scratch, a, b, &x, err));
    NB_TRY(ni_cuda_side_of(be, &scratch, b, a, &y, err));
    ni_cuda_product p = {.a = x.numbers, .b = y.numbers, .c = *c, .trans_a = x.transposed, .trans_b = !y.transposed};
    if (x.outer.step || y.outer.step) {
        p.c = nb_mat_of(ni_cuda_take(&scratch, (size_t)(c->rows * c->cols) * sizeof(float)), NB_F32, c->rows, c->cols);
        if (!p.c.data)
            return nb_fail(err, NB_INTERNAL, "cuda: multiply took more scratch than it asked for");
        NB_TRY(ni_cuda_multiply_plain(be, &p, err));
        const ni_cuda_finish f = finish_of(c, &p.c, &x, &y);
        if (c->dtype == NB_BF16 && !accumulate && ni_cuda_can_finish(&f))
            return ni_cuda_status(be, ni_cuda_launch_finish(stream_of(be), &f, cuda->multiprocessors), "multiply", err);
        return ni_cuda_status(be, ni_cuda_launch_scaled_result(stream_of(be), c, &p.c, x.outer, y.outer, accumulate),
                              "multiply", err);
    }
    p.beta = accumulate ? cuda->words + NI_CUDA_ONE : NULL;
    if (x.outer.at && y.outer.at)
        NB_TRY(alpha_of(be, a, b, &x, &y, &p.alpha, err));
    else
        p.alpha = x.outer.at ? x.outer.at : y.outer.at;
    if (open)
        multiply_eights(&p, b);
    return ni_cuda_multiply_plain(be, &p, err);
}

static nb_status product(nb_backend *be, ni_cuda_room scratch, const nb_mat *c, const nb_operand *a,
                         const nb_operand *b, bool accumulate, nb_error *err) {
    return product_in(be, scratch, c, a, b, accumulate, false, err);
}

/* ---- terms ---- */

static nb_status add_columns(nb_backend *be, ni_cuda_room scratch, const nb_mat *c, const ni_term *t, bool accumulate,
                             nb_error *err) {
    nb_mat part =
        nb_mat_of(ni_cuda_take(&scratch, (size_t)(c->rows * t->b->rows) * sizeof(float)), NB_F32, c->rows, t->b->rows);
    if (!part.data)
        return nb_fail(err, NB_INTERNAL, "cuda: multiply took more scratch than it asked for");
    if (!accumulate)
        NB_TRY(
            ni_cuda_status(be,
                           cudaMemset2DAsync(c->data, (size_t)c->stride * sizeof(float), 0,
                                             (size_t)c->cols * sizeof(float), (size_t)c->rows, ni_cuda_of(be)->stream),
                           "multiply", err));
    NB_TRY(product(be, scratch, &part, t->a, t->b, false, err));
    return ni_cuda_status(be, ni_cuda_launch_scatter(stream_of(be), c, &part, t->columns, true), "multiply", err);
}

/* The products one by one, and then all of them into C at once. */
static nb_status multiply_columns(nb_backend *be, ni_cuda_room scratch, const nb_mat *c, const ni_term *terms,
                                  int32_t count, bool accumulate, bool *done, nb_error *err) {
    ni_cuda_column_sum s;
    *done = count > 1 && ni_cuda_begin_columns(c, terms, count, accumulate, &s);
    if (!*done)
        return NB_OK;
    s.shared = true; /* no one has said that they are not */
    s.from.data = ni_cuda_take(&scratch, ni_cuda_columns_bytes(&s));
    if (!s.from.data)
        return nb_fail(err, NB_INTERNAL, "cuda: multiply took more scratch than it asked for");
    for (int32_t i = 0; i < count; i++) {
        const nb_mat part = ni_cuda_columns_of_part(&s, i);
        NB_TRY(product_in(be, scratch, &part, terms[i].a, terms[i].b, false, true, err));
    }
    return ni_cuda_status(be, ni_cuda_launch_column_sums(stream_of(be), &s, 1), "multiply: columns", err);
}

static nb_status add_sparse(nb_backend *be, ni_cuda_room scratch, const nb_mat *c, const ni_term *t, nb_error *err) {
    nb_mat w = nb_mat_of(ni_cuda_take(&scratch, (size_t)(t->b->rows * t->b->cols) * sizeof(uint16_t)), NB_BF16,
                         t->b->cols, t->b->rows);
    const nb_qtensor codes = ni_codes_of(t->b);
    if (t->b->form & NI_CUDA_UNCODED)
        return nb_fail(err, NB_INTERNAL, "cuda: a sparse product reads codes that were not kept");
    if (!w.data)
        return nb_fail(err, NB_INTERNAL, "cuda: multiply took more scratch than it asked for");
    int code = ni_cuda_launch_decode(stream_of(be), &w, &codes, true, NULL, true);
    if (!code)
        code = ni_cuda_launch_sparse_product(stream_of(be), c, t->sparse, &w);
    return ni_cuda_status(be, code, "multiply", err);
}

static nb_status add_term(nb_backend *be, ni_cuda_room scratch, const nb_mat *c, const ni_term *t, bool accumulate,
                          nb_error *err) {
    if (t->a)
        return t->columns ? add_columns(be, scratch, c, t, accumulate, err)
                          : product(be, scratch, c, t->a, t->b, accumulate, err);
    if (!accumulate)
        return ni_fail_first_term(err);
    return t->outer ? ni_cuda_status(be, ni_cuda_launch_outer(stream_of(be), c, c, t->outer), "multiply", err)
                    : add_sparse(be, scratch, c, t, err);
}

static bool is_row_coded(const nb_operand *o) {
    return !ni_is_plain(o) && ni_has_row_scales(&o->quantizer) && !nb_quantizer_is_bf16(&o->other) &&
           !(o->form & (NI_CUDA_ACROSS | NI_CUDA_CARRIED | NI_CUDA_POW2));
}

/* A product under scales of rows and a sparse one with the same weights, into BF16: one pass behind an FP32 sum. Units
 * for 8 bits have put the scales on that sum; from BF16's it is bare. */
static bool is_product_and_sparse(const nb_mat *c, const ni_term *terms, int32_t count) {
    return c->dtype == NB_BF16 && count == 2 && terms[0].a && !terms[0].columns && terms[1].sparse &&
           !terms[1].sparse->exact && is_row_coded(terms[0].a) && is_row_coded(terms[0].b) &&
           terms[1].b == terms[0].b && !(terms[1].b->form & NI_CUDA_BYTES);
}

static nb_status multiply_and_finish(nb_backend *be, ni_cuda_room scratch, const nb_mat *c, const ni_term *terms,
                                     int32_t count, bool *done, nb_error *err) {
    size_t bytes;
    ni_cuda_side x = {.outer = {NULL, 0}}, y = x;
    *done = false;
    if (!is_product_and_sparse(c, terms, count))
        return NB_OK;
    const ni_units units = ni_cuda_term_units(be, terms[0].a, terms[0].b, &bytes);
    const bool bare = units == NI_UNITS_BF16;
    if (bare) {
        NB_TRY(ni_cuda_side_of(be, &scratch, terms[0].a, terms[0].b, &x, err));
        NB_TRY(ni_cuda_side_of(be, &scratch, terms[0].b, terms[0].a, &y, err));
    }
    const nb_mat sum =
        nb_mat_of(ni_cuda_take(&scratch, (size_t)(c->rows * c->cols) * sizeof(float)), NB_F32, c->rows, c->cols);
    void *const memory = ni_cuda_take(&scratch, bytes);
    ni_cuda_finish f = finish_of(c, &sum, &x, &y);
    f.sparse = *terms[1].sparse;
    f.weights = ni_cuda_values_of(terms[1].b);
    f.weight_scales = ni_codes_of(terms[1].b).outer_scales;
    f.depth = terms[1].b->cols;
    if (!sum.data || (bytes && !memory) || !ni_cuda_can_finish(&f))
        return NB_OK;
    *done = true;
    if (bare) {
        const ni_cuda_product p = {
            .a = x.numbers, .b = y.numbers, .c = sum, .trans_a = x.transposed, .trans_b = !y.transposed};
        NB_TRY(ni_cuda_multiply_plain(be, &p, err));
    } else {
        const ni_cuda_coded first = coded_of(terms[0].a), second = coded_of(terms[0].b);
        NB_TRY(ni_cuda_multiply_coded(be, units, &sum, &first, &second, false, memory, err));
    }
    return ni_cuda_status(be, ni_cuda_launch_finish(stream_of(be), &f, ni_cuda_of(be)->multiprocessors),
                          "multiply: a sparse product", err);
}

/* ---- a sum as one contraction ---- */

static bool is_product_by(nb_backend *be, const ni_term *t, ni_units units) {
    size_t bytes;
    return t->a && !t->columns && ni_cuda_term_units(be, t->a, t->b, &bytes) == units;
}

/* All terms are products by these units, and the sum is one that the library does not make. */
static bool may_join(nb_backend *be, const nb_mat *c, const ni_term *terms, int32_t count, bool accumulate,
                     ni_units units) {
    bool may = ni_cuda_joins(ni_cuda_of(be)) && c->dtype == NB_BF16 && !accumulate && count > 1 &&
               count <= NI_CUDA_JOINED_MOST;
    for (int32_t i = 0; i < count && may; i++)
        may = is_product_by(be, &terms[i], units);
    return may;
}

/* false: more waits to be multiplied, or the numbers lie otherwise. */
static nb_status join(nb_backend *be, ni_cuda_room *scratch, const ni_term *t, ni_cuda_joined *j, bool *joined,
                      nb_error *err) {
    ni_cuda_sides s;
    NB_TRY(ni_cuda_sides_of(be, scratch, t, &s, err));
    if (j->count == 0)
        j->across = s.b.transposed;
    *joined = !s.a.transposed && s.b.transposed == j->across && s.bare;
    if (!*joined)
        return NB_OK;
    ni_cuda_joined_term *to = &j->terms[j->count++];
    *to = (ni_cuda_joined_term){.a = s.a.numbers, .b = s.b.numbers};
    return ni_cuda_alpha_of(be, &s, &to->alpha, err);
}

static nb_status multiply_joined(nb_backend *be, ni_cuda_room scratch, const nb_mat *c, const ni_term *terms,
                                 int32_t count, bool *done, nb_error *err) {
    ni_cuda_joined j = {.c = *c, .room = ni_cuda_take(&scratch, (size_t)(c->rows * c->cols) * sizeof(float))};
    bool joined = true;
    ni_cuda_alphas_begin(be, count);
    for (int32_t i = 0; i < count && joined; i++)
        NB_TRY(join(be, &scratch, &terms[i], &j, &joined, err));
    *done = joined && ni_cuda_can_join(&j);
    if (!*done)
        return NB_OK;
    return ni_cuda_status(be, ni_cuda_launch_joined(stream_of(be), &j, ni_cuda_of(be)->multiprocessors),
                          "multiply: products joined", err);
}

static nb_status multiply_bytes_joined(nb_backend *be, ni_cuda_room scratch, const nb_mat *c, const ni_term *terms,
                                       int32_t count, bool *done, nb_error *err) {
    float *const apart = ni_cuda_take(&scratch, (size_t)(c->rows * c->cols) * sizeof(float));
    uint32_t *const found = ni_cuda_take(&scratch, sizeof(uint32_t));
    return ni_cuda_multiply_pow2_joined(be, c, terms, count, apart, found, done, err);
}

nb_status ni_cuda_multiply_many(nb_backend *be, const ni_sum *products, int32_t count, nb_error *err) {
    bool done = false;
    for (int32_t i = 0; i < count; i++)
        NB_TRY(ni_check_terms(&products[i].c, products[i].terms, products[i].count, err));
    NB_TRY(ni_cuda_multiply_parted(be, products, count, &done, err));
    for (int32_t i = 0; i < count && !done; i++)
        NB_TRY(ni_cuda_multiply(be, &products[i].c, products[i].terms, products[i].count, products[i].accumulate, err));
    return NB_OK;
}

/* ---- sums ---- */

static size_t room_for(nb_backend *be, const nb_mat *c, const ni_term *terms, int32_t count, bool joined) {
    size_t matrix = ni_cuda_rounded((size_t)(c->rows * c->cols) * sizeof(float)), most = 0, all = 0, columns = 0;
    for (int32_t i = 0; i < count; i++) {
        size_t bytes = ni_cuda_decoded_bytes(terms[i].a) + ni_cuda_decoded_bytes(terms[i].b), coded;
        ni_cuda_term_units(be, terms[i].a, terms[i].b, &coded);
        bytes = coded > bytes ? coded : bytes;
        most = bytes > most ? bytes : most;
        all += bytes;
        columns +=
            terms[i].columns ? ni_cuda_rounded((size_t)(c->rows * ni_cuda_apart(terms[i].b->rows)) * sizeof(float)) : 0;
    }
    return 2 * matrix + columns + (joined ? all : most);
}

nb_status ni_cuda_multiply(nb_backend *be, const nb_mat *c, const ni_term *terms, int32_t count, bool accumulate,
                           nb_error *err) {
    NB_TRY(ni_check_terms(c, terms, count, err));
    bool done = false;
    const ni_sum alone = {*c, terms, count, accumulate};
    if (!terms->columns) /* which two terms may share */
        NB_TRY(ni_cuda_multiply_parted(be, &alone, 1, &done, err));
    if (done)
        return NB_OK;
    const bool in_place = c->dtype == NB_F32 || (count == 1 && terms[0].a && !terms[0].columns);
    const bool joins = may_join(be, c, terms, count, accumulate, NI_UNITS_BF16);
    const size_t bytes = room_for(be, c, terms, count, joins);
    ni_cuda_room scratch = {ni_cuda_scratch(be, bytes, "multiply"), NULL};
    if (!scratch.at)
        return ni_cuda_status(be, 0, "multiply", err);
    scratch.end = scratch.at + bytes;
    nb_mat sum = *c;
    if (!accumulate)
        NB_TRY(multiply_and_finish(be, scratch, c, terms, count, &done, err));
    if (joins)
        NB_TRY(multiply_joined(be, scratch, c, terms, count, &done, err));
    if (may_join(be, c, terms, count, accumulate, NI_UNITS_FP8_POW2))
        NB_TRY(multiply_bytes_joined(be, scratch, c, terms, count, &done, err));
    if (!done)
        NB_TRY(multiply_columns(be, scratch, c, terms, count, accumulate, &done, err));
    if (done)
        return NB_OK;
    if (!in_place) {
        sum = nb_mat_of(ni_cuda_take(&scratch, (size_t)(c->rows * c->cols) * sizeof(float)), NB_F32, c->rows, c->cols);
        if (accumulate)
            ni_cuda_scale(be, &sum, c, NULL, NULL);
    }
    const ni_outer *const last = !in_place && count > 1 ? terms[count - 1].outer : NULL;
    for (int32_t i = 0; i < count - (last != NULL); i++)
        NB_TRY(add_term(be, scratch, &sum, &terms[i], accumulate || i > 0, err));
    if (last) /* added on the way into BF16 */
        return ni_cuda_status(be, ni_cuda_launch_outer(stream_of(be), c, &sum, last), "multiply", err);
    if (!in_place)
        ni_cuda_scale(be, c, &sum, NULL, NULL);
    return NB_OK;
}

const char *ni_cuda_product_kernel(nb_backend *be, const nb_quantizer *a, const nb_quantizer *b) {
    const ni_units units = ni_cuda_units_of(ni_cuda_of(be), a, b);
    if (units == NI_UNITS_FP8_POW2 && ni_has_tensor_scale(a) && ni_has_tensor_scale(b)) /* nothing is carried */
        return ni_cuda_units_text(NI_UNITS_FP8);
    if (units != NI_UNITS_BF16)
        return ni_cuda_units_text(units);
    switch (ni_product_of(a, b)) {
    case NI_PRODUCT_NONE:
        return NULL;
    case NI_PRODUCT_BF16_ROUNDED:
        return "bf16 cublaslt, bf16-rounded";
    default:
        return ni_cuda_bf16_text(ni_cuda_of(be), a, b);
    }
}
