/* timing.c: what the times of a recipe mean for a run: whether it is too short, and how long two recipes train alike.
 * When each mechanism acts stands beside its keys (src/linear/NAME.c). */
#include "base/text.h"
#include "recipe/mechanism.h"
#include "recipe/recipe_yaml.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool has(const nb_recipe *recipe, const ni_mechanism_row *row) {
    return *(const bool *)((const char *)&recipe->mechanisms + row->present);
}

static const void *set_in(const nb_recipe *recipe, const ni_mechanism_row *row) {
    return (const char *)&recipe->mechanisms + row->offset;
}

static bool is_late(const nb_late_switch *late) {
    return late->at < 1 && (late->forward || late->backward);
}

bool nb_recipe_switched(const nb_recipe *recipe, int64_t step, int64_t steps) {
    return steps > 0 && recipe->late_switch.at < 1 && step >= nb_step_of(recipe->late_switch.at, steps);
}

/* ---- recipes that a run is too short for ---- */

nb_status nb_recipe_check_steps(const nb_recipe *recipe, int64_t steps, nb_error *err) {
    for (const ni_mechanism_row *row = ni_mechanism_rows; row->name; row++)
        if (row->section->check && has(recipe, row) && row->section->check(set_in(recipe, row), steps, err) != NB_OK)
            return nb_fail_within(err, "recipe %s", recipe->name);
    return NB_OK;
}

bool nb_recipe_idles(const nb_recipe *recipe, int64_t steps, char *text, size_t size) {
    for (const ni_mechanism_row *row = ni_mechanism_rows; row->name; row++) {
        if (!has(recipe, row) || !row->section->acts || row->section->acts(set_in(recipe, row), steps) < steps)
            continue;
        snprintf(text, size,
                 "%s would %s at step %lld of %lld and so never acts; hint: an earlier %s.start, or shares of the run",
                 row->name, row->section->act, (long long)row->section->acts(set_in(recipe, row), steps),
                 (long long)steps, row->name);
        return true;
    }
    return false;
}

/* ---- how long two recipes train alike ---- */

/* The whole recipe as text, without what it is called; NULL if memory ran out. */
static char *text_of(const nb_recipe *recipe) {
    nb_recipe nameless = *recipe;
    nameless.name[0] = nameless.family[0] = nameless.about[0] = nameless.paper[0] = 0;
    char *text = NULL;
    size_t size = 0;
    FILE *to = open_memstream(&text, &size);
    if (!to)
        return NULL;
    bool whole = ni_recipe_print(&nameless, NULL, NI_COMMENTS_NONE, to);
    return ni_memory_text(to, &text, whole);
}

bool ni_recipes_agree(const nb_recipe *a, const nb_recipe *b) {
    char *x = text_of(a), *y = text_of(b);
    bool equal = x && y && strcmp(x, y) == 0;
    free(x);
    free(y);
    return equal;
}

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t first_step(const nb_recipe *r, const ni_mechanism_row *row, int64_t steps) {
    if (!has(r, row))
        return steps;
    return row->section->first ? row->section->first(set_in(r, row), steps) : 0;
}

/* `b` with a mechanism of `a`, or without it as `a`. */
static nb_recipe with_mechanism(const nb_recipe *b, const nb_recipe *a, const ni_mechanism_row *row) {
    nb_recipe r = *b;
    memcpy((char *)&r.mechanisms + row->present, (const char *)&a->mechanisms + row->present, sizeof(bool));
    memcpy((char *)&r.mechanisms + row->offset, (const char *)&a->mechanisms + row->offset, row->size);
    return r;
}

static nb_recipe with_switch(const nb_recipe *b, const nb_recipe *a) {
    nb_recipe r = *b;
    r.late_switch = a->late_switch;
    return r;
}

/* What is looked at in step 0 may switch from step 1 on. */
static int64_t switch_step(const nb_recipe *r, int64_t steps) {
    const int64_t at = is_late(&r->late_switch) ? nb_step_of(r->late_switch.at, steps) : steps;
    return r->late_switch.rho > 0 ? smaller(at, 1) : at;
}

int64_t nb_recipe_alike_steps(const nb_recipe *a, const nb_recipe *b, int64_t steps) {
    nb_recipe same = with_switch(b, a), rest = same;
    int64_t alike = ni_recipes_agree(&same, b) ? steps : smaller(switch_step(a, steps), switch_step(b, steps));
    for (const ni_mechanism_row *row = ni_mechanism_rows; row->name; row++) {
        same = with_mechanism(b, a, row);
        if (!ni_recipes_agree(&same, b))
            alike = smaller(alike, smaller(first_step(a, row, steps), first_step(b, row, steps)));
        rest = with_mechanism(&rest, a, row);
    }
    return ni_recipes_agree(&rest, a) ? smaller(alike, steps) : 0;
}
