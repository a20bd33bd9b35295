/* mechanism_keys.c: what can be set on each mechanism; defaults and where they come from; when it acts. */
#include "recipe/mechanism_keys.h"
#include "nibble/recipe.h"

#include <math.h>

/* ---- arXiv:2501.17116 ---- */

static const ni_key dge_rows[] = {
    {.path = "k",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_dge, k),
     .fallback = "5",
     .low = 1,
     .high = 100,
     .help = "power of the estimator: 1 is straight-through, larger is closer to the hard quantizer",
     .source = "arXiv:2501.17116 figure 6b"},
    {.path = "cap",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_dge, cap),
     .fallback = "3",
     .positive = true,
     .help = "largest derivative",
     .source = "arXiv:2501.17116 section 3.1"},
};
const ni_keys ni_dge_keys = {.name = "dge", .rows = dge_rows, .count = NI_COUNT(dge_rows), .size = sizeof(nb_dge)};

static const ni_word occ_scopes[] = {{"token", NB_OCC_TOKEN, "quantiles of each token"},
                                     {"tensor", NB_OCC_TENSOR, "quantiles of the whole activation"},
                                     {0}};
static const ni_word occ_rests[] = {{"sparse", NB_OCC_SPARSE, "a sparse product in fprop; decoded + residual in wgrad"},
                                    {"dense", NB_OCC_DENSE, "added to the decoded X, rounded to E4M3, one product"},
                                    {"none", NB_OCC_NONE, "lost"},
                                    {0}};
static const ni_key occ_rows[] = {
    {.path = "alpha",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_occ, alpha),
     .fallback = "0.99",
     .low = 0.5,
     .high = 1,
     .help = "quantile that X is clamped to, from above; 1 - alpha from below",
     .source = "arXiv:2501.17116 section 4.1"},
    {.path = "scope",
     .type = NI_KEY_CHOICE,
     NI_FIELD(nb_occ, scope),
     .fallback = "token",
     .words = occ_scopes,
     .help = "what the quantiles are taken over",
     .source = "the public code follows the scope of the scale; the paper does not say"},
    {.path = "rest",
     .type = NI_KEY_CHOICE,
     NI_FIELD(nb_occ, rest),
     .fallback = "sparse",
     .words = occ_rests,
     .help = "what becomes of what was cut off",
     .source = "arXiv:2501.17116 section 3.2"},
};
const ni_keys ni_occ_keys = {.name = "occ", .rows = occ_rows, .count = NI_COUNT(occ_rows), .size = sizeof(nb_occ)};

/* ---- arXiv:2602.02047: its body could not be read; what no source states is our choice ---- */

static const ni_word hcp_sides[] = {{"both", NB_HCP_BOTH, "residuals of X and of W"},
                                    {"activation", NB_HCP_ACTIVATION, "of X only"},
                                    {"weight", NB_HCP_WEIGHT, "of W only"},
                                    {0}};
static const ni_word hcp_kernels[] = {{"single", NB_HCP_SINGLE, "one GEMM over concatenated channels"},
                                      {"dual", NB_HCP_DUAL, "the base GEMM and a small second one"},
                                      {0}};
static const ni_word hcp_scores[] = {
    {"absolute", NB_HCP_ABSOLUTE, "mean |dX_j| + mean |dW_j|, as published"},
    {"normalized", NB_HCP_NORMALIZED, "mean |dX_j| rms(W_j) + mean |dW_j| rms(X_j): the error each channel makes in Y"},
    {0}};
static const ni_word hcp_copies[] = {{"requantize", NB_HCP_REQUANTIZE, "regrouped channels are quantized again"},
                                     {"exact", NB_HCP_EXACT, "their decoded values, in BF16"},
                                     {0}};
static const ni_word hcp_forms[] = {
    {"cancel", NB_HCP_CANCEL, "dX_I Wq_I + Xq_I dW_I: cancels both first-order terms"},
    {"printed", NB_HCP_PRINTED, "dX_I dW_I: the stacks as printed, which cancel neither"},
    {0}};
static const ni_key hcp_rows[] = {
    {.path = "share",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_hcp, share),
     .fallback = "0.06",
     .high = 1,
     .help = "share of the input channels that are patched, rounded to whole blocks of 16",
     .source = "our choice: fprop grows by 2k/K = 12 %; no source states a number"},
    {.path = "order",
     .type = NI_KEY_INT,
     NI_FIELD(nb_hcp, order),
     .fallback = "2",
     .low = 1,
     .high = 2,
     .help = "order of the error that is left on patched channels",
     .source = "arXiv:2602.02047, S-O2-B"},
    {.path = "side",
     .type = NI_KEY_CHOICE,
     NI_FIELD(nb_hcp, side),
     .fallback = "both",
     .words = hcp_sides,
     .help = "whose residuals are multiplied",
     .source = "arXiv:2602.02047, S-O2-B"},
    {.path = "kernel",
     .type = NI_KEY_CHOICE,
     NI_FIELD(nb_hcp, kernel),
     .fallback = "single",
     .words = hcp_kernels,
     .help = "how they are multiplied",
     .source = "arXiv:2602.02047, S-O2-B"},
    {.path = "score",
     .type = NI_KEY_CHOICE,
     NI_FIELD(nb_hcp, score),
     .fallback = "absolute",
     .words = hcp_scores,
     .help = "how channels are ranked",
     .source = "arXiv:2602.02047"},
    {.path = "copy",
     .type = NI_KEY_CHOICE,
     NI_FIELD(nb_hcp, copy),
     .fallback = "requantize",
     .words = hcp_copies,
     .help = "what stands for the patched channels beside the residuals",
     .source = "our choice: what an NVFP4 GEMM can hold"},
    {.path = "form",
     .type = NI_KEY_CHOICE,
     NI_FIELD(nb_hcp, form),
     .fallback = "cancel",
     .words = hcp_forms,
     .help = "which products are added",
     .source = "derived from the remainder that the paper states"},
    {.path = "refresh",
     .type = NI_KEY_INT,
     NI_FIELD(nb_hcp, refresh),
     .fallback = "200",
     .low = 1,
     .high = 1e9,
     .help = "steps between choices of the channels",
     .source = "our choice: periodic in the paper, period unknown"},
    {.path = "ema",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_hcp, ema),
     .fallback = "0.9",
     .high = 0.9999,
     .help = "weight of the scores so far when channels are chosen again",
     .source = "our choice"},
    {.path = "freeze",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_hcp, freeze),
     .fallback = "1",
     .high = 1e9,
     .help = "from then on the channels stay; 1: never",
     .source = "our choice"},
    {.path = "dgrad",
     .type = NI_KEY_BOOL,
     NI_FIELD(nb_hcp, dgrad),
     .fallback = "false",
     .help = "patch W in dgrad",
     .source = "our choice: the paper describes the forward"},
    {.path = "wgrad",
     .type = NI_KEY_BOOL,
     NI_FIELD(nb_hcp, wgrad),
     .fallback = "false",
     .help = "patch X in wgrad",
     .source = "our choice: the paper describes the forward"},
};
const ni_keys ni_hcp_keys = {.name = "hcp", .rows = hcp_rows, .count = NI_COUNT(hcp_rows), .size = sizeof(nb_hcp)};

/* ---- arXiv:2510.27527, from the authors' released code ---- */

static const ni_key outcontrol_rows[] = {
    {.path = "share",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_outcontrol, share),
     .fallback = "0.1",
     .high = 1,
     .help = "share of the input channels that run in MXFP8",
     .source = "released recipes of arXiv:2510.27527"},
    {.path = "multiple",
     .type = NI_KEY_INT,
     NI_FIELD(nb_outcontrol, multiple),
     .fallback = "128",
     .low = 16,
     .high = 4096,
     .help = "their number is rounded up to this multiple; so must the rest divide by the format's blocks",
     .source = "released code of arXiv:2510.27527; its paper's runs used none"},
    {.path = "start",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_outcontrol, start),
     .fallback = "502",
     .high = 1e9,
     .help = "first step whose norms count; below 1 a share of the run",
     .source = "released recipes of arXiv:2510.27527"},
    {.path = "window",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_outcontrol, window),
     .fallback = "50",
     .positive = true,
     .high = 1e9,
     .help = "steps that norms are summed over before the channels are chosen for good; below 1 a share of the run",
     .source = "released recipes of arXiv:2510.27527"},
};
/* A share of the run, or a whole number of steps. */
static nb_status check_steps(const ni_yaml_node *node, const char *path, double steps, nb_error *err) {
    if (steps >= 1 && steps != floor(steps))
        return ni_keys_fail(err, node, path, "expected a share below 1 or a whole number of steps");
    return NB_OK;
}

static nb_status finish_outcontrol(void *record, const ni_yaml_node *node, nb_error *err) {
    const nb_outcontrol *o = record;
    NB_TRY(check_steps(node, "start", o->start, err));
    return check_steps(node, "window", o->window, err);
}

const ni_keys ni_outcontrol_keys = {.name = "outcontrol",
                                    .rows = outcontrol_rows,
                                    .count = NI_COUNT(outcontrol_rows),
                                    .size = sizeof(nb_outcontrol),
                                    .finish = finish_outcontrol};

static int64_t at_least(int64_t least, int64_t value) {
    return value < least ? least : value;
}

nb_outcontrol_times nb_outcontrol_when(const nb_outcontrol *how, int64_t steps) {
    int64_t start = nb_step_of(how->start, steps);
    return (nb_outcontrol_times){.start = start, .choice = start + at_least(1, nb_step_of(how->window, steps))};
}

static int64_t outcontrol_first(const void *how, int64_t steps) {
    return nb_outcontrol_when(how, steps).start;
}

static int64_t outcontrol_acts(const void *how, int64_t steps) {
    return nb_outcontrol_when(how, steps).choice;
}

static const ni_word osci_variants[] = {
    {"ratio", NB_OSCI_RATIO, "follows every element"},
    {"ratio-top", NB_OSCI_RATIO_TOP, "follows those farthest from their bin's centre (memory efficient)"},
    {"bin-edge", NB_OSCI_BIN_EDGE, "follows none: resets what lies at a bin's edge"},
    {0}};
static const ni_key oscireset_rows[] = {
    {.path = "variant",
     .type = NI_KEY_CHOICE,
     NI_FIELD(nb_oscireset, variant),
     .fallback = "ratio",
     .words = osci_variants,
     .help = "how oscillating weights are found",
     .source = "distance_ratio of arXiv:2510.27527's code"},
    {.path = "start",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_oscireset, start),
     .fallback = "0.64",
     .high = 1e9,
     .help = "first step of the first period, rounded up to a whole period; below 1 a share of the run, rounded to the "
             "nearest",
     .source = "step 8000 of 12505 in the 70M recipe of arXiv:2510.27527; 15000 and 35000 in those of 150M and 370M"},
    {.path = "period",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_oscireset, period),
     .fallback = "200",
     .positive = true,
     .high = 1e9,
     .help = "steps from reset to reset; below 1 a share of the run",
     .source = "70M and 150M recipes of arXiv:2510.27527; 400 in that of 370M"},
    {.path = "window",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_oscireset, window),
     .fallback = "50",
     .positive = true,
     .high = 1e9,
     .help = "steps of a period that distances are summed over; below 1 a share of the run",
     .source = "T0 of arXiv:2510.27527's code"},
    {.path = "threshold",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_oscireset, threshold),
     .fallback = "8",
     .positive = true,
     .help = "reset where dist_Q / dist_W reaches it",
     .source = "released recipes of arXiv:2510.27527 (16 in its class default)"},
    {.path = "scale_threshold",
     .type = NI_KEY_BOOL,
     NI_FIELD(nb_oscireset, scale_threshold),
     .fallback = "false",
     .help = "multiplies the threshold by 50 / window, for windows shorter than the published one",
     .source = "our option: one hop over an edge has a ratio that grows as the window shrinks"},
    {.path = "flips",
     .type = NI_KEY_INT,
     NI_FIELD(nb_oscireset, flips),
     .fallback = "0",
     .high = 255,
     .help = "ratio, ratio-top: reset only what went to another bin at least so often in the window",
     .source = "our option: 2 tells an oscillation from a single hop"},
    {.path = "top",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_oscireset, top),
     .fallback = "0.1",
     .high = 1,
     .positive = true,
     .help = "ratio-top: share of each weight's elements that are followed",
     .source = "distance_ratio_memeff of arXiv:2510.27527's code"},
    {.path = "edge",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_oscireset, edge),
     .fallback = "0.495",
     .high = 1,
     .positive = true,
     .help = "bin-edge: reset beyond this distance from the bin's centre, in bin widths",
     .source = "bin_edge of arXiv:2510.27527's code"},
};

/* A window in shares meets a period in steps only when the run is known: nb_recipe_check_steps. */
static nb_status finish_oscireset(void *record, const ni_yaml_node *node, nb_error *err) {
    const nb_oscireset *o = record;
    NB_TRY(check_steps(node, "start", o->start, err));
    NB_TRY(check_steps(node, "period", o->period, err));
    NB_TRY(check_steps(node, "window", o->window, err));
    if (o->variant == NB_OSCI_BIN_EDGE && o->flips > 0)
        return ni_keys_fail(err, node, "flips", "%d with variant bin-edge, which follows no weights; expected 0",
                            o->flips);
    if (o->variant == NB_OSCI_BIN_EDGE)
        return NB_OK;
    if (o->window >= 1 && o->flips > o->window)
        return ni_keys_fail(err, node, "flips", "%d in a window of %g steps; expected at most as many", o->flips,
                            o->window);
    if (o->period >= 1 && o->window >= 1 && o->window + 1 >= o->period)
        return ni_keys_fail(err, node, "window", "%g steps do not fit a period of %g; expected at most %g", o->window,
                            o->period, o->period - 2);
    if (o->period < 1 && o->window < 1 && o->window >= o->period)
        return ni_keys_fail(err, node, "window", "a share of %g does not fit a period of %g; expected less", o->window,
                            o->period);
    return NB_OK;
}

const ni_keys ni_oscireset_keys = {.name = "oscireset",
                                   .rows = oscireset_rows,
                                   .count = NI_COUNT(oscireset_rows),
                                   .size = sizeof(nb_oscireset),
                                   .finish = finish_oscireset};

/* The released code tells the time of a period from step 0, so a start in steps waits for the next one; a share of the
 * run was never meant to the step and takes the nearest, though not step 0. */
nb_oscireset_times nb_oscireset_when(const nb_oscireset *how, int64_t steps) {
    int64_t period = at_least(1, nb_step_of(how->period, steps)), start = nb_step_of(how->start, steps);
    bool share = how->start > 0 && how->start < 1;
    int64_t periods = share ? at_least(1, (2 * start + period) / (2 * period)) : (start + period - 1) / period;
    return (nb_oscireset_times){
        .start = periods * period, .period = period, .window = at_least(1, nb_step_of(how->window, steps))};
}

static int64_t oscireset_first(const void *how, int64_t steps) {
    return nb_oscireset_when(how, steps).start;
}

static int64_t oscireset_acts(const void *how, int64_t steps) {
    nb_oscireset_times when = nb_oscireset_when(how, steps);
    return ((const nb_oscireset *)how)->variant == NB_OSCI_BIN_EDGE ? when.start : when.start + when.window + 1;
}

static nb_status check_oscireset(const void *how, int64_t steps, nb_error *err) {
    nb_oscireset_times when = nb_oscireset_when(how, steps);
    if (((const nb_oscireset *)how)->variant == NB_OSCI_BIN_EDGE || when.window + 2 <= when.period)
        return NB_OK;
    return nb_fail(err, NB_BAD_CONFIG,
                   "in a run of %lld steps oscireset.window is %lld and oscireset.period %lld; expected "
                   "a period at least 2 steps longer than its window",
                   (long long)steps, (long long)when.window, (long long)when.period);
}

/* ---- arXiv:2502.20853 ---- */

static const ni_key qema_rows[] = {
    {.path = "beta",
     .type = NI_KEY_FLOAT,
     NI_FIELD(nb_qema, beta),
     .fallback = "0.998",
     .high = 0.999999,
     .help = "weight of the average so far",
     .source = "arXiv:2502.20853"},
    {.path = "warmup",
     .type = NI_KEY_INT,
     NI_FIELD(nb_qema, warmup),
     .fallback = "10",
     .high = 1e9,
     .help = "updates of the average before it decides",
     .source = "the code of arXiv:2502.20853"},
};
const ni_keys ni_qema_keys = {.name = "qema", .rows = qema_rows, .count = NI_COUNT(qema_rows), .size = sizeof(nb_qema)};

/* ---- those that act late ---- */

#define LATE(member)                                                                                                   \
    .name = #member, .present = offsetof(nb_mechanism_set, has_##member),                                              \
    .offset = offsetof(nb_mechanism_set, member), .size = sizeof(((nb_mechanism_set *)0)->member)

const ni_late_mechanism ni_late_mechanisms[] = {
    {LATE(outcontrol), .first = outcontrol_first, .acts = outcontrol_acts, .act = "choose its channels"},
    {LATE(oscireset), .first = oscireset_first, .acts = oscireset_acts, .act = "first reset", .check = check_oscireset},
    {0}};
