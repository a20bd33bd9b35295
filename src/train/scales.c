/* scales.c: shares of saturated elements and vanished blocks, operand by operand. */
#include "scales.h"
#include "backend/table.h"

#include <stdio.h>
#include <string.h>

static void note_share(ni_scale_watch *w, const nb_lens_operand *seen, double share, bool vanished) {
    if (share <= w->worst)
        return;
    w->worst = share;
    w->worst_vanished = vanished;
    snprintf(w->where, sizeof w->where, "%s %s", seen->module, nb_role_name(seen->role));
}

static void on_operand(void *context, const nb_lens_operand *seen) {
    ni_scale_watch *w = context;
    nb_quantize_stats s = {.elements = 0};
    if (seen->stats)
        seen->be->ops->download(seen->be, &s, seen->stats, sizeof s);
    if (s.elements == 0)
        return;
    double saturated = (double)s.saturated / (double)s.elements;
    double vanished = s.blocks ? (double)s.zero_scales / (double)s.blocks : 0;
    w->operands += saturated > w->limit || vanished > w->limit;
    note_share(w, seen, saturated, false);
    note_share(w, seen, vanished, true);
}

const nb_lens *ni_scale_watch_begin(ni_scale_watch *w, double limit) {
    memset(w, 0, sizeof *w);
    w->limit = limit;
    w->lens = (nb_lens){.context = w, .counts = true, .operand = on_operand};
    return &w->lens;
}

bool ni_scale_watch_text(const ni_scale_watch *w, char *text, size_t size) {
    if (w->operands == 0)
        return false;
    snprintf(text, size, "scales do not fit %d operand%s: %.0f %% of the %s of the worst", w->operands,
             w->operands == 1 ? "" : "s", 100 * w->worst,
             w->worst_vanished ? "blocks vanish (scale 0)" : "elements saturate");
    return true;
}
