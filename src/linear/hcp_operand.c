/* hcp_operand.c: what the Hot-Channel Patch multiplies (arXiv:2602.02047; derivation in docs/recipes/chon.md).
 *
 * With residuals dX = X - Xq and dW = W - Wq, patched channels I:
 *
 *     cancel      Xq Wq + dX_I W_I + X_I dW_I      W_I, X_I: quantized again in their new blocks, or Wq_I, Xq_I exactly
 *     printed     Xq Wq + dX_I dW_I
 *
 * The columns of one operand stand side by side: [ Xq | dX_I | X_I ] times [ Wq | W_I | dW_I ]^T. One product has one
 * factor sX * sW, so what is appended is coded under the tensor scale of the base.
 */
#include "backend/table.h"
#include "linear/hcp.h"

typedef enum piece { RESIDUAL, COPY } piece;

enum { MOST_PIECES = NI_HCP_MAKINGS - 1 };

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

static int64_t base_columns(const ni_hcp_state *h) {
    return h->how.kernel == NB_HCP_SINGLE ? h->group->in : 0;
}

int64_t ni_hcp_columns(const ni_hcp_state *h) {
    piece pieces[MOST_PIECES];
    return base_columns(h) + pieces_of(&h->how, false, pieces) * h->k;
}

nb_quantizer ni_hcp_rows(const nb_quantizer *q) {
    nb_quantizer rows = *q;
    rows.block_rows = 1;
    return rows;
}

nb_status ni_hcp_take(ni_scratch *scratch, nb_dtype type, int64_t rows, int64_t cols, nb_mat *out, nb_error *err) {
    *out = nb_mat_of(NULL, type, rows, cols);
    return ni_scratch_place(scratch, nb_dtype_size(type) * (size_t)(rows * cols), "the hot-channel patch", &out->data,
                            err);
}

/* ---- codes ---- */

/* The base where one product multiplies all, then each term's columns. */
int32_t ni_hcp_makings(const ni_hcp_state *h, const ni_hcp_source *from, const int32_t *channels, nb_operand *out,
                       ni_source sources[NI_HCP_MAKINGS], ni_making makings[NI_HCP_MAKINGS]) {
    piece pieces[MOST_PIECES];
    int count = pieces_of(&h->how, from->weight, pieces);
    int64_t first = base_columns(h);
    const nb_operand *base = first ? out : from->base;
    int32_t made = 0;
    if (first) {
        sources[made] = (ni_source){.numbers = from->numbers};
        makings[made++] = (ni_making){.out = out, .quantizer = from->quantizer, .spent = !from->weight};
    }
    for (int i = 0; i < count; i++) {
        sources[made] = (ni_source){.numbers = from->numbers,
                                    .minus = pieces[i] == RESIDUAL ? base : NULL,
                                    .columns = channels,
                                    .column_count = h->k};
        makings[made++] = (ni_making){.out = out, .at = first + i * h->k, .under = base};
    }
    return made;
}

static nb_status make_codes(const ni_hcp_state *h, const ni_hcp_source *from, const int32_t *channels, nb_operand *out,
                            nb_error *err) {
    ni_source sources[NI_HCP_MAKINGS];
    ni_making makings[NI_HCP_MAKINGS];
    const int32_t made = ni_hcp_makings(h, from, channels, out, sources, makings);
    return h->group->be->ops->make_many(h->group->be, sources, makings, made, err);
}

/* ---- the same, decoded without tensor scales: E2M1 x E4M3 has at most six significant bits ---- */

static nb_mat columns_at(const nb_mat *m, int64_t first, int64_t count) {
    nb_mat view = *m;
    view.data = (uint8_t *)m->data + nb_dtype_size(m->dtype) * (size_t)first;
    view.cols = count;
    return view;
}

static nb_status put_residual(const ni_hcp_state *h, const ni_linear_call *call, const ni_hcp_source *from,
                              const int32_t *channels, const nb_mat *to, nb_error *err) {
    nb_backend *be = call->be;
    nb_quantizer q = ni_hcp_rows(from->quantizer);
    size_t mark = call->scratch->used;
    nb_operand codes;
    const ni_operand_request request = {.quantizer = &q, .other = &q, .rows = to->rows, .cols = h->k, .side = NI_LEFT};
    NB_TRY(ni_operand_place(call, &request, &codes, err));
    const ni_source source = {.numbers = from->numbers, .minus = from->base, .columns = channels, .column_count = h->k};
    NB_TRY(be->ops->make_operands(be, &source, &(ni_making){.out = &codes, .under = from->base}, 1, err));
    NB_TRY(be->ops->decode(be, to, &codes, false, NULL, false, err));
    call->scratch->used = mark;
    return NB_OK;
}

nb_status ni_hcp_stand_in(const ni_hcp_state *h, const ni_linear_call *call, const ni_hcp_source *from,
                          const int32_t *channels, nb_mat *out, bool *there, nb_error *err) {
    nb_backend *be = call->be;
    nb_quantizer q = ni_hcp_rows(from->quantizer);
    int64_t rows = from->numbers->rows;
    nb_operand codes;
    nb_mat residual;
    *there = h->how.form == NB_HCP_CANCEL && h->how.side != (from->weight ? NB_HCP_ACTIVATION : NB_HCP_WEIGHT);
    if (!*there)
        return NB_OK;
    NB_TRY(ni_hcp_take(call->scratch, NB_F32, rows, h->group->in, out, err));
    NB_TRY(ni_hcp_take(call->scratch, NB_F32, rows, h->k, &residual, err));
    const ni_operand_request request = {.quantizer = &q, .other = &q, .rows = rows, .cols = h->k, .side = NI_LEFT};
    NB_TRY(ni_operand_place(call, &request, &codes, err));
    const ni_source source = {.numbers = from->numbers, .minus = from->base, .columns = channels, .column_count = h->k};
    NB_TRY(be->ops->make_operands(be, &source, &(ni_making){.out = &codes, .under = from->base}, 1, err));
    NB_TRY(be->ops->decode(be, out, from->base, false, NULL, true, err));
    NB_TRY(be->ops->decode(be, &residual, &codes, false, NULL, true, err));
    be->ops->scatter_columns(be, out, &residual, channels, true);
    return NB_OK;
}

static nb_status make_numbers(const ni_hcp_state *h, const ni_linear_call *call, const ni_hcp_source *from,
                              const int32_t *channels, nb_operand *out, nb_error *err) {
    nb_backend *be = call->be;
    piece pieces[MOST_PIECES];
    int count = pieces_of(&h->how, from->weight, pieces);
    int64_t rows = from->numbers->rows, first = base_columns(h);
    nb_mat *joined = &out->numbers, base = columns_at(joined, 0, h->group->in);
    size_t mark = call->scratch->used;
    if (!first)
        NB_TRY(ni_hcp_take(call->scratch, be->act, rows, h->group->in, &base, err));
    NB_TRY(be->ops->decode(be, &base, from->base, false, NULL, false, err));
    for (int i = 0; i < count; i++) {
        nb_mat to = columns_at(joined, first + i * h->k, h->k);
        if (pieces[i] == COPY)
            be->ops->gather_columns(be, &to, &base, channels);
        else
            NB_TRY(put_residual(h, call, from, channels, &to, err));
    }
    call->scratch->used = mark;
    out->factor = from->base->outer;
    return NB_OK;
}

/* ---- either ---- */

static bool is_exact(const ni_hcp_state *h) {
    return h->how.copy == NB_HCP_EXACT;
}

nb_operand ni_hcp_shape(const ni_hcp_state *h, const ni_linear *layer, int64_t rows, bool weight) {
    const nb_operand_rule *roles = layer->plan.roles;
    nb_quantizer x = ni_hcp_rows(&roles[NB_FPROP_X].quantizer), w = ni_hcp_rows(&roles[NB_FPROP_W].quantizer);
    nb_operand shape = {.quantizer = weight ? w : x,
                        .other = weight ? x : w,
                        .rows = rows,
                        .cols = ni_hcp_columns(h),
                        .side = weight ? NI_RIGHT : NI_LEFT,
                        .reread = true};
    if (is_exact(h))
        shape.quantizer = shape.other = nb_quantizer_bf16();
    return shape;
}

size_t ni_hcp_operand_bytes(const ni_hcp_state *h, const nb_operand *shape) {
    nb_backend *be = h->group->be;
    return is_exact(h) ? nb_dtype_size(be->act) * (size_t)(shape->rows * shape->cols)
                       : be->ops->operand_bytes(be, shape);
}

nb_status ni_hcp_operand(const ni_hcp_state *h, const ni_linear_call *call, const ni_hcp_source *from,
                         const int32_t *channels, void *memory, nb_operand *out, nb_error *err) {
    if (is_exact(h)) {
        out->numbers = nb_mat_of(memory, call->be->act, out->rows, out->cols);
        return make_numbers(h, call, from, channels, out, err);
    }
    out->memory = memory;
    return make_codes(h, from, channels, out, err);
}
