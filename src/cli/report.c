/* report.c: `nibble report`: one page for one run or many. */
#include "report/report.h"

#include "cli/cli.h"
#include "cli/report_table.h"
#include "cli/runs.h"
#include <stdio.h>
#include <sys/stat.h>

typedef struct report_options {
    const char *out;
    bool table;
} report_options;

static const ni_option options[] = {
    {"out", 'o', NI_OPTION_TEXT, offsetof(report_options, out), "FILE", "the page to write (default: report.html)"},
    {"table", 't', NI_OPTION_FLAG, offsetof(report_options, table), NULL,
     "print the gaps to BF16 in nats and write no page"},
    {0},
};

static const ni_command_line line = {
    .usage = "RUN... [-o report.html | --table]",
    .about =
        "Writes one self-contained page about one run or many: loss curves, loss gaps to the BF16 twin, the table of\n"
        "runs, their recipes and censuses, and what the lens measured. RUN is a run folder, or one that holds runs.\n"
        "    nibble report runs/bf16 runs/nvfp4 -o report.html\n"
        "--table prints what nibble compare prints, of any runs: a row a recipe, runs that differ in their seeds "
        "alone\n"
        "side by side, the mean gap with its 95 % interval, and which recipes are apart.\n"
        "    nibble report results/quartet-152e6 --table",
    .options = options,
    .least = 1,
    .most = -1,
};

static nb_status add(void *report, const char *run, nb_error *err) {
    return ni_report_add_run(report, run, NULL, err);
}

static nb_status write_page(ni_report *report, const char *path, nb_error *err) {
    struct stat info;
    const int32_t runs = ni_report_run_count(report);
    NB_TRY(ni_report_write(report, path, err));
    if (stat(path, &info) == 0)
        printf("%s: %d run%s, %.1f MB; open it in a browser\n", path, runs, runs == 1 ? "" : "s",
               (double)info.st_size / 1e6);
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
    nb_status status = ni_cli_each_run(count, argv + 1, add, report, err);
    if (!status)
        status = o.table ? ni_report_print_gaps(report, err) : write_page(report, o.out, err);
    ni_report_free(report);
    return status;
}
