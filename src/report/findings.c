/* findings.c: rules that turn the last sample, and the way to it, into sentences. */
#include "report/findings.h"
#include "base/whole.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Above (or below) these a measurement is told; docs/report.md says why. */
#define HOT_RATIO 6.0 /* times the median channel */
#define HOT_SAMPLES 3 /* for so many samples in a row */
#define HEAVY_KURTOSIS 30.0
#define FLUSHED 0.3
#define VANISHED 0.01
#define DROWNED 1.7320508075688772 /* sqrt(3), arXiv:2505.19115 */
#define OSCILLATING 5e-4           /* share of followed elements with R > 16 */
#define NARROW_ENTROPY 0.2         /* nats */
#define GATE 60.0                  /* before the sigmoid and its division by 16: a decay below exp(-60/16) = 2 % */
#define ALIGNED 0.5

enum { OF_A_KIND = 3, NAMED_CHANNELS = 4 };

typedef struct list {
    const ni_samples *samples;
    ni_finding *items;
    int32_t count, most;
    const char *kind;    /* at hand, ... */
    int32_t kind_begins; /* ... and where its findings begin */
} list;

/* Room for a finding among the worst of its kind; NULL if it is none of them. */
static ni_finding *place(list *l, const ni_sampled *item, double weight) {
    int32_t of_kind = l->count - l->kind_begins, at = l->kind_begins;
    while (at < l->count && l->items[at].weight >= weight)
        at++;
    bool full = of_kind == OF_A_KIND || l->count == l->most;
    if (full && at == l->count)
        return NULL;
    if (!full)
        l->count++;
    memmove(&l->items[at + 1], &l->items[at], (size_t)(l->count - 1 - at) * sizeof *l->items);
    l->items[at] = (ni_finding){.kind = l->kind,
                                .metric = item->metric,
                                .module = item->module,
                                .operand = item->operand,
                                .step = ni_sampled_at(l->samples, item, -1).step,
                                .weight = weight};
    return &l->items[at];
}

static bool is(const ni_sampled *item, const char *metric) {
    return strcmp(item->metric, metric) == 0;
}

/* The last value; NaN if there is none. */
static double last_of(const ni_samples *s, const ni_sampled *item) {
    return item && ni_sampled_points(s, item) ? (double)ni_sampled_at(s, item, -1).values[0] : NAN;
}

static const char *where(const ni_sampled *item, char *text, size_t size) {
    snprintf(text, size, "%s%s%s", item->module, *item->operand ? " " : "", item->operand);
    return text;
}

/* ---- one rule a function; each goes over all names of its metric ---- */

typedef void rule(list *l, const ni_sampled *item, double value);

static void begin_kind(list *l, const char *kind) {
    l->kind = kind;
    l->kind_begins = l->count;
}

static void each(list *l, const char *kind, const char *metric, rule *judge) {
    begin_kind(l, kind);
    for (int32_t i = 0; i < l->samples->count; i++) {
        const ni_sampled *item = &l->samples->items[i];
        if (is(item, metric) && ni_sampled_points(l->samples, item))
            judge(l, item, last_of(l->samples, item));
    }
}

static void not_finite(list *l, const ni_sampled *item, double value) {
    char at[200];
    ni_finding *f = place(l, item, value);
    if (f)
        snprintf(f->text, sizeof f->text, "%s: %.0f numbers at step %lld", where(item, at, sizeof at), value,
                 (long long)f->step);
}

static void underflow(list *l, const ni_sampled *item, double flushed) {
    char at[200];
    double vanished = last_of(l->samples, ni_samples_find(l->samples, item->module, item->operand, "zero_scales"));
    if (!(flushed > FLUSHED) && !(vanished > VANISHED))
        return;
    ni_finding *f = place(l, item, flushed);
    if (!f)
        return;
    size_t used =
        (size_t)snprintf(f->text, sizeof f->text, "%s: %.1f %% become 0", where(item, at, sizeof at), 100 * flushed);
    if (vanished > VANISHED)
        snprintf(f->text + used, sizeof f->text - used, ", %.1f %% of the blocks vanish", 100 * vanished);
}

static void drowned(list *l, const ni_sampled *item, double rho) {
    char at[200];
    ni_finding *f = rho < DROWNED ? place(l, item, -rho) : NULL;
    if (f)
        snprintf(f->text, sizeof f->text, "%s: rho %.2f is below sqrt(3)", where(item, at, sizeof at), rho);
}

/* Not of gradients: a token's loss pulls at one word of the vocabulary, so they are heavy by nature. */
static void heavy_tails(list *l, const ni_sampled *item, double kurtosis) {
    char at[200];
    if (strcmp(item->operand, "fprop.x") != 0 && strcmp(item->operand, "fprop.w") != 0)
        return;
    ni_finding *f = kurtosis > HEAVY_KURTOSIS ? place(l, item, kurtosis) : NULL;
    if (f)
        snprintf(f->text, sizeof f->text, "%s: excess kurtosis %.0f", where(item, at, sizeof at), kurtosis);
}

static void narrow(list *l, const ni_sampled *item, double entropy) {
    ni_finding *f = entropy < NARROW_ENTROPY ? place(l, item, -entropy) : NULL;
    if (f)
        snprintf(f->text, sizeof f->text, "%s: entropy %.3f nats", item->module, entropy);
}

static void wide_gate(list *l, const ni_sampled *item, double amax) {
    ni_finding *f = amax > GATE ? place(l, item, amax) : NULL;
    if (f)
        snprintf(f->text, sizeof f->text, "%s: %.0f before the sigmoid", item->module, amax);
}

static void aligned(list *l, const ni_sampled *item, double alignment) {
    ni_finding *f = alignment > ALIGNED ? place(l, item, alignment) : NULL;
    if (f)
        snprintf(f->text, sizeof f->text, "%s: mean |cos| %.2f", item->module, alignment);
}

static void oscillating(list *l, const ni_sampled *item, double above_16) {
    char at[200];
    double above_8 = last_of(l->samples, ni_samples_find(l->samples, item->module, item->operand, "ratio_above_8"));
    ni_finding *f = above_16 > OSCILLATING ? place(l, item, above_16) : NULL;
    if (f)
        snprintf(f->text, sizeof f->text, "%s: R > 16 for %.2f %% of the weights, R > 8 for %.2f %%",
                 where(item, at, sizeof at), 100 * above_16, 100 * above_8);
}

/* ---- hot channels ---- */

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double median(const ni_series_point *point) {
    float *sorted = malloc((size_t)point->count * sizeof *sorted);
    if (!sorted)
        return NAN;
    memcpy(sorted, point->values, (size_t)point->count * sizeof *sorted);
    qsort(sorted, (size_t)point->count, sizeof *sorted, by_value);
    double middle = sorted[point->count / 2];
    free(sorted);
    return middle;
}

/* Samples from `step` on. */
static int64_t samples_since(const ni_samples *s, const ni_sampled *item, double step) {
    int64_t count = 0;
    for (int64_t i = ni_sampled_points(s, item); i-- > 0 && (double)ni_sampled_at(s, item, i).step >= step;)
        count++;
    return count;
}

typedef struct hot {
    int64_t channel;
    double ratio, since;
} hot;

/* The hottest that stayed, in descending order; returns how many. */
static int32_t hot_and_stayed(const ni_samples *s, const ni_sampled *item, const ni_series_point *channels,
                              hot found[NAMED_CHANNELS]) {
    const ni_sampled *since = ni_samples_find(s, item->module, item->operand, "hot_since");
    ni_series_point names = ni_sampled_at(s, item, -1);
    double middle = median(channels);
    int32_t count = 0;
    if (!since || ni_sampled_at(s, since, -1).count != names.count)
        return 0;
    for (int64_t i = 0; i < names.count; i++) {
        hot h = {.channel = ni_whole(names.values[i]), .since = ni_sampled_at(s, since, -1).values[i]};
        if (h.channel < 0 || h.channel >= channels->count)
            continue;
        h.ratio = channels->values[h.channel] / middle;
        if (!(h.ratio > HOT_RATIO) || samples_since(s, item, h.since) < HOT_SAMPLES)
            continue;
        int32_t at = count < NAMED_CHANNELS ? count++ : NAMED_CHANNELS;
        for (; at > 0 && found[at - 1].ratio < h.ratio; at--)
            if (at < NAMED_CHANNELS)
                found[at] = found[at - 1];
        if (at < NAMED_CHANNELS)
            found[at] = h;
    }
    return count;
}

static void hot_channels(list *l, const ni_sampled *item, double first_channel) {
    (void)first_channel;
    if (strcmp(item->operand, "fprop.x") != 0)
        return;
    hot found[NAMED_CHANNELS];
    char at[200];
    const ni_sampled *channels = ni_samples_find(l->samples, item->module, item->operand, "channels");
    if (!channels || !ni_sampled_points(l->samples, channels))
        return;
    ni_series_point maxima = ni_sampled_at(l->samples, channels, -1);
    int32_t count = hot_and_stayed(l->samples, item, &maxima, found);
    ni_finding *f = count ? place(l, channels, found[0].ratio) : NULL;
    if (!f)
        return;
    size_t used =
        (size_t)snprintf(f->text, sizeof f->text, "%s: channel %lld %.0fx the median since step %.0f",
                         where(item, at, sizeof at), (long long)found[0].channel, found[0].ratio, found[0].since);
    for (int32_t i = 1; i < count && used < sizeof f->text; i++)
        used += (size_t)snprintf(f->text + used, sizeof f->text - used, "; %lld %.0fx since %.0f",
                                 (long long)found[i].channel, found[i].ratio, found[i].since);
}

/* Sixteen neighbours share a scale: a set from few blocks says that one loud channel made the residuals of its
 * neighbours loud. */
static void few_blocks(list *l) {
    double sum = 0, least = INFINITY;
    int64_t layers = 0;
    const ni_sampled *at = NULL;
    for (int32_t i = 0; i < l->samples->count; i++) {
        const ni_sampled *item = &l->samples->items[i];
        if (!is(item, "hcp_blocks") || !ni_sampled_points(l->samples, item))
            continue;
        double blocks = last_of(l->samples, item);
        sum += blocks;
        layers++;
        if (blocks < least)
            at = item, least = blocks;
    }
    if (!at)
        return;
    begin_kind(l, "Blocks of patched channels");
    ni_finding *f = place(l, at, -least);
    if (f)
        snprintf(f->text, sizeof f->text,
                 "patched channels come from %.1f blocks of 16 a layer on average, in %s from %.0f",
                 sum / (double)layers, at->module, least);
}

/* ---- of the whole run ---- */

/* Mean over all names of `metric` of the points with from <= step < to. */
static double mean_between(const ni_samples *s, const char *metric, const char *operand, double from, double to) {
    double sum = 0;
    int64_t count = 0;
    for (int32_t i = 0; i < s->count; i++)
        for (int64_t p = 0; is(&s->items[i], metric) && strcmp(s->items[i].operand, operand) == 0 &&
                            p < ni_sampled_points(s, &s->items[i]);
             p++) {
            ni_series_point point = ni_sampled_at(s, &s->items[i], p);
            if ((double)point.step >= from && (double)point.step < to) {
                sum += point.values[0];
                count++;
            }
        }
    return count ? sum / (double)count : NAN;
}

static const ni_sampled *any(const ni_samples *s, const char *metric) {
    for (int32_t i = 0; i < s->count; i++)
        if (is(&s->items[i], metric) && ni_sampled_points(s, &s->items[i]))
            return &s->items[i];
    return NULL;
}

static void whole_run(ni_finding *f) {
    f->module = f->operand = "";
}

/* Spikes wander, then a fixed set of channels stays: did it come to that? */
static void settled(list *l) {
    const ni_sampled *item = any(l->samples, "hot_overlap");
    if (!item)
        return;
    begin_kind(l, "Settling");
    double end = (double)ni_sampled_at(l->samples, item, -1).step, quarter = end / 4;
    double early = mean_between(l->samples, "hot_overlap", "fprop.x", 0, quarter + 1);
    double late = mean_between(l->samples, "hot_overlap", "fprop.x", end - quarter, INFINITY);
    ni_finding *f = isfinite(early) && isfinite(late) ? place(l, item, late) : NULL;
    if (!f)
        return;
    whole_run(f);
    snprintf(f->text, sizeof f->text, "%.0f %% of the hot channels stay from sample to sample; early it was %.0f %%",
             100 * late, 100 * early);
}

static void resets(list *l) {
    const ni_sampled *reset = any(l->samples, "reset_share"), *item = any(l->samples, "ratio_above_8");
    if (!reset || !item)
        return;
    begin_kind(l, "Resets");
    double first = (double)ni_sampled_at(l->samples, reset, 0).step;
    double before = mean_between(l->samples, "ratio_above_8", "fprop.w", 0, first);
    double after = mean_between(l->samples, "ratio_above_8", "fprop.w", first, INFINITY);
    ni_finding *f = isfinite(before) && isfinite(after) ? place(l, item, after) : NULL;
    if (!f)
        return;
    whole_run(f);
    snprintf(f->text, sizeof f->text, "R > 8 for %.2f %% of the weights before step %.0f, for %.2f %% since",
             100 * before, first, 100 * after);
}

int32_t ni_findings(const ni_samples *samples, ni_finding *findings, int32_t most) {
    list l = {.samples = samples, .items = findings, .most = most};
    each(&l, "NaN and Inf", "nonfinite", not_finite);
    each(&l, "Underflow", "flushed", underflow);
    each(&l, "Drowned gradients", "rho", drowned);
    each(&l, "Hot channels that stay", "hot", hot_channels);
    settled(&l);
    few_blocks(&l);
    each(&l, "Heavy tails", "kurtosis", heavy_tails);
    each(&l, "Oscillation", "ratio_above_16", oscillating);
    resets(&l);
    each(&l, "Attention to single tokens", "entropy", narrow);
    each(&l, "Wide gates", "gate_amax", wide_gate);
    each(&l, "Gate and up aligned", "alignment", aligned);
    return l.count;
}
