/* hcp_channels.c: which channels are hot (arXiv:2602.02047).
 *
 *     absolute      s_j = mean_t |dX_tj| + mean_n |dW_nj|
 *     normalized    s_j = mean_t |dX_tj| rms(W_j) + mean_n |dW_nj| rms(X_j)     the error that channel j makes in Y
 *
 * From the micro-batch at hand, every how.refresh steps; a moving average over these refreshes is ranked. On the host
 * and in double: once in hundreds of steps.
 */
#include "backend/table.h"
#include "linear/hcp.h"

#include "nibble/lens.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What is known of each channel of one operand. */
typedef struct column_facts {
    double *residual, *rms; /* [K] each: mean |dX_j|, root mean square of X_j */
} column_facts;

static void sum_columns(const float *numbers, const float *decoded, int64_t rows, int64_t cols, column_facts *out) {
    memset(out->residual, 0, sizeof(double) * (size_t)cols);
    memset(out->rms, 0, sizeof(double) * (size_t)cols);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) {
            double x = numbers[r * cols + c];
            out->residual[c] += fabs(x - (double)decoded[r * cols + c]);
            out->rms[c] += x * x;
        }
    for (int64_t c = 0; c < cols; c++) {
        out->residual[c] /= (double)rows;
        out->rms[c] = sqrt(out->rms[c] / (double)rows);
    }
}

static nb_status look(const nb_hcp_state *h, nb_scratch *scratch, const nb_mat *numbers, const nb_operand *base,
                      column_facts *out, nb_error *err) {
    nb_backend *be = h->group->be;
    int64_t n = numbers->rows * numbers->cols;
    size_t bytes = sizeof(float) * (size_t)n, mark = scratch->used;
    nb_mat wide, decoded;
    NB_TRY(nb_hcp_take(scratch, NB_F32, numbers->rows, numbers->cols, &wide, err));
    NB_TRY(nb_hcp_take(scratch, NB_F32, numbers->rows, numbers->cols, &decoded, err));
    be->ops->cast(be, wide.data, NB_F32, numbers->data, numbers->dtype, n);
    NB_TRY(be->ops->decode(be, &decoded, base, false, NULL, true, err));
    float *host = malloc(2 * bytes);
    if (!host)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory to rank its channels", h->group->input);
    be->ops->download(be, host, wide.data, bytes);
    be->ops->download(be, host + n, decoded.data, bytes);
    sum_columns(host, host + n, numbers->rows, numbers->cols, out);
    free(host);
    scratch->used = mark;
    return NB_OK;
}

/* ---- ranking ---- */

typedef struct ranked {
    float score;
    int32_t channel;
} ranked;

static int hottest_first(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->score != y->score)
        return x->score < y->score ? 1 : -1;
    return x->channel - y->channel; /* ties go to the lower index */
}

static int by_channel(const void *a, const void *b) {
    return *(const int32_t *)a - *(const int32_t *)b;
}

/* Both ascending. */
static int64_t in_both(const int32_t *a, const int32_t *b, int64_t k) {
    int64_t both = 0;
    for (int64_t i = 0, j = 0; i < k && j < k;) {
        both += a[i] == b[j];
        int32_t low = a[i] < b[j] ? a[i] : b[j];
        i += a[i] == low;
        j += b[j] == low;
    }
    return both;
}

static nb_status rank(nb_hcp_state *h, nb_hcp_layer *p, double *overlap, nb_error *err) {
    nb_backend *be = h->group->be;
    size_t in = (size_t)h->group->in, bytes = sizeof(int32_t) * (size_t)h->k;
    ranked *order = malloc(in * sizeof *order);
    int32_t *channels = malloc(2 * bytes), *before = channels + h->k;
    bool good = order && channels;
    if (good) {
        for (size_t c = 0; c < in; c++)
            order[c] = (ranked){p->scores[c], (int32_t)c};
        qsort(order, in, sizeof *order, hottest_first);
        for (int64_t i = 0; i < h->k; i++)
            channels[i] = order[i].channel;
        qsort(channels, (size_t)h->k, sizeof *channels, by_channel);
        be->ops->download(be, before, p->channels, bytes);
        be->ops->upload(be, p->channels, channels, bytes);
        *overlap = (double)in_both(channels, before, h->k) / (double)h->k;
        p->w_fresh = false;
    }
    free(order);
    free(channels);
    return good ? NB_OK : nb_fail(err, NB_NO_MEMORY, "%s: no memory to rank its channels", h->group->input);
}

static void tell(const nb_pass *pass, const nb_linear *layer, const char *name, double value) {
    if (pass->lens && pass->lens->scalar)
        pass->lens->scalar(pass->lens->context, layer->name, name, value);
}

static nb_status score(nb_hcp_state *h, const nb_linear_call *call, const nb_linear *layer, const column_facts *x,
                       const column_facts *w, nb_error *err) {
    nb_hcp_layer *p = &h->layers[layer->index];
    bool normalized = h->how.score == NB_HCP_NORMALIZED;
    double of_x = 0, of_w = 0, overlap = 0;
    for (int64_t c = 0; c < h->group->in; c++) {
        double sx = x->residual[c] * (normalized ? w->rms[c] : 1), sw = w->residual[c] * (normalized ? x->rms[c] : 1);
        double s = h->refreshed ? h->how.ema * (double)p->scores[c] + (1 - h->how.ema) * (sx + sw) : sx + sw;
        p->scores[c] = (float)s;
        of_x += sx;
        of_w += sw;
    }
    NB_TRY(rank(h, p, &overlap, err));
    tell(call->pass, layer, "hcp_score_x", of_x / (double)h->group->in);
    tell(call->pass, layer, "hcp_score_w", of_w / (double)h->group->in);
    if (h->refreshed)
        tell(call->pass, layer, "hcp_overlap", overlap);
    return NB_OK;
}

/* ---- when ---- */

static bool frozen(const nb_hcp *how, const nb_pass *pass) {
    if (how->freeze == 1)
        return false;
    if (how->freeze < 1)
        return pass->steps > 0 && pass->step >= how->freeze * pass->steps;
    return pass->step >= how->freeze;
}

/* Not in evaluations, not twice in a step that is taken again, never while the forward pass runs in BF16. The first
 * training pass chooses whatever the schedule says: until then nothing is patched. */
static bool due(const nb_hcp_state *h, const nb_linear_call *call) {
    const nb_pass *pass = call->pass;
    if (h->k == 0 || !call->training || pass->forward_bf16 || pass->micro_batch > 0)
        return false;
    if (!h->refreshed)
        return true;
    return h->refreshed != (int32_t)pass->step + 1 && pass->step % h->how.refresh == 0 && !frozen(&h->how, pass);
}

nb_status nb_hcp_refresh(nb_hcp_state *h, const nb_linear_call *call, nb_error *err) {
    if (!due(h, call))
        return NB_OK;
    size_t in = (size_t)h->group->in;
    double *memory = malloc(4 * in * sizeof *memory);
    if (!memory)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory to rank its channels", h->group->input);
    column_facts x = {memory, memory + in}, w = {memory + 2 * in, memory + 3 * in};
    nb_status status = NB_OK;
    for (int32_t i = 0; i < h->group->count && status == NB_OK; i++) {
        nb_linear *layer = &h->group->layers[i];
        nb_mat master = nb_mat_of(nb_linear_master(call->be, layer), call->be->real, layer->out, layer->in);
        nb_operand a, b;
        if (!(layer->mechanisms >> h->index & 1))
            continue;
        status = nb_input_operand(call, layer, NB_FPROP_X, &a, err);
        if (status == NB_OK)
            status = nb_weight_operand(call, layer, NB_FPROP_W, &b, err);
        if (status == NB_OK)
            status = look(h, call->scratch, call->x, &a, &x, err);
        if (status == NB_OK)
            status = look(h, call->scratch, &master, &b, &w, err);
        if (status == NB_OK)
            status = score(h, call, layer, &x, &w, err);
    }
    free(memory);
    if (status == NB_OK)
        h->refreshed = (int32_t)call->pass->step + 1;
    return status;
}

size_t nb_hcp_refresh_scratch(const nb_hcp_state *h, int64_t rows) {
    return 2 * nb_scratch_room(sizeof(float) * (size_t)(rows * h->group->in));
}
