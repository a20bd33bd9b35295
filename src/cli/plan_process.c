/* plan_process.c: the memory of a training process beside its backend's: program and libraries, measured, and what a
 * checkpoint takes on its way to disk. */
#include "cli/plan_process.h"

#include "cli/screen.h"

#include <stdio.h>
#include <stdlib.h>

enum { SIDE = 512, LEAST = 128 }; /* several tiles for each thread */

/* Libraries that multiply load their kernels, or write one for each shape, when they are first asked; and each thread
 * keeps what it worked in. */
static nb_status multiply_once(nb_backend *be, nb_dtype from, nb_dtype to, void *memory, nb_error *err) {
    void *sums = (float *)memory + SIDE * SIDE;
    for (int64_t side = LEAST; side <= SIDE; side += LEAST)
        for (int kind = 0; kind < 4; kind++) {
            const nb_mat a = nb_mat_of(memory, from, side, side), c = nb_mat_of(sums, to, side, side);
            NB_TRY(be->ops->gemm(be, &c, &a, kind & 1, &a, !(kind & 1), kind & 2, err));
        }
    return NB_OK;
}

static nb_status multiply(nb_backend *be, nb_error *err) {
    const size_t bytes = 2 * (size_t)SIDE * SIDE * sizeof(float);
    void *memory;
    NB_TRY(ni_backend_take(be, bytes, "matrices to be multiplied once", &memory, err));
    be->ops->fill_zero(be, memory, bytes);
    nb_status status = multiply_once(be, NB_BF16, NB_BF16, memory, err);
    if (status == NB_OK)
        status = multiply_once(be, NB_BF16, NB_F32, memory, err);
    nb_backend_release(be, memory);
    return status;
}

nb_status ni_process_measure(const ni_paper *paper, double *bytes, nb_error *err) {
    const nb_backend_options how = {.threads = paper->cpu.threads, .isa = paper->cpu.isa};
    nb_backend *be = NULL;
    /* A plan for another processor has to do with what this one can. */
    if (ni_isa_available(how.isa)) {
        NB_TRY(nb_backend_open("cpu", &how, &be, err));
        const nb_status status = multiply(be, err);
        nb_backend_free(be);
        NB_TRY(status);
    }
    *bytes = (double)ni_resident_bytes();
    return NB_OK;
}

static double largest_parameter(const nb_trainer *trainer) {
    const nb_model *model = nb_trainer_model((nb_trainer *)trainer);
    int64_t most = 0;
    for (int32_t i = 0; i < nb_model_param_count(model); i++) {
        const nb_param *p = nb_model_param(model, i);
        most = p->rows * p->cols > most ? p->rows * p->cols : most;
    }
    return (double)most * sizeof(float);
}

void ni_process_print(const nb_trainer *trainer, double program, double total) {
    const double tensor = largest_parameter(trainer);
    char text[32];
    printf("  %-52s %13s\n", "program and libraries, measured here", ni_bytes_text(program, text, sizeof text));
    printf("  %-52s %13s\n", "a tensor on its way into a checkpoint", ni_bytes_text(tensor, text, sizeof text));
    printf("  %-52s %13s\n", "most that the process has in memory",
           ni_bytes_text(total + program + tensor, text, sizeof text));
}
