/* describe.c: where the bytes of a run are, and in which format each GEMM runs. */
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

int32_t nb_trainer_memory(const nb_trainer *t, nb_memory_row *rows, int32_t max_rows) {
    int32_t count = nb_model_memory(t->model, rows, max_rows);
    size_t real = nb_dtype_size(t->be->real);
    add_row(rows, max_rows, &count, "AdamW moments (f32)", 2 * (size_t)t->optimizer.elements * real);
    add_row(rows, max_rows, &count, "gradient sub-sums of accumulation (f32)",
            (size_t)t->accumulator.buffers * (size_t)t->accumulator.elements * real);
    add_row(rows, max_rows, &count, "micro-batch of tokens", t->batch.bytes);
    qsort(rows, (size_t)(count < max_rows ? count : max_rows), sizeof *rows, largest_first);
    return count;
}

char *nb_census_text(const nb_model *model) {
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
    free(rows);
    fclose(to);
    return text;
}
