/* packed.c: drives the products of quantized operands: panels, tasks and threads; decoded BF16 for mixed pairs.
 *
 * B is unpacked by all threads, once a call or beforehand (operand.c). A task is a band of rows of C times a range of
 * columns: it unpacks its band of A into the thread's own memory (it stays in the second-level cache) and goes over the
 * panels of B. Every element of C is one kernel's sum over the contraction in order, so the cut into tasks changes no
 * bit and may depend on the number of threads.
 */
#include "backend/cpu/packed.h"
#include "backend/table.h"

#include "backend/cpu/gemm.h"
#include "backend/cpu/quantize_kernels.h"
#include "backend/ref/operand_parts.h"
#include "format/hif4.h"

#include <omp.h>

static int64_t divide_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

static size_t round_up_64(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

static const ni_packed_kernel *kernel_for(nb_isa isa) {
#ifdef NI_X86
    if (isa == NB_ISA_AVX512)
        return &ni_packed_avx512;
    if (isa == NB_ISA_AVX2)
        return &ni_packed_avx2;
#endif
#ifdef NI_ARM64
    if (isa == NB_ISA_PORTABLE && ni_isa_dotprod())
        return &ni_packed_dotprod;
#endif
    (void)isa;
    return &ni_packed_portable;
}

/* ---- packed products ---- */

typedef struct job {
    const ni_packed_kernel *kernel;
    ni_packed_operand a, b;
    ni_packed_sum sum;
    ni_packed_result to;
    int64_t steps;
    const char *panels_b;
    int64_t panel_count_b;
    int64_t band, range;   /* of a task: rows of C, panels of B */
    int64_t bands, ranges; /* how many */
} job;

/* What makes every code's integer non-negative. */
static int8_t code_offset(nb_element element) {
    int32_t offset = 0;
    for (int code = 0; code < 16; code++)
        if (offset < -ni_code_integer(element, (uint8_t)code))
            offset = -ni_code_integer(element, (uint8_t)code);
    return (int8_t)(element == NB_ELEMENT_S1P2 ? 4 * offset : offset); /* doubled twice */
}

static ni_packed_operand operand_of(const nb_qtensor *t) {
    const nb_quantizer *q = &t->quantizer;
    ni_packed_operand o = {.codes = t->codes, .scales = t->scales, .rows = t->rows, .depth = t->cols};
    if (t->scales) {
        o.block = q->block_cols;
        o.scale_bytes = q->scale_type == NB_SCALE_HIF4 ? NI_HIF4_BYTES : 1;
    }
    for (int code = 0; code < 16; code++)
        o.integer[code] = (int8_t)ni_code_integer(q->element, (uint8_t)code);
    o.offset = code_offset(q->element);
    float unit = 1.0f / (float)ni_code_steps(q->element);
    for (int byte = 0; t->scales && byte < 256; byte++)
        o.scale[byte] = ni_scale_value(q->scale_type, (uint8_t)byte) * unit;
    return o;
}

static ni_packed_sum sum_of(const nb_quantizer *a, const nb_quantizer *b) {
    if (ni_product_of(a, b) == NI_PRODUCT_WHOLE)
        return NI_SUM_WHOLE;
    if (a->scale_type == NB_SCALE_E8M0)
        return NI_SUM_E8M0;
    if (a->scale_type == NB_SCALE_HIF4)
        return NI_SUM_HIF4;
    return b->block_rows == 16 ? NI_SUM_E4M3_TILES : NI_SUM_E4M3;
}

/* Bands of at most 128 rows, whose panels fit the second-level cache; enough tasks to balance the threads. */
static void cut_into_tasks(job *j, int32_t threads) {
    enum { BAND = 128, TASKS_A_THREAD = 4 };
    int64_t rows = j->kernel->rows, wanted = (int64_t)threads * TASKS_A_THREAD;
    j->band = divide_up(divide_up(j->a.rows, wanted), rows) * rows;
    j->band = j->band > BAND ? BAND : j->band;
    j->bands = divide_up(j->a.rows, j->band);
    j->ranges = divide_up(wanted, j->bands);
    j->ranges = j->ranges > j->panel_count_b ? j->panel_count_b : j->ranges;
    j->range = divide_up(j->panel_count_b, j->ranges);
}

/* Each micro-tile of a band fetches a part of the next panel of B, so that the band's first does not wait for it. */
static size_t ahead(const job *j, int64_t pa, int64_t pb, int64_t panels, int64_t end_panel) {
    size_t panel = (size_t)j->steps * j->kernel->step_b, part = panel / (size_t)panels / 64 * 64;
    size_t next = pb + 1 < end_panel ? (size_t)(pb + 1) * panel : (size_t)pb * panel;
    return next + (size_t)pa * part;
}

static void run_task(const job *j, int64_t task, char *panels_a) {
    const ni_packed_kernel *kernel = j->kernel;
    size_t panel_a = (size_t)j->steps * kernel->step_a, panel_b = (size_t)j->steps * kernel->step_b;
    int64_t first_row = task / j->ranges * j->band, first_panel = task % j->ranges * j->range;
    int64_t end_row = first_row + j->band < j->a.rows ? first_row + j->band : j->a.rows;
    int64_t end_panel = first_panel + j->range < j->panel_count_b ? first_panel + j->range : j->panel_count_b;
    int64_t panels = divide_up(end_row - first_row, kernel->rows);
    if (first_panel >= end_panel)
        return;
    for (int64_t p = 0; p < panels; p++)
        kernel->pack_a(panels_a + (size_t)p * panel_a, &j->a, first_row + p * kernel->rows);
    for (int64_t pb = first_panel; pb < end_panel; pb++) {
        for (int64_t pa = 0; pa < panels; pa++) {
            ni_packed_place at = {first_row + pa * kernel->rows, pb * kernel->cols, kernel->rows, kernel->cols,
                                  j->panels_b + ahead(j, pa, pb, panels, end_panel)};
            at.rows = end_row - at.row < at.rows ? end_row - at.row : at.rows;
            at.cols = j->b.rows - at.col < at.cols ? j->b.rows - at.col : at.cols;
            kernel->multiply(j->sum, panels_a + (size_t)pa * panel_a, j->panels_b + (size_t)pb * panel_b, j->steps,
                             &j->to, &at);
        }
    }
}

/* outer[row] of the formula, times `unit`. */
static void fill_outer(float *outer, const nb_qtensor *t, float unit) {
    for (int64_t i = 0; i < t->rows; i++)
        outer[i] = ni_outer_of_row(t, i) * unit;
}

/* Scales within the sum carry the units of the codes; where there are none the outer scales do. */
static float outer_unit(ni_packed_sum sum, const nb_qtensor *t) {
    return sum == NI_SUM_WHOLE ? 1.0f / (float)ni_code_steps(t->quantizer.element) : 1.0f;
}

/* What both the product and its panels need of B. */
static void take_b(job *j, const nb_qtensor *b, nb_element other) {
    j->b = operand_of(b);
    j->b.other_offset = code_offset(other);
    j->steps = divide_up(b->cols, NI_PACKED_STEP);
    j->panel_count_b = divide_up(b->rows, j->kernel->cols);
}

static size_t panel_bytes(const job *j) {
    return (size_t)j->panel_count_b * (size_t)j->steps * j->kernel->step_b;
}

static void pack_panel(const job *j, char *panels, int64_t p) {
    j->kernel->pack_b(panels + (size_t)p * (size_t)j->steps * j->kernel->step_b, &j->b, p * j->kernel->cols);
}

size_t ni_cpu_panel_bytes(nb_backend *be, int64_t rows, int64_t cols) {
    job j = {.kernel = kernel_for(ni_cpu_of(be)->isa), .steps = divide_up(cols, NI_PACKED_STEP)};
    j.panel_count_b = divide_up(rows, j.kernel->cols);
    return panel_bytes(&j);
}

void ni_cpu_pack_panels(nb_backend *be, void *panels, const nb_qtensor *b, nb_element other) {
    job j = {.kernel = kernel_for(ni_cpu_of(be)->isa)};
    take_b(&j, b, other);
#pragma omp parallel for num_threads(ni_cpu_team(be, 8.0 * (double)(b->rows * b->cols))) schedule(dynamic)
    for (int64_t p = 0; p < j.panel_count_b; p++)
        pack_panel(&j, panels, p);
}

nb_status ni_cpu_gemm_packed(nb_backend *be, const nb_mat *c, const nb_qtensor *a, const nb_qtensor *b,
                             const void *panels, bool accumulate, nb_error *err) {
    int32_t threads = ni_cpu_team(be, 2.0 * (double)(a->rows * b->rows) * (double)a->cols);
    job j = {.kernel = kernel_for(ni_cpu_of(be)->isa), .a = operand_of(a)};
    take_b(&j, b, a->quantizer.element);
    j.a.other_offset = j.b.offset;
    j.sum = sum_of(&a->quantizer, &b->quantizer);
    cut_into_tasks(&j, threads);
    size_t all_b = panels ? 0 : panel_bytes(&j);
    size_t band_a = (size_t)divide_up(j.band, j.kernel->rows) * (size_t)j.steps * j.kernel->step_a;
    size_t outer_a = round_up_64((size_t)a->rows * sizeof(float)), outer_b = (size_t)b->rows * sizeof(float);
    char *shared = ni_cpu_shared(be, all_b + outer_a + outer_b);
    bool failed = !shared;
    for (int32_t t = 0; t < threads && !failed; t++)
        failed = !ni_cpu_scratch(be, t, band_a);
    if (failed)
        return nb_fail(err, NB_NO_MEMORY, "multiply: no memory to unpack [%lld, %lld] and [%lld, %lld]",
                       (long long)a->rows, (long long)a->cols, (long long)b->rows, (long long)b->cols);
    j.panels_b = panels ? panels : shared;
    float *outer = (float *)(void *)(shared + all_b);
    fill_outer(outer, a, outer_unit(j.sum, a));
    fill_outer(outer + outer_a / sizeof(float), b, outer_unit(j.sum, b));
    j.to = (ni_packed_result){*c, accumulate, outer, outer + outer_a / sizeof(float)};
#pragma omp parallel num_threads(threads)
    {
        char *panels_a = ni_cpu_scratch(be, omp_get_thread_num(), band_a);
        if (!panels) {
#pragma omp for schedule(dynamic)
            for (int64_t p = 0; p < j.panel_count_b; p++)
                pack_panel(&j, shared, p);
        }
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < j.bands * j.ranges; task++)
            run_task(&j, task, panels_a);
    }
    return NB_OK;
}

/* ---- decoded products ---- */

nb_status ni_cpu_decode_inner(nb_backend *be, const nb_mat *out, const nb_qtensor *t, nb_error *err) {
    nb_qtensor inner = ni_inner_codes(t);
    return ni_cpu_dequantize(be, out, &inner, false, false, err);
}

nb_status ni_cpu_gemm_decoded(nb_backend *be, const nb_mat *c, const nb_qtensor *a, const nb_qtensor *b,
                              const void *numbers, bool accumulate, nb_error *err) {
    size_t bytes_a = round_up_64((size_t)(a->rows * a->cols) * sizeof(uint16_t));
    size_t bytes_b = numbers ? 0 : round_up_64((size_t)(b->rows * b->cols) * sizeof(uint16_t));
    size_t outer_a = round_up_64((size_t)a->rows * sizeof(float)), outer_b = (size_t)b->rows * sizeof(float);
    char *memory = ni_cpu_shared(be, bytes_a + bytes_b + outer_a + outer_b);
    if (!memory)
        return nb_fail(err, NB_NO_MEMORY, "multiply: no memory to decode [%lld, %lld] and [%lld, %lld]",
                       (long long)a->rows, (long long)a->cols, (long long)b->rows, (long long)b->cols);
    nb_mat decoded_a = nb_mat_of(memory, NB_BF16, a->rows, a->cols);
    nb_mat decoded_b = nb_mat_of(numbers ? numbers : memory + bytes_a, NB_BF16, b->rows, b->cols);
    NB_TRY(ni_cpu_decode_inner(be, &decoded_a, a, err));
    if (!numbers)
        NB_TRY(ni_cpu_decode_inner(be, &decoded_b, b, err));
    float *outer = (float *)(void *)(memory + bytes_a + bytes_b);
    fill_outer(outer, a, 1.0f);
    fill_outer(outer + outer_a / sizeof(float), b, 1.0f);
    return ni_cpu_gemm_scaled(be, c, &decoded_a, false, &decoded_b, true, outer, outer + outer_a / sizeof(float),
                              accumulate, err);
}

/* ---- which it is ---- */

bool ni_is_packed(ni_product product) {
    return product == NI_PRODUCT_BLOCKS || product == NI_PRODUCT_WHOLE;
}

const char *ni_cpu_product_kernel(nb_backend *be, const nb_quantizer *a, const nb_quantizer *b) {
    ni_product product = ni_product_of(a, b);
    return ni_is_packed(product) ? kernel_for(ni_cpu_of(be)->isa)->name : ni_product_decoded_name(product);
}
