/* hcp_operand.c: what the Hot-Channel Patch multiplies (arXiv:2602.02047; derivation in docs/recipes/chon.md).
 *
 * With residuals dX = X - Xq and dW = W - Wq, patched channels I:
 *
 *     cancel      Xq Wq + dX_I W_I + X_I dW_I      W_I, X_I: quantized again in their new blocks, or Wq_I, Xq_I exactly
 *     printed     Xq Wq + dX_I dW_I
 *
 * One GEMM has one factor sX * sW, so what is appended must be coded under the tensor scale of the base. A quantizer
 * makes that scale from the largest magnitude it sees: a last block that holds the base's largest magnitude and nothing
 * else is quantized along and then dropped.
 */
#include "backend/table.h"
#include "linear/hcp.h"

typedef enum piece { RESIDUAL, COPY } piece;

enum { ANCHOR = 16, MOST_PIECES = 2 };

/* What stands on this side in each term; both sides have the same number of terms. */
static int pieces_of(const nb_hcp *how, bool weight, piece out[MOST_PIECES]) {
    int count = 0;
    if (how->form == NB_HCP_PRINTED) {
        out[count++] = RESIDUAL;
        return count;
    }
    if (how->side != NB_HCP_WEIGHT)
        out[count++] = weight ? COPY : RESIDUAL;
    if (how->side != NB_HCP_ACTIVATION)
        out[count++] = weight ? RESIDUAL : COPY;
    return count;
}

static int64_t appended(const nb_hcp_state *h) {
    piece pieces[MOST_PIECES];
    return pieces_of(&h->how, false, pieces) * h->k;
}

static int64_t base_columns(const nb_hcp_state *h) {
    return h->how.kernel == NB_HCP_SINGLE ? h->group->in : 0;
}

int64_t nb_hcp_columns(const nb_hcp_state *h) {
    return base_columns(h) + appended(h);
}

nb_quantizer nb_hcp_rows(const nb_quantizer *q) {
    nb_quantizer rows = *q;
    rows.block_rows = 1;
    return rows;
}

nb_status nb_hcp_take(nb_scratch *scratch, nb_dtype type, int64_t rows, int64_t cols, nb_mat *out, nb_error *err) {
    size_t bytes = nb_dtype_size(type) * (size_t)(rows * cols);
    *out = nb_mat_of(nb_scratch_take(scratch, bytes), type, rows, cols);
    return out->data ? NB_OK : nb_scratch_short(scratch, "the hot-channel patch", bytes, err);
}

static nb_mat columns_at(const nb_mat *m, int64_t first, int64_t count) {
    nb_mat view = *m;
    view.data = (uint8_t *)m->data + nb_dtype_size(m->dtype) * (size_t)first;
    view.cols = count;
    return view;
}

nb_status nb_hcp_residual(const nb_hcp_state *h, nb_scratch *scratch, const nb_mat *numbers, const nb_qtensor *codes,
                          const int32_t *channels, nb_mat *out, nb_error *err) {
    nb_backend *be = h->group->be;
    nb_mat whole, decoded, gathered;
    size_t mark = scratch->used;
    NB_TRY(nb_hcp_take(scratch, NB_F32, codes->rows, codes->cols, &whole, err));
    NB_TRY(nb_hcp_take(scratch, NB_F32, codes->rows, h->k, &decoded, err));
    NB_TRY(nb_hcp_take(scratch, numbers->dtype, codes->rows, h->k, &gathered, err));
    NB_TRY(be->ops->dequantize(be, &whole, codes, false, true, err));
    be->ops->gather_columns(be, &decoded, &whole, channels);
    be->ops->gather_columns(be, &gathered, numbers, channels);
    be->ops->cast(be, out->data, NB_F32, gathered.data, gathered.dtype, codes->rows * h->k);
    be->ops->axpy(be, out->data, -1, decoded.data, codes->rows * h->k);
    scratch->used = mark;
    return NB_OK;
}

/* One term's numbers into their columns of what will be quantized. */
static nb_status fill(const nb_hcp_state *h, nb_scratch *scratch, const nb_hcp_source *source, piece what,
                      const int32_t *channels, const nb_mat *columns, nb_error *err) {
    nb_backend *be = h->group->be;
    nb_mat numbers;
    size_t mark = scratch->used;
    if (what == COPY && h->how.copy == NB_HCP_EXACT)
        return NB_OK; /* comes from the base's codes, after this */
    NB_TRY(nb_hcp_take(scratch, what == COPY ? source->numbers->dtype : NB_F32, columns->rows, h->k, &numbers, err));
    if (what == COPY)
        be->ops->gather_columns(be, &numbers, source->numbers, channels);
    else
        NB_TRY(nb_hcp_residual(h, scratch, source->numbers, source->codes, channels, &numbers, err));
    be->ops->scale(be, columns, &numbers, NULL, NULL);
    scratch->used = mark;
    return NB_OK;
}

/* The appended columns and the anchor, in codes. */
static nb_status quantize_pieces(const nb_hcp_state *h, nb_scratch *scratch, const nb_hcp_source *source,
                                 const int32_t *channels, nb_qtensor *out, nb_error *err) {
    nb_backend *be = h->group->be;
    nb_quantizer q = nb_hcp_rows(&source->codes->quantizer);
    piece pieces[MOST_PIECES];
    int count = pieces_of(&h->how, source->weight, pieces);
    int64_t rows = source->codes->rows, cols = appended(h) + ANCHOR;
    size_t bytes = nb_qtensor_bytes(&q, rows, cols).total;
    void *memory = nb_scratch_take(scratch, bytes);
    if (!memory)
        return nb_scratch_short(scratch, "codes of the hot-channel patch", bytes, err);
    *out = nb_qtensor_place(&q, rows, cols, memory);
    size_t mark = scratch->used;
    nb_mat numbers;
    NB_TRY(nb_hcp_take(scratch, NB_F32, rows, cols, &numbers, err));
    be->ops->fill_zero(be, numbers.data, sizeof(float) * (size_t)(rows * cols));
    for (int i = 0; i < count; i++) {
        nb_mat columns = columns_at(&numbers, i * h->k, h->k);
        NB_TRY(fill(h, scratch, source, pieces[i], channels, &columns, err));
    }
    be->ops->upload(be, (float *)numbers.data + appended(h), &source->amax, sizeof(float));
    NB_TRY(be->ops->quantize(be, out, &numbers, false, NULL, NULL, err));
    scratch->used = mark;
    return NB_OK;
}

/* The first `count` columns of `from`, codes and scales as they are, from column `first` of `to` on. Whole blocks. */
static void copy_codes(nb_backend *be, const nb_qtensor *to, int64_t first, const nb_qtensor *from, int64_t count) {
    int64_t block = from->quantizer.block_cols;
    for (int64_t r = 0; r < from->rows; r++) {
        be->ops->copy(be, to->codes + (r * to->cols + first) / 2, from->codes + r * from->cols / 2, (size_t)count / 2);
        be->ops->copy(be, to->scales + (r * to->cols + first) / block, from->scales + r * from->cols / block,
                      (size_t)(count / block));
    }
}

static void join_codes(const nb_hcp_state *h, const nb_qtensor *base, const nb_qtensor *patch, void *memory,
                       nb_layer_operand *out) {
    nb_backend *be = h->group->be;
    *out = (nb_layer_operand){.quantized = true,
                              .codes = nb_qtensor_place(&patch->quantizer, base->rows, nb_hcp_columns(h), memory)};
    copy_codes(be, &out->codes, 0, base, base_columns(h));
    copy_codes(be, &out->codes, base_columns(h), patch, appended(h));
    be->ops->copy(be, out->codes.tensor_scale, base->tensor_scale, sizeof(float));
}

/* The same, decoded without tensor scales: E2M1 x E4M3 has at most six significant bits. */
static nb_status join_decoded(const nb_hcp_state *h, nb_scratch *scratch, const nb_hcp_source *source,
                              const nb_qtensor *patch, const int32_t *channels, void *memory, nb_layer_operand *out,
                              nb_error *err) {
    nb_backend *be = h->group->be;
    piece pieces[MOST_PIECES];
    int count = pieces_of(&h->how, source->weight, pieces);
    int64_t rows = source->codes->rows, first = base_columns(h);
    nb_mat base, decoded, joined = nb_mat_of(memory, be->act, rows, nb_hcp_columns(h));
    NB_TRY(nb_hcp_take(scratch, be->act, rows, h->group->in, &base, err));
    NB_TRY(nb_hcp_take(scratch, be->act, rows, patch->cols, &decoded, err));
    NB_TRY(be->ops->dequantize(be, &base, source->codes, false, false, err));
    NB_TRY(be->ops->dequantize(be, &decoded, patch, false, false, err));
    if (first > 0) {
        nb_mat columns = columns_at(&joined, 0, first);
        be->ops->scale(be, &columns, &base, NULL, NULL);
    }
    for (int i = 0; i < count; i++) {
        nb_mat to = columns_at(&joined, first + i * h->k, h->k), from = columns_at(&decoded, i * h->k, h->k);
        if (pieces[i] == COPY)
            be->ops->gather_columns(be, &to, &base, channels);
        else
            be->ops->scale(be, &to, &from, NULL, NULL);
    }
    *out = (nb_layer_operand){.plain = joined};
    return NB_OK;
}

nb_status nb_hcp_operand(const nb_hcp_state *h, nb_scratch *scratch, const nb_hcp_source *source,
                         const int32_t *channels, void *memory, nb_layer_operand *out, nb_error *err) {
    nb_qtensor patch;
    size_t mark = scratch->used;
    NB_TRY(quantize_pieces(h, scratch, source, channels, &patch, err));
    if (h->how.copy == NB_HCP_EXACT)
        NB_TRY(join_decoded(h, scratch, source, &patch, channels, memory, out, err));
    else
        join_codes(h, source->codes, &patch, memory, out);
    scratch->used = mark;
    return NB_OK;
}

size_t nb_hcp_operand_bytes(const nb_hcp_state *h, const nb_quantizer *base, int64_t rows) {
    nb_quantizer q = nb_hcp_rows(base);
    return h->how.copy == NB_HCP_EXACT ? nb_dtype_size(h->group->be->act) * (size_t)(rows * nb_hcp_columns(h))
                                       : nb_qtensor_bytes(&q, rows, nb_hcp_columns(h)).total;
}

/* Codes (a byte for each column is more than they take) and numbers of the pieces, a decoded base, gathered columns. */
size_t nb_hcp_operand_scratch(const nb_hcp_state *h, int64_t rows) {
    size_t r = (size_t)rows, cols = (size_t)(appended(h) + ANCHOR), k = (size_t)h->k, in = (size_t)h->group->in;
    return r * cols + 4 * r * cols + 4 * r * in + 12 * r * k + 16 * 64;
}
