/* report_page.c: writes a report as one page.
 *
 * The page is a template (src/report/page/page.html) with places for the styles, the data, Dygraphs, the scripts, and
 * the panels of the lens, which come last because there may be megabytes of them.
 */
#include "report/report.h"

#include "files/file.h"
#include "files/json.h"
#include "report/report_build.h"
#include <string.h>
#include <time.h>

/* What a screen shows of them has seven digits at most, and is not rounded twice but once in hundreds of times. */
#define DUMP_FLAGS (JSON_COMPACT | JSON_REAL_PRECISION(9))

typedef struct page_out {
    ni_writer *writer;
    nb_error *err;
    bool failed; /* jansson goes on behind some pieces that it could not hand over */
} page_out;

/* JSON inside HTML: "<" occurs in JSON only inside strings, and written as an escape no text can end the script. */
static int put_json(const char *text, size_t size, void *user) {
    page_out *out = user;
    while (size > 0 && !out->failed) {
        const char *bracket = memchr(text, '<', size);
        size_t plain = bracket ? (size_t)(bracket - text) : size;
        out->failed = ni_writer_put(out->writer, text, plain, out->err) != NB_OK;
        text += plain;
        size -= plain;
        if (bracket && !out->failed) {
            out->failed = ni_writer_put(out->writer, "\\u003c", 6, out->err) != NB_OK;
            text++;
            size--;
        }
    }
    return out->failed ? -1 : 0;
}

static bool is_name(const char *text, size_t length, const char *name) {
    return strlen(name) == length && memcmp(text, name, length) == 0;
}

static const ni_page_file *page_file(const char *name, size_t length) {
    for (const ni_page_file *file = ni_page_files; file->name; file++)
        if (is_name(name, length, file->name))
            return file;
    return NULL;
}

/* Dygraphs ends with a comment that sends debuggers to a file which is not there. */
static size_t without_source_map(const ni_page_file *file) {
    static const char mark[] = "sourceMappingURL=";
    size_t from = file->size > 200 ? file->size - 200 : 0;
    for (size_t i = from; i + sizeof mark - 1 <= file->size; i++)
        if (memcmp(file->text + i, mark, sizeof mark - 1) == 0)
            return i - strlen("//# ");
    return file->size;
}

/* An object's values in another one, but for two of them: json_copy leaves out silently what it has no memory for. */
static json_t *copy_without(json_t *object, const char *a, const char *b) {
    json_t *copy = json_object(), *value;
    const char *key;
    json_object_foreach(object, key, value) {
        if (strcmp(key, a) != 0 && strcmp(key, b) != 0)
            ni_json_put(&copy, key, json_incref(value));
    }
    return copy;
}

/* The report with its series packed and without its panels, for the page alone. */
static json_t *packed_root(const ni_report *report) {
    json_t *root = copy_without(report->root, "runs", "runs"), *runs = json_array();
    for (size_t i = 0; i < json_array_size(report->runs); i++) {
        json_t *run = json_array_get(report->runs, i), *copy = copy_without(run, "series", "panels");
        ni_json_put(&copy, "series", ni_report_packed_series(json_object_get(run, "series")));
        ni_json_push(&runs, copy);
    }
    ni_json_put(&root, "runs", runs);
    return root;
}

/* Every run's panels: an array of arrays. */
static json_t *panels_of(const ni_report *report) {
    json_t *all = json_array();
    for (size_t i = 0; i < json_array_size(report->runs); i++)
        ni_json_push(&all, json_incref(json_object_get(json_array_get(report->runs, i), "panels")));
    return all;
}

/* Takes over `data`. */
static nb_status put_data(json_t *data, ni_writer *writer, nb_error *err) {
    if (!data)
        return nb_fail(err, NB_NO_MEMORY, "report: out of memory");
    page_out out = {writer, err, false};
    int failed = json_dump_callback(data, put_json, &out, DUMP_FLAGS);
    json_decref(data);
    if (!failed && !out.failed)
        return NB_OK;
    return err->status ? err->status : nb_fail(err, NB_IO_ERROR, "report: cannot write the data");
}

/* Writes the template, each {{name}} replaced by the page file of that name, {{data}} by the report. */
static nb_status put_page(ni_report *report, ni_writer *writer, nb_error *err) {
    const ni_page_file *page = page_file("page.html", strlen("page.html"));
    const char *at = page->text, *end = page->text + page->size;
    for (const char *open; (open = strstr(at, "{{")) != NULL;) {
        const char *close = strstr(open, "}}");
        if (!close)
            break;
        NB_TRY(ni_writer_put(writer, at, (size_t)(open - at), err));
        const char *name = open + 2;
        size_t length = (size_t)(close - name);
        if (is_name(name, length, "data")) {
            NB_TRY(put_data(packed_root(report), writer, err));
        } else if (is_name(name, length, "panels")) {
            NB_TRY(put_data(panels_of(report), writer, err));
        } else {
            const ni_page_file *file = page_file(name, length);
            if (!file)
                return nb_fail(err, NB_INTERNAL, "report: page.html asks for \"%.*s\"", (int)length, name);
            NB_TRY(ni_writer_put(writer, file->text, without_source_map(file), err));
        }
        at = close + 2;
    }
    return ni_writer_put(writer, at, (size_t)(end - at), err);
}

nb_status ni_report_write(ni_report *report, const char *path, nb_error *err) {
    nb_error inner = {0};
    err = err ? err : &inner;
    NB_TRY(ni_report_resolve(report, err));
    char now[32];
    time_t seconds = time(NULL);
    struct tm utc;
    strftime(now, sizeof now, "%Y-%m-%d %H:%M UTC", gmtime_r(&seconds, &utc));
    if (json_object_set_new(report->root, "written", json_string(now)))
        return nb_fail(err, NB_NO_MEMORY, "report: out of memory");
    ni_writer *writer;
    NB_TRY(ni_writer_open(path, &writer, err));
    nb_status status = put_page(report, writer, err);
    if (status) {
        ni_writer_abandon(writer);
        return status;
    }
    return ni_writer_commit(writer, err);
}
