/* measures.h: what the report says about each measurement: where it stands, how it is coloured, what it means.
 *
 * One row a metric of docs/lens.md. A metric without a row (a mechanism's own number) is drawn all the same, under its
 * name. */
#ifndef NI_REPORT_MEASURES_H
#define NI_REPORT_MEASURES_H

#include "report/report.h"

/* How a metric is drawn. */
typedef enum ni_measure_kind {
    NI_MEASURE_SCALAR,   /* modules x steps */
    NI_MEASURE_CHANNELS, /* of one module: channels x steps, each over the median channel of its step */
    NI_MEASURE_PARTS,    /* of one module, and the mean of all: parts of a vector x steps */
    NI_MEASURE_TILES     /* of one module at one step: rows x columns of 16x16 tiles */
} ni_measure_kind;

typedef struct ni_measure {
    const char *metric; /* last part of the name in the series */
    ni_measure_kind kind;
    const char *theme; /* section of the page */
    const char *title;
    const char *about;   /* one plain sentence: what the picture shows */
    const char *formula; /* as in docs/lens.md */
    const char *unit;    /* may be NULL */
    ni_colours colours;
    double floor; /* of the colours; 0 = none */
    bool low_is_bad;
    const char *y_label;               /* of parts */
    const char *(*part)(int32_t part); /* name of a part; NULL: its number */
    const char *operands;              /* whose vectors are drawn, separated by spaces; NULL: all */
} ni_measure;

/* A section of the page, in the order in which they stand. */
typedef struct ni_theme {
    const char *name, *about;
} ni_theme;

extern const ni_theme ni_themes[];     /* ends with a NULL name; the last takes what has no row in ni_measures */
extern const ni_measure ni_measures[]; /* ends with a NULL metric; in the order of the page's menus */

const ni_measure *ni_measure_find(const char *metric); /* NULL if there is no row */

#endif
