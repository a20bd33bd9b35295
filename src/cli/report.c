/* report.c: `nibble report`: one page for one run or many. */
#include "report/report.h"

#include "cli/cli.h"
#include "cli/runs.h"
#include <stdio.h>
#include <sys/stat.h>

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
        "runs, their recipes and censuses, and what the lens measured. RUN is a run folder, or one that holds runs.\n"
        "    nibble report runs/bf16 runs/nvfp4 -o report.html",
    .options = options,
    .least = 1,
    .most = -1,
};

static nb_status add(void *report, const char *run, nb_error *err) {
    return ni_report_add_run(report, run, NULL, err);
}

nb_status ni_cli_report(int argc, char **argv, nb_error *err) {
    report_options o = {.out = "report.html"};
    int32_t count;
    NB_TRY(ni_cli_parse(&line, argc, argv, &o, &count, err));
    if (count < 0)
        return NB_OK;
    ni_report *report;
    NB_TRY(ni_report_create(&report, err));
    nb_status status = ni_cli_each_run(count, argv + 1, add, report, err);
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
