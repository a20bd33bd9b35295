/* measure.c: strips of 16 rows over the threads, added up in their order. */
#define STRIP ni_measure_strip_portable
#include "backend/cpu/measure_strip.inc"

#include "backend/cpu/cpu.h"
#include "backend/ref/measure.h"
#include <omp.h>

static ni_measure_strip *strip_function(nb_isa isa) {
#ifdef NI_X86
    if (isa == NB_ISA_AVX512)
        return ni_measure_strip_avx512;
    if (isa == NB_ISA_AVX2)
        return ni_measure_strip_avx2;
#endif
    (void)isa;
    return ni_measure_strip_portable;
}

void ni_cpu_measure(nb_backend *be, const nb_mat *x, ni_moments *moments, float *column_amax, float *tile_crest) {
    ni_cpu *cpu = ni_cpu_of(be);
    ni_measure_strip *measure_strip = strip_function(cpu->isa);
    int64_t strips = (x->rows + NI_MEASURE_TILE - 1) / NI_MEASURE_TILE, width = (x->cols + LANES - 1) / LANES;
    size_t maxima = column_amax ? (size_t)x->cols * sizeof(float) : 0;
    size_t stride = (maxima + 63) / 64 * 64;
    char *shared = ni_cpu_shared(be, stride * (size_t)cpu->threads + (size_t)strips * sizeof(ni_strip_sums));
    if (!shared) { /* no room for the strips: slower, with none */
        ni_ref_measure(be, x, moments, column_amax, tile_crest);
        return;
    }
    ni_strip_sums *sums = (ni_strip_sums *)(void *)(shared + stride * (size_t)cpu->threads);
    memset(shared, 0, stride * (size_t)cpu->threads);
#pragma omp parallel for num_threads(cpu->threads) schedule(static)
    for (int64_t s = 0; s < strips; s++) {
        nb_mat strip = *x;
        int64_t row = s * NI_MEASURE_TILE;
        strip.data = (char *)x->data + (size_t)(row * x->stride) * nb_dtype_size(x->dtype);
        strip.rows = x->rows - row < NI_MEASURE_TILE ? x->rows - row : NI_MEASURE_TILE;
        float *own = column_amax ? (float *)(void *)(shared + stride * (size_t)omp_get_thread_num()) : NULL;
        measure_strip(&strip, &sums[s], own, tile_crest ? tile_crest + s * width : NULL);
    }
    for (int64_t c = 0; column_amax && c < x->cols; c++) {
        column_amax[c] = 0;
        for (int32_t t = 0; t < cpu->threads; t++)
            column_amax[c] = fmaxf(column_amax[c], ((float *)(void *)(shared + stride * (size_t)t))[c]);
    }
    double total[4] = {0};
    int64_t count = 0, nonfinite = 0;
    float amax = 0;
    for (int64_t s = 0; s < strips; s++) {
        for (int i = 0; i < 4; i++)
            total[i] += sums[s].sums[i];
        count += sums[s].count;
        nonfinite += sums[s].nonfinite;
        amax = fmaxf(amax, sums[s].amax);
    }
    *moments = ni_moments_of_sums(count, nonfinite, amax, total);
}

/* Maps of a matrix are small beside it. */
void ni_cpu_summarize_crests(nb_backend *be, const ni_crest_map *maps, int32_t count) {
    ni_ref_summarize_crests(be, maps, count);
}

void ni_cpu_count_scales(nb_backend *be, int64_t *counts, const uint8_t *scales, int64_t n) {
    ni_ref_count_scales(be, counts, scales, n);
}
