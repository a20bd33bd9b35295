/* operands.c: what quantizers and products move and compute, and how operands lie: as on the CPU, or as on Hopper,
 * where an operand is the BF16 values that its product reads and a few words, with codes beside them only where
 * somebody will read codes; or codes, and bytes of those for units for 8 bits.
 */
#include "backend/cpu/gemm.h"
#include "backend/cpu/operand.h"
#include "backend/cpu/packed.h"
#include "backend/cpu/quantize_kernels.h"
#include "backend/paper/paper.h"
#include "backend/ref/dge_occ.h"
#include "backend/ref/gemm.h"
#include "backend/ref/quantize_parts.h"
#include "backend/units.h"
#include "format/element.h"
#include "format/vector_scales.h"

#include <stdio.h>
#include <string.h>

/* A row reads shapes alone: most of its arguments go unused. */
#pragma GCC diagnostic ignored "-Wunused-parameter"

static ni_paper *paper(nb_backend *be) {
    return be->state;
}

/* ---- formats and the units that multiply them ---- */

static void format_text(const nb_quantizer *q, char *text, size_t size) {
    if (nb_quantizer_is_bf16(q)) {
        snprintf(text, size, "bf16");
        return;
    }
    const char *name = ni_element_info(q->element)->name;
    if (q->element == NB_ELEMENT_E2M1 && q->scale_type == NB_SCALE_E4M3)
        name = "nvfp4";
    else if (q->scale_type == NB_SCALE_E8M0)
        name = q->element == NB_ELEMENT_E2M1 ? "mxfp4" : "mxfp8";
    else if (q->scale_type == NB_SCALE_HIF4)
        name = "hifloat4";
    if (q->scale_type == NB_SCALE_NONE)
        snprintf(text, size, "%s", name);
    else if (q->block_cols == NB_BLOCK_ALL)
        snprintf(text, size, "%s %s", name, q->block_rows == NB_BLOCK_ALL ? "tensor" : "row");
    else if (q->block_rows == NB_BLOCK_ALL)
        snprintf(text, size, "%s column", name);
    else
        snprintf(text, size, "%s %dx%d", name, q->block_rows, q->block_cols);
}

typedef struct pair_text {
    char text[64];
} pair_text;

static pair_text pair(const nb_quantizer *a, const nb_quantizer *b) {
    pair_text p;
    char of_a[28], of_b[28];
    format_text(a, of_a, sizeof of_a);
    format_text(b, of_b, sizeof of_b);
    snprintf(p.text, sizeof p.text, "%s x %s", of_a, of_b);
    return p;
}

/* Of a product on Hopper. Units for four bits are a rate of a machine file (native_fp4), whatever lies in memory. */
static ni_units units_of(nb_backend *be, const nb_quantizer *a, const nb_quantizer *b, int64_t n, int64_t k) {
    const ni_units units = paper(be)->hopper ? ni_units_of(9, 0, &paper(be)->permits, a, b) : NI_UNITS_BF16;
    return ni_units_take(units, n, k) ? units : NI_UNITS_BF16;
}

/* Of the product that an operand is made for, as far as its own shape says. */
static ni_units units_for(nb_backend *be, const nb_operand *o) {
    return units_of(be, &o->quantizer, &o->other, o->side == NI_RIGHT ? o->rows : 0, o->cols);
}

/* Hopper decodes to BF16 what no unit for 8 bits takes when it makes an operand. */
static ni_paper_kind kind_of(nb_backend *be, const nb_operand *left, const nb_operand *right) {
    const nb_quantizer *a = &left->quantizer, *b = &right->quantizer;
    const bool a_numbers = nb_quantizer_is_bf16(a), b_numbers = nb_quantizer_is_bf16(b);
    if (units_of(be, a, b, right->rows, left->cols) != NI_UNITS_BF16)
        return NI_PAPER_fp8;
    if (paper(be)->hopper || (a_numbers && b_numbers))
        return NI_PAPER_bf16;
    const ni_product product = a_numbers || b_numbers ? NI_PRODUCT_NONE : ni_product_of(a, b);
    return product == NI_PRODUCT_BLOCKS  ? NI_PAPER_blocks
           : product == NI_PRODUCT_WHOLE ? NI_PAPER_whole
                                         : NI_PAPER_decoded;
}

/* ---- products of numbers ---- */

static void note_gemm(nb_backend *be, ni_paper_row row, const nb_mat *c, double operand_bytes, int64_t depth,
                      ni_paper_kind kind, const char *formats, bool accumulate) {
    const double out = ni_paper_mat_bytes(c);
    ni_paper_note(be, row,
                  (ni_paper_cost){.read = operand_bytes + (accumulate ? out : 0),
                                  .written = out,
                                  .kind = kind,
                                  .flops = 2.0 * (double)(c->rows * c->cols) * (double)depth,
                                  .formats = formats});
}

nb_status ni_paper_gemm(nb_backend *be, const nb_mat *c, const nb_mat *a, bool trans_a, const nb_mat *b, bool trans_b,
                        bool accumulate, nb_error *err) {
    NB_TRY(ni_gemm_check(c, a, trans_a, b, trans_b, err));
    const bool bf16 = a->dtype == NB_BF16 && b->dtype == NB_BF16;
    note_gemm(be, NI_PAPER_ROW_gemm, c, ni_paper_mat_bytes(a) + ni_paper_mat_bytes(b), trans_a ? a->rows : a->cols,
              bf16 ? NI_PAPER_bf16 : NI_PAPER_f32, bf16 ? "bf16 x bf16" : "f32 x f32", accumulate);
    return NB_OK;
}

const char *ni_paper_gemm_kernel(nb_backend *be, nb_dtype a, nb_dtype b) {
    if (!paper(be)->hopper)
        return ni_cpu_gemm_kernel(&paper(be)->machine, a, b);
    return a == NB_BF16 && b == NB_BF16 ? "bf16" : "f32";
}

void ni_paper_gemm_sums(nb_backend *be, nb_dtype a, nb_dtype b, char *text, size_t size) {
    if (paper(be)->hopper)
        snprintf(text, size, "paper");
    else
        ni_cpu_gemm_sums(&paper(be)->machine, a, b, text, size);
}

char *ni_paper_gemm_choices(nb_backend *be) {
    return ni_ref_gemm_choices(be);
}

nb_status ni_paper_gemm_choose(nb_backend *be, const char *choices, nb_error *err) {
    return NB_OK; /* none is taken */
}

nb_status ni_paper_permit(nb_backend *be, const ni_permits *permits, nb_error *err) {
    if (!paper(be)->hopper)
        return ni_ref_permit(be, permits, err);
    paper(be)->permits = *permits;
    return NB_OK;
}

nb_status ni_paper_gemm_take(nb_backend *be, nb_dtype a, nb_dtype b, const char *sums, nb_error *err) {
    return NB_OK; /* no sum is taken */
}

/* ---- operands ---- */

static double round_64(double bytes) {
    return bytes == 0 ? 0 : 64.0 * (double)(int64_t)((bytes + 63) / 64);
}

static double numbers_bytes(const nb_operand *o) {
    return ni_paper_bytes(o->rows * o->cols, NB_BF16);
}

/* On Hopper there is room for codes whether they are kept or not, and beside a weight in rows for the bytes that units
 * for 8 bits read (cuda/operand_layout.c). */
size_t ni_paper_operand_bytes(nb_backend *be, const nb_operand *o) {
    const nb_quantizer *q = &o->quantizer;
    if (!paper(be)->hopper)
        return ni_cpu_operand_bytes(&paper(be)->machine, o);
    if (ni_is_plain(o))
        return 0;
    const bool both =
        o->side == NI_RIGHT && q->element == NB_ELEMENT_E2M1 && q->scale_type == NB_SCALE_F32 && q->block_rows == 1;
    return ni_canonical_bytes(o) + (size_t)(round_64(numbers_bytes(o)) + both * round_64((double)(o->rows * o->cols)));
}

/* Beside the codes: E4M3 of those of four bits, and what units read turned where scales lie on a contraction. */
static double bytes_beside(const nb_operand *o, ni_units units) {
    return round_64((double)(o->rows * o->cols)) * (ni_is_4bit(&o->quantizer) + (units == NI_UNITS_FP8_POW2));
}

/* What is written of it. */
static double kept_bytes(nb_backend *be, const nb_operand *o) {
    if (!paper(be)->hopper)
        return (double)ni_cpu_operand_bytes(&paper(be)->machine, o);
    const nb_qtensor_size size = nb_qtensor_bytes(&o->quantizer, o->rows, o->cols);
    const ni_units units = units_for(be, o);
    if (units != NI_UNITS_BF16)
        return NI_HEAD_BYTES + (double)size.total + bytes_beside(o, units);
    return NI_HEAD_BYTES + (o->reread ? (double)size.total : round_64((double)size.outer_scales)) +
           round_64(numbers_bytes(o));
}

/* What a product reads of an operand. */
static double read_bytes(nb_backend *be, const nb_operand *o) {
    if (ni_is_plain(o))
        return ni_paper_mat_bytes(&o->numbers);
    const nb_qtensor_size size = nb_qtensor_bytes(&o->quantizer, o->rows, o->cols);
    if (units_for(be, o) != NI_UNITS_BF16)
        return (double)(o->rows * o->cols) + (double)size.outer_scales;
    if (paper(be)->hopper)
        return numbers_bytes(o) + (double)size.outer_scales;
    const size_t all = ni_cpu_operand_bytes(&paper(be)->machine, o), canonical = ni_canonical_bytes(o);
    return all > canonical ? (double)(all - canonical) : (double)size.total;
}

/* What is read of an operand that another is made of: on Hopper its codes. */
static double source_bytes(nb_backend *be, const nb_operand *o) {
    return paper(be)->hopper && !ni_is_plain(o) ? (double)nb_qtensor_bytes(&o->quantizer, o->rows, o->cols).total
                                                : read_bytes(be, o);
}

static double elements(const nb_mat *numbers, const nb_operand *operand) {
    return numbers ? (double)(numbers->rows * numbers->cols) : (double)(operand->rows * operand->cols);
}

/* Codes, and behind them what the product reads. Of pieces their share. */
static double written_bytes(nb_backend *be, const ni_making *m, int64_t rows, int64_t cols) {
    if (ni_is_plain(m->out))
        return ni_paper_bytes(rows * cols, m->out->numbers.dtype);
    const double share = (double)(rows * cols) / (double)(m->out->rows * m->out->cols);
    return share * kept_bytes(be, m->out);
}

/* Stages that each number goes through: its block's scale, rounding; what random bits, blocks of several rows, codes of
 * eight bits, turning, and another scale that is tried add. A rotation stays in registers and counts nothing, but under
 * a tensor's scale numbers are rotated twice: once for that scale. */
static double quantizing(const ni_making *m) {
    const nb_quantizer *q = ni_making_quantizer(m);
    const bool tile = q->block_rows != NB_BLOCK_ALL && q->block_rows > 1;
    return 2.0 + nb_quantizer_draws_bits(q) + tile + (q->element != NB_ELEMENT_E2M1) + m->transpose +
           2 * (q->four_six != NB_FOUR_SIX_NONE) + (q->hadamard_size > 0 && q->outer == NB_OUTER_TENSOR);
}

/* Regions of threads (cpu/operand.c): one that quantizes; before it one that looks for a tensor's largest magnitude
 * that nobody knows, behind it one that lays out what products read of a right operand, if that is worth one. */
static int64_t regions_of(nb_backend *be, const ni_source *source, const ni_making *m, double numbers) {
    const nb_quantizer *q = ni_making_quantizer(m);
    const bool tensor = q->outer == NB_OUTER_TENSOR || (q->scale_type == NB_SCALE_F32 && q->block_rows == NB_BLOCK_ALL);
    const bool known = m->under || m->past || (source->numbers && source->numbers->amax && !q->hadamard_size);
    if (paper(be)->hopper || ni_is_plain(m->out))
        return 1;
    return 1 + (tensor && !known) + (m->out->side == NI_RIGHT && ni_cpu_team(&paper(be)->machine, 8 * numbers) > 1);
}

/* What quantizing works in on the CPU (cpu/operand.c, cpu/quantize.c). */
static void note_making_memory(nb_backend *be, const ni_source *source, const ni_making *m, int64_t rows,
                               int64_t cols) {
    if (!ni_source_is_simple(source)) {
        ni_paper_room(be, NI_ROOM_SOURCE, sizeof(float) * (double)(rows * cols));
        ni_paper_thread(be, 2.0 * sizeof(float) * (double)(source->numbers ? source->numbers->cols : cols));
    }
    if (!ni_is_plain(m->out) && !ni_making_is_whole(source, m))
        ni_paper_room(
            be, NI_ROOM_PIECE,
            (double)nb_qtensor_bytes(ni_making_quantizer(m), m->out->rows, ni_making_columns(source, m)).total);
    const nb_quantizer *q = &m->out->quantizer;
    if (q->scale_type == NB_SCALE_F32 && q->block_cols == 1) /* every thread finds scales of columns for itself */
        ni_paper_room(be, NI_ROOM_SHARED, sizeof(uint32_t) * (double)paper(be)->cpu.threads * (double)m->out->cols);
    if (m->stats)
        ni_paper_thread(be, (NI_GROUP_ROWS + NI_STATS_ROWS) * sizeof(float) * (double)m->out->cols);
}

/* `produced`: numbers that the same kernel computes are not read. */
static nb_status make(nb_backend *be, const ni_source *source, const ni_making *makings, int32_t count, bool produced,
                      nb_error *err) {
    int64_t rows, cols;
    double written = 0, work = 0, stages = 0;
    int64_t regions = !ni_source_is_simple(source);
    NB_TRY(ni_check_unscaled(source, err));
    for (int32_t i = 0; i < count; i++)
        NB_TRY(ni_check_making(source, &makings[i], err));
    ni_source_shape(source, &rows, &cols);
    const double n = (double)rows * (double)cols;
    double read = n / elements(source->numbers, source->operand) *
                  (produced          ? 0
                   : source->numbers ? ni_paper_mat_bytes(source->numbers)
                                     : source_bytes(be, source->operand));
    if (source->minus)
        read += (double)nb_qtensor_bytes(&source->minus->quantizer, rows, cols).total;
    for (int32_t i = 0; i < count; i++) {
        const ni_making *m = &makings[i];
        written += written_bytes(be, m, rows, cols);
        work += n * (ni_is_plain(m->out) + (source->minus != NULL));
        stages += n * ((ni_is_plain(m->out) ? 0 : quantizing(m)) + (source->operand != NULL));
        regions += regions_of(be, source, m, n);
        note_making_memory(be, source, m, rows, cols);
        if (!ni_is_plain(m->out))
            m->out->outer = ni_codes_of(m->out).tensor_scale;
    }
    ni_paper_note(be, NI_PAPER_ROW_make_operands,
                  (ni_paper_cost){.read = read,
                                  .written = written,
                                  .kind = NI_PAPER_stages,
                                  .flops = stages,
                                  .beside = NI_PAPER_work,
                                  .also = work,
                                  .regions = regions});
    return NB_OK;
}

nb_status ni_paper_make_operands(nb_backend *be, const ni_source *source, const ni_making *makings, int32_t count,
                                 nb_error *err) {
    return make(be, source, makings, count, false, err);
}

/* On Hopper one kernel computes numbers and makes both operands, where scales are of the step before (cuda/produce.c).
 */
static bool is_fused(nb_backend *be, const ni_produced *out, int32_t count) {
    bool fused = paper(be)->hopper;
    for (int32_t i = 0; fused && i < count; i++)
        fused = out[i].count == 2 && out[i].makings[0].past && out[i].makings[1].past && !out[i].numbers->amax;
    return fused;
}

static ni_paper_row row_of(const ni_producer *from) {
    switch (from->kind) {
    case NI_PRODUCER_SWIGLU:
        return NI_PAPER_ROW_swiglu_forward;
    case NI_PRODUCER_SWIGLU_SLOPES:
        return NI_PAPER_ROW_swiglu_backward;
    case NI_PRODUCER_NORM:
        return from->change ? NI_PAPER_ROW_add_rmsnorm_forward : NI_PAPER_ROW_rmsnorm_forward;
    case NI_PRODUCER_TURNED_BACK:
        break;
    }
    return NI_PAPER_ROW_rope;
}

nb_status ni_paper_make_produced(nb_backend *be, const ni_producer *from, const ni_produced *out, int32_t count,
                                 nb_error *err) {
    const bool turned = from->kind == NI_PRODUCER_TURNED_BACK;
    ni_produced bare[NI_PRODUCED_MOST] = {{0}};
    if (!is_fused(be, out, count))
        return ni_compose_produced(be, from, out, count, err);
    for (int32_t i = 0; i < count; i++)
        bare[i] = (ni_produced){.numbers = out[i].numbers};
    NB_TRY(ni_compose_produced(be, from, bare, count, err));
    for (int32_t i = 0; i < count; i++) {
        const bool there = turned && i == 2; /* RoPE has no part in it */
        if (!there && !out[i].kept)
            ni_paper_unwritten(be, row_of(from), ni_paper_mat_bytes(out[i].numbers));
        NB_TRY(make(be, &(ni_source){.numbers = out[i].numbers}, out[i].makings, out[i].count, !there, err));
    }
    return NB_OK;
}

/* On Hopper rows of these elements are clamped on the way to something else (cuda/clamp_bits.cuh). */
static bool is_clamped_within(nb_backend *be, const ni_clamping *c, const ni_making *making, nb_element element,
                              nb_rounding round) {
    const nb_quantizer *q = ni_making_quantizer(making);
    return paper(be)->hopper && !c->whole && !(c->rest && c->rest->exact) && ni_has_row_scales(q) &&
           q->element == element && q->round == round;
}

/* Clamped rows go into codes in one kernel, and are not written. */
nb_status ni_paper_make_clamped(nb_backend *be, const ni_clamping *c, const ni_making *making, nb_error *err) {
    if (!is_clamped_within(be, c, making, NB_ELEMENT_E2M1, NB_ROUND_UP))
        return ni_compose_clamped(be, c, making, err);
    NB_TRY(ni_paper_clamp_rows(be, c->clamped, c->rest, c->x, c->low, c->high, false, err));
    ni_paper_unwritten(be, NI_PAPER_ROW_clamp_rows, ni_paper_mat_bytes(c->clamped));
    return make(be, &(ni_source){.numbers = c->clamped}, making, 1, true, err);
}

/* Neither codes nor a rest are written, and the maximum of what is comes with it (cuda/clamp_counted.cu). Comparisons
 * as clamp_rows has them; clamped, scaled, rounded, scaled back, the rest and its sum. */
nb_status ni_paper_make_compensated(nb_backend *be, const ni_clamping *c, const ni_making *making,
                                    const ni_making *dense, nb_error *err) {
    nb_mat sum = *c->clamped;
    if (!is_clamped_within(be, c, making, NB_ELEMENT_INT4, NB_ROUND_EVEN) || !ni_is_counted_width(c->x->cols))
        return ni_compose_compensated(be, c, making, dense, err);
    NB_TRY(ni_clamp_check(&sum, c->rest, c->x, c->low, c->high, false, err));
    NI_PAPER_NOTE(make_compensated, ni_paper_mat_bytes(c->x), ni_paper_mat_bytes(&sum), NI_PAPER_work,
                  (18 + 9) * (double)(sum.rows * sum.cols));
    sum.amax = dense->out->memory;
    return make(be, &(ni_source){.numbers = &sum}, dense, 1, false, err);
}

/* What a kernel of many reads: codes and places (cuda/quantize_remade.cu). */
static void make_of_parts(nb_backend *be, const ni_parts *parts, const ni_making *m) {
    const double n = (double)parts->rows * (double)parts->cols;
    double read = sizeof *parts->places * (double)parts->cols;
    for (int32_t i = 0; i < parts->count; i++)
        read += source_bytes(be, parts->codes[i]);
    m->out->outer = ni_codes_of(m->out).tensor_scale;
    ni_paper_note(be, NI_PAPER_ROW_make_operands,
                  (ni_paper_cost){.read = read,
                                  .written = written_bytes(be, m, parts->rows, parts->cols),
                                  .kind = NI_PAPER_stages,
                                  .flops = n * (quantizing(m) + 1)});
}

nb_status ni_paper_make_many(nb_backend *be, const ni_source *sources, const ni_making *makings, int32_t count,
                             nb_error *err) {
    for (int32_t i = 0; i < count; i++)
        if (sources[i].parts && paper(be)->hopper)
            make_of_parts(be, sources[i].parts, &makings[i]);
        else
            NB_TRY(sources[i].parts ? ni_compose_parts(be, sources[i].parts, &makings[i], err)
                                    : ni_paper_make_operands(be, &sources[i], &makings[i], 1, err));
    return NB_OK;
}

/* Hopper reads values under one scale, under tiles or powers of two either way where they lie, and bytes that lie both
 * ways; codes are turned if somebody reads them. */
static bool is_read_either_way(nb_backend *be, const nb_operand *out, const nb_operand *from) {
    const nb_quantizer *q = &out->quantizer, *of = &from->quantizer;
    const bool tiles = of->scale_type == NB_SCALE_E4M3 && q->scale_type == NB_SCALE_E4M3,
               powers = ni_is_pow2(of) && ni_is_pow2(q);
    const ni_units units = units_for(be, out), before = units_for(be, from);
    if (!paper(be)->hopper || units != before || (units != NI_UNITS_BF16 && units != NI_UNITS_FP8_POW2))
        return false;
    return units == NI_UNITS_FP8_POW2 || tiles || powers || (ni_has_tensor_scale(of) && ni_has_tensor_scale(q));
}

nb_status ni_paper_turn(nb_backend *be, nb_operand *out, const nb_operand *from, nb_error *err) {
    const double codes = out->reread ? (double)nb_qtensor_bytes(&out->quantizer, out->rows, out->cols).total : 0;
    const double numbers = (double)(from->rows * from->cols);
    out->outer = ni_codes_of(out).tensor_scale;
    if (is_read_either_way(be, out, from))
        NI_PAPER_NOTE(turn, codes, codes, NI_PAPER_moves, 0);
    else
        NI_PAPER_NOTE(turn, source_bytes(be, from), kept_bytes(be, out), NI_PAPER_stages,
                      3 * numbers); /* decoded, turned, encoded */
    return NB_OK;
}

nb_status ni_paper_turn_many(nb_backend *be, nb_operand *const *out, const nb_operand *const *from, int32_t count,
                             nb_error *err) {
    for (int32_t i = 0; i < count; i++)
        NB_TRY(ni_paper_turn(be, out[i], from[i], err));
    return NB_OK;
}

nb_status ni_paper_decode(nb_backend *be, const nb_mat *out, const nb_operand *from, bool transpose,
                          const ni_columns *columns, bool with_outer, nb_error *err) {
    NB_TRY(ni_check_decode(out, from, transpose, columns, err));
    const double n = (double)(from->rows * from->cols);
    const double read = ni_is_plain(from) ? ni_paper_mat_bytes(&from->numbers)
                                          : (double)nb_qtensor_bytes(&from->quantizer, from->rows, from->cols).total;
    NI_PAPER_NOTE(decode, read, ni_paper_bytes(from->rows * from->cols, out->dtype), NI_PAPER_stages,
                  n); /* decoded; and a scale each */
    if (columns)
        ni_paper_room(be, NI_ROOM_PART, ni_paper_bytes(from->rows * from->cols, out->dtype));
    return NB_OK;
}

nb_status ni_paper_decode_columns(nb_backend *be, const nb_mat *out, const nb_operand *const *from,
                                  const ni_columns *columns, int32_t count, nb_error *err) {
    double read = 0, n = 0, most = 0;
    for (int32_t i = 0; i < count; i++) {
        const nb_operand *o = from[i];
        const double numbers = (double)(o->rows * o->cols);
        NB_TRY(ni_check_decode(out, o, false, &columns[i], err));
        read += ni_is_plain(o) ? ni_paper_mat_bytes(&o->numbers)
                               : (double)nb_qtensor_bytes(&o->quantizer, o->rows, o->cols).total;
        n += numbers;
        most = numbers > most ? numbers : most;
    }
    NI_PAPER_NOTE(decode_columns, read, sizeof(float) * n, NI_PAPER_stages, n); /* as decode */
    ni_paper_room(be, NI_ROOM_PART, sizeof(float) * most);
    return NB_OK;
}

nb_status ni_paper_canonical(nb_backend *be, const nb_qtensor *out, const nb_operand *from, nb_error *err) {
    NB_TRY(ni_check_canonical(out, from, err));
    const double bytes = (double)nb_qtensor_bytes(&out->quantizer, out->rows, out->cols).total;
    NI_PAPER_NOTE(canonical, bytes, bytes, NI_PAPER_moves, 0);
    return NB_OK;
}

nb_status ni_paper_take_codes(nb_backend *be, nb_operand *out, const nb_qtensor *from, nb_error *err) {
    NB_TRY(ni_check_canonical(from, out, err));
    NI_PAPER_NOTE(take_codes, (double)nb_qtensor_bytes(&from->quantizer, from->rows, from->cols).total,
                  (double)ni_paper_operand_bytes(be, out), NI_PAPER_moves, 0);
    out->outer = ni_codes_of(out).tensor_scale;
    return NB_OK;
}

/* ---- sums of products ---- */

/* Working memory of the CPU for a product of codes (cpu/packed.c): panels of A a thread, outer scales, and what is not
 * kept of B. */
static void note_product_memory(nb_backend *be, const nb_quantizer *qa, const nb_quantizer *qb, int64_t m, int64_t n,
                                int64_t k, bool b_kept) {
    const double outer = sizeof(float) * (double)(m + n);
    if (ni_is_packed(ni_product_of(qa, qb))) {
        enum { BAND = 128 };
        ni_paper_room(be, NI_ROOM_SHARED, outer + (b_kept ? 0 : (double)ni_cpu_panel_bytes(&paper(be)->machine, n, k)));
        ni_paper_thread(be, (double)ni_cpu_panel_bytes(&paper(be)->machine, m < BAND ? m : BAND, k));
        return;
    }
    ni_paper_room(be, NI_ROOM_SHARED,
                  outer + ni_paper_bytes(m * k, NB_BF16) + (b_kept ? 0 : ni_paper_bytes(n * k, NB_BF16)));
}

static bool form_is_kept(nb_backend *be, const nb_operand *a, const nb_operand *b) {
    return b->side == NI_RIGHT && ni_form_of(&b->other, b) == ni_form_of(&a->quantizer, b);
}

static void note_term_memory(nb_backend *be, const nb_mat *c, const ni_term *t) {
    const nb_operand *a = t->a, *b = t->b;
    if (t->outer)
        return;
    if (!a) {
        ni_paper_room(be, NI_ROOM_PART, numbers_bytes(b));
        return;
    }
    if (t->columns || a->factor || b->factor)
        ni_paper_room(be, NI_ROOM_PART, sizeof(float) * (double)(c->rows * b->rows));
    if (!ni_is_plain(a) && !ni_is_plain(b)) {
        note_product_memory(be, &a->quantizer, &b->quantizer, a->rows, b->rows, a->cols, form_is_kept(be, a, b));
        return;
    }
    if (!ni_is_plain(a))
        ni_paper_room(be, NI_ROOM_SOURCE, numbers_bytes(a));
    if (!ni_is_plain(b) && !form_is_kept(be, a, b))
        ni_paper_room(be, NI_ROOM_PIECE, numbers_bytes(b));
}

/* Entries of a sparse operand: its rooms are full, which is the most that there can be. */
static double sparse_entries(const ni_sparse *s, int64_t rows) {
    return (double)rows * (double)s->room;
}

static double sparse_bytes(const ni_sparse *s, int64_t rows) {
    return sparse_entries(s, rows) * (sizeof *s->column + (s->exact ? sizeof *s->exact : sizeof *s->value)) +
           (double)rows * sizeof *s->count;
}

/* `codes`: numbers of B that a processor decodes and turns before. C is counted with the first term. */
static void note_sparse(nb_backend *be, const nb_mat *c, const ni_sparse *s, double b_bytes, double codes) {
    const double passing = codes * (double)nb_dtype_size(NB_BF16);
    ni_paper_note(be, NI_PAPER_ROW_multiply,
                  (ni_paper_cost){.read = sparse_bytes(s, c->rows) + b_bytes + passing,
                                  .written = passing,
                                  .kind = NI_PAPER_sparse,
                                  .flops = 2.0 * sparse_entries(s, c->rows) * (double)c->cols,
                                  .formats = s->exact ? "sparse f32" : "sparse bf16",
                                  .beside = NI_PAPER_stages,
                                  .also = 2 * codes,
                                  .regions = 1 + (codes > 0)});
}

/* Vectors; C is counted with the first term. */
static void note_outer(nb_backend *be, const nb_mat *c, const ni_outer *outer) {
    double read = 0;
    for (int32_t i = 0; i < outer->count; i++)
        read += sizeof(float) * (double)(c->cols + (outer->left[i] ? c->rows : 0));
    ni_paper_note(be, NI_PAPER_ROW_multiply,
                  (ni_paper_cost){.read = read,
                                  .kind = NI_PAPER_work,
                                  .flops = 2.0 * outer->count * (double)(c->rows * c->cols),
                                  .formats = "outer f32"});
}

/* Codes that a product decodes before it multiplies: all of A, and B where no form of it is kept. */
static double decoded_numbers(nb_backend *be, const ni_term *t, ni_paper_kind kind) {
    if (kind != NI_PAPER_decoded)
        return 0;
    const double a = ni_is_plain(t->a) ? 0 : (double)(t->a->rows * t->a->cols);
    const bool kept = ni_is_plain(t->b) || form_is_kept(be, t->a, t->b);
    return a + (kept ? 0 : (double)(t->b->rows * t->b->cols));
}

/* On a processor a C in BF16 that is more than one product is summed in FP32, which every term but the first reads, and
 * cast in the end (cpu/multiply.c). */
static void note_sum(nb_backend *be, const nb_mat *c, int32_t count) {
    const double n = (double)(c->rows * c->cols), pass = sizeof(float) * n;
    ni_paper_note(be, NI_PAPER_ROW_multiply,
                  (ni_paper_cost){.read = count * pass,
                                  .written = count * pass,
                                  .kind = NI_PAPER_work,
                                  .flops = count * n,
                                  .formats = "sums in f32"});
}

/* C is written once, with the first term; an entry for each, since their formats differ. */
nb_status ni_paper_multiply(nb_backend *be, const nb_mat *c, const ni_term *terms, int32_t count, bool accumulate,
                            nb_error *err) {
    NB_TRY(ni_check_terms(c, terms, count, err));
    bool simple = count == 1 && terms->a && !terms->columns && !terms->a->factor && !terms->b->factor;
    if (c->dtype == NB_BF16 && !simple) {
        ni_paper_room(be, NI_ROOM_SUM, sizeof(float) * (double)(c->rows * c->cols));
        if (!paper(be)->hopper)
            note_sum(be, c, count);
    }
    for (int32_t i = 0; i < count; i++) {
        const ni_term *t = &terms[i];
        note_term_memory(be, c, t);
        if (t->outer) {
            note_outer(be, c, t->outer);
            continue;
        }
        if (!t->a) {
            const bool decodes = !paper(be)->hopper && !ni_is_plain(t->b);
            note_sparse(be, c, t->sparse, read_bytes(be, t->b), decodes ? (double)(t->b->rows * t->b->cols) : 0);
            continue;
        }
        const double out = i == 0 ? ni_paper_mat_bytes(c) : 0;
        const ni_paper_kind kind = kind_of(be, t->a, t->b);
        const double decoded = decoded_numbers(be, t, kind), passing = decoded * (double)nb_dtype_size(NB_BF16);
        ni_paper_note(
            be, NI_PAPER_ROW_multiply,
            (ni_paper_cost){.read = read_bytes(be, t->a) + read_bytes(be, t->b) + (accumulate ? out : 0) + passing,
                            .written = out + passing,
                            .kind = kind,
                            .flops = 2.0 * (double)(t->a->rows * t->b->rows) * (double)t->a->cols,
                            .formats = pair(&t->a->quantizer, &t->b->quantizer).text,
                            .beside = NI_PAPER_stages,
                            .also = decoded,
                            .regions = 1 + (kind == NI_PAPER_decoded)});
    }
    return NB_OK;
}

nb_status ni_paper_multiply_many(nb_backend *be, const ni_sum *products, int32_t count, nb_error *err) {
    for (int32_t i = 0; i < count; i++)
        NB_TRY(
            ni_paper_multiply(be, &products[i].c, products[i].terms, products[i].count, products[i].accumulate, err));
    return NB_OK;
}

const char *ni_paper_product_kernel(nb_backend *be, const nb_quantizer *a, const nb_quantizer *b) {
    if (!paper(be)->hopper)
        return ni_cpu_product_kernel(&paper(be)->machine, a, b);
    return ni_product_of(a, b) == NI_PRODUCT_NONE ? NULL : "decoded-bf16";
}
