/* announce.c: notes to whoever watches a run, and what a run says of itself before its first step and at its end. */
#include "announce.h"
#include "recorder.h"

#include "backend/table.h"
#include "model/param_array.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void ni_note(const nb_trainer *t, nb_note_kind kind, const char *format, ...) {
    if (!t->callbacks.note)
        return;
    char sentence[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    t->callbacks.note(t->callbacks.user, kind, sentence);
}

/* A window that the next sample or the end of the run cuts short is said: nothing is left out in silence. */
static void say_window(const nb_trainer *t) {
    int64_t every = t->config.lens.every, window = t->config.lens.window, followed = ni_recorder_window(&t->config);
    if (every == 0 || window == 0 || followed == window)
        return;
    if (t->steps < 2)
        ni_note(t, NB_NOTE_INFO, "lens: oscillation is not measured, because the run has a single step; expected 2");
    else if (followed > 0)
        ni_note(t, NB_NOTE_INFO,
                "lens: weights are followed for %lld step%s after a sample, not lens.window %lld: %s, %lld steps",
                (long long)followed, followed == 1 ? "" : "s", (long long)window,
                every < t->steps ? "then comes lens.every" : "then the run ends", (long long)(followed + 1));
    else
        ni_note(
            t, NB_NOTE_WARNING,
            "lens: oscillation is not measured, because samples are %lld step apart; expected lens.every and steps of "
            "at least 2",
            (long long)(followed + 1));
}

static void say_doubts(nb_trainer *t) {
    char text[256];
    const int32_t count = nb_model_doubts(t->model, text, sizeof text);
    if (count)
        ni_note(t, NB_NOTE_WARNING, "recipe %s: %s (%d such inputs)", t->recipe.name, text, count);
}

/* Patterns that keep nothing in BF16: of another family's modules, or misspelt. The embedding is no linear layer. */
static void say_unfit(nb_trainer *t, const char *key, char (*patterns)[NB_NAME_SIZE], int32_t count) {
    for (int32_t i = 0; i < count; i++)
        if (strcmp(patterns[i], "embedding") != 0 && !ni_model_has_module(t->model, patterns[i]))
            ni_note(t, NB_NOTE_INFO, "%s: %s fits no module of this model; hint: their names are in census.txt", key,
                    patterns[i]);
}

/* What one's own recipe gives up. */
static void say_exchange(const nb_trainer *t) {
    if (t->auto_scale.count > 0 && t->ranks)
        ni_note(
            t, NB_NOTE_INFO,
            "gradients of %d ranks are added in %s under one scale a tensor (gradients.exchange.rule: fp8-lm): another "
            "number of ranks ends in other bits",
            (int)nb_ranks_world(t->ranks), nb_dtype_name(t->recipe.gradients.format));
}

/* How weights go to ranks that have no part in moving them. */
static void say_weights(const nb_trainer *t) {
    const ni_hand_over *h = &t->handed;
    const double weights = (double)(h->coded + h->numbers + h->as_masters) / 100;
    char codes[96] = "none as codes";
    if (h->coded > 0)
        snprintf(codes, sizeof codes, "%.1f %% as codes of %.4g bytes", (double)h->coded / weights,
                 (double)h->code_bytes / (double)h->coded);
    if (t->share.out)
        ni_note(t, NB_NOTE_INFO, "weights go to other ranks: %s, %.1f %% in BF16, %.1f %% as masters%s%s", codes,
                (double)h->numbers / weights, (double)h->as_masters / weights, h->why ? ": " : "",
                h->why ? h->why : "");
    if (h->any && ni_trainer_looks(t))
        ni_note(t, NB_NOTE_INFO, "rank 0 has all masters, because %s",
                t->guest ? "a lens that is no key of the run looks at them"
                         : "a lens or a watch over scales looks at them; hint: lens.every: 0 and "
                           "bad_numbers.scales_every: 0 spare it those of the others");
}

void ni_announce_run(nb_trainer *t) {
    char idle[256];
    if (nb_recipe_idles(&t->recipe, t->steps, idle, sizeof idle))
        ni_note(t, NB_NOTE_WARNING, "recipe %s: %s", t->recipe.name, idle);
    say_window(t);
    say_doubts(t);
    say_unfit(t, "keep.modules", t->recipe.keep.modules, t->recipe.keep.module_count);
    say_unfit(t, "bad_numbers.bf16_modules", t->config.bad_numbers.bf16_modules,
              t->config.bad_numbers.bf16_module_count);
    say_exchange(t);
    say_weights(t);
}

/* What a step took for ranks beside its arithmetic, as rank 0 saw it: words before and after the backward pass, and
 * gradients once the backward pass was at its end. */
void ni_announce_waits(const nb_trainer *t) {
    const double steps = (double)t->waited.steps * 1e-3;
    char gradients[64] = ""; /* shared out or narrow: nobody looks at the clock */
    if (t->waited.exchange > 0)
        snprintf(gradients, sizeof gradients, " %.3f for gradients behind its backward pass,",
                 t->waited.exchange / steps);
    if (t->ranks && t->waited.steps > 0)
        ni_note(t, NB_NOTE_INFO, "a step waited for other ranks: %.3f ms before it,%s %.3f for losses; means of %lld",
                t->waited.words / steps, gradients, t->results.seconds / steps, (long long)t->waited.steps);
}
