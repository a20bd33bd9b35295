/* philox.h: Philox4x32-10, the counter-based generator of Salmon et al., SC 2011 (doi:10.1145/2063384.2063405).
 *
 * Every random bit of nibble is a pure function of (key, counter): nothing to checkpoint, nothing that depends on
 * threads. One source for gcc and nvcc.
 */
#ifndef NI_BASE_PHILOX_H
#define NI_BASE_PHILOX_H

#include <stdint.h>

#if defined(__CUDACC__)
#define NI_HD __host__ __device__
#else
#define NI_HD
#endif

typedef struct ni_philox_words {
    uint32_t w[4];
} ni_philox_words;

/* What a counter is for: its last word, so that streams of one key never meet. */
enum {
    NI_PURPOSE_ROUNDING = 0,    /* elements 0..15 of a group at 8 bits; 0..7 at 16 bits */
    NI_PURPOSE_ROUNDING_HI = 1, /* elements 8..15 of a group at 16 bits */
    NI_PURPOSE_SIGNS = 2,       /* fresh Hadamard signs */
    NI_PURPOSE_INIT = 3,        /* parameter initialisation */
    NI_PURPOSE_SHUFFLE = 4,     /* order of the data */
    NI_PURPOSE_SAMPLE = 5       /* text generation */
};

static inline NI_HD ni_philox_words ni_philox(uint32_t key0, uint32_t key1, uint32_t c0, uint32_t c1, uint32_t c2,
                                              uint32_t c3) {
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0;
        uint64_t p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ key0;
        uint32_t n2 = (uint32_t)(p0 >> 32) ^ c3 ^ key1;
        c0 = n0;
        c1 = (uint32_t)p1;
        c2 = n2;
        c3 = (uint32_t)p0;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    ni_philox_words out = {{c0, c1, c2, c3}};
    return out;
}

/* The same for counters that differ in their first word alone: keys of all rounds, and what the first two rounds make
 * of the second and the third word, once for all of them. */
typedef struct ni_philox_keys {
    uint32_t of[20];
} ni_philox_keys;

typedef struct ni_philox_shared {
    uint32_t w[3];
} ni_philox_shared;

static inline NI_HD ni_philox_keys ni_philox_keys_of(uint32_t key0, uint32_t key1) {
    ni_philox_keys keys;
    for (int round = 0; round < 10; round++) {
        keys.of[2 * round] = key0 + (uint32_t)round * 0x9E3779B9u;
        keys.of[2 * round + 1] = key1 + (uint32_t)round * 0xBB67AE85u;
    }
    return keys;
}

static inline NI_HD ni_philox_shared ni_philox_share(const ni_philox_keys *keys, uint32_t c1, uint32_t c2) {
    const uint64_t first = (uint64_t)0xCD9E8D57u * c2;
    const uint64_t second = (uint64_t)0xD2511F53u * ((uint32_t)(first >> 32) ^ c1 ^ keys->of[0]);
    const ni_philox_shared shared = {
        {(uint32_t)first ^ keys->of[2], (uint32_t)(second >> 32) ^ keys->of[3], (uint32_t)second ^ keys->of[5]}};
    return shared;
}

static inline NI_HD ni_philox_words ni_philox_next(const ni_philox_keys *keys, const ni_philox_shared *shared,
                                                   uint32_t c0, uint32_t c3) {
    uint64_t p0 = (uint64_t)0xD2511F53u * c0;
    uint64_t p1 = (uint64_t)0xCD9E8D57u * ((uint32_t)(p0 >> 32) ^ (c3 ^ keys->of[1]));
    c0 = (uint32_t)(p1 >> 32) ^ shared->w[0];
    uint32_t c1 = (uint32_t)p1, c2 = (uint32_t)p0 ^ shared->w[1];
    for (int round = 2; round < 10; round++) {
        p0 = (uint64_t)0xD2511F53u * c0;
        p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ keys->of[2 * round];
        c2 = round == 2 ? (uint32_t)(p0 >> 32) ^ shared->w[2] : (uint32_t)(p0 >> 32) ^ c3 ^ keys->of[2 * round + 1];
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
    }
    const ni_philox_words out = {{c0, c1, c2, c3}};
    return out;
}

#endif
