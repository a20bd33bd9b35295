/* describe.c: where the bytes of a run are, and in which format each GEMM runs. */
#include "base/text.h"
#include "lens/oscillation.h"
#include "lens/waiting.h"
#include "trainer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int largest_first(const void *a, const void *b) {
    size_t x = ((const nb_memory_row *)a)->bytes, y = ((const nb_memory_row *)b)->bytes;
    return (x < y) - (x > y);
}

static void add_row(nb_memory_row *rows, int32_t most, int32_t *count, const char *what, size_t bytes) {
    if (bytes == 0)
        return;
    if (*count < most)
        rows[*count] = (nb_memory_row){what, bytes};
    (*count)++;
}

/* Rows live as long as the program, so their names do. */
#define ROW_OF_EACH_TYPE(what)                                                                                         \
    {                                                                                                                  \
        [NB_F32] = what " (f32)", [NB_BF16] = what " (bf16)", [NB_F16] = what " (f16)", [NB_E4M3] = what " (e4m3)",    \
        [NB_E5M2] = what " (e5m2)"                                                                                     \
    }
static const char *const first_moments[] = ROW_OF_EACH_TYPE("AdamW's first moments");
static const char *const second_moments[] = ROW_OF_EACH_TYPE("AdamW's second moments");
static const char *const sub_sums[] = ROW_OF_EACH_TYPE("gradient sub-sums of accumulation");

/* Rank 0 has the run's lens. */
static bool has_lens(const nb_trainer *t) {
    return t->config.lens.every > 0 && nb_ranks_rank(t->ranks) == 0;
}

/* Layers that the recipe keeps in BF16 are none, so that sums over these are the most. */
static bool may_be_quantized(const nb_trainer *t, const nb_param *p) {
    return p->rank == 2 && strncmp(p->name, "model.layers.", 13) == 0 &&
           !nb_quantizer_is_bf16(&t->working_recipe.roles[NB_FPROP_W].quantizer);
}

size_t ni_trainer_followed_bytes(const nb_trainer *t) {
    size_t bytes = 0;
    for (int32_t i = 0; i < nb_model_param_count(t->model) && has_lens(t) && t->config.lens.window > 0; i++) {
        const nb_param *p = nb_model_param(t->model, i);
        bytes += may_be_quantized(t, p) ? ni_followed_bytes(p->rows, p->cols) : 0;
    }
    return bytes;
}

/* Masters of two weights that belong together, where they are kept in few bits. */
static size_t pair_bytes(const nb_trainer *t) {
    ni_gated_pair pair;
    if (ni_model_gated_pairs(t->model, 0, &pair, 1) == 0 || ni_model_master(t->model, pair.gate).dtype == t->be->real)
        return 0;
    const nb_param *p = nb_model_param(t->model, pair.gate);
    return 2 * (size_t)(p->rows * p->cols) * nb_dtype_size(t->be->real);
}

/* Results on their way to the host, bins of one weight. */
size_t ni_trainer_measured_bytes(const nb_trainer *t) {
    size_t bins = 0;
    if (!has_lens(t))
        return 0;
    for (int32_t i = 0; i < nb_model_param_count(t->model); i++) {
        const nb_param *p = nb_model_param(t->model, i);
        const size_t bytes = may_be_quantized(t, p) ? ni_bin_bytes(p->rows, p->cols) : 0;
        bins = bytes > bins ? bytes : bins;
    }
    return ni_waiting_room(t->be, 0) + bins + pair_bytes(t);
}

int32_t nb_trainer_memory(const nb_trainer *t, nb_memory_row *rows, int32_t max_rows) {
    int32_t count = nb_model_memory(t->model, rows, max_rows);
    const ni_param_array *m = &t->optimizer.m, *v = &t->optimizer.v, *grads = ni_model_gradients(t->model);
    const size_t sub_sum = t->accumulator.buffers > 0 ? ni_param_array_bytes(&t->accumulator.buffer[0]) : 0;
    add_row(rows, max_rows, &count, first_moments[m->dtype], ni_param_array_bytes(m));
    add_row(rows, max_rows, &count, second_moments[v->dtype], ni_param_array_bytes(v));
    add_row(rows, max_rows, &count, sub_sums[grads->dtype], (size_t)t->accumulator.buffers * sub_sum);
    add_row(rows, max_rows, &count, "gradients of own sections (f32)", ni_param_array_bytes(&t->shared.own));
    add_row(rows, max_rows, &count, "gradients on their way to their ranks (f32)", t->shared.behind.bytes);
    add_row(rows, max_rows, &count, "gradients of other ranks", t->reducer.bytes);
    add_row(rows, max_rows, &count, "weights on their way between ranks", t->handed.bytes + t->handed.vectors);
    add_row(rows, max_rows, &count, "micro-batch of tokens", t->batch.bytes);
    add_row(rows, max_rows, &count, "lens: weights that are followed, at most (f32)", ni_trainer_followed_bytes(t));
    add_row(rows, max_rows, &count, "lens: what it measures, at most", ni_trainer_measured_bytes(t));
    qsort(rows, (size_t)(count < max_rows ? count : max_rows), sizeof *rows, largest_first);
    return count;
}

static int64_t saved(const ni_param_array *array) {
    return array->elements * (int64_t)sizeof(float) - (int64_t)ni_param_array_bytes(array);
}

int64_t nb_trainer_memory_saved(const nb_trainer *t) {
    const ni_param_array *grads = ni_model_gradients(t->model);
    const ni_master_bytes masters = ni_model_master_bytes(t->model);
    const int64_t wide = masters.narrow ? grads->elements * (int64_t)sizeof(float) : (int64_t)masters.wide;
    const int64_t narrowed =
        t->share.gradients ? 0 /* they are fp32, and this rank has its part */
                           : (1 + t->accumulator.buffers) * saved(grads) - (int64_t)ni_model_gradient_window(t->model);
    return saved(&t->optimizer.m) + saved(&t->optimizer.v) + narrowed + wide -
           (int64_t)(masters.wide + masters.narrow + masters.room);
}

char *ni_census_text(const nb_trainer *t) {
    const nb_model *model = t->model;
    int32_t count = nb_model_census(model, NULL, 0);
    nb_census_row *rows = calloc((size_t)count + 1, sizeof *rows);
    char *text = NULL;
    size_t size = 0;
    FILE *to = rows ? open_memstream(&text, &size) : NULL;
    if (!to) {
        free(rows);
        return NULL;
    }
    nb_model_census(model, rows, count);
    fprintf(to, "%-36s %-6s %-48s %-28s %s\n", "module", "gemm", "formats", "kernel", "why");
    for (int32_t i = 0; i < count; i++)
        fprintf(to, "%-36s %-6s %-48s %-28s %s\n", rows[i].module, rows[i].gemm, rows[i].formats, rows[i].kernel,
                rows[i].reason ? rows[i].reason : "");
    if (t->at.drowned && t->recipe.late_switch.rho > 0)
        fprintf(to,
                "from step %lld on every dgrad and wgrad in bf16: gradients drowned in their rounding noise "
                "(late_switch.rho %g)\n",
                (long long)t->at.drowned, t->recipe.late_switch.rho);
    free(rows);
    return ni_memory_text(to, &text, true);
}
