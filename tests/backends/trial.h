/* trial.h: one case on one backend: inputs that are uploaded, outputs that are poisoned, guarded and downloaded.
 *
 * A case is written once and runs on every backend: on the one that is tested, and on the reference. It reaches memory
 * through the table alone, so that the backend's memory need not be the host's. Numbers are those of tests/harness.h.
 */
#ifndef NI_TEST_TRIAL_H
#define NI_TEST_TRIAL_H

#include "quantize_cases.h"

/* What a case has left: bytes on the host, compared with those that the reference left. */
typedef struct result {
    char what[320];
    nb_dtype type;
    int64_t n;
    void *bytes;
    bool exact;   /* equal bits, or both NaN; else by the case's bound */
    void *device; /* not yet downloaded; NULL: bytes are there */
} result;

typedef struct held held; /* a guarded buffer of the backend */

typedef struct trial {
    nb_backend *be;
    int shape;     /* of those that the case has */
    bool absolute; /* inputs enter by their magnitudes: what a sum of products is at most */
    bool timed;    /* --bench: prepare, then time `again` */
    bool few;      /* --few: of each kind of quantizer one (quantizers.c) */
    result *results;
    int count, room;
    held *memory;
    char failure[400]; /* what went wrong; "" if nothing */
    char refusal[400]; /* why an operation said NB_UNSUPPORTED; "" if none did: then results mean nothing */
} trial;

/* What a case is compared with. */
typedef enum reference {
    BITS,     /* the scalar code of the CPU, bit for bit */
    DOUBLE,   /* ref64, within `work` roundings of FP32 and the store's own */
    PRODUCTS, /* ref64, within `roundings` of the same sum over magnitudes, and the store's own */
    CODES     /* the same, by the scalar code: ref64 has no codes */
} reference;

typedef struct test_case {
    const char *ops;  /* rows of ops.inc that it runs, with blanks between */
    const char *name; /* what of them */
    reference by;
    int shapes;
    void (*run)(trial *t);
    /* For each element of a result, in units of U. DOUBLE: of the reference. CODES, where it is not NULL: of the
     * backend that is tested, what its units lose beside the roundings. */
    double *(*work)(const trial *t, int index);
    double (*roundings)(const trial *got); /* PRODUCTS, CODES: in units of U */
} test_case;

typedef struct case_list {
    const test_case *cases;
    int count;
} case_list;

/* One list a file. */
extern const case_list memory_cases, elementwise_cases, norm_cases, sequence_cases, loss_cases, optimizer_cases,
    quantize_cases, operand_cases, tile_cases, many_cases, remade_cases, produced_cases, way_cases, product_cases,
    group_cases, permit_cases, pow2_cases, wide_cases, mechanism_cases, select_cases, measure_cases;

static const double U = 0x1p-24, B = 0x1p-8, TINY = 1e-35; /* FP32, BF16, smaller than any result that matters */

/* ---- memory of the backend ---- */

void *upload(trial *t, const void *from, size_t bytes);                          /* an input of these bytes */
void *input(trial *t, nb_dtype type, const double *x, int64_t n);                /* numbers, rounded to the type */
void *input_act(trial *t, uint32_t stream, int64_t n, double std);               /* N(0, std), exact in BF16 */
void *input_real(trial *t, uint32_t stream, int64_t n, double mean, double std); /* exact in F32 */
void *scratch(trial *t, size_t bytes);                                           /* poisoned and guarded, no result */
nb_mat input_mat(trial *t, const nb_mat *host);                                  /* uploads what a host matrix holds */

/* ---- results ---- */

void *output(trial *t, const char *what, nb_dtype type, int64_t n);       /* poisoned */
void *output_exact(trial *t, const char *what, nb_dtype type, int64_t n); /* the same; bits count */
/* What is written already, backend memory: read when the run ends. */
void keep(trial *t, const char *what, const void *device, nb_dtype type, int64_t n, bool exact);
/* What lies on the host. */
void record(trial *t, const char *what, const void *host, nb_dtype type, int64_t n, bool exact);
/* A call that was not NB_OK: NB_UNSUPPORTED is a refusal, everything else a failure. */
void fail_trial(trial *t, const char *what, nb_status status, const nb_error *err);
#define EXPECT_OK(t, call)                                                                                             \
    do {                                                                                                               \
        nb_error err = {0};                                                                                            \
        nb_status status_ = (call);                                                                                    \
        if (status_ != NB_OK)                                                                                          \
            fail_trial(t, #call, status_, &err);                                                                       \
    } while (0)

/* A dense view of `data` that asks for its amax; what the operation left there is held against the numbers themselves.
 */
nb_mat asking(trial *t, void *data, nb_dtype type, int64_t rows, int64_t cols);
void expect_amax(trial *t, const nb_mat *m);
/* The same with the maximum of turned columns, where the backend has it filled and rows come in sixteens. Strides may
 * be wider than rows. */
nb_mat asking_both(trial *t, void *data, nb_dtype type, int64_t rows, int64_t cols);
void expect_both(trial *t, const nb_mat *m);

/* Numbers of a result as doubles, in a buffer of the harness. */
double *numbers_of(const trial *t, int index);

/* ---- a run ---- */

void run_trial(const test_case *c, trial *t);
void fetch_results(trial *t); /* waits, downloads, checks guards, releases the backend's memory */
void end_trial(trial *t);

/* The largest error of a result in units of its bound: at most 1 where it is right. `what` names the result and the
 * element where it is not. */
double compare_trials(const test_case *c, const trial *got, const trial *want, const trial *magnitudes, char *what,
                      size_t size);

/* ---- inputs ---- */

static UNUSED nb_noise noise_at(trial *t) { /* step 3, micro-batch 2 */
    static const uint32_t at[2] = {3, 2};
    nb_noise noise = {.seed = 5, .tensor = 0x1234567, .signs = 0x89abcdef, .clock = upload(t, at, sizeof at)};
    return noise;
}

static UNUSED int32_t *integers(int64_t n, int32_t below) { /* on the host */
    int32_t *x = poisoned((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = (int32_t)(ni_philox(9, 9, (uint32_t)i, 0, 0, 0).w[0] % (uint32_t)below);
    return x;
}

/* Those that a case goes through: as all_formats and all_quantizers. */
const quantizer_list *formats_of(const trial *t);
const quantizer_list *quantizers_of(const trial *t);

/* An operand in the canonical layout, its four buffers in one piece of backend memory. */
nb_qtensor new_codes(trial *t, const nb_quantizer *q, int64_t rows, int64_t cols);
void keep_codes(trial *t, const char *what, const nb_qtensor *codes);

/* Codes of all quantizer cases, or (where `saved` is not NULL) of the operands that it holds, one digest a quantizer:
 * written to `file`, or compared with what stands there. Returns how many differ; -1 if the file cannot be used. */
struct ni_safetensors;
int64_t write_digests(nb_backend *be, const char *file, const struct ni_safetensors *saved);
int64_t check_digests(nb_backend *be, const char *file, const struct ni_safetensors *saved);
uint64_t trained_digest(nb_backend *be, const nb_quantizer *q, const struct ni_safetensors *saved);

#endif
