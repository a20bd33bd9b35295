/* pretokenizer.c: regular expressions of a tokenizer.json, one behind another, each over the pieces of the one before.
 */
#include "pretokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_STEPS = 16, MOST_PATTERN = 1 << 16 };

const char ni_pattern_gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const char ni_pattern_own[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r"
    "\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

typedef struct step {
    pcre2_code *code;
    bool drop_matches, drop_gaps;
} step;

struct ni_pretokenizer {
    step steps[MOST_STEPS];
    int count;
    bool bytes; /* a ByteLevel has come */
    pcre2_match_context *limits;
};

/* ---- patterns ---- */

/* PCRE2's \s has U+180E, which is white space no longer (Unicode 6.3). */
static const char space_inside[] = "\\t-\\r\\x{85}\\p{Z}";

typedef struct translation {
    char *text;
    size_t used;
} translation;

static void append(translation *t, const char *piece, size_t size) {
    memcpy(t->text + t->used, piece, size);
    t->used += size;
}

static void append_space(translation *t, const char *before, const char *behind) {
    append(t, before, strlen(before));
    append(t, space_inside, sizeof space_inside - 1);
    append(t, behind, strlen(behind));
}

/* Why a pattern cannot be taken, or NULL. `text` has room for 32 bytes a byte of the pattern. */
static const char *translate(const char *pattern, size_t size, translation *t) {
    bool in_class = false;
    for (size_t i = 0; i < size; i++) {
        const char c = pattern[i], next = i + 1 < size ? pattern[i + 1] : 0;
        if (c == '\\' && next) {
            if (next == 'h' || next == 'H')
                return "\\h";
            if (in_class && next == 'S')
                return "\\S in a class";
            if (next == 's')
                append_space(t, in_class ? "" : "[", in_class ? "" : "]");
            else if (next == 'S')
                append_space(t, "[^", "]");
            else
                append(t, pattern + i, 2);
            i++;
            continue;
        }
        if (in_class && (c == '[' || (c == '&' && next == '&')))
            return c == '[' ? "a class in a class" : "an intersection of classes";
        if (!in_class && c == '(' && next == '?' && i + 2 < size && pattern[i + 2] == 'm')
            return "(?m)";
        append(t, &c, 1);
        if (in_class && c == ']')
            in_class = false;
        else if (!in_class && c == '[') {
            in_class = true;
            if (i + 1 < size && pattern[i + 1] == '^')
                append(t, &pattern[++i], 1);
        }
    }
    return NULL;
}

static nb_status add_step(ni_pretokenizer *p, const char *pattern, size_t size, bool literal, step how, nb_error *err) {
    if (p->count == MOST_STEPS || size > MOST_PATTERN || size == 0)
        return nb_fail(err, NB_UNSUPPORTED,
                       "pre_tokenizer: a pattern of %zu bytes, number %d; expected 1 to %d and at "
                       "most %d patterns",
                       size, p->count + 1, MOST_PATTERN, MOST_STEPS);
    translation t = {malloc(32 * size), 0};
    if (!t.text)
        return nb_fail(err, NB_NO_MEMORY, "no memory for a pattern of %zu bytes", size);
    const char *why = NULL;
    if (literal)
        append(&t, pattern, size);
    else
        why = translate(pattern, size, &t);
    int code = 0;
    PCRE2_SIZE at = 0;
    const uint32_t options =
        PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C);
    if (!why)
        how.code = pcre2_compile((PCRE2_SPTR)t.text, t.used, options, &code, &at, NULL);
    free(t.text);
    if (why)
        return nb_fail(err, NB_UNSUPPORTED,
                       "pre_tokenizer: pattern '%.60s' has %s, which PCRE2 reads otherwise than "
                       "Oniguruma",
                       pattern, why);
    if (!how.code) {
        char reason[160] = "";
        pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof reason);
        return nb_fail(err, NB_BAD_FILE, "pre_tokenizer: pattern '%.60s' cannot be read: %s", pattern, reason);
    }
    pcre2_jit_compile(how.code, PCRE2_JIT_COMPLETE); /* where it cannot be, the pattern is interpreted */
    p->steps[p->count++] = how;
    return NB_OK;
}

/* ---- tokenizer.json ---- */

static nb_status read_split(const json_t *d, ni_pretokenizer *p, nb_error *err) {
    const json_t *pattern = json_object_get(d, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex"), *plain = json_object_get(pattern, "String");
    const char *behavior = json_string_value(json_object_get(d, "behavior"));
    const bool invert = json_is_true(json_object_get(d, "invert"));
    const json_t *text = regex ? regex : plain;
    const bool removed = behavior && strcmp(behavior, "Removed") == 0;
    if (!json_is_string(text) || !behavior || (!removed && strcmp(behavior, "Isolated") != 0))
        return nb_fail(
            err, NB_UNSUPPORTED,
            "pre_tokenizer: a Split of behavior %.40s is not read; expected a pattern and Isolated or Removed",
            behavior ? behavior : "(none)");
    return add_step(p, json_string_value(text), json_string_length(text), !regex,
                    (step){.drop_matches = removed && !invert, .drop_gaps = removed && invert}, err);
}

static nb_status read_bytes(const json_t *d, ni_pretokenizer *p, nb_error *err) {
    if (json_is_true(json_object_get(d, "add_prefix_space")))
        return nb_fail(err, NB_UNSUPPORTED,
                       "pre_tokenizer: a ByteLevel with add_prefix_space is not read: texts would "
                       "not come back as they were");
    p->bytes = true;
    if (json_is_false(json_object_get(d, "use_regex")))
        return NB_OK;
    return add_step(p, ni_pattern_gpt2, strlen(ni_pattern_gpt2), false, (step){0}, err);
}

static nb_status read_part(const json_t *d, int depth, ni_pretokenizer *p, nb_error *err) {
    const char *type = json_string_value(json_object_get(d, "type"));
    if (p->bytes)
        return nb_fail(err, NB_UNSUPPORTED, "pre_tokenizer: %.40s behind ByteLevel is not read",
                       type ? type : "a part");
    if (type && strcmp(type, "Sequence") == 0 && depth < 4) {
        size_t i;
        json_t *part;
        json_array_foreach(json_object_get(d, "pretokenizers"), i, part) {
            NB_TRY(read_part(part, depth + 1, p, err));
        }
        return NB_OK;
    }
    if (type && strcmp(type, "Split") == 0)
        return read_split(d, p, err);
    if (type && strcmp(type, "ByteLevel") == 0)
        return read_bytes(d, p, err);
    if (type && strcmp(type, "Digits") == 0) {
        const char *digits = json_is_true(json_object_get(d, "individual_digits")) ? "\\p{N}" : "\\p{N}+";
        return add_step(p, digits, strlen(digits), false, (step){0}, err);
    }
    return nb_fail(err, NB_UNSUPPORTED,
                   "pre_tokenizer: %.40s is not read; expected Split, Digits and ByteLevel, as byte-level BPE has them",
                   type ? type : "a part without a type");
}

static nb_status create(ni_pretokenizer **out, nb_error *err) {
    enum { MOST_HEAP_KIB = 64 << 10 };
    *out = calloc(1, sizeof **out);
    if (*out)
        (*out)->limits = pcre2_match_context_create(NULL);
    if (!*out || !(*out)->limits)
        return nb_fail(err, NB_NO_MEMORY, "no memory for a pre-tokenizer");
    pcre2_set_heap_limit((*out)->limits, MOST_HEAP_KIB);
    return NB_OK;
}

static nb_status keep_or_free(nb_status status, ni_pretokenizer *p, ni_pretokenizer **out) {
    *out = status == NB_OK ? p : NULL;
    if (status != NB_OK)
        ni_pretokenizer_free(p);
    return status;
}

nb_status ni_pretokenizer_read(const json_t *description, ni_pretokenizer **out, nb_error *err) {
    ni_pretokenizer *p;
    nb_status status = create(&p, err);
    if (status == NB_OK)
        status = read_part(description, 0, p, err);
    if (status == NB_OK && !p->bytes)
        status = nb_fail(err, NB_UNSUPPORTED, "pre_tokenizer: no ByteLevel, expected byte-level BPE");
    return keep_or_free(status, p, out);
}

nb_status ni_pretokenizer_of_pattern(const char *pattern, ni_pretokenizer **out, nb_error *err) {
    ni_pretokenizer *p;
    nb_status status = create(&p, err);
    if (status == NB_OK)
        status = add_step(p, pattern, strlen(pattern), false, (step){0}, err);
    return keep_or_free(status, p, out);
}

void ni_pretokenizer_free(ni_pretokenizer *p) {
    for (int i = 0; p && i < p->count; i++)
        pcre2_code_free(p->steps[i].code);
    if (p)
        pcre2_match_context_free(p->limits);
    free(p);
}

/* ---- splitting ---- */

typedef struct splitter {
    const ni_pretokenizer *p;
    pcre2_match_data *matches[MOST_STEPS];
    const char *end; /* of what becomes pieces */
    ni_take_piece *take;
    void *context;
} splitter;

/* The next match from `at` on in a part of `size` bytes; *found is false behind the last. A pattern for which the stack
 * of compiled code is too small is interpreted instead, on memory that has its limit. */
static nb_status next_match(const splitter *s, int number, const char *text, size_t size, size_t at, size_t *begin,
                            size_t *end, bool *found, nb_error *err) {
    pcre2_match_data *match = s->matches[number];
    const pcre2_code *code = s->p->steps[number].code;
    int rc = pcre2_match(code, (PCRE2_SPTR)text, size, at, PCRE2_NO_UTF_CHECK, match, s->p->limits);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(code, (PCRE2_SPTR)text, size, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match, s->p->limits);
    *found = rc > 0;
    if (rc == PCRE2_ERROR_NOMATCH)
        return NB_OK;
    if (rc < 0) {
        char reason[160] = "";
        pcre2_get_error_message(rc, (PCRE2_UCHAR *)reason, sizeof reason);
        return nb_fail(err, rc == PCRE2_ERROR_NOMEMORY ? NB_NO_MEMORY : NB_BAD_FILE,
                       "tokenizer.json: pattern %d of its pre_tokenizer cannot be run: %s", number + 1, reason);
    }
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(match);
    *begin = span[0];
    *end = span[1];
    if (*begin > *end || *begin < at) /* \K within a look-around */
        return nb_fail(err, NB_BAD_FILE, "tokenizer.json: pattern %d of its pre_tokenizer matches backwards",
                       number + 1);
    return NB_OK;
}

static nb_status split(const splitter *s, int number, const char *text, size_t size, nb_error *err) {
    if (size == 0 || text >= s->end)
        return NB_OK;
    if (number == s->p->count) {
        const size_t left = (size_t)(s->end - text);
        return s->take(s->context, text, size < left ? size : left, err);
    }
    const step *how = &s->p->steps[number];
    size_t at = 0, search = 0, begin, end;
    bool found;
    while (search <= size && text + at < s->end) {
        NB_TRY(next_match(s, number, text, size, search, &begin, &end, &found, err));
        if (!found)
            break;
        if (!how->drop_gaps)
            NB_TRY(split(s, number + 1, text + at, begin - at, err));
        if (!how->drop_matches)
            NB_TRY(split(s, number + 1, text + begin, end - begin, err));
        at = search = end;
        if (begin == end) /* an empty match divides; the next is looked for behind the character */
            do
                search++;
            while (search < size && ((unsigned char)text[search] & 0xC0) == 0x80);
    }
    return how->drop_gaps ? NB_OK : split(s, number + 1, text + at, size - at, err);
}

nb_status ni_pretokenizer_split(const ni_pretokenizer *p, const char *text, size_t size, size_t more,
                                ni_take_piece *take, void *context, nb_error *err) {
    splitter s = {.p = p, .end = text + size, .take = take, .context = context};
    nb_status status = NB_OK;
    for (int i = 0; i < p->count; i++) {
        s.matches[i] = pcre2_match_data_create(1, NULL);
        if (!s.matches[i] && status == NB_OK)
            status = nb_fail(err, NB_NO_MEMORY, "no memory to split a text");
    }
    if (status == NB_OK)
        status = split(&s, 0, text, size + more, err);
    for (int i = 0; i < p->count; i++)
        pcre2_match_data_free(s.matches[i]);
    return status;
}
