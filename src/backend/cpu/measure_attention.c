/* measure_attention.c: logits and entropy of attention: heads over the threads, added up in their order. */
#define LOGITS ni_measure_logits_portable
#include "backend/cpu/measure_logits.inc"

#include "backend/cpu/cpu.h"
#include "backend/ref/measure.h"
#include <math.h>
#include <omp.h>

static ni_measure_logits *logits_function(nb_isa isa) {
#ifdef NI_X86
    if (isa == NB_ISA_AVX512)
        return ni_measure_logits_avx512;
    if (isa == NB_ISA_AVX2)
        return ni_measure_logits_avx2;
#endif
    (void)isa;
    return ni_measure_logits_portable;
}

/* One query that sees `keys` keys; logits are not scaled yet. */
static void add_query(const float *logits, int64_t keys, double scale, ni_attention_stats *sum) {
    double largest = -INFINITY, sums[4] = {0}, total = 0, weighted = 0;
    if (keys < 1)
        return;
    for (int64_t s = 0; s < keys; s++) {
        double l = logits[s] * scale, ll = l * l;
        largest = l > largest ? l : largest;
        sum->logit_amax = fmax(sum->logit_amax, fabs(l));
        sums[0] += l;
        sums[1] += ll;
        sums[2] += ll * l;
        sums[3] += ll * ll;
    }
    for (int64_t s = 0; s < keys; s++) { /* entropy = log(sum e) - sum(e l)/sum(e), e = exp(l - largest) */
        double l = logits[s] * scale - largest, e = exp(l);
        total += e;
        weighted += e * l;
    }
    sum->logit_max += largest;
    sum->logit_kurtosis += ni_moments_of_sums(keys, 0, 0, sums).excess_kurtosis;
    sum->entropy += log(total) - weighted / total;
    sum->queries++;
}

/* memory: [dim + seq] */
static void measure_head(const nb_attention *a, ni_measure_logits *logits_of, const uint16_t *q, const uint16_t *k,
                         int64_t b, int64_t head, int64_t stride, float *memory, ni_attention_stats *sum) {
    int64_t kv_head = head / (a->heads / a->kv_heads), kv_stride = ni_attention_pitch(a, a->k_stride, a->kv_heads);
    int64_t q_stride = ni_attention_pitch(a, a->q_stride, a->heads);
    const uint16_t *keys_of_head = k + b * a->seq * kv_stride + kv_head * a->head_dim;
    float *query = memory, *logits = memory + a->head_dim;
    *sum = (ni_attention_stats){0};
    for (int64_t t = stride - 1; t < a->seq; t += stride) {
        int64_t first = a->doc_start ? a->doc_start[b * a->seq + t] : 0, keys = t - first + 1;
        if (keys < 2)
            continue;
        const uint16_t *from = q + (b * a->seq + t) * q_stride + head * a->head_dim;
        for (int64_t i = 0; i < a->head_dim; i++)
            query[i] = ni_bf16_value(from[i]);
        logits_of(query, keys_of_head + first * kv_stride, kv_stride, keys, a->head_dim, logits);
        add_query(logits, keys, a->scale, sum);
    }
}

void ni_cpu_measure_attention(nb_backend *be, const nb_attention *a, const void *q, const void *k, int64_t stride,
                              ni_attention_stats *stats) {
    ni_cpu *cpu = ni_cpu_of(be);
    int64_t pairs = a->batch * a->heads;
    size_t bytes = (size_t)(a->head_dim + a->seq) * sizeof(float);
    ni_attention_stats *sums = ni_cpu_shared(be, (size_t)pairs * sizeof *sums);
    bool short_of_memory = !sums;
#pragma omp parallel for num_threads(cpu->threads) schedule(static) reduction(|| : short_of_memory)
    for (int64_t i = 0; i < pairs; i++) {
        float *memory = ni_cpu_scratch(be, omp_get_thread_num(), bytes);
        if (memory && sums)
            measure_head(a, logits_function(cpu->isa), q, k, i / a->heads, i % a->heads, stride, memory, &sums[i]);
        else
            short_of_memory = true;
    }
    if (short_of_memory) { /* slower, with none */
        ni_ref_measure_attention(be, a, q, k, stride, stats);
        return;
    }
    *stats = (ni_attention_stats){0};
    for (int64_t i = 0; i < pairs; i++) {
        stats->logit_max += sums[i].logit_max;
        stats->logit_amax = fmax(stats->logit_amax, sums[i].logit_amax);
        stats->logit_kurtosis += sums[i].logit_kurtosis;
        stats->entropy += sums[i].entropy;
        stats->queries += sums[i].queries;
    }
    double n = stats->queries ? (double)stats->queries : 1;
    stats->logit_max /= n;
    stats->logit_kurtosis /= n;
    stats->entropy /= n;
}
