/* added_tokens.c: a list by first byte. */
#include "added_tokens.h"

#include "utf8.h"

#include <stdlib.h>
#include <string.h>

nb_status ni_added_tokens_put(ni_added_tokens *tokens, ni_added_token token, nb_error *err) {
    if (token.size == 0)
        return NB_OK; /* finds nothing */
    if (tokens->count == tokens->room) {
        const size_t room = 2 * tokens->room + 16;
        ni_added_token *list = realloc(tokens->list, room * sizeof *list);
        if (!list)
            return nb_fail(err, NB_NO_MEMORY, "no memory for %zu added tokens", room);
        tokens->list = list;
        tokens->room = room;
    }
    char *text = malloc(token.size + 1);
    if (!text)
        return nb_fail(err, NB_NO_MEMORY, "no memory for an added token of %zu bytes", token.size);
    memcpy(text, token.text, token.size);
    text[token.size] = 0;
    token.text = text;
    tokens->list[tokens->count++] = token;
    return NB_OK;
}

static int by_first_byte(const void *x, const void *y) {
    const ni_added_token *a = x, *b = y;
    const unsigned char first_a = (unsigned char)a->text[0], first_b = (unsigned char)b->text[0];
    if (first_a != first_b)
        return first_a < first_b ? -1 : 1;
    if (a->size != b->size)
        return a->size > b->size ? -1 : 1;
    const int order = memcmp(a->text, b->text, a->size);
    return order ? order : (a->id > b->id) - (a->id < b->id);
}

void ni_added_tokens_sort(ni_added_tokens *tokens) {
    if (tokens->count)
        qsort(tokens->list, tokens->count, sizeof *tokens->list, by_first_byte);
    size_t at = 0;
    for (int byte = 0; byte < 256; byte++) {
        tokens->first[byte] = (uint32_t)at;
        while (at < tokens->count && (unsigned char)tokens->list[at].text[0] == byte)
            at++;
    }
    tokens->first[256] = (uint32_t)at;
}

void ni_added_tokens_free(ni_added_tokens *tokens) {
    for (size_t i = 0; i < tokens->count; i++)
        free(tokens->list[i].text);
    free(tokens->list);
    *tokens = (ni_added_tokens){0};
}

static void take_white_space(const ni_added_token *token, const char *text, size_t size, size_t at, size_t *begin,
                             size_t *end) {
    while (token->left && *begin > at) {
        size_t before = *begin - 1;
        while (before > at && ((unsigned char)text[before] & 0xC0) == 0x80)
            before--;
        if (ni_utf8_space(text + before, *begin - before) != *begin - before)
            break;
        *begin = before;
    }
    for (size_t n; token->right && (n = ni_utf8_space(text + *end, size - *end)) > 0;)
        *end += n;
}

const ni_added_token *ni_added_tokens_find(const ni_added_tokens *tokens, const char *text, size_t size, size_t at,
                                           size_t *begin, size_t *end) {
    for (size_t i = at; tokens->count && i < size; i++) {
        const unsigned char byte = (unsigned char)text[i];
        for (uint32_t t = tokens->first[byte]; t < tokens->first[byte + 1]; t++) {
            const ni_added_token *token = &tokens->list[t];
            if (token->size > size - i || memcmp(text + i, token->text, token->size) != 0)
                continue;
            *begin = i;
            *end = i + token->size;
            take_white_space(token, text, size, at, begin, end);
            return token;
        }
    }
    return NULL;
}
