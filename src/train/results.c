/* results.c: losses and norms on their way to the host. */
#include "results.h"
#include "backend/table.h"
#include "model/loss.h"
#include "tree.h"

#include <stdlib.h>
#include <string.h>

static size_t bytes_of(const nb_results *r) {
    return (size_t)(r->micro_batches + r->norm_parts) * sizeof(double);
}

nb_status nb_results_create(nb_backend *be, const nb_param_array *grads, int64_t micro_batches, nb_results *out,
                            nb_error *err) {
    *out = (nb_results){.be = be, .micro_batches = micro_batches, .norm_parts = nb_param_array_parts(grads)};
    void *memory;
    NB_TRY(nb_backend_take(be, bytes_of(out), "losses and norms of a step", &memory, err));
    out->memory = memory;
    out->host = malloc(bytes_of(out));
    out->scored = calloc((size_t)micro_batches, sizeof *out->scored);
    if (out->host && out->scored)
        return NB_OK;
    nb_results_free(out);
    return nb_fail(err, NB_NO_MEMORY, "no memory for the losses of %lld micro-batches", (long long)micro_batches);
}

void nb_results_free(nb_results *r) {
    if (r->memory)
        r->be->ops->release(r->be, r->memory);
    free(r->host);
    free(r->scored);
    memset(r, 0, sizeof *r);
}

void nb_results_fetch(nb_results *r, const nb_param_array *grads, double *loss, double *squares) {
    nb_sum_tree losses = {0};
    nb_param_array_sum_squares(grads, r->memory + r->micro_batches);
    r->be->ops->download(r->be, r->host, r->memory, bytes_of(r));
    for (int64_t i = 0; i < r->micro_batches; i++)
        nb_tree_add(&losses, nb_mean_loss(r->host[i], r->scored[i]));
    *loss = nb_tree_total(&losses) * (1.0 / (double)r->micro_batches);
    *squares = 0;
    for (int32_t i = 0; i < r->norm_parts; i++)
        *squares += r->host[r->micro_batches + i];
}

double nb_results_loss(const nb_results *r, int64_t micro_batch) {
    double sum;
    r->be->ops->download(r->be, &sum, r->memory + micro_batch, sizeof sum);
    return nb_mean_loss(sum, r->scored[micro_batch]);
}

double nb_results_squares(const nb_results *r, const nb_scaled *tensor, int64_t n) {
    double squares, *out = r->memory + r->micro_batches;
    r->be->ops->scaled_sum_squares(r->be, out, tensor, n);
    r->be->ops->download(r->be, &squares, out, sizeof squares);
    return squares;
}
