/* results.c: losses and norms on their way to the host. */
#include "results.h"
#include "backend/table.h"
#include "base/progress.h"
#include "model/loss.h"
#include "tree.h"

#include <stdlib.h>
#include <string.h>

/* What a micro-batch came to. */
struct ni_found {
    double loss;
    int64_t scored;
};

static size_t bytes_of(const ni_results *r) {
    return (size_t)(r->micro_batches + r->norm_parts) * sizeof(double);
}

nb_status ni_results_create(nb_backend *be, const ni_param_array *grads, int64_t micro_batches, int32_t world,
                            bool owned, ni_results *out, nb_error *err) {
    *out = (ni_results){.be = be, .micro_batches = micro_batches, .norm_parts = ni_param_array_parts(grads)};
    void *memory;
    NB_TRY(ni_backend_take(be, bytes_of(out), "losses and norms of a step", &memory, err));
    out->memory = memory;
    out->host = malloc(bytes_of(out));
    out->scored = calloc((size_t)micro_batches, sizeof *out->scored);
    out->word = (size_t)(micro_batches / world) * sizeof(struct ni_found);
    out->word += owned ? (size_t)out->norm_parts * sizeof(double) : 0;
    out->words = calloc((size_t)world, out->word);
    if (out->host && out->scored && out->words)
        return NB_OK;
    ni_results_free(out);
    return nb_fail(err, NB_NO_MEMORY, "no memory for the losses of %lld micro-batches", (long long)micro_batches);
}

void ni_results_free(ni_results *r) {
    if (r->memory)
        r->be->ops->release(r->be, r->memory);
    free(r->host);
    free(r->scored);
    free(r->words);
    memset(r, 0, sizeof *r);
}

/* Of a rank: its micro-batches, equally many, and the squares of all sections, of which it has some. */
static nb_status gather(ni_results *r, nb_ranks *ranks, const size_t *parts, nb_error *err) {
    const int32_t world = nb_ranks_world(ranks), rank = nb_ranks_rank(ranks);
    const int64_t count = r->micro_batches / world;
    struct ni_found *mine = (struct ni_found *)(r->words + (size_t)rank * r->word);
    char *const squares = (char *)(r->host + r->micro_batches);
    for (int64_t i = 0; i < count; i++)
        mine[i] = (struct ni_found){r->host[rank * count + i], r->scored[rank * count + i]};
    if (parts)
        memcpy(mine + count, squares, (size_t)r->norm_parts * sizeof(double));
    NB_TRY(ni_ranks_gather(ranks, mine, r->words, r->word, err));
    for (int32_t from = 0; from < world; from++) {
        const struct ni_found *theirs = (const struct ni_found *)(r->words + (size_t)from * r->word);
        for (int64_t i = 0; i < count; i++) {
            r->host[from * count + i] = theirs[i].loss;
            r->scored[from * count + i] = theirs[i].scored;
        }
        if (parts)
            memcpy(squares + parts[from], (const char *)(theirs + count) + parts[from], parts[from + 1] - parts[from]);
    }
    return NB_OK;
}

void ni_results_square_early(ni_results *r, const ni_param_array *grads) {
    ni_param_array_square_sections(grads, 1, grads->sections, r->memory + r->micro_batches);
    r->squared = true;
}

nb_status ni_results_fetch(ni_results *r, const ni_param_array *grads, nb_ranks *ranks, const size_t *parts,
                           double *loss, double *squares, nb_error *err) {
    ni_sum_tree losses = {0};
    double *squares_of = r->memory + r->micro_batches;
    if (r->squared)
        ni_param_array_square_sections(grads, 0, 1, squares_of);
    else
        ni_param_array_sum_squares(grads, squares_of);
    r->squared = false;
    r->be->ops->download(r->be, r->host, r->memory, bytes_of(r));
    const double begin = ni_seconds();
    NB_TRY(gather(r, ranks, parts, err));
    r->seconds += ni_seconds() - begin;
    for (int64_t i = 0; i < r->micro_batches; i++)
        ni_tree_add(&losses, ni_mean_loss(r->host[i], r->scored[i]));
    *loss = ni_tree_total(&losses) * (1.0 / (double)r->micro_batches);
    *squares = 0;
    for (int32_t i = 0; i < r->norm_parts; i++)
        *squares += r->host[r->micro_batches + i];
    return NB_OK;
}

double ni_results_loss(const ni_results *r, int64_t micro_batch) {
    double sum;
    r->be->ops->download(r->be, &sum, r->memory + micro_batch, sizeof sum);
    return ni_mean_loss(sum, r->scored[micro_batch]);
}

double ni_results_squares(const ni_results *r, const ni_scaled *tensor, int64_t n) {
    double squares, *out = r->memory + r->micro_batches;
    r->be->ops->scaled_sum_squares(r->be, out, tensor, n);
    r->be->ops->download(r->be, &squares, out, sizeof squares);
    return squares;
}

int32_t ni_results_dead(const ni_results *r, const ni_param_array *grads, int32_t *first) {
    int32_t dead = 0;
    for (int32_t i = grads->end - 1; i >= grads->begin; i--) {
        const ni_scaled tensor = ni_param_array_at(grads, i);
        if (ni_results_squares(r, &tensor, grads->at[i].length) != 0)
            continue;
        *first = i;
        dead++;
    }
    return dead;
}
