/* cli.c: options by table, and where the shipped files are. */
#include "cli/cli.h"
#include "backend/table.h"
#include "config/suggest.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- help ---- */

static void print_usage(const char *command, const char *usage) {
    const char *lead = "Usage:";
    for (const char *line = usage; *line;) {
        int n = (int)strcspn(line, "\n");
        printf("%s nibble %s%s%.*s\n", lead, command, n ? " " : "", n, line);
        lead = "      ";
        line += n + (line[n] == '\n');
    }
}

enum { HELP_COLUMN = 33, HELP_WIDTH = 120 };

/* Its help stands behind its name in lines of HELP_WIDTH; a name that is longer has a line of its own. */
static void print_option(const ni_option *o) {
    char letter[8] = "";
    if (o->letter)
        snprintf(letter, sizeof letter, "-%c, ", o->letter);
    int column = printf("  %4s--%s%s%s", letter, o->name, o->value ? " " : "", o->value ? o->value : "");
    bool begins = true; /* a line of help */
    if (column >= HELP_COLUMN)
        column = printf("\n") - 1;
    for (const char *word = o->help; *word; word += strspn(word, " ")) {
        const int length = (int)strcspn(word, " ");
        if (!begins && column + 1 + length > HELP_WIDTH) {
            begins = true;
            column = printf("\n") - 1;
        }
        column += printf("%*s%.*s", begins ? HELP_COLUMN - column : 1, "", length, word);
        begins = false;
        word += length;
    }
    putchar('\n');
}

static void print_help(const ni_command_line *line, const char *command) {
    print_usage(command, line->usage);
    printf("\n%s\n", line->about);
    if (line->options && line->options->name)
        puts("\nOptions:");
    for (const ni_option *o = line->options; o && o->name; o++)
        print_option(o);
}

/* ---- options ---- */

static const ni_option *find_option(const ni_option *options, const char *name, size_t length) {
    for (const ni_option *o = options; o && o->name; o++)
        if (strlen(o->name) == length && memcmp(o->name, name, length) == 0)
            return o;
    return NULL;
}

static const ni_option *find_letter(const ni_option *options, char letter) {
    for (const ni_option *o = options; o && o->name; o++)
        if (o->letter == letter)
            return o;
    return NULL;
}

static nb_status fail_unknown(const ni_command_line *line, const char *command, const char *word, nb_error *err) {
    const char *name = word + strspn(word, "-");
    char alone[64];
    snprintf(alone, sizeof alone, "%.*s", (int)strcspn(name, "="), name);
    ni_suggestion s = ni_suggest(alone);
    for (const ni_option *o = line->options; o && o->name; o++)
        ni_suggest_offer(&s, o->name);
    if (s.best)
        return nb_fail(err, NB_BAD_USAGE, "%s: unknown option %.60s; did you mean --%s?", command, word, s.best);
    return nb_fail(err, NB_BAD_USAGE, "%s: unknown option %.60s (see: nibble help %s)", command, word, command);
}

static nb_status store(const ni_option *o, const char *command, const char *text, void *fields, nb_error *err) {
    void *field = (char *)fields + o->offset;
    char *end;
    errno = 0;
    switch (o->type) {
    case NI_OPTION_FLAG:
        *(bool *)field = true;
        return NB_OK;
    case NI_OPTION_TEXT:
        *(const char **)field = text;
        return NB_OK;
    case NI_OPTION_INT: {
        long long value = strtoll(text, &end, 10);
        if (!*text || *end || errno)
            return nb_fail(err, NB_BAD_USAGE, "%s: --%s: expected a whole number, found '%.60s'", command, o->name,
                           text);
        *(int64_t *)field = value;
        return NB_OK;
    }
    case NI_OPTION_FLOAT: {
        double value = strtod(text, &end);
        if (!*text || *end || !isfinite(value))
            return nb_fail(err, NB_BAD_USAGE, "%s: --%s: expected a number, found '%.60s'", command, o->name, text);
        *(double *)field = value;
        return NB_OK;
    }
    case NI_OPTION_TEXTS: {
        ni_texts *texts = field;
        if (texts->count == NI_TEXTS_MAX)
            return nb_fail(err, NB_BAD_USAGE, "%s: --%s is given more than %d times", command, o->name, NI_TEXTS_MAX);
        texts->items[texts->count++] = text;
        return NB_OK;
    }
    }
    return nb_fail(err, NB_INTERNAL, "%s: --%s has no type", command, o->name);
}

/* One option at argv[*i]; takes the next word as its value where it needs one. */
static nb_status take_option(const ni_command_line *line, int argc, char **argv, int *i, void *fields, nb_error *err) {
    const char *word = argv[*i], *command = argv[0], *value = NULL;
    const ni_option *o;
    if (word[1] == '-') {
        size_t length = strcspn(word + 2, "=");
        o = find_option(line->options, word + 2, length);
        value = word[2 + length] == '=' ? word + 3 + length : NULL;
    } else {
        o = find_letter(line->options, word[1]);
        value = word[2] ? word + 2 : NULL;
    }
    if (!o || (o->type == NI_OPTION_FLAG && value && word[1] != '-'))
        return fail_unknown(line, command, word, err);
    if (o->type == NI_OPTION_FLAG && value)
        return nb_fail(err, NB_BAD_USAGE, "%s: --%s takes no value", command, o->name);
    if (o->type != NI_OPTION_FLAG && !value) {
        if (*i + 1 >= argc)
            return nb_fail(err, NB_BAD_USAGE, "%s: --%s needs a value: %s", command, o->name,
                           o->value ? o->value : "VALUE");
        value = argv[++*i];
    }
    return store(o, command, value, fields, err);
}

nb_status ni_cli_range(const char *option, double value, double low, double high, nb_error *err) {
    char end[40] = " or more";
    if (value >= low && value <= high)
        return NB_OK;
    if (isfinite(high))
        snprintf(end, sizeof end, " to %.15g", high);
    return nb_fail(err, NB_BAD_USAGE, "--%s: %.15g; expected %.15g%s", option, value, low, end);
}

/* True for "-1", ".5": a number is an argument, not an option. */
static bool is_argument(const char *word) {
    return word[0] != '-' || word[1] == 0 || (word[1] >= '0' && word[1] <= '9') || word[1] == '.';
}

/* Every way to call it, in one line. */
static const char *usage_of(const ni_command_line *line, const char *command, char *text, size_t size) {
    size_t used = 0;
    for (const char *way = line->usage; used < size;) {
        const int length = (int)strcspn(way, "\n");
        used +=
            (size_t)snprintf(text + used, size - used, "%snibble %s %.*s", used ? ", or: " : "", command, length, way);
        if (!way[length])
            break;
        way += length + 1;
    }
    return text;
}

static nb_status check_count(const ni_command_line *line, const char *command, char **argv, int32_t count,
                             nb_error *err) {
    char usage[600];
    if (count < line->least)
        return nb_fail(err, NB_BAD_USAGE, "%s: something is missing; usage: %s", command,
                       usage_of(line, command, usage, sizeof usage));
    if (line->most >= 0 && count > line->most)
        return nb_fail(err, NB_BAD_USAGE, "%s: '%.60s' is one argument too many; usage: %s", command,
                       argv[line->most + 1], usage_of(line, command, usage, sizeof usage));
    return NB_OK;
}

nb_status ni_cli_parse(const ni_command_line *line, int argc, char **argv, void *fields, int32_t *count,
                       nb_error *err) {
    bool options = true;
    *count = 0;
    for (int i = 1; i < argc; i++) {
        if (options && (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)) {
            print_help(line, argv[0]);
            *count = -1;
            return NB_OK;
        }
        if (options && strcmp(argv[i], "--") == 0)
            options = false;
        else if (options && !is_argument(argv[i]))
            NB_TRY(take_option(line, argc, argv, &i, fields, err));
        else
            argv[++*count] = argv[i]; /* never beyond i: what was there is taken */
    }
    return check_count(line, argv[0], argv, *count, err);
}

/* ---- folders ---- */

bool ni_cli_is_folder(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* root/between/kind, without the ".." in it. */
static bool try_folder(char *path, size_t size, const char *root, const char *between, const char *kind) {
    char joined[4096];
    int n = snprintf(joined, sizeof joined, "%s/%s%s", root, between, kind);
    if (n < 0 || (size_t)n >= sizeof joined || !ni_cli_is_folder(joined))
        return false;
    char *real = realpath(joined, NULL);
    bool fits = real && strlen(real) < size;
    if (fits)
        memcpy(path, real, strlen(real) + 1);
    free(real);
    return fits;
}

nb_status ni_cli_folder(const char *kind, char *path, size_t size, nb_error *err) {
    const char *home = getenv("NIBBLE_HOME");
    if (home && *home) {
        if (try_folder(path, size, home, "", kind))
            return NB_OK;
        return nb_fail(err, NB_BAD_USAGE, "NIBBLE_HOME is %.200s, which holds no folder '%s'", home, kind);
    }
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n > 0) {
        self[n] = 0;
        char *slash = strrchr(self, '/');
        if (slash)
            *slash = 0;
        /* In a build, installed, and in a folder that holds everything (scripts/gpu-check). */
        if (try_folder(path, size, self, "../", kind) || try_folder(path, size, self, "../share/nibble/", kind) ||
            try_folder(path, size, self, "", kind))
            return NB_OK;
    }
    if (try_folder(path, size, NIBBLE_SOURCE_DIR, "", kind))
        return NB_OK;
    return nb_fail(err, NB_IO_ERROR, "the folder '%s' of nibble is not found; set NIBBLE_HOME to where it is", kind);
}

int32_t ni_cli_threads(int64_t threads) {
    return threads < 0 || threads > INT32_MAX ? -1 : (int32_t)threads;
}

nb_status ni_cli_open(const char *backend, int64_t threads, nb_backend **out, nb_error *err) {
    if (threads < 0 || threads > NI_MOST_THREADS)
        return nb_fail(err, NB_BAD_USAGE, "--threads: %lld; expected 0 (all) to %d", (long long)threads,
                       NI_MOST_THREADS);
    const nb_backend_options options = {.threads = (int32_t)threads};
    return nb_backend_open(backend, &options, out, err);
}
