/* kernels.h: launchers of everything that is not a product, a quantizer or attention. Addresses are the device's; each
 * returns the cudaError_t of its launches. Meanings are those of ops.inc; what is summed is summed in an order that
 * depends on the shapes alone.
 */
#ifndef NI_BACKEND_CUDA_KERNELS_H
#define NI_BACKEND_CUDA_KERNELS_H

#include "backend/arguments.h"
#include "backend/rope.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- elementwise.cu ---- */
int ni_cuda_launch_cast(void *stream, void *to, nb_dtype to_type, const void *from, nb_dtype from_type, int64_t n);

/* FP32 to BF16, many at once; n a multiple of eight, both aligned. */
typedef struct ni_cuda_casting {
    uint16_t *to;
    const float *from;
    int64_t n;
} ni_cuda_casting;
int ni_cuda_launch_casts(void *stream, const ni_cuda_casting *casts, int count);
int ni_cuda_launch_add(void *stream, uint16_t *out, const uint16_t *a, const uint16_t *b, int64_t n);
int ni_cuda_launch_axpy(void *stream, float *y, float alpha, const float *x, int64_t n);
int ni_cuda_launch_scale(void *stream, const nb_mat *out, const nb_mat *in, const float *rows, const float *cols);
/* out (+)= in * fl(row * column): the scales outside of a product's sum, one a row or column, or one for all (step 0).
 */
typedef struct ni_cuda_outer {
    const float *at; /* NULL: 1 */
    int step;        /* 1: one for each; 0: the same for all */
} ni_cuda_outer;
int ni_cuda_launch_scaled_result(void *stream, const nb_mat *out, const nb_mat *in, ni_cuda_outer rows,
                                 ni_cuda_outer cols, bool accumulate);
int ni_cuda_launch_multiply_words(void *stream, float *out, const float *a,
                                  const float *b); /* *out = *a * *b; NULL: 1 */
int ni_cuda_launch_gate_forward(void *stream, float *gate, const uint16_t *a, const float *bias, int64_t n, int64_t dim,
                                float normalizer, float clamp);
/* partial: ni_cuda_partial_bytes(n, dim) of scratch */
int ni_cuda_launch_gate_backward(void *stream, uint16_t *da, float *dbias, const float *dgate, const uint16_t *a,
                                 const float *bias, int64_t n, int64_t dim, float normalizer, float clamp,
                                 float *partial);

/* start, end [tokens]: both bounds of each position's document; doc_start NULL: a sequence is one document. */
int ni_cuda_launch_document_bounds(void *stream, int32_t *start, int32_t *end, const int32_t *doc_start, int64_t tokens,
                                   int64_t seq);
/* *amax = largest magnitude of a BF16 matrix */
int ni_cuda_launch_amax(void *stream, uint32_t *amax, const void *x, int64_t rows, int64_t cols, int64_t stride);

/* ---- swiglu.cu: dense BF16 matrices, with both of their maxima where they are asked for ---- */
int ni_cuda_launch_swiglu_forward(void *stream, const nb_mat *y, const uint16_t *gate, const uint16_t *up);
int ni_cuda_launch_swiglu_backward(void *stream, const nb_mat *dgate, const nb_mat *dup, const uint16_t *dy,
                                   const uint16_t *gate, const uint16_t *up);

/* ---- rope.cu: a dense BF16 matrix, the same ---- */
typedef struct ni_cuda_turns {
    float *table;      /* [positions, head_dim / 2, 2]: cosine and sine, 16-byte aligned; NULL: none */
    int32_t positions; /* angles of those beyond are made as they are asked for */
} ni_cuda_turns;
/* Of one matrix: heads that are powers of two from 16 to 256 channels long, eight channels of a token a thread. */
typedef struct ni_cuda_angles {
    ni_rope how;
    ni_cuda_turns turns;
    int32_t head_dim;
    bool inverse;
} ni_cuda_angles;
int ni_cuda_launch_turns(void *stream, float *table, int64_t positions, int64_t head_dim, const ni_rope *how);
int ni_cuda_launch_rope(void *stream, const nb_mat *x, const int32_t *positions, int64_t heads, const ni_rope *how,
                        const ni_cuda_turns *turns, bool inverse);

/* ---- norm.cu ---- */
size_t ni_cuda_partial_bytes(int64_t n, int64_t dim); /* sums over rows that blocks leave for the last kernel to add */
/* out [dim] += sum over partial [blocks, dim], in an order of its own */
int ni_cuda_launch_add_partials(void *stream, float *out, const float *partial, int64_t blocks, int64_t dim);
/* y = norm(x); with `change`, sum = x + change and y = norm(sum); with `add`, y = add + norm(x). */
typedef struct ni_cuda_norm {
    uint16_t *y;
    uint32_t *amax, *turned_amax; /* of y; NULL: not asked for */
    float *rstd;                  /* [n] */
    uint16_t *sum;
    const uint16_t *x, *change, *add;
    const float *w; /* [dim] */
    int64_t n, dim;
    float eps;
} ni_cuda_norm;
int ni_cuda_launch_rmsnorm_forward(void *stream, const ni_cuda_norm *norm);
/* dx written, or with `into` added to what is there, rounded as the sum of two BF16 numbers; dw is added to. */
typedef struct ni_cuda_norm_slopes {
    uint16_t *dx;
    bool into;
    uint32_t *amax, *turned_amax; /* of dx */
    float *dw;
    const uint16_t *dy, *x;
    const float *w, *rstd;
    int64_t n, dim;
    float *partial; /* scratch of ni_cuda_partial_bytes */
} ni_cuda_norm_slopes;
int ni_cuda_launch_rmsnorm_backward(void *stream, const ni_cuda_norm_slopes *d);
int ni_cuda_launch_gated_norm_forward(void *stream, uint16_t *y, uint32_t *amax, float *rstd, const uint16_t *o,
                                      const uint16_t *g, const float *w, int64_t n, int64_t dim, float eps);
int ni_cuda_launch_gated_norm_backward(void *stream, uint16_t *do_, uint16_t *dg, uint32_t *dg_amax, float *dw,
                                       const uint16_t *dy, const uint16_t *o, const uint16_t *g, const float *w,
                                       const float *rstd, int64_t n, int64_t dim, float *partial);

/* ---- sphere.cu: dense BF16 matrices [n, dim], FP32 weights ---- */
int ni_cuda_launch_unit_vectors(void *stream, float *w, int64_t rows, int64_t cols, bool columns);
/* A step from N(a) towards N(b). */
typedef struct ni_cuda_slerp {
    const uint16_t *a, *b;
    const float *alpha; /* [dim] */
    float factor, eps;
    int64_t n, dim;
} ni_cuda_slerp;
int ni_cuda_launch_slerp_forward(void *stream, const ni_cuda_slerp *p, uint16_t *out, uint32_t *amax);
/* scratch of ni_cuda_slerp_bytes; da may be dout; dalpha is added to. */
size_t ni_cuda_slerp_bytes(int64_t n, int64_t dim);
int ni_cuda_launch_slerp_backward(void *stream, const ni_cuda_slerp *p, uint16_t *da, uint16_t *db, uint32_t *db_amax,
                                  float *dalpha, const uint16_t *dout, void *scratch);
int ni_cuda_launch_gain_forward(void *stream, const nb_mat *y, const uint16_t *x, const float *s, float factor,
                                int power);
/* partial: ni_cuda_column_sum_bytes(n, dim) of scratch; ds is added to. */
size_t ni_cuda_column_sum_bytes(int64_t n, int64_t dim);
int ni_cuda_launch_gain_backward(void *stream, const nb_mat *dx, float *ds, const uint16_t *dy, const uint16_t *x,
                                 const float *s, float factor, int power, float *partial);

/* ---- loss.cu ---- */
int ni_cuda_launch_cross_entropy(void *stream, float *loss, float *z, uint16_t *dlogits, const uint16_t *logits,
                                 const int32_t *targets, int64_t n, int64_t vocab, float grad_scale, float z_loss);

/* ---- embedding.cu ---- */
int ni_cuda_launch_embed_forward(void *stream, uint16_t *out, const float *table, const int32_t *tokens, int64_t n,
                                 int64_t dim);
size_t ni_cuda_embed_bytes(int64_t n);
int ni_cuda_launch_embed_backward(void *stream, float *dtable, const uint16_t *dout, const int32_t *tokens, int64_t n,
                                  int64_t dim, int64_t vocab, void *scratch, size_t bytes);

int ni_cuda_launch_take_rows(void *stream, float *out, const float *table, const int32_t *rows, int64_t n, int64_t dim);
int ni_cuda_launch_put_rows(void *stream, float *table, const float *in, const int32_t *rows, int64_t n, int64_t dim);

/* ---- optimizer.cu ---- */
enum { NI_CUDA_SUM_BLOCKS = 512, NI_CUDA_ADAMW_AMAXES = 72 };
/* partial [NI_CUDA_SUM_BLOCKS] doubles of scratch */
int ni_cuda_launch_sum(void *stream, double *out, const float *x, int64_t n, bool squares, double *partial);
/* partial: as many doubles as square_parts says */
int64_t ni_cuda_square_parts(const int64_t *n, int32_t count);
int ni_cuda_launch_scaled_squares(void *stream, double *out, const ni_scaled *x, const int64_t *n, int32_t count,
                                  double *partial);
int ni_cuda_launch_adamw(void *stream, const ni_adamw_tensor *tensors, int32_t count, const ni_adamw *step,
                         uint32_t *amaxes /* [NI_CUDA_ADAMW_AMAXES] scratch */);
int ni_cuda_launch_adamw_ramped(void *stream, const ni_ramped *t, const ni_adamw *step);
int ni_cuda_launch_ramp_periods(void *stream, int32_t *period, const float *moved_q, const float *moved_w, int64_t n,
                                double k1, double k2, int32_t most);
int ni_cuda_launch_scaled_encode(void *stream, const ni_scaled *to, const float *const *from, const int64_t *n,
                                 int32_t count, uint32_t *amaxes /* [NI_CUDA_ADAMW_AMAXES] scratch */);
int ni_cuda_launch_scaled_decode(void *stream, float *to, const ni_scaled *from, int64_t n);
int ni_cuda_launch_scaled_add(void *stream, const ni_scaled *to, const ni_scaled *a, const ni_scaled *b, int64_t n,
                              uint32_t *amax);
int ni_cuda_launch_scaled_rescale(void *stream, const ni_scaled *t, float scale, int64_t n);
int ni_cuda_launch_scaled_join(void *stream, const ni_scaled *to, const ni_scaled *from, int64_t n);

/* ---- mechanisms.cu ---- */
int ni_cuda_launch_dge(void *stream, float *dw, const ni_scaled *w, const nb_qtensor *codes, float k, float cap);
size_t ni_cuda_clamp_bytes(bool whole);
int ni_cuda_launch_clamp(void *stream, const nb_mat *out, const ni_sparse *rest, const nb_mat *x, int64_t low,
                         int64_t high, bool whole, void *scratch);
int ni_cuda_launch_sparse_product(void *stream, const nb_mat *c, const ni_sparse *s, const nb_mat *b);
int ni_cuda_launch_sparse_add(void *stream, const nb_mat *x, const ni_sparse *s);
/* amax [1]: written */
int ni_cuda_launch_round_under(void *stream, const nb_mat *out, const nb_mat *x, nb_dtype type, uint32_t *amax,
                               const float *past);
int ni_cuda_launch_gather(void *stream, const nb_mat *out, const nb_mat *in, const int32_t *columns);
int ni_cuda_launch_scatter(void *stream, const nb_mat *out, const nb_mat *in, const int32_t *columns, bool accumulate);
/* partial: ni_cuda_column_chunks_bytes(rows, cols) of scratch */
size_t ni_cuda_column_chunks_bytes(int64_t rows, int64_t cols);
int ni_cuda_launch_column_norms(void *stream, float *norms, const nb_mat *x, double *partial);
int ni_cuda_launch_column_means(void *stream, const nb_mat *means, const nb_mat *x, double *partial);
int ni_cuda_launch_subtract_row(void *stream, const nb_mat *out, const nb_mat *x, const nb_mat *row);
/* out, F32 or BF16, = in, F32, plus the outer products; out may be in */
int ni_cuda_launch_outer(void *stream, const nb_mat *out, const nb_mat *in, const ni_outer *outer);
int ni_cuda_launch_rotate_rows(void *stream, const nb_mat *x, int32_t size, nb_signs signs, const nb_noise *noise);
int ni_cuda_launch_quest_backward(void *stream, const nb_mat *g, const nb_mat *x, const nb_quantizer *q);
int ni_cuda_launch_add_distance(void *stream, float *distance, const float *a, const float *b, int64_t n);
int ni_cuda_launch_reset_where(void *stream, int64_t *resets, float *w, const float *q, const float *moved_w,
                               const float *moved_q, const uint8_t *flips, int32_t least_flips, int64_t n,
                               double threshold);
int ni_cuda_launch_bin_widths(void *stream, float *out, const nb_qtensor *codes);
int ni_cuda_launch_round_by(void *stream, const nb_qtensor *codes, const float *w, const float *guide);

/* ---- select.cu ---- */
size_t ni_cuda_top_k_bytes(int64_t n);
int ni_cuda_launch_top_k(void *stream, int32_t *out, const float *scores, int64_t n, int64_t k, bool by_index,
                         void *scratch);
int ni_cuda_launch_count_common(void *stream, int64_t *count, const int32_t *a, const int32_t *b, int64_t k);
int ni_cuda_launch_column_errors(void *stream, double *mean_abs_error, double *rms, const nb_mat *x,
                                 const nb_mat *decoded);
int ni_cuda_launch_hot_scores(void *stream, float *scores, double *means, const double *facts, int64_t n, double keep,
                              bool normalized);
int ni_cuda_launch_bin_distances(void *stream, float *out, const float *w, const float *q, const float *widths,
                                 int64_t n);
int ni_cuda_launch_add_flips(void *stream, uint8_t *flips, const float *q, const float *q_before, const float *widths,
                             int64_t n);
typedef struct ni_cuda_tracked { /* as ni_tracked */
    float *w, *q, *moved_w, *moved_q;
    uint8_t *codes;
    int64_t *flips;
} ni_cuda_tracked;
int ni_cuda_launch_track_codes(void *stream, const ni_cuda_tracked *t, const nb_mat *w, const nb_qtensor *codes,
                               bool first);
/* With widths: distances of a and b in bins; without: ratios a / b. */
int ni_cuda_launch_count_bins(void *stream, int64_t *counts, const float *a, const float *b, const float *widths,
                              int64_t n, int bins);

/* ---- measure_sums.cu: `parts` is scratch, of so many doubles ---- */
int64_t ni_cuda_column_sums(int64_t sums, int64_t rows, int64_t cols); /* of a gate 4 sums, of a pair 3 */
int ni_cuda_launch_measure_gate(void *stream, double *out, const nb_mat *a, const nb_mat *bias, double *parts);
int ni_cuda_launch_measure_pair(void *stream, double *out, const nb_mat *x, const nb_mat *y, double *parts);
int64_t ni_cuda_row_sums(int64_t rows, int64_t cols);
int ni_cuda_launch_measure_alignment(void *stream, double *out, const nb_mat *a, const nb_mat *b, double *parts);

/* ---- measure.cu ---- */
typedef struct ni_cuda_moment_sums {
    double sums[4]; /* of x, x^2, x^3, x^4, where x is finite */
    double nonfinite, amax;
} ni_cuda_moment_sums;
size_t ni_cuda_measure_bytes(const nb_mat *x); /* of `partial`, which is scratch */
/* moments and column_amax [cols] are 0 before; column_amax and tile_crest [tiles] may be NULL. */
int ni_cuda_launch_measure(void *stream, const nb_mat *x, ni_cuda_moment_sums *partial, ni_moments *moments,
                           float *column_amax, float *tile_crest);

/* ---- measure_attention.cu ---- */
/* each [batch * heads * (seq / stride)]: of one query; queries in order are added up to stats [1]. */
int ni_cuda_launch_measure_attention(void *stream, const nb_attention *a, const void *q, const void *k, int64_t stride,
                                     ni_attention_stats *each, ni_attention_stats *stats);

#ifdef __cplusplus
}
#endif
#endif
