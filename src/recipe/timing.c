/* timing.c: at which steps of a run what a recipe does begins, and how long two recipes train alike. */
#include "recipe/recipe_yaml.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The small step back keeps 0.07 of 100 at 7 although neither 0.07 nor the product is exact in binary. */
int64_t nb_step_of(double point, int64_t steps) {
    return (int64_t)(point < 1 ? ceil(point * (double)steps - 1e-9) : point);
}

static int64_t at_least(int64_t least, int64_t value) {
    return value < least ? least : value;
}

nb_outcontrol_times nb_outcontrol_when(const nb_outcontrol *how, int64_t steps) {
    int64_t start = nb_step_of(how->start, steps);
    return (nb_outcontrol_times){.start = start, .choice = start + at_least(1, nb_step_of(how->window, steps))};
}

/* The released code tells the time of a period from step 0, so a start in steps waits for the next one; a share of the
 * run was never meant to the step and takes the nearest, though not step 0. */
nb_oscireset_times nb_oscireset_when(const nb_oscireset *how, int64_t steps) {
    int64_t period = at_least(1, nb_step_of(how->period, steps)), start = nb_step_of(how->start, steps);
    bool share = how->start > 0 && how->start < 1;
    int64_t periods = share ? at_least(1, (2 * start + period) / (2 * period)) : (start + period - 1) / period;
    return (nb_oscireset_times){
        .start = periods * period, .period = period, .window = at_least(1, nb_step_of(how->window, steps))};
}

static bool is_late(const nb_late_switch *late) {
    return late->at < 1 && (late->forward || late->backward);
}

/* ---- recipes that a run is too short for ---- */

nb_status nb_recipe_check_steps(const nb_recipe *recipe, int64_t steps, nb_error *err) {
    const nb_oscireset *how = &recipe->mechanisms.oscireset;
    nb_oscireset_times when = nb_oscireset_when(how, steps);
    if (recipe->mechanisms.has_oscireset && how->variant != NB_OSCI_BIN_EDGE && when.window + 2 > when.period)
        return nb_fail(err, NB_BAD_CONFIG,
                       "recipe %s: in a run of %lld steps oscireset.window is %lld and oscireset.period %lld; expected "
                       "a period at least 2 steps longer than its window",
                       recipe->name, (long long)steps, (long long)when.window, (long long)when.period);
    return NB_OK;
}

bool nb_recipe_idles(const nb_recipe *recipe, int64_t steps, char *text, size_t size) {
    const nb_mechanism_set *m = &recipe->mechanisms;
    nb_outcontrol_times out = nb_outcontrol_when(&m->outcontrol, steps);
    nb_oscireset_times osci = nb_oscireset_when(&m->oscireset, steps);
    int64_t first_reset = m->oscireset.variant == NB_OSCI_BIN_EDGE ? osci.start : osci.start + osci.window + 1;
    if (m->has_outcontrol && out.choice >= steps)
        snprintf(text, size,
                 "outcontrol would choose its channels at step %lld of %lld and so never acts; hint: an "
                 "earlier outcontrol.start, or shares of the run",
                 (long long)out.choice, (long long)steps);
    else if (m->has_oscireset && first_reset >= steps)
        snprintf(text, size,
                 "oscireset would first reset at step %lld of %lld and so never acts; hint: an earlier "
                 "oscireset.start, or shares of the run",
                 (long long)first_reset, (long long)steps);
    else
        return false;
    return true;
}

/* ---- how long two recipes train alike ---- */

/* The whole recipe as text, without what it is called; NULL if memory ran out. */
static char *text_of(const nb_recipe *recipe) {
    nb_recipe nameless = *recipe;
    nameless.name[0] = nameless.about[0] = nameless.paper[0] = 0;
    char *text = NULL;
    size_t size = 0;
    FILE *to = open_memstream(&text, &size);
    if (!to)
        return NULL;
    nb_recipe_print(&nameless, NULL, NB_COMMENTS_NONE, to);
    fclose(to);
    return text;
}

static bool are_equal(const nb_recipe *a, const nb_recipe *b) {
    char *x = text_of(a), *y = text_of(b);
    bool equal = x && y && strcmp(x, y) == 0;
    free(x);
    free(y);
    return equal;
}

/* The parts of a recipe that act from some step on: the first step at which each does, and `b` with that part of `a`.
 */
enum { LATE_SWITCH, OUTCONTROL, OSCIRESET, LATE_PARTS };

static int64_t first_step(const nb_recipe *r, int part, int64_t steps) {
    const nb_mechanism_set *m = &r->mechanisms;
    if (part == LATE_SWITCH)
        return is_late(&r->late_switch) ? nb_step_of(r->late_switch.at, steps) : steps;
    if (part == OUTCONTROL)
        return m->has_outcontrol ? nb_outcontrol_when(&m->outcontrol, steps).start : steps;
    return m->has_oscireset ? nb_oscireset_when(&m->oscireset, steps).start : steps;
}

static nb_recipe with_part(const nb_recipe *b, const nb_recipe *a, int part) {
    nb_recipe r = *b;
    if (part == LATE_SWITCH) {
        r.late_switch = a->late_switch;
    } else if (part == OUTCONTROL) {
        r.mechanisms.has_outcontrol = a->mechanisms.has_outcontrol;
        r.mechanisms.outcontrol = a->mechanisms.outcontrol;
    } else {
        r.mechanisms.has_oscireset = a->mechanisms.has_oscireset;
        r.mechanisms.oscireset = a->mechanisms.oscireset;
    }
    return r;
}

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

int64_t nb_recipe_alike_steps(const nb_recipe *a, const nb_recipe *b, int64_t steps) {
    nb_recipe rest = *b;
    int64_t alike = steps;
    for (int part = 0; part < LATE_PARTS; part++) {
        nb_recipe same = with_part(b, a, part);
        if (!are_equal(&same, b))
            alike = smaller(alike, smaller(first_step(a, part, steps), first_step(b, part, steps)));
        rest = with_part(&rest, a, part);
    }
    return are_equal(&rest, a) ? alike : 0;
}
