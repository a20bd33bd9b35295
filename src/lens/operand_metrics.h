/* operand_metrics.h: the numbers of one operand of one GEMM. */
#ifndef NI_LENS_OPERAND_METRICS_H
#define NI_LENS_OPERAND_METRICS_H

#include "lens/record.h"
#include "lens/skipped.h"
#include "nibble/lens.h"

/* What a quantization did to its input, from what was counted; formulas in docs/lens.md. */
typedef struct ni_quantization_error {
    double flushed;     /* share of the non-zero inputs whose code is zero */
    double saturated;   /* share of all inputs beyond the largest code */
    double zero_scales; /* share of the blocks whose scale byte is 0 though an element is not */
    double snr_db;      /* 10 log10(sum x^2 / sum (x - q)^2); infinite where nothing was lost */
    double cosine;      /* of x and q */
    double rho;         /* rms(x) / rms(x - q): below sqrt(3) a gradient drowns in noise (arXiv:2505.19115) */
} ni_quantization_error;
ni_quantization_error ni_quantization_error_of(const nb_quantize_stats *stats);

/* What is wanted of a matrix beside amax, rms and kurtosis. */
typedef struct ni_measured {
    bool channels, crests, tiles; /* crest_columns, crest_max, crest_p99; the whole map of tiles */
    /* Who else takes the largest magnitudes of the columns, once they are there; may be NULL. */
    void (*then)(void *owner, int32_t which, const float *columns, int64_t cols);
    void *owner;
    int32_t which;
} ni_measured;

/* Measures numbers in backend memory; they may change behind it. Recorded under `prefix` at the latest when the step is
 * committed. False if memory ran out. */
bool ni_measure_matrix(ni_record *record, const char *prefix, nb_backend *be, const nb_mat *x, ni_measured wanted);

/* Records everything that applies to the operand under `prefix`; of its source nothing where that is known already,
 * else what is wanted. False if memory ran out. */
bool ni_record_operand(ni_record *record, const char *prefix, const nb_lens_operand *seen, bool source_known,
                       ni_measured wanted);

/* Notes what does not apply to the operand, and why. */
void ni_note_skipped(ni_skipped *skipped, const char *prefix, const nb_lens_operand *seen);

#endif
