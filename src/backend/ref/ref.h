/* ref.h: scalar references of the operations, each written once over the two types of backend.h and compiled twice:
 *     nb_ref_f32_NAME   act = BF16, real = F32   the CPU backend under NB_ISA_SCALAR
 *     nb_ref_f64_NAME   act = F64,  real = F64   the ref64 backend
 *
 * The sources are the *.inc files of this folder. They compute in `real` and round at each store of an `act`, nowhere
 * else; sums run in index order. What each operation means is said in backend.h.
 */
#ifndef NB_BACKEND_REF_REF_H
#define NB_BACKEND_REF_REF_H

#include "nibble/backend.h"

/* Every pair of F32, BF16 and F64; one rounding. */
void nb_ref_cast(nb_backend *be, void *to, nb_dtype to_type, const void *from, nb_dtype from_type, int64_t n);

/* (in * row_scale) * col_scale; in FP32, in double if a view is F64. */
void nb_ref_scale(nb_backend *be, const nb_mat *out, const nb_mat *in, const float *row_scale, const float *col_scale);

/* Refuses shapes that make no sense, and documents that start after the position that asks. */
nb_status nb_attention_check(const nb_attention *a, nb_error *err);
nb_status nb_gla_check(const nb_gla *g, nb_error *err);

/* clang-format off */
#define NB_REF_DECLARE(F)                                                                                              \
    void F(add)(nb_backend *be, void *out, const void *a, const void *b, int64_t n);                                   \
    void F(axpy)(nb_backend *be, void *y, double alpha, const void *x, int64_t n);                                     \
    void F(embed_forward)(nb_backend *be, void *out, const void *table, const int32_t *tokens, int64_t n,              \
                          int64_t dim);                                                                                \
    void F(embed_backward)(nb_backend *be, void *dtable, const void *dout, const int32_t *tokens, int64_t n,           \
                           int64_t dim, int64_t vocab);                                                                \
    void F(rmsnorm_forward)(nb_backend *be, void *y, void *rstd, const void *x, const void *w, int64_t n, int64_t dim, \
                            double eps);                                                                               \
    void F(rmsnorm_backward)(nb_backend *be, void *dx, void *dw, const void *dy, const void *x, const void *w,         \
                             const void *rstd, int64_t n, int64_t dim);                                                \
    void F(rope)(nb_backend *be, void *x, const int32_t *positions, int64_t n, int64_t heads, int64_t head_dim,        \
                 double theta, bool inverse);                                                                          \
    nb_status F(attention_forward)(nb_backend *be, const nb_attention *a, void *o, void *lse, const void *q,           \
                                   const void *k, const void *v, nb_error *err);                                       \
    nb_status F(attention_backward)(nb_backend *be, const nb_attention *a, void *dq, void *dk, void *dv,               \
                                    const void *do_, const void *o, const void *lse, const void *q, const void *k,     \
                                    const void *v, nb_error *err);                                                     \
    nb_status F(gla_forward)(nb_backend *be, const nb_gla *g, void *o, const void *q, const void *k, const void *v,    \
                             const void *gate, nb_error *err);                                                         \
    nb_status F(gla_backward)(nb_backend *be, const nb_gla *g, void *dq, void *dk, void *dv, void *dgate,              \
                              const void *do_, const void *q, const void *k, const void *v, const void *gate,          \
                              nb_error *err);                                                                          \
    void F(gla_gate_forward)(nb_backend *be, void *gate, const void *a, const void *bias, int64_t n, int64_t dim,      \
                             double normalizer, double clamp);                                                         \
    void F(gla_gate_backward)(nb_backend *be, void *da, void *dbias, const void *dgate, const void *a,                 \
                              const void *bias, int64_t n, int64_t dim, double normalizer, double clamp);              \
    void F(gated_norm_forward)(nb_backend *be, void *y, void *rstd, const void *o, const void *g, const void *w,       \
                               int64_t n, int64_t dim, double eps);                                                    \
    void F(gated_norm_backward)(nb_backend *be, void *do_, void *dg, void *dw, const void *dy, const void *o,          \
                                const void *g, const void *w, const void *rstd, int64_t n, int64_t dim);               \
    void F(swiglu_forward)(nb_backend *be, void *y, const void *gate, const void *up, int64_t n);                      \
    void F(swiglu_backward)(nb_backend *be, void *dgate, void *dup, const void *dy, const void *gate, const void *up,  \
                            int64_t n);                                                                                \
    void F(cross_entropy)(nb_backend *be, void *loss, void *z, void *dlogits, const void *logits,                      \
                          const int32_t *targets, int64_t n, int64_t vocab, double grad_scale, double z_loss);         \
    void F(adamw)(nb_backend *be, void *param, void *m, void *v, const void *grad, int64_t n, const nb_adamw *step);   \
    double F(sum)(nb_backend *be, const void *x, int64_t n);                                                           \
    double F(sum_squares)(nb_backend *be, const void *x, int64_t n);

/* Every name above, for tables. */
#define NB_REF_OPS(X)                                                                                                  \
    X(add) X(axpy) X(embed_forward) X(embed_backward) X(rmsnorm_forward) X(rmsnorm_backward) X(rope)                   \
    X(attention_forward) X(attention_backward) X(gla_forward) X(gla_backward) X(gla_gate_forward) X(gla_gate_backward) X(gated_norm_forward)          \
    X(gated_norm_backward) X(swiglu_forward) X(swiglu_backward) X(cross_entropy) X(adamw) X(sum) X(sum_squares)
/* clang-format on */

#define NB_REF_F32(name) nb_ref_f32_##name
#define NB_REF_F64(name) nb_ref_f64_##name
NB_REF_DECLARE(NB_REF_F32)
NB_REF_DECLARE(NB_REF_F64)

#endif
