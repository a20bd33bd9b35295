/* gemm_openblas.c: one output tile by OpenBLAS sgemm, BF16 operands widened on the way (which is exact). */
#include "backend/cpu/gemm.h"

#include "format/bf16.h"

#include <cblas.h>
#include <limits.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Widened operands are held for this much of the contraction at a time: two megabytes for tiles of 256. */
enum { DEPTH = 1024 };

/* OpenBLAS has one thread count for the whole process. It is one during a call, and what the program chose after it. */
static int enter(void) {
    int before = openblas_get_num_threads();
    if (before != 1)
        openblas_set_num_threads(1);
    return before;
}

static void leave(int before) {
    if (before != 1)
        openblas_set_num_threads(before);
}

static size_t widened_bytes(int64_t outer) {
    return (size_t)outer * DEPTH * sizeof(float);
}

/* OpenBLAS's kernel prefetches the panel of B that follows. Where it multiplies one panel at a time, that is memory it
 * has never written: the processor looks for pages that are not there, again and again, which makes sgemm four times
 * slower on Zen. A product with many panels writes them once and for all; the threads run it together, so that each
 * takes a buffer of its own. */
static bool warm_up(ni_cpu *cpu) {
    enum { ROWS = 64, COLS = 1024, DEEP = 384 };
    float *zeros = calloc((size_t)(ROWS * DEEP + COLS * DEEP), sizeof *zeros);
    float *sums = malloc((size_t)cpu->threads * ROWS * COLS * sizeof *sums);
    bool good = zeros && sums;
    if (good) {
#pragma omp parallel num_threads(cpu->threads)
        {
            float *sum = sums + (size_t)omp_get_thread_num() * ROWS * COLS;
#pragma omp barrier
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, ROWS, COLS, DEEP, 1.0f, zeros, DEEP,
                        zeros + ROWS * DEEP, DEEP, 0.0f, sum, COLS);
        }
    }
    free(zeros);
    free(sums);
    return good;
}

static nb_status prepare(nb_backend *be, const ni_gemm_tile *t, size_t *scratch, nb_error *err) {
    ni_cpu *cpu = ni_cpu_of(be);
    if (!cpu->openblas_warm)
        cpu->openblas_warm = warm_up(cpu);
    if (t->a.stride > INT_MAX || t->b.stride > INT_MAX || t->c.stride > INT_MAX)
        return nb_fail(err, NB_UNSUPPORTED, "gemm: a row stride does not fit OpenBLAS's 32-bit integers");
    *scratch = widened_bytes(t->c.rows) + widened_bytes(t->c.cols);
    return NB_OK;
}

/* Rows x cols of m from (row, col), as F32: in place, or widened into `room`. */
static nb_mat as_f32(const nb_mat *m, int64_t row, int64_t col, int64_t rows, int64_t cols, float *room) {
    nb_mat part = ni_mat_part(m, row, col, rows, cols);
    if (m->dtype == NB_F32)
        return part;
    for (int64_t i = 0; i < rows; i++) {
        const uint16_t *from = (const uint16_t *)part.data + i * part.stride;
        float *to = room + i * cols;
#pragma omp simd
        for (int64_t j = 0; j < cols; j++)
            to[j] = ni_bf16_value(from[j]);
    }
    return nb_mat_of(room, NB_F32, rows, cols);
}

static bool run(nb_backend *be, const ni_gemm_tile *t, void *scratch) {
    (void)be;
    int64_t depth = t->trans_a ? t->a.rows : t->a.cols;
    float *room_a = scratch, *room_b = (float *)(void *)((char *)scratch + widened_bytes(t->c.rows));
    for (int64_t k = 0; k < depth; k += DEPTH) {
        int64_t n = depth - k < DEPTH ? depth - k : DEPTH;
        nb_mat a = t->trans_a ? as_f32(&t->a, k, 0, n, t->c.rows, room_a) : as_f32(&t->a, 0, k, t->c.rows, n, room_a);
        nb_mat b = t->trans_b ? as_f32(&t->b, 0, k, t->c.cols, n, room_b) : as_f32(&t->b, k, 0, n, t->c.cols, room_b);
        cblas_sgemm(CblasRowMajor, t->trans_a ? CblasTrans : CblasNoTrans, t->trans_b ? CblasTrans : CblasNoTrans,
                    (int)t->c.rows, (int)t->c.cols, (int)n, 1.0f, a.data, (int)a.stride, b.data, (int)b.stride,
                    k || t->accumulate ? 1.0f : 0.0f, t->c.data, (int)t->c.stride);
    }
    return true;
}

/* ---- is it the one to take? ---- */

/* Whether the kernels that OpenBLAS chose at run time are among `cores`. A processor that it does not know gets those
 * of the first that had SSE3. */
static bool runs_one_of(const char *const *cores) {
    const char *chosen = openblas_get_corename();
    while (*cores && strcmp(*cores, chosen) != 0)
        cores++;
    return *cores != NULL;
}

static ni_gemm_fit fit(const ni_cpu *cpu, bool bf16, const char **why) {
    static const char *const avx512[] = {"SkylakeX", "Cooperlake", "SapphireRapids", NULL};
    static const char *const avx2[] = {"Haswell", "Zen", "Excavator", NULL};
    (void)bf16;
    *why = "the kernels that it chose are made for such processors";
    if (cpu->isa < NB_ISA_AVX2 || runs_one_of(avx512))
        return NI_GEMM_FITS;
    *why = runs_one_of(avx2) ? "its AVX2 kernels are slow where a product has few rows"
                             : "it does not know this processor and chose kernels without AVX2";
    return NI_GEMM_SLOW;
}

static void version_number(char *text, size_t size) {
    const char *config = openblas_get_config();
    const char *number = strncmp(config, "OpenBLAS ", 9) == 0 ? config + 9 : config;
    snprintf(text, size, "%.*s", (int)strcspn(number, " "), number);
}

static void sums(char *text, size_t size) {
    char number[24];
    version_number(number, sizeof number);
    snprintf(text, size, "openblas %s %s", number, openblas_get_corename());
}

const ni_gemm_engine ni_gemm_openblas = {
    .name = "openblas",
    .f32 = "f32 openblas",
    .bf16 = "bf16 widened, f32 openblas",
    .fit = fit,
    .sums = sums,
    .prepare = prepare,
    .run = run,
    .enter = enter,
    .leave = leave,
};

/* "OpenBLAS 0.3.21 NO_LAPACKE DYNAMIC_ARCH ..." and the kernel family that it chose. */
void ni_openblas_version(char *text, size_t size) {
    char number[24];
    version_number(number, sizeof number);
    snprintf(text, size, "%s (%s kernels)", number, openblas_get_corename());
}
