/* report_table.h: the gaps of runs that are there already, as nibble compare prints them. */
#ifndef NI_CLI_REPORT_TABLE_H
#define NI_CLI_REPORT_TABLE_H

#include "report/report.h"

nb_status ni_report_print_gaps(const ni_report *report, nb_error *err);

#endif
