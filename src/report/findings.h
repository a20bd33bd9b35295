/* findings.h: what stands out in a run's measurements, named: layer, role, channel. Thresholds are in docs/report.md.
 */
#ifndef NI_REPORT_FINDINGS_H
#define NI_REPORT_FINDINGS_H

#include "report/sampled.h"

enum { NI_FINDING_TEXT = 512 };

typedef struct ni_finding {
    const char *kind;             /* "Hot channels" */
    const char *metric;           /* what to draw to see it: a row of ni_measures, ... */
    const char *module, *operand; /* ... this module and operand; inside the samples' memory; operand may be "" */
    int64_t step;                 /* of the sample that shows it */
    double weight;                /* of two findings of one kind the heavier is the worse */
    char text[NI_FINDING_TEXT];
} ni_finding;

/* Fills findings[most], worst kinds first, and of each kind the worst few; returns how many. */
int32_t ni_findings(const ni_samples *samples, ni_finding *findings, int32_t most);

#endif
