/* dataset.c: a deterministic, stateless loader over token shards. */
#include "dataset.h"
#include "base/philox.h"
#include "shard.h"
#include "shard_foreign.h"

#include <glob.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* A shard as it was when the dataset was opened. */
typedef struct page {
    int64_t tokens;
    int32_t width; /* bytes of a token */
    uint64_t sum;  /* XXH3-64 of the tokens' bytes */
} page;

struct ni_dataset {
    ni_dataset_options options;
    int32_t shard_count;
    ni_shard *shards;
    char **paths;
    page *pages;    /* [shard_count]: what one reading of each showed */
    int64_t *first; /* [shard_count + 1]: position in the stream of each shard's first token */
    int64_t all_sequences, sequences;
    uint64_t fingerprint;
};

/* ---- order ---- */

/* A keyed permutation of [0, n): a Feistel network over the next even power of two, walked until it lands inside
 * (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002). Fewer than four walks on average. */
static int64_t permute(int64_t index, int64_t n, uint32_t seed, uint32_t epoch) {
    enum { ROUNDS = 8 };
    int half = 1;
    while (half < 31 && ((int64_t)1 << (2 * half)) < n)
        half++;
    const uint64_t mask = ((uint64_t)1 << half) - 1;
    uint64_t x = (uint64_t)index;
    do {
        uint32_t left = (uint32_t)(x >> half), right = (uint32_t)(x & mask);
        for (uint32_t round = 0; round < ROUNDS; round++) {
            uint32_t mixed = ni_philox(seed, 0, right, round, epoch, NI_PURPOSE_SHUFFLE).w[0] & (uint32_t)mask;
            uint32_t next = left ^ mixed;
            left = right;
            right = next;
        }
        x = (uint64_t)left << half | right;
    } while (x >= (uint64_t)n);
    return (int64_t)x;
}

/* The index-th of `chosen` sequences spread evenly over `all`. 128 bits: the product may pass 64. */
static int64_t spread(int64_t index, int64_t chosen, int64_t all) {
    __extension__ typedef unsigned __int128 wide;
    return (int64_t)((wide)index * (wide)all / (wide)chosen);
}

int64_t ni_dataset_sequence_of(const ni_dataset *data, int64_t index) {
    int64_t epoch = index / data->sequences, place = index % data->sequences;
    if (data->options.shuffle)
        place = permute(place, data->sequences, data->options.seed, (uint32_t)epoch);
    return spread(place, data->sequences, data->all_sequences);
}

/* ---- opening ---- */

static nb_status fail_beyond(const ni_dataset *data, int32_t shard, int64_t position, nb_error *err) {
    int32_t token;
    NB_TRY(ni_shard_read(&data->shards[shard], position, 1, &token, err));
    return nb_fail(err, NB_BAD_FILE,
                   "%s: token %" PRId32 " at position %" PRId64 " is beyond the vocabulary of %" PRId64
                   "; was the text tokenized for another model?",
                   data->paths[shard], token, position, data->options.vocab);
}

static nb_status add_shard(ni_dataset *data, const char *path, nb_error *err) {
    size_t count = (size_t)data->shard_count;
    ni_shard *shards = realloc(data->shards, (count + 1) * sizeof *shards);
    if (shards)
        data->shards = shards;
    char **paths = realloc(data->paths, (count + 1) * sizeof *paths);
    if (paths)
        data->paths = paths;
    int64_t *first = realloc(data->first, (count + 2) * sizeof *first);
    if (first)
        data->first = first;
    page *pages = realloc(data->pages, (count + 1) * sizeof *pages);
    if (pages)
        data->pages = pages;
    char *name = strdup(path);
    if (!shards || !paths || !first || !pages || !name) {
        free(name);
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for a list of %zu shards", path, count + 1);
    }
    ni_shard shard;
    nb_status status = ni_shard_open(path, &shard, err);
    if (status != NB_OK) {
        free(name);
        return status;
    }
    data->shards[count] = shard;
    data->paths[count] = name;
    data->shard_count++;
    data->first[0] = 0;
    data->first[count + 1] = data->first[count] + shard.count;
    ni_shard_survey seen;
    if (ni_shard_survey_all(&shard, data->options.vocab, &seen, err) != NB_OK)
        return nb_fail_within(err, "%s", path);
    data->pages[count] = (page){shard.count, shard.width, seen.tokens_sum};
    return seen.beyond < 0 ? NB_OK : fail_beyond(data, (int32_t)count, seen.beyond, err);
}

/* One match of a pattern; the word before it goes with each. */
static nb_status add_match(ni_dataset *data, const char *pattern, size_t word, const char *match, nb_error *err) {
    if (!word)
        return add_shard(data, match, err);
    char *path = malloc(word + strlen(match) + 1);
    if (!path)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for its name", match);
    memcpy(path, pattern, word);
    strcpy(path + word, match);
    nb_status status = add_shard(data, path, err);
    free(path);
    return status;
}

static nb_status add_pattern(ni_dataset *data, const char *pattern, nb_error *err) {
    if (!strpbrk(pattern, "*?["))
        return add_shard(data, pattern, err);
    glob_t matches;
    const size_t word = ni_headerless_word(pattern);
    int result = glob(pattern + word, GLOB_ERR, NULL, &matches);
    nb_status status = NB_OK;
    if (result == GLOB_NOMATCH)
        return nb_fail(err, NB_IO_ERROR, "%s: no file has such a name", pattern);
    if (result != 0)
        return nb_fail(err, NB_IO_ERROR, "%s: the folder cannot be listed", pattern);
    for (size_t i = 0; status == NB_OK && i < matches.gl_pathc; i++)
        status = add_match(data, pattern, word, matches.gl_pathv[i], err);
    globfree(&matches);
    return status;
}

static nb_status check_options(const ni_dataset_options *o, nb_error *err) {
    if (o->seq < 1 || o->seq > INT32_MAX || o->vocab < 1 || o->vocab > INT32_MAX || o->sequences < 0)
        return nb_fail(err, NB_BAD_USAGE,
                       "sequences of %" PRId64 " tokens from a vocabulary of %" PRId64 " cannot be cut", o->seq,
                       o->vocab);
    if (o->end_of_text >= o->vocab)
        return nb_fail(err, NB_BAD_CONFIG, "the end-of-text token %" PRId32 " is beyond the vocabulary of %" PRId64,
                       o->end_of_text, o->vocab);
    return NB_OK;
}

/* Taken while the files are whole: a run whose data vanishes still writes a checkpoint. */
static nb_status take_fingerprint(const ni_dataset *data, uint64_t *out, nb_error *err) {
    enum { SAMPLE = 4096 };
    char bytes[SAMPLE];
    *out = XXH3_64bits(&data->options.seq, sizeof data->options.seq);
    for (int32_t i = 0; i < data->shard_count; i++) {
        const ni_shard *shard = &data->shards[i];
        size_t size = (size_t)shard->count * (size_t)shard->width, n = size < SAMPLE ? size : SAMPLE;
        *out = XXH3_64bits_withSeed(&shard->count, sizeof shard->count, *out);
        NB_TRY(ni_shard_bytes(shard, 0, n, bytes, err));
        *out = XXH3_64bits_withSeed(bytes, n, *out);
        NB_TRY(ni_shard_bytes(shard, (int64_t)(size - n), n, bytes, err));
        *out = XXH3_64bits_withSeed(bytes, n, *out);
    }
    *out = XXH3_64bits_withSeed(&data->sequences, sizeof data->sequences, *out);
    return NB_OK;
}

nb_status ni_dataset_open(const char *const *paths, int32_t count, const ni_dataset_options *options, ni_dataset **out,
                          nb_error *err) {
    *out = NULL;
    NB_TRY(check_options(options, err));
    if (count < 1)
        return nb_fail(err, NB_BAD_USAGE, "no token files are named, expected at least one");
    ni_dataset *data = calloc(1, sizeof *data);
    if (!data)
        return nb_fail(err, NB_NO_MEMORY, "no memory for a list of shards");
    data->options = *options;
    nb_status status = NB_OK;
    for (int32_t i = 0; status == NB_OK && i < count; i++)
        status = add_pattern(data, paths[i], err);
    if (status == NB_OK) {
        int64_t tokens = ni_dataset_tokens(data);
        data->all_sequences = tokens > 0 ? (tokens - 1) / options->seq : 0;
        if (data->all_sequences < 1)
            status =
                nb_fail(err, NB_BAD_FILE,
                        "%s%s: %" PRId64 " tokens are too few for one sequence of %" PRId64
                        " and its last target; give more text or a shorter sequence",
                        data->paths[0], data->shard_count > 1 ? " and the other shards" : "", tokens, options->seq);
    }
    if (status != NB_OK) {
        ni_dataset_free(data);
        return status;
    }
    bool some = options->sequences > 0 && options->sequences < data->all_sequences;
    data->sequences = some ? options->sequences : data->all_sequences;
    status = take_fingerprint(data, &data->fingerprint, err);
    if (status != NB_OK) {
        ni_dataset_free(data);
        return status;
    }
    *out = data;
    return NB_OK;
}

void ni_dataset_free(ni_dataset *data) {
    if (!data)
        return;
    for (int32_t i = 0; i < data->shard_count; i++) {
        ni_shard_close(&data->shards[i]);
        free(data->paths[i]);
    }
    free(data->shards);
    free(data->paths);
    free(data->pages);
    free(data->first);
    free(data);
}

int64_t ni_dataset_tokens(const ni_dataset *data) {
    return data->first[data->shard_count];
}

int64_t ni_dataset_sequences(const ni_dataset *data) {
    return data->sequences;
}

uint64_t ni_dataset_fingerprint(const ni_dataset *data) {
    return data->fingerprint;
}

uint64_t ni_dataset_sum(const ni_dataset *data) {
    uint64_t hash = XXH3_64bits(&data->options.seq, sizeof data->options.seq);
    for (int32_t i = 0; i < data->shard_count; i++) {
        const page *p = &data->pages[i];
        const uint64_t words[] = {(uint64_t)p->tokens, (uint64_t)p->width, p->sum};
        hash = XXH3_64bits_withSeed(words, sizeof words, hash);
    }
    return XXH3_64bits_withSeed(&data->sequences, sizeof data->sequences, hash);
}

/* ---- filling ---- */

static int32_t shard_of(const ni_dataset *data, int64_t position) {
    int32_t low = 0, high = data->shard_count - 1;
    while (low < high) {
        int32_t middle = low + (high - low + 1) / 2;
        if (data->first[middle] <= position)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* Reads [position, position + count) of the stream, across shards, and compares each token with the vocabulary. */
static nb_status read_stream(const ni_dataset *data, int64_t position, int64_t count, int32_t *out, nb_error *err) {
    for (int32_t s = shard_of(data, position); count > 0; s++) {
        int64_t begin = position - data->first[s], have = data->shards[s].count - begin;
        int64_t n = count < have ? count : have;
        if (ni_shard_read(&data->shards[s], begin, n, out, err) != NB_OK)
            return nb_fail_within(err, "%s", data->paths[s]);
        for (int64_t i = 0; i < n; i++)
            if (out[i] >= data->options.vocab)
                return fail_beyond(data, s, begin + i, err);
        position += n;
        count -= n;
        out += n;
    }
    return NB_OK;
}

static void mark_documents(const ni_dataset_options *o, const int32_t *tokens, int32_t *positions, int32_t *doc_start) {
    int32_t start = 0;
    for (int32_t t = 0; t < o->seq; t++) {
        if (!o->cross_documents && o->end_of_text >= 0 && tokens[t] == o->end_of_text)
            start = t;
        doc_start[t] = start;
        positions[t] = t - start;
    }
}

nb_status ni_dataset_fill(const ni_dataset *data, int64_t micro_batch, int64_t batch, const ni_dataset_buffers *to,
                          nb_error *err) {
    const int64_t seq = data->options.seq;
    for (int64_t b = 0; b < batch; b++) {
        int64_t begin = ni_dataset_sequence_of(data, micro_batch * batch + b) * seq;
        NB_TRY(read_stream(data, begin, seq, to->tokens + b * seq, err));
        NB_TRY(read_stream(data, begin + 1, seq, to->targets + b * seq, err));
        mark_documents(&data->options, to->tokens + b * seq, to->positions + b * seq, to->doc_start + b * seq);
    }
    return NB_OK;
}
