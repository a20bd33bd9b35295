/* report.c: `nibble report`: one page for one run or many. */
#include "report/report.h"

#include "cli/cli.h"
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_LIMIT 1024

typedef struct report_options {
    const char *out;
} report_options;

static const ni_option options[] = {
    {"out", 'o', NI_OPTION_TEXT, offsetof(report_options, out), "FILE", "the page to write (default: report.html)"},
    {0},
};

static const ni_command_line line = {
    .usage = "RUN... [-o report.html]",
    .about =
        "Writes one self-contained page about one run or many: loss curves, loss gaps to the BF16 twin, the table of\n"
        "runs, their recipes and censuses, and what the lens measured. RUN is a run folder (nibble train, compare).\n"
        "    nibble report runs/bf16 runs/nvfp4 -o report.html",
    .options = options,
    .least = 1,
    .most = -1,
};

static bool is_run(const char *folder, const char *name, char path[PATH_LIMIT]) {
    int length = snprintf(path, PATH_LIMIT, "%s%s%s/run.yaml", folder, *name ? "/" : "", name);
    bool found = length > 0 && length < PATH_LIMIT && access(path, F_OK) == 0;
    if (found)
        path[length - (int)strlen("/run.yaml")] = 0;
    return found;
}

/* The BF16 twins of a comparison come first. */
static int twins_first(const struct dirent **a, const struct dirent **b) {
    bool a_twin = strncmp((*a)->d_name, "bf16", 4) == 0, b_twin = strncmp((*b)->d_name, "bf16", 4) == 0;
    return a_twin != b_twin ? b_twin - a_twin : strcmp((*a)->d_name, (*b)->d_name);
}

/* Adds a run folder, or every run folder inside the folder of a comparison. */
static nb_status add(ni_report *report, const char *folder, nb_error *err) {
    char path[PATH_LIMIT];
    struct dirent **names;
    int count = is_run(folder, "", path) ? -1 : scandir(folder, &names, NULL, twins_first);
    if (count < 0)
        return ni_report_add_run(report, folder, NULL, err);
    nb_status status = NB_OK;
    int runs = 0;
    for (int i = 0; i < count; i++) {
        if (!status && names[i]->d_name[0] != '.' && is_run(folder, names[i]->d_name, path)) {
            status = ni_report_add_run(report, path, NULL, err);
            runs++;
        }
        free(names[i]);
    }
    free(names);
    return status || runs > 0 ? status
                              : nb_fail(err, NB_BAD_FILE,
                                        "%s: holds neither run.yaml nor folders with one; expected what "
                                        "nibble train or compare wrote",
                                        folder);
}

static nb_status fill(ni_report *report, int32_t count, char **folders, nb_error *err) {
    for (int32_t i = 0; i < count; i++)
        NB_TRY(add(report, folders[i], err));
    return NB_OK;
}

nb_status ni_cli_report(int argc, char **argv, nb_error *err) {
    report_options o = {.out = "report.html"};
    int32_t count;
    NB_TRY(ni_cli_parse(&line, argc, argv, &o, &count, err));
    if (count < 0)
        return NB_OK;
    ni_report *report;
    NB_TRY(ni_report_create(&report, err));
    nb_status status = fill(report, count, argv + 1, err);
    if (!status)
        status = ni_report_write(report, o.out, err);
    int32_t runs = ni_report_run_count(report);
    ni_report_free(report);
    if (status)
        return status;
    struct stat info;
    if (stat(o.out, &info) == 0)
        printf("%s: %d run%s, %.1f MB; open it in a browser\n", o.out, runs, runs == 1 ? "" : "s",
               (double)info.st_size / 1e6);
    return NB_OK;
}
