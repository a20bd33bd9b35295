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

/* Histogram of E4M3 scale bytes over their 16 exponents (0 = zero and subnormal); shares. */
void ni_scale_histogram(const uint8_t *scales, int64_t count, float shares[16]);

/* Working memory that grows and is kept. What `measure` leaves lies in one piece, on the backend and then on the host:
 * moments, largest magnitudes of the columns, crests of the tiles, and room for a row of tiles more. */
typedef struct ni_lens_buffers {
    void *measured; /* host */
    int64_t measured_room;
    float *columns, *crests; /* in `measured` */
    uint8_t *scales;
    int64_t scale_room;
    nb_backend *be; /* whose memory `there` is; NULL: none yet */
    void *there;
    int64_t there_room;
} ni_lens_buffers;
void ni_lens_buffers_free(ni_lens_buffers *buffers);
size_t ni_lens_buffers_bytes(const ni_lens_buffers *buffers);

/* Records everything that applies to the operand under `prefix`; of its source nothing where that is known already, and
 * its map of tiles where `tiles` asks for it. Otherwise buffers->columns holds the channel maxima of seen->source (if
 * there is one) afterwards. False if memory ran out: then nothing of this operand was recorded. */
bool ni_record_operand(ni_record *record, const char *prefix, const nb_lens_operand *seen, bool source_known,
                       bool tiles, ni_lens_buffers *buffers);

/* amax, rms and kurtosis of numbers in backend memory; `buffers` then hold their columns and crests. False if memory
 * ran out. */
bool ni_record_moments(ni_record *record, const char *prefix, nb_backend *be, const nb_mat *x,
                       ni_lens_buffers *buffers);

/* Notes what does not apply to the operand, and why. */
void ni_note_skipped(ni_skipped *skipped, const char *prefix, const nb_lens_operand *seen);

#endif
