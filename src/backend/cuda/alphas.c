/* alphas.c: the host's side of the table of alphas.h: which pair is where, and whose product is stale. */
#include "backend/cuda/alphas.h"

#include <stdlib.h>
#include <string.h>

/* Products of a model's step: 21 a block of a decoder. */
enum { MOST_PAIRS = 2048, BUCKETS = 2 * MOST_PAIRS };

typedef struct ni_cuda_alpha_table {
    ni_cuda_factors *pairs; /* of the device, as below */
    float *products;
    int32_t count;
    ni_cuda_factors known[MOST_PAIRS];
    bool stale[MOST_PAIRS];
    int32_t buckets[BUCKETS]; /* 1 + index; 0: free */
} ni_cuda_alpha_table;

void ni_cuda_alphas_free(ni_cuda_alpha_table *table) {
    if (!table)
        return;
    cudaFree(table->pairs);
    cudaFree(table->products);
    free(table);
}

ni_cuda_alphas ni_cuda_alphas_of(nb_backend *be) {
    const ni_cuda_alpha_table *t = ni_cuda_of(be)->alphas;
    return t ? (ni_cuda_alphas){t->pairs, t->products, t->count} : (ni_cuda_alphas){NULL, NULL, 0};
}

void ni_cuda_alphas_multiplied(nb_backend *be) {
    ni_cuda_alpha_table *t = ni_cuda_of(be)->alphas;
    if (t)
        memset(t->stale, 0, (size_t)t->count * sizeof *t->stale);
}

void ni_cuda_alphas_changed(nb_backend *be, const float *word) {
    ni_cuda_alpha_table *t = ni_cuda_of(be)->alphas;
    for (int32_t i = 0; t && word && i < t->count; i++)
        t->stale[i] |= t->known[i].a == word || t->known[i].b == word;
}

void ni_cuda_alphas_forget(nb_backend *be) {
    ni_cuda_alpha_table *t = ni_cuda_of(be)->alphas;
    if (!t)
        return;
    t->count = 0;
    memset(t->buckets, 0, sizeof t->buckets);
}

static ni_cuda_alpha_table *table_of(nb_backend *be) {
    ni_cuda *cuda = ni_cuda_of(be);
    if (cuda->alphas)
        return cuda->alphas;
    ni_cuda_alpha_table *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    if (cudaMalloc((void **)&t->pairs, MOST_PAIRS * sizeof *t->pairs) != cudaSuccess ||
        cudaMalloc((void **)&t->products, MOST_PAIRS * sizeof *t->products) != cudaSuccess) {
        cudaGetLastError();
        ni_cuda_alphas_free(t);
        return NULL;
    }
    cuda->alphas = t;
    return t;
}

/* Where the pair is, or would be. */
static int32_t *bucket_of(ni_cuda_alpha_table *t, const float *a, const float *b) {
    uint64_t mixed = ((uint64_t)(uintptr_t)a >> 6) * 0x9e3779b97f4a7c15u + ((uint64_t)(uintptr_t)b >> 6);
    mixed *= 0xbf58476d1ce4e5b9u;
    for (uint32_t i = (uint32_t)(mixed >> 40) % BUCKETS;; i = (i + 1) % BUCKETS) {
        const int32_t at = t->buckets[i] - 1;
        if (at < 0 || (t->known[at].a == a && t->known[at].b == b))
            return &t->buckets[i];
    }
}

void ni_cuda_alphas_begin(nb_backend *be, int32_t count) {
    const ni_cuda_alpha_table *t = ni_cuda_of(be)->alphas;
    if (t && t->count + count > MOST_PAIRS)
        ni_cuda_alphas_forget(be);
}

nb_status ni_cuda_alpha(nb_backend *be, const float *a, const float *b, const float **alpha, nb_error *err) {
    ni_cuda_alpha_table *t = table_of(be);
    if (!t)
        return nb_fail(err, NB_NO_MEMORY, "cuda: no memory for the table of tensor scales' products");
    int32_t *bucket = bucket_of(t, a, b);
    if (!*bucket && t->count == MOST_PAIRS) {
        ni_cuda_alphas_forget(be);
        bucket = bucket_of(t, a, b);
    }
    const bool is_new = !*bucket;
    if (is_new) {
        t->known[t->count] = (ni_cuda_factors){a, b};
        *bucket = ++t->count;
    }
    const int32_t at = *bucket - 1;
    *alpha = t->products + at;
    if (!is_new && !t->stale[at])
        return NB_OK;
    t->stale[at] = false;
    return ni_cuda_status(be, ni_cuda_launch_alpha(ni_cuda_of(be)->stream, t->pairs, t->products, at, a, b),
                          "multiply: alpha", err);
}
