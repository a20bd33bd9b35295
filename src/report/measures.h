/* measures.h: what the report says about each measurement: where it stands, how it is coloured, what it means.
 *
 * One row a metric of docs/lens.md. A metric without a row (a mechanism's own number) is drawn all the same, under its
 * name. */
#ifndef NB_REPORT_MEASURES_H
#define NB_REPORT_MEASURES_H

#include "report/report.h"

/* How a metric is drawn. */
typedef enum nb_measure_kind {
    NB_MEASURE_SCALAR,   /* modules x steps */
    NB_MEASURE_CHANNELS, /* of one module: channels x steps, each over the median channel of its step */
    NB_MEASURE_PARTS     /* of one module, and the mean of all: parts of a vector x steps */
} nb_measure_kind;

typedef struct nb_measure {
    const char *metric; /* last part of the name in the series */
    nb_measure_kind kind;
    const char *theme; /* section of the page */
    const char *title;
    const char *about;   /* one plain sentence: what the picture shows */
    const char *formula; /* as in docs/lens.md */
    const char *unit;    /* may be NULL */
    nb_colours colours;
    double floor; /* of the colours; 0 = none */
    bool low_is_bad;
    const char *y_label;               /* of parts */
    const char *(*part)(int32_t part); /* name of a part; NULL: its number */
    const char *operands;              /* whose vectors are drawn, separated by spaces; NULL: all */
} nb_measure;

/* A section of the page, in the order in which they stand. */
typedef struct nb_theme {
    const char *name, *about;
} nb_theme;

extern const nb_theme nb_themes[];     /* ends with a NULL name; the last takes what has no row in nb_measures */
extern const nb_measure nb_measures[]; /* ends with a NULL metric; in the order of the page's menus */

const nb_measure *nb_measure_find(const char *metric); /* NULL if there is no row */

#endif
