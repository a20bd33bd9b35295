/* bench_peers.c: OpenBLAS sgemm, oneDNN bf16 and int8, and the integer roofline. */
#include "cli/bench_peers.h"

#include "backend/backend.h"
#include "backend/cpu/onednn.h"

#include <cblas.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* One oneDNN product. */
typedef struct matmul {
    ni_peers *peers;
    dnnl_primitive_t primitive;
    dnnl_memory_t a, b, c;
    bool missing; /* oneDNN has none for this machine */
} matmul;

struct ni_peers {
    int64_t m, n, k;
    int32_t threads;
    char *a, *b, *c; /* room for F32; the narrower types use its beginning */
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    matmul bf16, int8;
};

/* ---- libraries ---- */

static nb_status run_sgemm(void *state, nb_error *err) {
    (void)err;
    ni_peers *p = state;
    int before = openblas_get_num_threads();
    openblas_set_num_threads(p->threads);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)p->m, (int)p->n, (int)p->k, 1.0f, (void *)p->a, (int)p->k,
                (void *)p->b, (int)p->k, 0.0f, (void *)p->c, (int)p->n);
    openblas_set_num_threads(before);
    return NB_OK;
}

static nb_status run_matmul(void *state, nb_error *err) {
    matmul *m = state;
    dnnl_exec_arg_t args[3] = {{DNNL_ARG_SRC, m->a}, {DNNL_ARG_WEIGHTS, m->b}, {DNNL_ARG_DST, m->c}};
    int before = omp_get_max_threads();
    omp_set_num_threads(m->peers->threads);
    dnnl_status_t status = dnnl_primitive_execute(m->primitive, m->peers->stream, 3, args);
    omp_set_num_threads(before);
    return status == dnnl_success ? NB_OK : nb_fail(err, NB_INTERNAL, "bench gemm: oneDNN fails (%d)", (int)status);
}

/* True too where oneDNN has no such product for this machine; false if it has but something failed. */
static bool make_matmul(ni_peers *p, matmul *m, dnnl_data_type_t a, dnnl_data_type_t b, dnnl_data_type_t c) {
    ni_onednn_desc d[3] = {0};
    const dnnl_dims_t size_a = {p->m, p->k}, size_b = {p->k, p->n}, size_c = {p->m, p->n};
    const dnnl_dims_t in_rows_of_k = {p->k, 1}, in_columns_of_k = {1, p->k}, in_rows_of_n = {p->n, 1};
    dnnl_primitive_desc_t pd;
    m->peers = p;
    bool made = ni_onednn_desc_make(&d[0], size_a, a, in_rows_of_k) == dnnl_success &&
                ni_onednn_desc_make(&d[1], size_b, b, in_columns_of_k) == dnnl_success &&
                ni_onednn_desc_make(&d[2], size_c, c, in_rows_of_n) == dnnl_success;
    if (made) {
        dnnl_status_t found = ni_onednn_matmul_desc(&pd, p->engine, &d[0], &d[1], &d[2], NULL);
        m->missing = found == dnnl_unimplemented;
        made = found == dnnl_success;
    }
    if (made) {
        made = dnnl_primitive_create(&m->primitive, pd) == dnnl_success;
        dnnl_primitive_desc_destroy(pd);
        made = made && dnnl_memory_create(&m->a, ni_onednn_desc_of(&d[0]), p->engine, p->a) == dnnl_success &&
               dnnl_memory_create(&m->b, ni_onednn_desc_of(&d[1]), p->engine, p->b) == dnnl_success &&
               dnnl_memory_create(&m->c, ni_onednn_desc_of(&d[2]), p->engine, p->c) == dnnl_success;
    }
    for (int i = 0; i < 3; i++)
        ni_onednn_desc_free(&d[i]);
    return made || m->missing;
}

static void free_matmul(matmul *m) {
    if (m->a)
        dnnl_memory_destroy(m->a);
    if (m->b)
        dnnl_memory_destroy(m->b);
    if (m->c)
        dnnl_memory_destroy(m->c);
    if (m->primitive)
        dnnl_primitive_destroy(m->primitive);
}

/* Bytes that are moderate numbers in each of the types that read them: f32, bf16, s8. */
static char *make_operand(int64_t rows, int64_t cols) {
    size_t bytes = (size_t)(rows * cols) * sizeof(float);
    char *memory = ni_host_reserve(&bytes);
    if (memory)
        memset(memory, 0x3c, bytes);
    return memory;
}

nb_status ni_peers_create(int64_t m, int64_t n, int64_t k, int32_t threads, ni_peers **out, nb_error *err) {
    ni_peers *p = calloc(1, sizeof *p);
    if (!p)
        return nb_fail(err, NB_NO_MEMORY, "bench gemm: no memory for the peers");
    p->m = m;
    p->n = n;
    p->k = k;
    p->threads = threads;
    p->a = make_operand(m, k);
    p->b = make_operand(n, k);
    p->c = make_operand(m, n);
    int before = omp_get_max_threads();
    omp_set_num_threads(threads); /* oneDNN blocks for them */
    bool good = p->a && p->b && p->c && dnnl_engine_create(&p->engine, dnnl_cpu, 0) == dnnl_success &&
                dnnl_stream_create(&p->stream, p->engine, dnnl_stream_default_flags) == dnnl_success &&
                make_matmul(p, &p->bf16, dnnl_bf16, dnnl_bf16, dnnl_bf16) &&
                make_matmul(p, &p->int8, dnnl_u8, dnnl_s8, dnnl_s32);
    omp_set_num_threads(before);
    if (!good) {
        ni_peers_free(p);
        return nb_fail(err, NB_INTERNAL,
                       "bench gemm: oneDNN fails to make a product of %lldx%lldx%lld, or there is no memory",
                       (long long)m, (long long)n, (long long)k);
    }
    *out = p;
    return NB_OK;
}

void ni_peers_free(ni_peers *p) {
    if (!p)
        return;
    free_matmul(&p->bf16);
    free_matmul(&p->int8);
    if (p->stream)
        dnnl_stream_destroy(p->stream);
    if (p->engine)
        dnnl_engine_destroy(p->engine);
    free(p->a);
    free(p->b);
    free(p->c);
    free(p);
}

void ni_peers_contenders(ni_peers *p, ni_contender *list) {
    static const char none[] = "oneDNN has none for this processor";
    list[NI_PEER_SGEMM] = (ni_contender){"openblas sgemm", run_sgemm, p, 0, NULL};
    list[NI_PEER_BF16] = (ni_contender){"onednn bf16", run_matmul, &p->bf16, 0, p->bf16.missing ? none : NULL};
    list[NI_PEER_INT8] =
        (ni_contender){"onednn int8 (u8 x s8, s32)", run_matmul, &p->int8, 0, p->int8.missing ? none : NULL};
}

/* ---- roofline ---- */

#if defined(__x86_64__)
#include <immintrin.h>

enum { CHAINS = 12, ROUNDS = 100000 };

__attribute__((target("avx512f,avx512vnni"))) static int32_t spin_avx512(void) {
    __m512i sum[CHAINS], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
    for (int i = 0; i < CHAINS; i++)
        sum[i] = _mm512_set1_epi32(i);
    for (int r = 0; r < ROUNDS; r++)
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++)
            sum[i] = _mm512_dpbusd_epi32(sum[i], a, b);
    for (int i = 1; i < CHAINS; i++)
        sum[0] = _mm512_add_epi32(sum[0], sum[i]);
    return _mm512_reduce_add_epi32(sum[0]);
}

/* The factor is hidden from the compiler, so that it does not lift the product out of the loop. */
__attribute__((target("avx2"))) static int32_t spin_avx2(void) {
    __m256i sum[CHAINS], a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(5);
    for (int i = 0; i < CHAINS; i++)
        sum[i] = _mm256_set1_epi16((int16_t)i);
    for (int r = 0; r < ROUNDS; r++)
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) {
            __asm__("" : "+x"(b));
            sum[i] = _mm256_add_epi16(sum[i], _mm256_maddubs_epi16(a, b));
        }
    for (int i = 1; i < CHAINS; i++)
        sum[0] = _mm256_add_epi16(sum[0], sum[i]);
    return _mm256_extract_epi16(sum[0], 0);
}

/* The sums converge, so that no number overflows or becomes subnormal. */
__attribute__((target("avx512f"))) static int32_t spin_fma_avx512(void) {
    __m512 sum[CHAINS], a = _mm512_set1_ps(0.5F), b = _mm512_set1_ps(1);
    for (int i = 0; i < CHAINS; i++)
        sum[i] = _mm512_set1_ps((float)i);
    for (int r = 0; r < ROUNDS; r++)
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++)
            sum[i] = _mm512_fmadd_ps(sum[i], a, b);
    for (int i = 1; i < CHAINS; i++)
        sum[0] = _mm512_add_ps(sum[0], sum[i]);
    return (int32_t)_mm512_reduce_add_ps(sum[0]);
}

__attribute__((target("avx2,fma"))) static int32_t spin_fma_avx2(void) {
    __m256 sum[CHAINS], a = _mm256_set1_ps(0.5F), b = _mm256_set1_ps(1);
    for (int i = 0; i < CHAINS; i++)
        sum[i] = _mm256_set1_ps((float)i);
    for (int r = 0; r < ROUNDS; r++)
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++)
            sum[i] = _mm256_fmadd_ps(sum[i], a, b);
    for (int i = 1; i < CHAINS; i++)
        sum[0] = _mm256_add_ps(sum[0], sum[i]);
    return (int32_t)_mm_cvtss_f32(_mm256_castps256_ps128(sum[0]));
}

static nb_status run_roofline(void *state, nb_error *err) {
    (void)err;
    ni_roofline *r = state;
    int32_t (*const spins[NI_ROOFS][2])(void) = {{spin_avx2, spin_avx512}, {spin_fma_avx2, spin_fma_avx512}};
    int32_t sum = 0;
#pragma omp parallel num_threads(r->threads) reduction(+ : sum)
    sum += spins[r->roof][r->isa == NB_ISA_AVX512]();
    r->kept = sum;
    return NB_OK;
}

bool ni_roofline_contender(ni_roof roof, nb_isa isa, int32_t threads, ni_roofline *roofline, ni_contender *out) {
    if (isa != NB_ISA_AVX512 && isa != NB_ISA_AVX2)
        return false;
    bool wide = isa == NB_ISA_AVX512;
    if (wide && !__builtin_cpu_supports("avx512vnni")) /* AVX-512 is emulated: there is no roof to measure */
        return false;
    const int32_t lanes = (wide ? 16 : 8) * (roof == NI_ROOF_CODES ? 4 : 1);
    const char *name = roof == NI_ROOF_NUMBERS ? "fma on registers"
                       : wide                  ? "vpdpbusd on registers"
                                               : "vpmaddubsw, vpaddw on regs";
    *roofline = (ni_roofline){isa, threads, 2.0 * lanes * CHAINS * ROUNDS * threads, roof, 0};
    *out = (ni_contender){name, run_roofline, roofline, 0, NULL};
    return true;
}
#else
bool ni_roofline_contender(ni_roof roof, nb_isa isa, int32_t threads, ni_roofline *roofline, ni_contender *out) {
    (void)roof;
    (void)isa;
    (void)threads;
    (void)roofline;
    (void)out;
    return false;
}
#endif
