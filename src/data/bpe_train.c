/* bpe_train.c: learning the merges of byte-level BPE.
 *
 *     pieces of the sample, each once with how often it occurs -> words of one symbol a byte
 *     again and again: the pair of neighbours that occurs most (of equals the one of the smaller ids) becomes a symbol
 *
 * What a join changes is looked up: each pair knows the words that had it, and a queue holds counts that may be out of
 * date and are then put back (Sennrich et al., arXiv:1508.07909; the bookkeeping is the usual one).
 */
#include "bpe.h"
#include "files/json.h"
#include "pretokenizer.h"
#include "text_sample.h"
#include "tokenizer_files.h"
#include "utf8.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum {
    SAMPLE_PARTS = 384,   /* 24 MB */
    LONGEST_PIECE = 1024, /* what no space divides for longer is no word */
    LEAST_OFTEN = 2       /* a pair that occurs once teaches nothing */
};

typedef struct word {
    int32_t *symbols; /* in the heap of symbols */
    uint32_t size;    /* symbols now */
    uint64_t hash;
    int64_t often;
    size_t at; /* while the heap grows */
} word;

typedef struct pair {
    int32_t left, right;
    int64_t often;
    uint32_t *words; /* that have or had it */
    uint32_t count, room;
} pair;

typedef struct candidate {
    int64_t often;
    int32_t left, right;
} candidate;

typedef struct trainer {
    word *words;
    size_t word_count, word_room;
    int32_t *by_piece; /* hash table of words, -1: empty */
    size_t piece_mask;
    int32_t *symbols;
    size_t symbol_count, symbol_room;
    pair *pairs;
    size_t pair_count, pair_room;
    int32_t *by_pair; /* hash table of pairs, -1: empty */
    size_t pair_mask;
    candidate *heap;
    size_t heap_count, heap_room;
    json_t *vocab, *merges;
    char **names; /* of symbols, as the file spells them */
    int32_t known;
} trainer;

static nb_status no_memory(nb_error *err) {
    return nb_fail(err, NB_NO_MEMORY, "no memory to train a tokenizer");
}

/* Room for one more of `size` bytes each. */
static nb_status grow(void *list, size_t count, size_t *room, size_t size, nb_error *err) {
    void **memory = list;
    if (count < *room)
        return NB_OK;
    const size_t wanted = 2 * *room + 256;
    void *larger = realloc(*memory, wanted * size);
    if (!larger)
        return no_memory(err);
    *memory = larger;
    *room = wanted;
    return NB_OK;
}

/* ---- words ---- */

static size_t word_slot(const trainer *t, const char *piece, size_t size, uint64_t hash) {
    for (size_t slot = (size_t)hash & t->piece_mask;; slot = (slot + 1) & t->piece_mask) {
        if (t->by_piece[slot] < 0)
            return slot;
        const word *w = &t->words[t->by_piece[slot]];
        bool same = w->hash == hash && w->size == size;
        for (size_t i = 0; same && i < size; i++)
            same = t->symbols[w->at + i] == (unsigned char)piece[i];
        if (same)
            return slot;
    }
}

static nb_status double_words(trainer *t, nb_error *err) {
    const size_t mask = 2 * t->piece_mask + 1;
    int32_t *table = malloc((mask + 1) * sizeof *table);
    if (!table)
        return no_memory(err);
    memset(table, 0xFF, (mask + 1) * sizeof *table);
    for (size_t i = 0; i < t->word_count; i++) {
        size_t slot = (size_t)t->words[i].hash & mask;
        while (table[slot] >= 0)
            slot = (slot + 1) & mask;
        table[slot] = (int32_t)i;
    }
    free(t->by_piece);
    t->by_piece = table;
    t->piece_mask = mask;
    return NB_OK;
}

static nb_status count_piece(void *context, const char *piece, size_t size, nb_error *err) {
    trainer *t = context;
    if (size < 2 || size > LONGEST_PIECE)
        return NB_OK;
    const uint64_t hash = XXH3_64bits(piece, size);
    const size_t slot = word_slot(t, piece, size, hash);
    if (t->by_piece[slot] >= 0) {
        t->words[t->by_piece[slot]].often++;
        return NB_OK;
    }
    NB_TRY(grow(&t->words, t->word_count, &t->word_room, sizeof *t->words, err));
    const size_t at = t->symbol_count;
    for (size_t i = 0; i < size; i++) {
        NB_TRY(grow(&t->symbols, t->symbol_count, &t->symbol_room, sizeof *t->symbols, err));
        t->symbols[t->symbol_count++] = (unsigned char)piece[i];
    }
    t->by_piece[slot] = (int32_t)t->word_count;
    t->words[t->word_count++] = (word){NULL, (uint32_t)size, hash, 1, at};
    return 2 * t->word_count > t->piece_mask ? double_words(t, err) : NB_OK;
}

static nb_status count_words(trainer *t, const ni_text *texts, int32_t count, nb_error *err) {
    ni_text_sample sample = ni_text_sample_begin(texts, count, SAMPLE_PARTS);
    ni_text part;
    ni_pretokenizer *pre;
    char *clean = malloc(3 * NI_SAMPLE_PART);
    nb_status status = clean ? ni_pretokenizer_of_pattern(ni_pattern_own, &pre, err) : no_memory(err);
    if (status != NB_OK) {
        free(clean);
        return status;
    }
    t->piece_mask = 0;
    status = double_words(t, err);
    while (status == NB_OK && ni_text_sample_next(&sample, &part))
        status = ni_pretokenizer_split(pre, clean, ni_utf8_repair(part.bytes, part.size, clean, NULL), 0, count_piece,
                                       t, err);
    for (size_t i = 0; i < t->word_count; i++)
        t->words[i].symbols = t->symbols + t->words[i].at;
    ni_pretokenizer_free(pre);
    free(clean);
    return status;
}

/* ---- pairs ---- */

static size_t pair_slot(const trainer *t, int32_t left, int32_t right) {
    const uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    for (size_t slot = (size_t)(key * 0x9E3779B97F4A7C15u >> 24) & t->pair_mask;; slot = (slot + 1) & t->pair_mask) {
        const int32_t at = t->by_pair[slot];
        if (at < 0 || (t->pairs[at].left == left && t->pairs[at].right == right))
            return slot;
    }
}

static nb_status double_pairs(trainer *t, nb_error *err) {
    free(t->by_pair);
    t->pair_mask = 2 * t->pair_mask + 1;
    t->by_pair = malloc((t->pair_mask + 1) * sizeof *t->by_pair);
    if (!t->by_pair)
        return no_memory(err);
    memset(t->by_pair, 0xFF, (t->pair_mask + 1) * sizeof *t->by_pair);
    for (size_t i = 0; i < t->pair_count; i++)
        t->by_pair[pair_slot(t, t->pairs[i].left, t->pairs[i].right)] = (int32_t)i;
    return NB_OK;
}

static nb_status find_pair(trainer *t, int32_t left, int32_t right, pair **out, nb_error *err) {
    if (2 * (t->pair_count + 1) > t->pair_mask)
        NB_TRY(double_pairs(t, err));
    const size_t slot = pair_slot(t, left, right);
    if (t->by_pair[slot] < 0) {
        NB_TRY(grow(&t->pairs, t->pair_count, &t->pair_room, sizeof *t->pairs, err));
        t->by_pair[slot] = (int32_t)t->pair_count;
        t->pairs[t->pair_count++] = (pair){.left = left, .right = right};
    }
    *out = &t->pairs[t->by_pair[slot]];
    return NB_OK;
}

static nb_status add_pair(trainer *t, int32_t left, int32_t right, uint32_t number, nb_error *err) {
    pair *p;
    NB_TRY(find_pair(t, left, right, &p, err));
    p->often += t->words[number].often;
    if (p->count && p->words[p->count - 1] == number)
        return NB_OK;
    size_t room = p->room;
    NB_TRY(grow(&p->words, p->count, &room, sizeof *p->words, err));
    p->room = (uint32_t)room;
    p->words[p->count++] = number;
    return NB_OK;
}

/* ---- the queue ---- */

static bool comes_first(const candidate *a, const candidate *b) {
    if (a->often != b->often)
        return a->often > b->often;
    return a->left != b->left ? a->left < b->left : a->right < b->right;
}

static nb_status put(trainer *t, const pair *p, nb_error *err) {
    const candidate c = {p->often, p->left, p->right};
    if (p->often < LEAST_OFTEN)
        return NB_OK;
    NB_TRY(grow(&t->heap, t->heap_count, &t->heap_room, sizeof *t->heap, err));
    size_t at = t->heap_count++;
    for (size_t up; at > 0 && comes_first(&c, &t->heap[up = (at - 1) / 2]); at = up)
        t->heap[at] = t->heap[up];
    t->heap[at] = c;
    return NB_OK;
}

static candidate take(trainer *t) {
    const candidate first = t->heap[0], last = t->heap[--t->heap_count];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < t->heap_count; at = child) {
        child += child + 1 < t->heap_count && comes_first(&t->heap[child + 1], &t->heap[child]);
        if (!comes_first(&t->heap[child], &last))
            break;
        t->heap[at] = t->heap[child];
    }
    t->heap[at] = last;
    return first;
}

/* The pair that occurs most; NULL where none occurs often enough. */
static nb_status take_best(trainer *t, pair **best, nb_error *err) {
    *best = NULL;
    while (t->heap_count && !*best) {
        const candidate c = take(t);
        pair *p = &t->pairs[t->by_pair[pair_slot(t, c.left, c.right)]];
        if (p->often == c.often)
            *best = p;
        else if (p->often < c.often) /* more than was put: it was put again then */
            NB_TRY(put(t, p, err));
    }
    return NB_OK;
}

/* ---- joining ---- */

/* Joins a pair within one word: its neighbours' pairs occur less, those with the new symbol more. */
static nb_status join_in(trainer *t, uint32_t number, int32_t left, int32_t right, int32_t joined, nb_error *err) {
    word *w = &t->words[number];
    uint32_t used = 0;
    pair *p;
    for (uint32_t i = 0; i < w->size; i++) {
        if (i + 1 == w->size || w->symbols[i] != left || w->symbols[i + 1] != right) {
            w->symbols[used++] = w->symbols[i];
            continue;
        }
        if (used > 0) {
            NB_TRY(find_pair(t, w->symbols[used - 1], left, &p, err));
            p->often -= w->often;
            NB_TRY(add_pair(t, w->symbols[used - 1], joined, number, err));
        }
        if (i + 2 < w->size) {
            NB_TRY(find_pair(t, right, w->symbols[i + 2], &p, err));
            p->often -= w->often;
            NB_TRY(add_pair(t, joined, w->symbols[i + 2], number, err));
        }
        w->symbols[used++] = joined;
        i++;
    }
    w->size = used;
    return NB_OK;
}

/* The symbol that two give. Another pair may have given the same one before. */
static nb_status name_symbol(trainer *t, const char *left, const char *right, int32_t *id, nb_error *err) {
    const size_t size = strlen(left) + strlen(right) + 1;
    char *name = malloc(size);
    if (!name)
        return no_memory(err);
    snprintf(name, size, "%s%s", left, right);
    const json_t *there = json_object_get(t->vocab, name);
    *id = there ? (int32_t)json_integer_value(there) : t->known;
    if (there) {
        free(name);
        return NB_OK;
    }
    t->names[t->known++] = name;
    ni_json_put(&t->vocab, name, json_integer(*id));
    return t->vocab ? NB_OK : no_memory(err);
}

static nb_status join_best(trainer *t, bool *found, nb_error *err) {
    pair *best;
    NB_TRY(take_best(t, &best, err));
    *found = best != NULL;
    if (!best)
        return NB_OK;
    const int32_t left = best->left, right = best->right, known = t->known;
    uint32_t *words = best->words;
    const uint32_t count = best->count;
    int32_t joined = -1;
    best->words = NULL;
    best->count = best->room = 0;
    best->often = 0;
    nb_status status = name_symbol(t, t->names[left], t->names[right], &joined, err);
    size_t changed = joined == known ? t->pair_count : 0; /* pairs with a new symbol are new */
    for (uint32_t i = 0; status == NB_OK && i < count; i++)
        status = join_in(t, words[i], left, right, joined, err);
    free(words);
    for (; status == NB_OK && changed < t->pair_count; changed++)
        if (t->pairs[changed].left == joined || t->pairs[changed].right == joined)
            status = put(t, &t->pairs[changed], err);
    if (status == NB_OK)
        ni_json_push(&t->merges, json_pack("[s, s]", t->names[left], t->names[right]));
    return status == NB_OK && !t->merges ? no_memory(err) : status;
}

/* ---- the whole ---- */

static void free_trainer(trainer *t, int32_t vocab) {
    for (size_t i = 0; i < t->pair_count; i++)
        free(t->pairs[i].words);
    for (int32_t i = 0; t->names && i < vocab; i++)
        free(t->names[i]);
    free(t->names);
    free(t->words);
    free(t->by_piece);
    free(t->symbols);
    free(t->pairs);
    free(t->by_pair);
    free(t->heap);
    json_decref(t->vocab);
    json_decref(t->merges);
}

static nb_status begin(trainer *t, const ni_text *texts, int32_t count, int32_t vocab, nb_error *err) {
    t->vocab = json_object();
    t->merges = json_array();
    t->names = calloc((size_t)vocab, sizeof *t->names);
    if (!t->names)
        return no_memory(err);
    for (int32_t byte = 0; byte < 256; byte++) {
        char name[3];
        int32_t id;
        ni_name_of_byte(byte, name);
        NB_TRY(name_symbol(t, name, "", &id, err));
    }
    NB_TRY(double_pairs(t, err));
    NB_TRY(count_words(t, texts, count, err));
    for (size_t i = 0; i < t->word_count; i++)
        for (uint32_t s = 0; s + 1 < t->words[i].size; s++)
            NB_TRY(add_pair(t, t->words[i].symbols[s], t->words[i].symbols[s + 1], (uint32_t)i, err));
    for (size_t i = 0; i < t->pair_count; i++)
        NB_TRY(put(t, &t->pairs[i], err));
    return NB_OK;
}

static nb_status learn(trainer *t, int32_t vocab, nb_error *err) {
    bool found = true;
    while (t->known < vocab - 1 && found)
        NB_TRY(join_best(t, &found, err));
    if (!found)
        return nb_fail(err, NB_BAD_FILE,
                       "a tokenizer of %" PRId32 " tokens cannot be trained on this text, which gives at most %" PRId32
                       "; hint: fewer tokens or more text",
                       vocab, t->known + 1);
    ni_json_put(&t->vocab, NI_END_NAME, json_integer(vocab - 1));
    return t->vocab && t->merges ? NB_OK : no_memory(err);
}

nb_status ni_tokenizer_train_bpe(const ni_text *texts, int32_t count, int32_t vocab, ni_tokenizer **out,
                                 nb_error *err) {
    trainer t = {0};
    *out = NULL;
    NB_TRY(ni_tokenizer_check_training(texts, count, vocab, err));
    nb_status status = begin(&t, texts, count, vocab, err);
    if (status == NB_OK)
        status = learn(&t, vocab, err);
    char *json = NULL;
    if (status == NB_OK) {
        json = ni_bpe_tokenizer_json(t.vocab, t.merges, ni_pattern_own, vocab - 1);
        t.vocab = t.merges = NULL;
        status = json ? NB_OK : no_memory(err);
    }
    free_trainer(&t, vocab);
    return status == NB_OK ? ni_tokenizer_from_json(json, out, err) : status;
}
