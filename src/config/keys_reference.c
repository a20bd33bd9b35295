/* keys_reference.c: a table of keys as a Markdown page and as help text. */
#include "config/keys_walk.h"

#include <string.h>

static const char *type_name(const ni_key *row) {
    switch (row->type) {
    case NI_KEY_BOOL:
        return "true or false";
    case NI_KEY_INT:
        return "whole number";
    case NI_KEY_FLOAT:
        return "number";
    case NI_KEY_TEXT:
        return "text";
    case NI_KEY_CHOICE:
        return "word";
    case NI_KEY_TEXTS:
        return "list of texts";
    case NI_KEY_CUSTOM:
        return "";
    case NI_KEY_TABLE:
        return "keys";
    }
    return "";
}

/* "whole number, 1 to 8, or auto"; "even, up, stochastic". */
static void values_text(const ni_key *row, char *out, size_t size) {
    char range[96], words[400] = "";
    size_t used = 0;
    ni_keys_range(row, range, sizeof range);
    for (const ni_word *w = row->words; w && w->name && used < sizeof words - 1; w++)
        if (strcmp(w->name, "null") != 0)
            used += (size_t)snprintf(words + used, sizeof words - used, "%s%s", used ? ", " : "", w->name);
    if (row->range_text)
        snprintf(out, size, "%s", row->range_text);
    else if (row->type == NI_KEY_CHOICE)
        snprintf(out, size, "%s", words);
    else
        snprintf(out, size, "%s%s%s%s%s", type_name(row), *range ? ", " : "", range, *words ? ", or " : "", words);
}

static void default_text(const ni_key *row, char *out, size_t size) {
    if (row->default_text)
        snprintf(out, size, "%s", row->default_text);
    else if (row->type == NI_KEY_TABLE)
        snprintf(out, size, "%s", row->optional ? "absent" : "");
    else if (!row->fallback)
        snprintf(out, size, "required");
    else
        snprintf(out, size, "%s", *row->fallback ? row->fallback : "empty");
}

/* Calls `visit` for each row with its full path; a table that is mounted again (six roles share one) is visited once,
 * later mounts are only named. */
typedef struct visitor {
    FILE *to;
    void (*row)(struct visitor *v, const ni_key *row, const char *path, bool again);
    const ni_keys *seen[32];
    size_t seen_count;
    bool alone; /* keys without a section come first, the others in a second round */
    bool in_section;
    char section[NI_KEYS_PATH_SIZE]; /* first part of the last path */
} visitor;

static bool seen_before(visitor *v, const ni_keys *table) {
    for (size_t i = 0; i < v->seen_count; i++)
        if (v->seen[i] == table)
            return true;
    if (v->seen_count < NI_COUNT(v->seen))
        v->seen[v->seen_count++] = table;
    return false;
}

static void visit(visitor *v, const ni_keys *table, const char *prefix) {
    for (size_t i = 0; i < table->count; i++) {
        const ni_key *row = &table->rows[i];
        char path[NI_KEYS_PATH_SIZE];
        ni_keys_join(path, sizeof path, prefix, row->path);
        bool again = row->type == NI_KEY_TABLE && seen_before(v, row->table);
        v->row(v, row, path, again);
        if (row->type == NI_KEY_TABLE && !again)
            visit(v, row->table, path);
    }
}

/* ---- Markdown ---- */

static void print_cell(const char *text, FILE *to) {
    for (; *text; text++) {
        if (*text == '|')
            fputc('\\', to);
        fputc(*text, to);
    }
}

static void markdown_section(visitor *v, const char *name) {
    if (*name)
        fprintf(v->to, "\n## `%s`\n", name);
    else
        fputs("\n## General\n", v->to);
    fputs("\n| key | values | default | meaning |\n|---|---|---|---|\n", v->to);
    snprintf(v->section, sizeof v->section, "%s", name);
    v->in_section = true;
}

static void markdown_meaning(const ni_key *row, FILE *to) {
    print_cell(row->help ? row->help : "", to);
    for (const ni_word *w = row->words; w && w->name; w++)
        if (w->help) {
            fprintf(to, "; `%s`: ", w->name);
            print_cell(w->help, to);
        }
    if (row->source) {
        fputs(". Source: ", to);
        print_cell(row->source, to);
    }
}

static void markdown_row(visitor *v, const ni_key *row, const char *path, bool again) {
    char section[NI_KEYS_PATH_SIZE], values[512], fallback[256];
    size_t first = strcspn(path, ".");
    bool alone = path[first] == 0 && row->type != NI_KEY_TABLE;
    if (alone != v->alone)
        return;
    snprintf(section, sizeof section, "%.*s", alone ? 0 : (int)first, path);
    if (!v->in_section || strcmp(section, v->section) != 0)
        markdown_section(v, section);
    values_text(row, values, sizeof values);
    default_text(row, fallback, sizeof fallback);
    const char *quote = row->type != NI_KEY_TABLE && row->fallback && *row->fallback && !row->default_text ? "`" : "";
    fprintf(v->to, "| `%s` | ", path);
    print_cell(again ? "keys, as above" : values, v->to);
    fprintf(v->to, " | %s", quote);
    print_cell(fallback, v->to);
    fprintf(v->to, "%s | ", quote);
    markdown_meaning(row, v->to);
    fputs(" |\n", v->to);
}

void ni_keys_print_markdown(const ni_keys *table, FILE *to) {
    visitor v = {.to = to, .row = markdown_row};
    fprintf(to, "# The %s\n\n<!-- Written by `nibble help --markdown`; change the table of keys, not this page. -->\n",
            table->name);
    if (table->intro)
        fprintf(to, "\n%s", table->intro);
    for (int round = 0; round < 2; round++) {
        v.alone = round == 0;
        v.seen_count = 0;
        visit(&v, table, "");
    }
}

/* ---- help ---- */

static void help_row(visitor *v, const ni_key *row, const char *path, bool again) {
    char values[512], fallback[256];
    if (row->type == NI_KEY_TABLE) {
        fprintf(v->to, "  %-26s %s%s\n", path, row->help ? row->help : "", again ? " (keys as above)" : "");
        return;
    }
    values_text(row, values, sizeof values);
    default_text(row, fallback, sizeof fallback);
    fprintf(v->to, "  %-26s %s\n  %-26s   %s; default: %s\n", path, row->help ? row->help : "", "", values, fallback);
}

void ni_keys_print_help(const ni_keys *table, FILE *to) {
    visitor v = {.to = to, .row = help_row};
    fprintf(to, "Keys of the %s:\n\n", table->name);
    visit(&v, table, "");
}
