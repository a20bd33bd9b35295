/* tokenizer_documents.c: where documents of a text begin and end. */
#include "tokenizer_corpus.h"

#include <string.h>

const char *ni_split_name(ni_split split) {
    static const char *const names[] = {"file", "blank", "line", "text"};
    return names[split];
}

static const char *find(const char *from, const char *end, const char *what) {
    size_t length = strlen(what);
    while ((size_t)(end - from) >= length) {
        from = memchr(from, what[0], (size_t)(end - from) - length + 1);
        if (!from)
            return NULL;
        if (memcmp(from, what, length) == 0)
            return from;
        from++;
    }
    return NULL;
}

/* The end of a blank line that begins at `at` (spaces and its line break); NULL if the line is not blank. */
static const char *behind_blank(const char *at, const char *end) {
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\r'))
        at++;
    return at < end && *at == '\n' ? at + 1 : NULL;
}

/* Sets *next behind the separator and returns where it begins; `end` if there is none. */
static const char *find_separator(const char *from, const char *end, const ni_corpus_options *options,
                                  const char **next) {
    const char *line = from, *found = NULL;
    *next = end;
    switch (options->split) {
    case NI_SPLIT_FILE:
        return end;
    case NI_SPLIT_TEXT:
        found = find(from, end, options->separator);
        *next = found ? found + strlen(options->separator) : end;
        return found ? found : end;
    case NI_SPLIT_LINE:
        found = memchr(from, '\n', (size_t)(end - from));
        *next = found ? found + 1 : end;
        return found ? found : end;
    case NI_SPLIT_BLANK:
        while ((line = memchr(line, '\n', (size_t)(end - line))) != NULL) {
            const char *behind = behind_blank(++line, end);
            for (const char *more = behind; more; more = behind_blank(more, end))
                behind = more;
            if (behind) {
                *next = behind;
                return line; /* the document keeps the end of its last line */
            }
        }
        return end;
    }
    return end;
}

ni_document_reader ni_documents(const ni_text *text) {
    return (ni_document_reader){text->bytes, text->size ? text->bytes + text->size : text->bytes, text->bytes};
}

bool ni_document_next(ni_document_reader *r, const ni_corpus_options *options, ni_text *document) {
    while (r->at < r->end) {
        if (*r->at == '\0') {
            r->at++;
            continue;
        }
        if (r->nul <= r->at) {
            r->nul = memchr(r->at, '\0', (size_t)(r->end - r->at));
            r->nul = r->nul ? r->nul : r->end;
        }
        for (const char *behind = r->at; options->split == NI_SPLIT_BLANK && behind;
             behind = behind_blank(behind, r->nul))
            r->at = behind;
        const char *begin = r->at;
        document->bytes = begin;
        document->size = (size_t)(find_separator(begin, r->nul, options, &r->at) - begin);
        if (document->size > 0)
            return true;
    }
    return false;
}
