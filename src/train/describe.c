/* describe.c: where the bytes of a run are, and in which format each GEMM runs. */
#include "base/text.h"
#include "lens/oscillation.h"
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

/* Layers that the recipe keeps in BF16 are not followed, so this is the most. */
size_t ni_trainer_followed_bytes(const nb_trainer *t) {
    const nb_quantizer *quantizer = &t->working_recipe.roles[NB_FPROP_W].quantizer;
    size_t bytes = 0;
    if (t->config.lens.every == 0 || t->config.lens.window == 0 || nb_quantizer_is_bf16(quantizer))
        return 0;
    for (int32_t i = 0; i < nb_model_param_count(t->model); i++) {
        const nb_param *p = nb_model_param(t->model, i);
        if (p->rank == 2 && strncmp(p->name, "model.layers.", 13) == 0)
            bytes += ni_followed_bytes(p->rows, p->cols);
    }
    return bytes;
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
