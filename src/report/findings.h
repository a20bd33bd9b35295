/* findings.h: what stands out in a run's measurements, named: layer, role, channel. Thresholds are in docs/report.md.
 */
#ifndef NB_REPORT_FINDINGS_H
#define NB_REPORT_FINDINGS_H

#include "report/sampled.h"

enum { NB_FINDING_TEXT = 512 };

typedef struct nb_finding {
    const char *kind;             /* "Hot channels" */
    const char *metric;           /* what to draw to see it: a row of nb_measures, ... */
    const char *module, *operand; /* ... this module and operand; inside the samples' memory; operand may be "" */
    int64_t step;                 /* of the sample that shows it */
    double weight;                /* of two findings of one kind the heavier is the worse */
    char text[NB_FINDING_TEXT];
} nb_finding;

/* Fills findings[most], worst kinds first, and of each kind the worst few; returns how many. */
int32_t nb_findings(const nb_samples *samples, nb_finding *findings, int32_t most);

#endif
