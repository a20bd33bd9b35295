/* backend.h: the machines that compute, their memory, and the plain data that they are given.
 *
 * Two types run through every backend. `act` is the type of activations and of their gradients, `real` that of masters,
 * weight gradients, statistics and all accumulation:
 *     cpu, cuda   act = BF16   real = F32
 *     ref64       act = F64    real = F64      the same formulas in double, for gradient checks
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
    /* [1] backend memory: the largest magnitude as the bits of an F32, the integer maximum of all (so that NaN wins).
     * NULL: not known. An operation that produces a matrix fills it where its view of the output has one. */
    uint32_t *amax;
    /* [1] the same of the columns turned as an operand of wgrad may be: rotated by 16 under TransformerEngine's signs
     * and rounded to BF16; rows in sixteens. Filled as amax is by norms, SwiGLU, RoPE and attention (ops.inc), on
     * backends whose quantizers ask for it. NULL: nobody asks. */
    uint32_t *turned_amax;
} nb_mat;

static inline nb_mat nb_mat_of(const void *data, nb_dtype dtype, int64_t rows, int64_t cols) {
    nb_mat m = {(void *)data, dtype, rows, cols, cols, NULL, NULL};
    return m;
}

/* In what numbers softmax attention multiplies P = exp(S - m) by V (arXiv:2510.04212; the backends of the CPU). */
typedef enum nb_attention_sums {
    NB_ATTENTION_F32,         /* P, O and every sum in F32; O is rounded once, at the end */
    NB_ATTENTION_BF16,        /* tile by tile: P in BF16, the tile's P V and the sum so far rounded to BF16 */
    NB_ATTENTION_BF16_SHIFTED /* the same under another m where a row of S has its maximum twice, so that no P is 1 */
} nb_attention_sums;

/* What Q, K, P and V become before they are multiplied (arXiv:2603.00040; docs/recipes/attention-in-four-bits.md). */
typedef enum nb_attention_format {
    NB_ATTENTION_BF16_OPERANDS, /* they stay as they are */
    NB_ATTENTION_NVFP4,         /* E2M1 in blocks of 16 under a scale of E4M3 and none of the tensor */
    NB_ATTENTION_MXFP4          /* E2M1 in blocks of 32 under a power of two, rounded down */
} nb_attention_format;

/* What the backward pass makes S and P of again, where forward had four bits. */
typedef enum nb_attention_backward { NB_ATTENTION_SAME, NB_ATTENTION_AS_IN_BF16 } nb_attention_backward;

/* SAME: what a row of dP is taken below of. */
typedef enum nb_attention_delta {
    NB_ATTENTION_EXACT,    /* sum of P dP, with P before it was rounded: dO of the O that it would give */
    NB_ATTENTION_OF_OUTPUT /* dO O, as where nothing is rounded */
} nb_attention_delta;

/* NVFP4: how P, at most 1, comes to its blocks' scales. */
typedef enum nb_attention_levels {
    NB_ATTENTION_ONE_LEVEL, /* as it is */
    NB_ATTENTION_TWO_LEVELS /* stretched to 448 * 6 first, so that the scales have all of their range */
} nb_attention_levels;

/* Along what V has its blocks. */
typedef enum nb_attention_blocks { NB_ATTENTION_ALONG_KEYS, NB_ATTENTION_ALONG_HEAD } nb_attention_blocks;

typedef struct nb_attention_rule {
    nb_attention_sums sums;
    int32_t tile; /* keys; read where sums are not F32 */
    double beta;  /* SHIFTED: m = beta * maximum where that is positive, 0 where it is negative */
    nb_attention_format forward;
    nb_attention_backward backward; /* this and the following: read where forward has four bits; sums are F32 then */
    nb_attention_delta delta;
    nb_attention_levels p_levels;
    nb_attention_blocks v_blocks;
    bool smooth_k; /* K less its mean over the sequence: the same softmax, smaller numbers */
} nb_attention_rule;

/* Softmax attention over packed documents. q, o: [batch, seq, heads, head_dim]; k, v: [batch, seq, kv_heads, head_dim].
 */
typedef struct nb_attention {
    int64_t batch, seq, heads, kv_heads, head_dim;
    double scale;             /* on q.k; 1/sqrt(head_dim) as a rule */
    const int32_t *doc_start; /* [batch, seq]: first position that a query may attend to; causal besides */
    const int32_t *doc_end;   /* [batch, seq]: one past the last position of the document; NULL: go by doc_start */
    int64_t documents; /* how many there are, where doc_start is given; batch: it is 0 everywhere; 0: not known */
    /* Elements from one position to the next; 0: heads * head_dim (kv_heads * head_dim), dense. Gradients lie as what
     * they are of: dq as q, do as o. */
    int64_t q_stride, k_stride, v_stride, o_stride;
    /* [1]: filled as those of nb_mat, of o by the forward pass, of dv by the backward pass; NULL: nobody asks */
    uint32_t *o_amax, *o_turned_amax, *dv_amax, *dv_turned_amax;
    nb_attention_rule rule;
} nb_attention;

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

/* Instruction sets of the CPU backend, weakest first. */
typedef enum nb_isa { NB_ISA_AUTO, NB_ISA_SCALAR, NB_ISA_PORTABLE, NB_ISA_AVX2, NB_ISA_AVX512 } nb_isa;
NB_API const char *nb_isa_name(nb_isa isa);

/* What is asked of the processor. */
typedef struct nb_backend_options {
    int32_t threads; /* 0 = as many as the process may use; at most 1024 */
    nb_isa isa;      /* AUTO = the best of this machine; SCALAR = reference code for everything */
} nb_backend_options;

/* Opens a backend by its name; `options` may be NULL. NB_UNSUPPORTED, with the reason, where this machine cannot.
 *     "cpu"               the processor
 *     "cuda", "cuda:1"    an NVIDIA GPU (the first), out of libnibble-cuda.so beside the program
 *     "ref64"             the references in double, without quantized operands: for gradient checks
 *     "paper"             nothing is computed: memory, bytes and FLOPs are counted as the processor would need them
 *     "paper:hopper"      the same, as an NVIDIA Hopper GPU would */
NB_API nb_status nb_backend_open(const char *name, const nb_backend_options *options, nb_backend **out, nb_error *err);

/* Releases a backend and nothing that it allocated for the caller. NULL is allowed. */
NB_API void nb_backend_free(nb_backend *be);

/* From now on the work of a GPU is queued on a stream of the program's (a cudaStream_t of that GPU; NULL: the legacy
 * default stream) and no longer on the backend's own, which is waited for first. Then calls over matrices on that GPU
 * need no waiting by the host: nb_linear_forward, nb_linear_backward and nb_linear_stepped return before their work is
 * done, and what goes wrong is told by a later call. The stream must live until another takes its place. NB_UNSUPPORTED
 * where there are no streams. */
NB_API nb_status nb_backend_use_stream(nb_backend *be, void *stream, nb_error *err);

/* Memory of the backend: 64-byte aligned and zeroed; NULL if there is none. What lies in it is read and written by
 * nb_backend_read and nb_backend_write alone: it need not be the host's. Both return when the bytes have arrived, or
 * say what went wrong on a GPU, with them or with work that was queued before and not yet waited for: then nothing is
 * known of the bytes. A fault of the GPU is told by every call that returns a status from then on, anything else once.
 */
NB_API void *nb_backend_alloc(nb_backend *be, size_t bytes);
NB_API void nb_backend_release(nb_backend *be, void *memory); /* NULL is allowed */
NB_API nb_status nb_backend_read(nb_backend *be, void *to_host, const void *from, size_t bytes, nb_error *err);
NB_API nb_status nb_backend_write(nb_backend *be, void *to, const void *from_host, size_t bytes, nb_error *err);

/* out[rows, cols] = quantized `from` (F32 or BF16), all in the backend's memory; with `transpose`, row r of `out` is
 * column r of `from`. `noise` may be NULL where neither stochastic rounding nor fresh signs ask for it; `stats` may be
 * NULL. NB_UNSUPPORTED where the backend has no quantized operands. */
NB_API nb_status nb_quantize(nb_backend *be, const nb_qtensor *out, const nb_mat *from, bool transpose,
                             const nb_noise *noise, nb_quantize_stats *stats, nb_error *err);
/* Decoded values into F32 or BF16 (one rounding). */
NB_API nb_status nb_dequantize(nb_backend *be, const nb_mat *out, const nb_qtensor *from, nb_error *err);

#ifdef __cplusplus
}
#endif
#endif
