/* cases_produced.c: what a producer writes, straight into operands, beside the numbers that it would write. */
#include "operands.h"

enum { PRODUCED_ROWS = 48, PRODUCED_COLS = 272, PRODUCED_MOST = 2048, PRODUCED = PRODUCED_ROWS * PRODUCED_COLS };

/* Both operands of one matrix of a producer, and what is left for the next step. */
typedef struct produced_pair {
    nb_mat numbers;
    nb_operand row, column;
    uint32_t *now;
    ni_making makings[2];
} produced_pair;

static void place_pair(trial *t, produced_pair *p, int64_t cols, const nb_quantizer *row, const nb_quantizer *column,
                       const float *past, bool reread, const nb_noise *noise) {
    p->numbers = nb_mat_of(scratch(t, (size_t)(PRODUCED_ROWS * cols) * sizeof(uint16_t)), NB_BF16, PRODUCED_ROWS, cols);
    p->row = placed(t, row, PRODUCED_ROWS, cols, NI_LEFT, row);
    p->column = placed(t, column, cols, PRODUCED_ROWS, NI_RIGHT, column);
    p->row.reread = p->column.reread = reread;
    p->now = scratch(t, 2 * sizeof *p->now);
    p->makings[0] = (ni_making){.out = &p->row, .past = past, .headroom = 2, .now = p->now, .noise = noise};
    p->makings[1] = (ni_making){
        .out = &p->column, .transpose = true, .past = past, .headroom = 1, .now = p->now + 1, .noise = noise};
}

/* Bytes in which two pairs are not one: operands whole, as the backend keeps them. */
static void expect_alike(trial *t, const char *what, const produced_pair *a, const produced_pair *b, bool kept) {
    const size_t row = t->be->ops->operand_bytes(t->be, &a->row), column = t->be->ops->operand_bytes(t->be, &a->column);
    const int32_t bytes[5] = {differing(t, a->row.memory, b->row.memory, row),
                              differing(t, a->column.memory, b->column.memory, column),
                              differing(t, a->now, b->now, 2 * sizeof *a->now),
                              kept ? differing(t, a->numbers.data, b->numbers.data,
                                               (size_t)(a->numbers.rows * a->numbers.cols) * sizeof(uint16_t))
                                   : 0,
                              a->row.form != b->row.form || a->column.form != b->column.form};
    record(t, what, bytes, NB_I32, 5, true);
}

/* Some where exp overflows and vanishes, a few threads' only. */
static void *far_gates(trial *t) {
    static const float far[] = {-200, -95, -88.5f, -87.5f, -87, -86.5f, 95, 200};
    double *g = normals_in(NB_BF16, 1, PRODUCED, 0, 2);
    for (int i = 0; i < 8; i++)
        g[PRODUCED / 2 + 37 * i] = far[i];
    return input(t, NB_BF16, g, PRODUCED);
}

/* The producer by itself. */
static void run_alone(nb_backend *be, const ni_producer *from, const nb_mat *a, const nb_mat *b) {
    if (from->kind == NI_PRODUCER_SWIGLU) {
        be->ops->swiglu_forward(be, a, from->gate, from->up);
    } else if (from->kind == NI_PRODUCER_SWIGLU_SLOPES) {
        be->ops->swiglu_backward(be, a, b, from->dy, from->gate, from->up);
    } else if (from->kind == NI_PRODUCER_TURNED_BACK) {
        be->ops->rope(be, a, from->positions, from->heads[0], from->rope, true);
        be->ops->rope(be, b, from->positions, from->heads[1], from->rope, true);
    } else if (from->change)
        be->ops->add_rmsnorm_forward(be, from->sum, a, from->rstd, from->x, from->change, from->w, from->eps);
    else
        be->ops->rmsnorm_forward(be, a, from->rstd, from->x, from->w, from->eps);
}

static ni_producer producer_of(trial *t, int kind, int64_t cols, int64_t head_dim, int turn) {
    ni_producer from = {.kind = (ni_producer_kind)kind};
    if (kind == NI_PRODUCER_NORM) {
        from.x = input_act(t, 4, PRODUCED_ROWS * cols, 3);
        from.change = turn % 2 ? input_act(t, 5, PRODUCED_ROWS * cols, 1) : NULL;
        from.w = input_real(t, 6, cols, 1, 0.3);
        from.eps = 1e-5;
    } else if (kind == NI_PRODUCER_TURNED_BACK) { /* some positions lie beyond the table of angles */
        static const ni_rope how = {.theta = 10000};
        from.positions = upload(t, integers(PRODUCED_ROWS, 2 * PRODUCED_ROWS), PRODUCED_ROWS * sizeof(int32_t));
        from.rope = &how;
        from.heads[0] = cols / head_dim;
        from.heads[1] = cols / head_dim - 1;
    } else {
        from.gate = far_gates(t);
        from.up = input_act(t, 2, PRODUCED, 1);
        from.dy = kind == NI_PRODUCER_SWIGLU_SLOPES ? input_act(t, 3, PRODUCED, turn == 2 ? 1e20 : 1) : NULL;
    }
    return from;
}

/* Slopes as attention leaves them; without a past their maxima are asked for, and those of the third are known. */
static void place_slopes(trial *t, produced_pair *p, int m, const ni_producer *from, int64_t head_dim, bool known,
                         double size) {
    static const int32_t nowhere[PRODUCED_ROWS];
    p->numbers.data = input_act(t, 7 + (uint32_t)m, p->numbers.rows * p->numbers.cols, size);
    if (!known)
        return;
    p->numbers.amax = scratch(t, 2 * sizeof *p->numbers.amax);
    p->numbers.turned_amax = p->numbers.amax + 1;
    if (m == 2)
        t->be->ops->rope(t->be, &p->numbers, upload(t, nowhere, sizeof nowhere), p->numbers.cols / head_dim, from->rope,
                         true);
}

/* Operands of one producer made at once, beside those of its matrices. */
static void produce_both_ways(trial *t, int kind, int64_t cols, int64_t head_dim, const nb_quantizer q[2],
                              const float *past, int turn) {
    static const char *const names[] = {"swiglu", "slopes", "norm", "turned back"};
    static const int32_t counts[] = {1, 2, 1, 3};
    const bool kept = turn % 2, reread = turn % 3 == 0, turned = kind == NI_PRODUCER_TURNED_BACK;
    const nb_noise noise = noise_at(t);
    const int32_t count = counts[kind];
    ni_producer at_once_from = producer_of(t, kind, cols, head_dim, turn), apart_from = at_once_from;
    ni_producer *const both[2] = {&at_once_from, &apart_from};
    produced_pair at_once[NI_PRODUCED_MOST], apart[NI_PRODUCED_MOST];
    ni_produced out[NI_PRODUCED_MOST];
    for (int i = 0; i < 2; i++) {
        both[i]->sum = scratch(t, (size_t)(PRODUCED_ROWS * cols) * sizeof(uint16_t));
        both[i]->rstd = scratch(t, PRODUCED_ROWS * sizeof(float));
    }
    for (int m = 0; m < count; m++) {
        const int64_t wide = turned && m ? cols - head_dim : cols;
        place_pair(t, &at_once[m], wide, &q[0], &q[1], past, reread, &noise);
        place_pair(t, &apart[m], wide, &q[0], &q[1], past, reread, &noise);
        for (int i = 0; i < 2 && turned; i++)
            place_slopes(t, i ? &apart[m] : &at_once[m], m, &at_once_from, head_dim, !past, turn == 2 ? 1e20 : 1);
        out[m] = (ni_produced){.numbers = &at_once[m].numbers, .kept = kept, .makings = at_once[m].makings, .count = 2};
    }
    EXPECT_OK(t, t->be->ops->make_produced(t->be, &at_once_from, out, count, &err));
    run_alone(t->be, &apart_from, &apart[0].numbers, &apart[count > 1].numbers);
    for (int m = 0; m < count; m++) {
        char what[200];
        make(t, &(ni_source){.numbers = &apart[m].numbers}, apart[m].makings, 2);
        snprintf(what, sizeof what, "%s, matrix %d, past %d%s%s", names[kind], m, turn, kept ? ", numbers kept" : "",
                 reread ? ", codes" : "");
        expect_alike(t, what, &at_once[m], &apart[m], kept);
    }
    const int32_t beside[2] = {
        differing(t, at_once_from.sum, apart_from.sum, (size_t)(PRODUCED_ROWS * cols) * sizeof(uint16_t)),
        differing(t, at_once_from.rstd, apart_from.rstd, PRODUCED_ROWS * sizeof(float))};
    record(t, "what a norm leaves", beside, NB_I32, 2, true);
}

/* One shape to nearest, one stochastic, one that no kernel makes at once; under what is known of another step, and in a
 * first step. */
static void run_produced(trial *t) {
    static const float pasts[] = {1, 0.05f, 1e-6f, 40, 0, NAN};
    enum { PASTS = sizeof pasts / sizeof *pasts };
    nb_quantizer q[2] = {nvfp4(1), nvfp4(1)};
    q[0].round = q[1].round = t->shape ? NB_ROUND_STOCHASTIC : NB_ROUND_EVEN;
    q[0].sr_bits = q[1].sr_bits = 8;
    if (t->shape < 2) {
        q[1].hadamard_size = 16;
        q[1].hadamard_signs = NB_SIGNS_FIXED;
        q[1].hadamard_round_bf16 = true;
    }
    for (int i = 0; i <= PASTS; i++)
        for (int kind = NI_PRODUCER_SWIGLU; kind <= NI_PRODUCER_TURNED_BACK; kind++)
            produce_both_ways(t, kind, PRODUCED_COLS, 16, q, i < PASTS ? upload(t, &pasts[i], sizeof *pasts) : NULL, i);
    for (int64_t cols = 256; cols <= PRODUCED_MOST && t->shape == 0;
         cols += 256) /* rows of norms, as long as registers hold */
        produce_both_ways(t, NI_PRODUCER_NORM, cols, 0, q, upload(t, &pasts[0], sizeof *pasts), (int)(cols / 256));
    for (int64_t head_dim = 32; head_dim <= 256 && t->shape == 1; head_dim *= 2)
        produce_both_ways(t, NI_PRODUCER_TURNED_BACK, 3 * head_dim, head_dim, q, upload(t, &pasts[1], sizeof *pasts),
                          (int)(head_dim / 32));
}

static const test_case PRODUCED_CASES[] = {
    {"make_produced", "beside the numbers that a producer writes", BITS, 3, run_produced, NULL, NULL},
};
const case_list produced_cases = {PRODUCED_CASES, sizeof PRODUCED_CASES / sizeof *PRODUCED_CASES};
