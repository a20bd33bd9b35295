/* report_public.c: nibble/report.h over report.h. */
#include "nibble/report.h"
#include "report/report.h"

nb_status nb_report_create(nb_report **out, nb_error *err) {
    ni_report *made = NULL;
    nb_status status = ni_report_create(&made, err);
    *out = (nb_report *)(void *)made;
    return status;
}

void nb_report_free(nb_report *report) {
    ni_report_free((ni_report *)(void *)report);
}

nb_status nb_report_add_run(nb_report *report, const char *folder, nb_error *err) {
    return ni_report_add_run((ni_report *)(void *)report, folder, NULL, err);
}

nb_status nb_report_write(nb_report *report, const char *path, nb_error *err) {
    return ni_report_write((ni_report *)(void *)report, path, err);
}
