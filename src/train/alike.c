/* alike.c: what decides the bits of a run, as checksums that ranks compare. */
#include "alike.h"
#include "products.h"
#include "trainer.h"

#include "backend/table.h"
#include "files/checksum.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RUN, RECIPE, DATA, PRODUCTS, FACTS };

typedef struct facts {
    char sums[FACTS][NI_CHECKSUM_SIZE];
} facts;
static_assert(sizeof(facts) <= NI_RANKS_WORD, "ranks tell each other so much at once");

static const char *const names[FACTS] = {"run file", "recipe", "data", "kernels, or backend,"};

static void sum_of(const char *text, char *sum) {
    ni_checksum(text ? text : "", text ? strlen(text) : 0, sum);
}

static void find(const nb_trainer *t, facts *out) {
    char *run = nb_run_config_text(&t->config), *recipe = ni_recipe_to_text(&t->recipe), text[256];
    ni_products products = ni_products_of(t->be);
    sum_of(run, out->sums[RUN]);
    sum_of(recipe, out->sums[RECIPE]);
    snprintf(text, sizeof text, "%llx", t->train ? (unsigned long long)ni_dataset_fingerprint(t->train) : 0);
    sum_of(text, out->sums[DATA]);
    snprintf(text, sizeof text, "%.*s, %s, %s", (int)strcspn(t->be->name, ":"), t->be->name, products.bf16,
             products.f32);
    sum_of(text, out->sums[PRODUCTS]);
    ni_products_free(&products);
    free(run);
    free(recipe);
}

static nb_status compare(const facts *all, int32_t world, nb_error *err) {
    for (int32_t r = 1; r < world; r++)
        for (int f = 0; f < FACTS; f++)
            if (strcmp(all[r].sums[f], all[0].sums[f]) != 0)
                return nb_fail(err, NB_BAD_CONFIG, "rank %d of %d has another %s than rank 0; expected the same",
                               (int)r, (int)world, names[f]);
    return NB_OK;
}

nb_status ni_trainer_check_alike(const nb_trainer *t, nb_error *err) {
    const int32_t world = nb_ranks_world(t->ranks);
    facts mine = {0};
    if (world == 1)
        return NB_OK;
    facts *all = ni_ranks_words(t->ranks);
    find(t, &mine);
    nb_status status = ni_ranks_gather(t->ranks, &mine, all, sizeof mine, err);
    const bool met = status == NB_OK;
    if (met)
        status = compare(all, world, err);
    return met ? nb_ranks_agree(t->ranks, status, err) : status;
}
