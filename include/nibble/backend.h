/* backend.h: the table of operations, and the machines that implement it.
 *
 * The model is written once over this table. An implementation fills every entry or leaves NULL what it cannot do;
 * nothing falls back in silence. Pointers are addresses in the backend's memory; shapes are row-major.
 *
 * Two types run through the table. `act` is the type of activations and of their gradients, `real` that of masters,
 * weight gradients, statistics and all accumulation:
 *     cpu, cuda   act = BF16   real = F32
 *     ref64       act = F64    real = F64      the same formulas in double, for gradient checks
 * `void *` parameters say in their comment which of the two they hold.
 *
 * All operations are deterministic: results do not depend on the number of threads.
 */
#ifndef NIBBLE_BACKEND_H
#define NIBBLE_BACKEND_H

#include "format.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nb_backend nb_backend;

/* A view of a row-major matrix: row r begins at element r*stride. */
typedef struct nb_mat {
    void *data;
    nb_dtype dtype;
    int64_t rows, cols;
    int64_t stride; /* elements; >= cols */
} nb_mat;

static inline nb_mat nb_mat_of(const void *data, nb_dtype dtype, int64_t rows, int64_t cols) {
    nb_mat m = {(void *)data, dtype, rows, cols, cols};
    return m;
}

/* Softmax attention over packed documents. q, o: [batch, seq, heads, head_dim]; k, v: [batch, seq, kv_heads, head_dim].
 */
typedef struct nb_attention {
    int64_t batch, seq, heads, kv_heads, head_dim;
    double scale;             /* on q.k; 1/sqrt(head_dim) as a rule */
    const int32_t *doc_start; /* [batch, seq]: first position that a query may attend to; causal besides */
} nb_attention;

/* Gated linear attention (specs: fla). q, k, gate: [batch, seq, heads, key_dim]; v, o: [batch, seq, heads, value_dim].
 */
typedef struct nb_gla {
    int64_t batch, seq, heads, key_dim, value_dim;
    double scale;             /* on q; 1/sqrt(key_dim) as a rule */
    const int32_t *doc_start; /* [batch, seq]: the state is zero at the first position of a document */
} nb_gla;

/* One AdamW update (decoupled decay, arXiv:1711.05101) of n parameters. */
typedef struct nb_adamw {
    double lr, beta1, beta2, eps, weight_decay;
    double grad_scale; /* multiplies the gradient first: clipping and averaging */
    int64_t step;      /* 1 for the first update: bias correction */
} nb_adamw;

/* What one quantization counted on its way; NULL where nobody asks. */
typedef struct nb_quantize_stats {
    double amax;         /* of the input, after rotation */
    int64_t elements;    /* without padding */
    int64_t nonzero;     /* inputs that are not +-0 */
    int64_t flushed;     /* non-zero inputs whose code is zero */
    int64_t saturated;   /* inputs beyond the largest code after scaling */
    int64_t blocks;      /* scale blocks */
    int64_t zero_scales; /* blocks with a non-zero element whose scale byte is 0 */
    double sum_sq;       /* sum of x^2 */
    double sum_sq_error; /* sum of (x - decoded)^2 */
    double sum_product;  /* sum of x * decoded */
} nb_quantize_stats;

/* Shape of the distribution of a tensor's numbers. NaN and Inf are counted and left out of the rest. */
typedef struct nb_moments {
    int64_t count; /* finite elements */
    int64_t nonfinite;
    double amax, mean, rms;
    double excess_kurtosis; /* mean((x - mean)^4) / var^2 - 3; 0 where var is 0 */
} nb_moments;

/* What softmax attention does with its logits, over sampled queries; means over heads and queries. */
typedef struct nb_attention_stats {
    double logit_max;      /* mean over queries of the largest scaled logit */
    double logit_amax;     /* the largest magnitude of all */
    double logit_kurtosis; /* excess kurtosis of a query's logits */
    double entropy;        /* of a query's probabilities, in nats */
    int64_t queries;       /* that went into it; those that see a single key are left out */
} nb_attention_stats;

/* Residuals of clamped activations: a sparse matrix whose rows have a fixed room. Row r holds count[r] entries from
 * entry r*room on, columns ascending. Backend memory; the three arrays belong to whoever placed them. */
typedef struct nb_sparse {
    int64_t rows, cols;
    int64_t room;    /* entries that fit a row */
    int32_t *count;  /* [rows] */
    int32_t *column; /* [rows, room] */
    uint16_t *value; /* [rows, room] BF16 */
} nb_sparse;

/* A tensor that lives between steps in few bits: a moment, a gradient, a master. Its values are number * *scale. */
typedef struct nb_scaled {
    void *data;         /* F32, BF16, F16, E4M3 or E5M2 */
    nb_dtype dtype;     /* real where nothing is saved */
    nb_scale_rule rule; /* ABSMAX or POW2: the scale that maps the largest magnitude to the largest number, or the power
                           of two next to it that does not saturate */
    float *scale;       /* [1] decode scale in backend memory; NULL for F32 and BF16, which need none */
} nb_scaled;

typedef struct nb_backend_ops {
    /* ---- memory ---- */
    void *(*alloc)(nb_backend *be, size_t bytes); /* 64-byte aligned, zeroed; NULL if there is none */
    void (*release)(nb_backend *be, void *memory);
    void (*upload)(nb_backend *be, void *to, const void *from_host, size_t bytes);
    void (*download)(nb_backend *be, void *to_host, const void *from, size_t bytes);
    void (*copy)(nb_backend *be, void *to, const void *from, size_t bytes);
    void (*fill_zero)(nb_backend *be, void *to, size_t bytes);
    void (*synchronize)(nb_backend *be);

    /* ---- elementwise ---- */
    void (*cast)(nb_backend *be, void *to, nb_dtype to_type, const void *from, nb_dtype from_type, int64_t n); /* RNE */
    void (*add)(nb_backend *be, void *out, const void *a, const void *b,
                int64_t n);                                                        /* act: out = a + b, one rounding */
    void (*axpy)(nb_backend *be, void *y, double alpha, const void *x, int64_t n); /* real: y += alpha*x */
    /* out[r,c] = (in[r,c] * (row_scale ? row_scale[r] : 1)) * (col_scale ? col_scale[c] : 1): FP32 products, rounded
     * once more to out's type. in and out: act or F32. Folds scales that lie on a contraction into the other operand.
     */
    void (*scale)(nb_backend *be, const nb_mat *out, const nb_mat *in, const float *row_scale /* [rows] or NULL */,
                  const float *col_scale /* [cols] or NULL */);

    /* ---- GEMM ----
     * C[M,N] = (accumulate ? C : 0) + op(A)[M,K] op(B)[K,N]; sums in real, rounded once to C's type.
     * op transposes where asked: trans_a reads A as [K,M], trans_b reads B as [N,K] (a weight, out x in).
     * gemm_kernel: name of what gemm would run for operands of these types ("bf16 onednn"), for the census. */
    nb_status (*gemm)(nb_backend *be, const nb_mat *c, const nb_mat *a, bool trans_a, const nb_mat *b, bool trans_b,
                      bool accumulate, nb_error *err);
    const char *(*gemm_kernel)(nb_backend *be, nb_dtype a, nb_dtype b);

    /* ---- quantized operands ----
     * quantize:   out[rows, cols] from src (F32 or BF16); with `transpose`, out row r is src column r.
     * requantize: the same from the exact decoded value (code x scale in FP32) of another operand.
     * transpose_codes: the same codes with rows and columns exchanged; only where scales allow (16x16 tiles, tensor).
     * dequantize: decoded values. With `with_tensor_scale` false the tensor scale stays outside (it goes into alpha),
     *             so that E2M1 x E4M3 is exact in BF16.
     * gemm_q:     C[M,N] = (accumulate ? C : 0) + A[M,K] B[N,K]^T by docs/gemm.md. C is F32 or BF16.
     * gemm_q_kernel: name of what gemm_q would run for this pair, for the census; NULL if it cannot. */
    nb_status (*quantize)(nb_backend *be, const nb_qtensor *out, const nb_mat *src, bool transpose,
                          const nb_noise *noise, nb_quantize_stats *stats, nb_error *err);
    nb_status (*requantize)(nb_backend *be, const nb_qtensor *out, const nb_qtensor *src, bool transpose,
                            const nb_noise *noise, nb_quantize_stats *stats, nb_error *err);
    nb_status (*transpose_codes)(nb_backend *be, const nb_qtensor *out, const nb_qtensor *src, nb_error *err);
    nb_status (*dequantize)(nb_backend *be, const nb_mat *out, const nb_qtensor *src, bool transpose,
                            bool with_tensor_scale, nb_error *err);
    nb_status (*gemm_q)(nb_backend *be, const nb_mat *c, const nb_qtensor *a, const nb_qtensor *b, bool accumulate,
                        nb_error *err);
    const char *(*gemm_q_kernel)(nb_backend *be, const nb_quantizer *a, const nb_quantizer *b);

    /* ---- embedding: table real [vocab, dim]; tokens int32 [n] ---- */
    void (*embed_forward)(nb_backend *be, void *out /* act [n, dim] */, const void *table, const int32_t *tokens,
                          int64_t n, int64_t dim);
    void (*embed_backward)(nb_backend *be, void *dtable /* real, += */, const void *dout /* act */,
                           const int32_t *tokens, int64_t n, int64_t dim, int64_t vocab);

    /* ---- RMSNorm: y = x * rstd * w, rstd = 1/sqrt(mean(x^2) + eps), in real ---- */
    void (*rmsnorm_forward)(nb_backend *be, void *y /* act [n, dim] */, void *rstd /* real [n] */,
                            const void *x /* act */, const void *w /* real [dim] */, int64_t n, int64_t dim,
                            double eps);
    void (*rmsnorm_backward)(nb_backend *be, void *dx /* act [n, dim], written */, void *dw /* real [dim], += */,
                             const void *dy, const void *x, const void *w, const void *rstd, int64_t n, int64_t dim);

    /* ---- RoPE, in place on x act [n, heads, head_dim]; half-split pairs (i, i + head_dim/2) as Hugging Face ----
     * positions int32 [n]; inverse rotates back (the backward pass). */
    void (*rope)(nb_backend *be, void *x, const int32_t *positions, int64_t n, int64_t heads, int64_t head_dim,
                 double theta, bool inverse);

    /* ---- softmax attention; lse real [batch, heads, seq] is saved for backward ---- */
    nb_status (*attention_forward)(nb_backend *be, const nb_attention *a, void *o, void *lse, const void *q,
                                   const void *k, const void *v, nb_error *err);
    nb_status (*attention_backward)(nb_backend *be, const nb_attention *a, void *dq, void *dk, void *dv,
                                    const void *do_, const void *o, const void *lse, const void *q, const void *k,
                                    const void *v, nb_error *err);

    /* ---- gated linear attention; gate real = log decay (<= 0). The scan recomputes its states in backward. ---- */
    nb_status (*gla_forward)(nb_backend *be, const nb_gla *g, void *o, const void *q, const void *k, const void *v,
                             const void *gate, nb_error *err);
    nb_status (*gla_backward)(nb_backend *be, const nb_gla *g, void *dq, void *dk, void *dv, void *dgate /* real */,
                              const void *do_, const void *q, const void *k, const void *v, const void *gate,
                              nb_error *err);
    /* gate = max(logsigmoid(a + bias) / normalizer, clamp); a act [n, dim], bias real [dim], gate real [n, dim].
     * clamp is -INFINITY where there is none. Backward writes da and adds to dbias. */
    void (*gla_gate_forward)(nb_backend *be, void *gate, const void *a, const void *bias, int64_t n, int64_t dim,
                             double normalizer, double clamp);
    void (*gla_gate_backward)(nb_backend *be, void *da, void *dbias, const void *dgate, const void *a, const void *bias,
                              int64_t n, int64_t dim, double normalizer, double clamp);
    /* y = rmsnorm(o; w) * g * sigmoid(g) on n rows of width dim; rstd real [n] is saved. */
    void (*gated_norm_forward)(nb_backend *be, void *y, void *rstd, const void *o, const void *g, const void *w,
                               int64_t n, int64_t dim, double eps);
    void (*gated_norm_backward)(nb_backend *be, void *do_, void *dg, void *dw /* real, += */, const void *dy,
                                const void *o, const void *g, const void *w, const void *rstd, int64_t n, int64_t dim);

    /* ---- SwiGLU: y = gate * sigmoid(gate) * up ---- */
    void (*swiglu_forward)(nb_backend *be, void *y, const void *gate, const void *up, int64_t n);
    void (*swiglu_backward)(nb_backend *be, void *dgate, void *dup, const void *dy, const void *gate, const void *up,
                            int64_t n);

    /* ---- cross entropy with optional z-loss; logits act [n, vocab] ----
     * loss real [n] = lse - logit[target] (0 where target < 0); z real [n] = lse (may be NULL).
     * dlogits (may be NULL, may be logits) = grad_scale * d(loss + z_loss * lse^2)/dlogits, 0 where target < 0. */
    void (*cross_entropy)(nb_backend *be, void *loss, void *z, void *dlogits, const void *logits,
                          const int32_t *targets, int64_t n, int64_t vocab, double grad_scale, double z_loss);

    /* ---- optimizer and reductions over real arrays ---- */
    void (*adamw)(nb_backend *be, void *param, void *m, void *v, const void *grad, int64_t n, const nb_adamw *step);
    double (*sum)(nb_backend *be, const void *x, int64_t n);         /* fixed tree, in double */
    double (*sum_squares)(nb_backend *be, const void *x, int64_t n); /* fixed tree, in double; NaN and Inf propagate */

    /* ---- tensors under one scale (arXiv:2310.18313 section 2); real is F32, n elements ----
     * Values are rounded to nearest even. A number that is not finite becomes one that is not finite (NaN in the 8-bit
     * formats), so that it cannot hide in a narrow copy.
     * - scaled_encode:  to = from, under a scale made from the amax of `from`.
     * - scaled_decode:  to = from.
     * - scaled_add:     to = a + b, added in FP32, rounded once under a scale made from the sum's amax; `to` may be a
     * or b. All three have one dtype.
     * - scaled_rescale: the same values under `scale`, rounded again; what is too large for it saturates.
     * - scaled_join:    to += from on numbers of one and the same scale, each sum rounded, saturating.
     * - scaled_sum_squares: as sum_squares.
     * - scaled_adamw:   adamw in FP32 on what is decoded, then each of param, m and v rounded under a scale of its own
     *                   made from what the update gave: two passes, the first for the amaxes. */
    void (*scaled_encode)(nb_backend *be, const nb_scaled *to, const float *from, int64_t n);
    void (*scaled_decode)(nb_backend *be, float *to, const nb_scaled *from, int64_t n);
    void (*scaled_add)(nb_backend *be, const nb_scaled *to, const nb_scaled *a, const nb_scaled *b, int64_t n);
    void (*scaled_rescale)(nb_backend *be, const nb_scaled *t, float scale, int64_t n);
    void (*scaled_join)(nb_backend *be, const nb_scaled *to, const nb_scaled *from, int64_t n);
    double (*scaled_sum_squares)(nb_backend *be, const nb_scaled *x, int64_t n);
    void (*scaled_adamw)(nb_backend *be, const nb_scaled *param, const nb_scaled *m, const nb_scaled *v,
                         const nb_scaled *grad, int64_t n, const nb_adamw *step);

    /* ---- mechanisms of recipes ----
     * - dge: dw[N,K] *= f'(w * encode scale), f' = min(cap, |t|^(1/k - 1) / k) with t = 2(x - l)/delta - 1 in the E2M1
     *   cell [l, l + delta] of x (arXiv:2501.17116 eq. 8). `codes` gives the scales of w [N,K].
     * - clamp_rows: out = x clamped to the order statistics of rank low and high (0-based, ascending) of each row, and
     *   rest = x - out rounded to BF16 (NULL: not wanted). With `whole` the ranks are those of the whole tensor. x, out
     *   BF16 [rows, cols]. rest->room must hold low + cols - 1 - high (whole: cols).
     * - sparse_gemm: c[M,N] += s[M,K] b[K,N]; c real, b act. Entries in order of their columns.
     * - sparse_add: x[M,K] += s; x act, one rounding. */
    void (*dge)(nb_backend *be, void *dw, const void *w, const nb_qtensor *codes, double k, double cap);
    nb_status (*clamp_rows)(nb_backend *be, const nb_mat *out, const nb_sparse *rest, const nb_mat *x, int64_t low,
                            int64_t high, bool whole, nb_error *err);
    void (*sparse_gemm)(nb_backend *be, const nb_mat *c, const nb_sparse *s, const nb_mat *b);
    void (*sparse_add)(nb_backend *be, const nb_mat *x, const nb_sparse *s);
    /* Columns (input channels) of a matrix, by a list of int32 in backend memory; F32 or BF16, alike on both sides.
     * gather_columns:  out[r, i] = in[r, columns[i]], i < out->cols.
     * scatter_columns: out[r, columns[i]] = in[r, i] (+= with `accumulate`, F32 only), i < in->cols.
     * column_norms:    norms[c] += ||x[:, c]||_2; norms F32 [cols]. */
    void (*gather_columns)(nb_backend *be, const nb_mat *out, const nb_mat *in, const int32_t *columns);
    void (*scatter_columns)(nb_backend *be, const nb_mat *out, const nb_mat *in, const int32_t *columns,
                            bool accumulate);
    void (*column_norms)(nb_backend *be, float *norms, const nb_mat *x);
    /* Weights against their quantized values; F32 arrays of n.
     * - add_distance: distance[i] += |a[i] - b[i]|.
     * - reset_where: w[i] = q[i] where moved_w[i] > 0 and moved_q[i] >= threshold * moved_w[i]; returns how many.
     * - bin_widths: width of the bin that each element's code stands for, in units of the decoded value: half the gaps
     *   on both sides, E2M1 under any scales; out F32 [rows, cols].
     * - round_by: codes of w once more, each rounded to whichever grid neighbour of w's scaled value `guide` is nearer
     *   to (arXiv:2502.20853); scales stay. E2M1; w, guide F32 [rows, cols]. */
    void (*add_distance)(nb_backend *be, float *distance, const float *a, const float *b, int64_t n);
    int64_t (*reset_where)(nb_backend *be, float *w, const float *q, const float *moved_w, const float *moved_q,
                           int64_t n, double threshold);
    void (*bin_widths)(nb_backend *be, float *out, const nb_qtensor *codes);
    void (*round_by)(nb_backend *be, const nb_qtensor *codes, const float *w, const float *guide);

    /* ---- measurements for the lens; results are on the host ----
     * - measure: x is F32, BF16 or F64. column_amax [cols] and tile_crest [ceil(rows/16), ceil(cols/16)] (largest
     *   magnitude of a 16x16 tile over its rms; 0 for a tile of zeros) may be NULL.
     * - measure_attention: every `stride`-th query of every head. */
    void (*measure)(nb_backend *be, const nb_mat *x, nb_moments *moments, float *column_amax, float *tile_crest);
    void (*measure_attention)(nb_backend *be, const nb_attention *a, const void *q, const void *k, int64_t stride,
                              nb_attention_stats *stats);
} nb_backend_ops;

struct nb_backend {
    const nb_backend_ops *ops;
    const char *name; /* "cpu", "ref64" */
    nb_dtype act, real;
    void *state; /* of the implementation */
};

/* Instruction sets of the CPU backend, weakest first. */
typedef enum nb_isa { NB_ISA_AUTO, NB_ISA_SCALAR, NB_ISA_PORTABLE, NB_ISA_AVX2, NB_ISA_AVX512 } nb_isa;
const char *nb_isa_name(nb_isa isa);

typedef struct nb_cpu_options {
    int32_t threads; /* 0 = as many as the process may use */
    nb_isa isa;      /* AUTO = the best of this machine; SCALAR = reference code for everything */
} nb_cpu_options;

/* Creates the CPU backend; `options` may be NULL. NB_UNSUPPORTED if the machine lacks the asked instruction set. */
nb_status nb_backend_cpu(const nb_cpu_options *options, nb_backend **out, nb_error *err);

/* Creates the double-precision reference backend (no quantized operands). */
nb_status nb_backend_ref64(nb_backend **out, nb_error *err);

/* Releases a backend and nothing that it allocated for the caller. NULL is allowed. */
void nb_backend_free(nb_backend *be);

#ifdef __cplusplus
}
#endif
#endif
