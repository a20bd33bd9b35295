/* everywhere.h: runs an operation on every backend and compares.
 *
 * Each result is compared with the double-precision reference on the same inputs. The bounds count roundings: U for an
 * FP32 operation, B for the store of a BF16, on the magnitudes that enter the last sum.
 */
#ifndef NI_TEST_EVERYWHERE_H
#define NI_TEST_EVERYWHERE_H

#include "harness.h"

#include "backend/cpu/cpu.h"

static const double U = 0x1p-24, B = 0x1p-8;

/* Smaller than any result that matters; covers flushed exponentials and BF16 subnormals. */
static const double TINY = 1e-35;

enum { MOST = 6 };

/* What one run of an operation gave. */
typedef struct results {
    int count;
    const char *what[MOST];
    void *data[MOST];
    nb_dtype type[MOST];
    int64_t n[MOST];
} results;

static UNUSED void add_result(results *r, const char *what, void *data, nb_dtype type, int64_t n) {
    r->what[r->count] = what;
    r->data[r->count] = data;
    r->type[r->count] = type;
    r->n[r->count++] = n;
}

/* A shape, the run on any backend, and bounds for each result: rounding errors relative to U of FP32 work. */
typedef struct shape {
    int64_t n, dim;
} shape;
typedef results (*run_fn)(nb_backend *be, shape s);
typedef double *(*work_fn)(int index, shape s, const results *want);

/* k roundings on magnitude a, then the store. */
static double bound(nb_dtype type, double want, double work) {
    return (type == NB_BF16 ? B * fabs(want) + (1 + B) * U * work : U * work) + TINY;
}

static size_t bytes_of(const results *r, int i) {
    return (size_t)r->n[i] * (r->type[i] == NB_BF16 ? 2 : r->type[i] == NB_F32 ? 4 : 8);
}

static void check_against_double(const char *name, const results *got, const results *want, work_fn work, shape s) {
    for (int i = 0; i < got->count; i++) {
        double *w = work(i, s, want), *exact = get(NB_F64, want->data[i], want->n[i]);
        for (int64_t j = 0; j < got->n[i]; j++)
            w[j] = bound(got->type[i], exact[j], w[j]);
        char what[96];
        snprintf(what, sizeof what, "%s %s [%lld, %lld]", name, got->what[i], (long long)s.n, (long long)s.dim);
        check_within(what, get(got->type[i], got->data[i], got->n[i]), exact, w, got->n[i]);
    }
}

static UNUSED nb_backend *cpu(nb_isa isa, int32_t threads) {
    nb_backend_options options = {threads, isa};
    nb_backend *be = NULL;
    assert_int_equal(nb_backend_open("cpu", &options, &be, NULL), NB_OK);
    return be;
}

/* Which builds give the same bits; for every number of threads all of them do. */
typedef enum agreement {
    SCALAR_AND_FAST, /* all */
    FAST,            /* all but the scalar reference */
    FUSED            /* those that have FMA */
} agreement;

/* Runs everywhere and compares. */
static UNUSED void everywhere(const char *name, run_fn run, work_fn work, shape s, agreement agree) {
    nb_backend *ref = NULL;
    assert_int_equal(nb_backend_open("ref64", NULL, &ref, NULL), NB_OK);
    const nb_isa weakest = agree == SCALAR_AND_FAST ? NB_ISA_SCALAR : agree == FAST ? NB_ISA_PORTABLE : NB_ISA_AVX2;
    results want = run(ref, s), first = {0};
    for (nb_isa isa = NB_ISA_SCALAR; isa <= NB_ISA_AVX512 && ni_isa_available(isa); isa++) {
        if (isa <= weakest)
            first.count = 0;
        for (int32_t threads = 1; threads <= 3; threads += 2) {
            nb_backend *be = cpu(isa, threads);
            results got = run(be, s);
            check_against_double(name, &got, &want, work, s);
            for (int i = 0; i < first.count; i++)
                check_equal_bytes(got.what[i], got.data[i], first.data[i], bytes_of(&got, i));
            first = got;
            nb_backend_free(be);
        }
    }
    nb_backend_free(ref);
}

/* Inputs: the same numbers whatever the backend, each exact in BF16 (act) or F32 (real). */
static UNUSED double *act_in(uint32_t stream, int64_t n, double std) {
    return normals_in(NB_BF16, stream, n, 0, std);
}

static UNUSED double *real_in(uint32_t stream, int64_t n, double mean, double std) {
    return normals_in(NB_F32, stream, n, mean, std);
}

#endif
