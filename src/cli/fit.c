/* fit.c: the run is planned on paper with one key after the other changed, until it fits. Recomputation leaves every
 * bit as it is; half the micro-batch with twice the accumulation leaves the tokens of a step. */
#include "cli/fit.h"

#include "backend/load.h"
#include "cli/plan_machine.h"
#include "cli/screen.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { FEW_ROWS = 512 }; /* tokens whose logits are there at one time */

/* What stays free: the plan is within 5 % of a run, and libraries have memory of their own. */
static const double PART = 0.95;

static double memory_of(const nb_run_config *config) {
    ni_cuda_facts facts;
    int device;
    if (ni_cuda_device_of(config->backend, &device))
        return ni_backend_describe_cuda(device, &facts, NULL) == NB_OK ? (double)facts.memory : 0;
    return (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
}

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

void ni_cli_say_what_fits(const nb_run_config *config, nb_error *err) {
    const double memory = err && err->status == NB_NO_MEMORY ? memory_of(config) : 0;
    nb_run_config smaller = *config;
    double needs, found;
    char keys[160] = "", text[3][32];
    if (!(memory > 0) || ni_plan_memory(config, &needs, NULL) != NB_OK)
        return;
    for (found = needs; found > PART * memory && make_smaller(&smaller);)
        if (ni_plan_memory(&smaller, &found, NULL) != NB_OK)
            return;
    append_keys(keys, sizeof keys, config, &smaller);
    const size_t used = strlen(err->message);
    char *const at = err->message + used;
    const size_t size = sizeof err->message - used;
    ni_bytes_text(needs, text[0], sizeof text[0]);
    ni_bytes_text(memory, text[1], sizeof text[1]);
    ni_bytes_text(found, text[2], sizeof text[2]);
    if (needs <= PART * memory)
        snprintf(at, size, "; by plan the run takes %s of %s: the rest is taken, or kept from this process", text[0],
                 text[1]);
    else if (found <= PART * memory)
        snprintf(at, size, "; by plan the run takes %s of %s, and %s with %s", text[0], text[1], text[2], keys + 2);
    else
        snprintf(at, size, "; by plan the run takes %s of %s, and %s at least", text[0], text[1], text[2]);
}
