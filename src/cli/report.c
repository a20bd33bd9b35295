/* report.c: `nibble report`: one page for one run or many. */
#include "lens/report.h"

#include "cli/cli.h"
#include <stdio.h>
#include <sys/stat.h>

typedef struct report_options {
    const char *out;
} report_options;

static const nb_option options[] = {
    {"out", 'o', NB_OPTION_TEXT, offsetof(report_options, out), "FILE", "the page to write (default: report.html)"},
    {0},
};

static const nb_command_line line = {
    .usage = "RUN... [-o report.html]",
    .about =
        "Writes one self-contained page about one run or many: loss curves, loss gaps to the BF16 twin, the table of\n"
        "runs, their recipes and censuses, and what the lens measured. RUN is a run folder (nibble train, compare).\n"
        "    nibble report runs/bf16 runs/nvfp4 -o report.html",
    .options = options,
    .least = 1,
    .most = -1,
};

static nb_status fill(nb_report *report, int32_t count, char **folders, nb_error *err) {
    for (int32_t i = 0; i < count; i++)
        NB_TRY(nb_report_add_run(report, folders[i], NULL, err));
    return NB_OK;
}

nb_status nb_cli_report(int argc, char **argv, nb_error *err) {
    report_options o = {.out = "report.html"};
    int32_t count;
    NB_TRY(nb_cli_parse(&line, argc, argv, &o, &count, err));
    if (count < 0)
        return NB_OK;
    nb_report *report;
    NB_TRY(nb_report_create(&report, err));
    nb_status status = fill(report, count, argv + 1, err);
    if (!status)
        status = nb_report_write(report, o.out, err);
    nb_report_free(report);
    if (status)
        return status;
    struct stat info;
    if (stat(o.out, &info) == 0)
        printf("%s: %d run%s, %.1f MB; open it in a browser\n", o.out, count, count == 1 ? "" : "s",
               (double)info.st_size / 1e6);
    return NB_OK;
}
