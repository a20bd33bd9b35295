/* fit.c: the run is planned on paper with one key after the other changed, until it fits. Recomputation leaves every
 * bit as it is; half the micro-batch with twice the accumulation leaves the tokens of a step. */
#include "cli/fit.h"

#include "backend/table.h"
#include "cli/screen.h"

#include <stdio.h>
#include <string.h>

enum { FEW_ROWS = 512 }; /* tokens whose logits are there at one time */

/* The plan is within 5 % of a run, and libraries have memory of their own: what is said to fit leaves as much free, and
 * what is sent away exceeds the memory by as much. */
static const double PART = 0.95;

/* The next smaller run; false: there is none. */
static bool make_smaller(nb_run_config *c) {
    if (c->recompute != NB_RECOMPUTE_BLOCK)
        c->recompute = c->recompute == NB_RECOMPUTE_NONE ? NB_RECOMPUTE_MLP : NB_RECOMPUTE_BLOCK;
    else if (c->micro_batch % 2 == 0) {
        c->micro_batch /= 2;
        c->accumulation *= 2;
    } else if (c->head_rows == 0 || c->head_rows > FEW_ROWS)
        c->head_rows = FEW_ROWS;
    else
        return false;
    return true;
}

static void append_keys(char *text, size_t size, const nb_run_config *was, const nb_run_config *is) {
    size_t used = 0;
    if (is->recompute != was->recompute)
        used += (size_t)snprintf(text + used, size - used, ", recompute: %s",
                                 is->recompute == NB_RECOMPUTE_MLP ? "mlp" : "block");
    if (is->micro_batch != was->micro_batch)
        used += (size_t)snprintf(text + used, size - used, ", micro_batch: %lld, accumulation: %lld",
                                 (long long)is->micro_batch, (long long)is->accumulation);
    if (is->head_rows != was->head_rows)
        snprintf(text + used, size - used, ", head_rows: %lld", (long long)is->head_rows);
}

/* "recompute: block, micro_batch: 2, accumulation: 4" and what the run takes with them, at most PART of `memory`; empty
 * where no keys are enough, with the least that they reach. false: a plan could not be made. */
static bool find_smaller(const nb_run_config *config, double needs, double memory, char *keys, size_t size,
                         double *found) {
    nb_run_config smaller = *config;
    char with[160] = "";
    *keys = '\0';
    for (*found = needs; *found > PART * memory && make_smaller(&smaller);)
        if (ni_plan_memory(&smaller, NULL, NULL, NULL, found, NULL) != NB_OK)
            return false;
    append_keys(with, sizeof with, config, &smaller);
    if (*found <= PART * memory && with[0])
        snprintf(keys, size, "%s", with + 2);
    return true;
}

static bool memory_of(nb_backend *be, double *left, double *all) {
    size_t bytes[2];
    if (!be->left || !be->left(be, &bytes[0], &bytes[1]))
        return false;
    *left = (double)bytes[0];
    *all = (double)bytes[1];
    return true;
}

nb_status ni_cli_check_memory(nb_backend *be, const nb_run_config *config, nb_ranks *ranks, ni_plan_seen *seen,
                              void *user, bool *planned, nb_error *err) {
    double needs, left, all, found;
    char keys[160], text[4][32], less[256] = "";
    const bool made = ni_plan_memory(config, ranks, seen, user, &needs, NULL) == NB_OK;
    if (planned)
        *planned = made;
    if (!made || !config->memory_check || !memory_of(be, &left, &all) || PART * needs <= left)
        return NB_OK;
    ni_bytes_text(needs, text[0], sizeof text[0]);
    ni_bytes_text(left, text[1], sizeof text[1]);
    ni_bytes_text(all, text[2], sizeof text[2]);
    if (nb_ranks_world(ranks) == 1 && find_smaller(config, needs, left, keys, sizeof keys, &found))
        snprintf(less, sizeof less, "; %s %s%s", ni_bytes_text(found, text[3], sizeof text[3]),
                 keys[0] ? "with " : "at least, whatever the keys", keys);
    return nb_fail(err, NB_NO_MEMORY,
                   "%s: no room for the run: by plan it takes %s, and %s of %s are left%s; hint: memory_check: false "
                   "begins it all the same",
                   be->name, text[0], text[1], text[2], less);
}

void ni_cli_say_what_fits(nb_backend *be, const nb_run_config *config, nb_error *err) {
    double needs, left, all, found;
    char keys[160], text[3][32];
    if (!err || err->status != NB_NO_MEMORY || !memory_of(be, &left, &all) ||
        ni_plan_memory(config, NULL, NULL, NULL, &needs, NULL) != NB_OK ||
        !find_smaller(config, needs, all, keys, sizeof keys, &found))
        return;
    const size_t used = strlen(err->message);
    char *const at = err->message + used;
    const size_t size = sizeof err->message - used;
    ni_bytes_text(needs, text[0], sizeof text[0]);
    ni_bytes_text(all, text[1], sizeof text[1]);
    ni_bytes_text(found, text[2], sizeof text[2]);
    if (needs <= PART * all)
        snprintf(at, size, "; by plan the run takes %s of %s: the rest is taken, or kept from this process", text[0],
                 text[1]);
    else if (keys[0])
        snprintf(at, size, "; by plan the run takes %s of %s, and %s with %s", text[0], text[1], text[2], keys);
    else
        snprintf(at, size, "; by plan the run takes %s of %s, and %s at least", text[0], text[1], text[2]);
}
