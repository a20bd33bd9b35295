/* hcp_channels.c: which channels are hot (arXiv:2602.02047).
 *
 *     absolute      s_j = mean_t |dX_tj| + mean_n |dW_nj|
 *     normalized    s_j = mean_t |dX_tj| rms(W_j) + mean_n |dW_nj| rms(X_j)     the error that channel j makes in Y
 *
 * Micro-batch 0 of a step that chooses gathers these facts on the device; when the step is taken, the channels of the
 * next ones are chosen from a moving average over all choices so far. The average is corrected for its beginning: of n
 * choices the i-th last weighs ema^i (1 - ema) / (1 - ema^n), so that the first one does not weigh ten times the
 * second.
 */
#include "backend/table.h"
#include "linear/hcp.h"

#include "nibble/lens.h"

#include <math.h>
#include <stdlib.h>

/* ---- in a forward pass ---- */

/* Mean |dX| and rms of the columns of one operand: errors [K], then rms [K]. */
static nb_status look(const ni_hcp_state *h, ni_scratch *scratch, const nb_mat *numbers, const nb_operand *base,
                      double *facts, nb_error *err) {
    nb_backend *be = h->group->be;
    size_t mark = scratch->used;
    nb_mat decoded;
    NB_TRY(ni_hcp_take(scratch, NB_F32, numbers->rows, numbers->cols, &decoded, err));
    NB_TRY(be->ops->decode(be, &decoded, base, false, NULL, true, err));
    be->ops->column_errors(be, facts, facts + h->group->in, numbers, &decoded);
    scratch->used = mark;
    return NB_OK;
}

static bool frozen(const nb_hcp *how, const nb_pass *pass) {
    if (how->freeze == 1)
        return false;
    if (how->freeze < 1)
        return pass->steps > 0 && pass->step >= how->freeze * pass->steps;
    return pass->step >= how->freeze;
}

/* Not in evaluations, never while the forward pass runs in BF16. The first step of all chooses whatever the schedule
 * says: until then nothing is patched. */
static bool due(const ni_hcp_state *h, const ni_linear_call *call) {
    const nb_pass *pass = call->pass;
    if (h->k == 0 || !call->training || pass->forward_bf16 || pass->micro_batch > 0)
        return false;
    return !h->refreshed || (pass->step % h->how.refresh == 0 && !frozen(&h->how, pass));
}

static nb_status gather_layer(const ni_hcp_state *h, const ni_linear_call *call, ni_linear *layer, nb_error *err) {
    double *facts = h->layers[layer->index].facts;
    nb_operand x, w;
    nb_mat numbers;
    NB_TRY(ni_input_operand(call, layer, NB_FPROP_X, &x, err));
    NB_TRY(ni_weight_operand(call, layer, NB_FPROP_W, &w, err));
    NB_TRY(look(h, call->scratch, call->x, &x, facts, err));
    size_t mark = call->scratch->used;
    NB_TRY(ni_weight_source(call, layer, &numbers, err));
    NB_TRY(look(h, call->scratch, &numbers, &w, facts + 2 * h->group->in, err));
    call->scratch->used = mark;
    return NB_OK;
}

nb_status ni_hcp_gather(ni_hcp_state *h, const ni_linear_call *call, nb_error *err) {
    if (!due(h, call))
        return NB_OK;
    for (int32_t i = 0; i < h->group->count; i++)
        if (h->group->layers[i].mechanisms >> h->index & 1)
            NB_TRY(gather_layer(h, call, &h->group->layers[i], err));
    h->gathered = (int32_t)call->pass->step + 1;
    return NB_OK;
}

/* ---- after a step ---- */

int64_t ni_hcp_blocks(const ni_hcp_state *h, const ni_linear *layer) {
    const ni_hcp_layer *p = &h->layers[layer->index];
    int32_t *channels = h->k > 0 && p->channels ? malloc(sizeof *channels * (size_t)h->k) : NULL;
    int64_t blocks = 0;
    if (!channels)
        return 0;
    h->group->be->ops->download(h->group->be, channels, p->channels, sizeof *channels * (size_t)h->k);
    for (int64_t i = 0; i < h->k; i++) /* ascending */
        blocks += i == 0 || channels[i] / 16 != channels[i - 1] / 16;
    free(channels);
    return blocks;
}

/* What the host hears of a choice, fetched in one piece. */
typedef struct choice {
    double means[2]; /* of both sides of the score */
    int64_t stayed;  /* channels that were chosen before, too */
} choice;

static void tell(const ni_hcp_state *h, const ni_linear *layer, const nb_pass *pass, const choice *on_device) {
    choice c;
    if (!pass->lens || !pass->lens->scalar)
        return;
    h->group->be->ops->download(h->group->be, &c, on_device, sizeof c);
    pass->lens->scalar(pass->lens->context, layer->name, "hcp_score_x", c.means[0]);
    pass->lens->scalar(pass->lens->context, layer->name, "hcp_score_w", c.means[1]);
    pass->lens->scalar(pass->lens->context, layer->name, "hcp_blocks", (double)ni_hcp_blocks(h, layer));
    if (h->choices > 0)
        pass->lens->scalar(pass->lens->context, layer->name, "hcp_overlap", (double)c.stayed / (double)h->k);
}

/* The weight of the average so far in ema and correction together: ema (1 - ema^n) / (1 - ema^(n + 1)). */
static double kept(double ema, int32_t choices) {
    return ema * (1 - pow(ema, choices)) / (1 - pow(ema, choices + 1));
}

static nb_status choose_layer(const ni_hcp_state *h, const ni_linear *layer, ni_hcp_layer *p, const nb_pass *pass,
                              ni_scratch *scratch, nb_error *err) {
    nb_backend *be = h->group->be;
    size_t bytes = sizeof(int32_t) * (size_t)h->k;
    void *c_memory, *before;
    NB_TRY(ni_scratch_place(scratch, sizeof(choice), "what is told of a choice", &c_memory, err));
    NB_TRY(ni_scratch_place(scratch, bytes, "the channels chosen before", &before, err));
    choice *c = c_memory;
    be->ops->copy(be, before, p->channels, bytes);
    be->ops->hot_scores(be, p->scores, c->means, p->facts, h->group->in, kept(h->how.ema, h->choices),
                        h->how.score == NB_HCP_NORMALIZED);
    be->ops->top_k(be, p->channels, p->scores, h->group->in, h->k, true);
    be->ops->count_common(be, &c->stayed, p->channels, before, h->k);
    tell(h, layer, pass, c);
    p->w_fresh = false;
    return NB_OK;
}

nb_status ni_hcp_choose(ni_hcp_state *h, const nb_pass *pass, ni_scratch *scratch, nb_error *err) {
    if (h->gathered != (int32_t)pass->step + 1)
        return NB_OK;
    for (int32_t i = 0; i < h->group->count; i++) {
        size_t mark = scratch->used;
        if (h->group->layers[i].mechanisms >> h->index & 1)
            NB_TRY(choose_layer(h, &h->group->layers[i], &h->layers[i], pass, scratch, err));
        scratch->used = mark;
    }
    h->refreshed = h->gathered;
    h->gathered = 0;
    h->choices++;
    return NB_OK;
}

size_t ni_hcp_choice_scratch(const ni_hcp_state *h) {
    return ni_scratch_room(sizeof(choice)) + ni_scratch_room(sizeof(int32_t) * (size_t)h->k);
}

size_t ni_hcp_gather_scratch(const ni_hcp_state *h, int64_t rows) {
    size_t numbers = (size_t)(rows * h->group->in), copy = 0;
    for (int32_t i = 0; i < h->group->count; i++)
        if (h->group->layers[i].plan.quantize_from == NB_BF16)
            copy = ni_scratch_room(numbers * sizeof(uint16_t));
    return ni_scratch_room(sizeof(float) * numbers) + copy;
}
