/* track.h: pieces of the lens's measurements that faster code shares: one column, one row. Fixed in order. */
#ifndef NI_BACKEND_REF_TRACK_H
#define NI_BACKEND_REF_TRACK_H

#include "backend/table.h"

/* Column c: least, greatest, sum, sum of squares of a + bias; sums of x^2, (x - y)^2, x y. */
void ni_gate_column(const nb_mat *a, const nb_mat *bias, int64_t c, double out[4]);
void ni_pair_column(const nb_mat *x, const nb_mat *y, int64_t c, double out[3]);

/* |cos| of rows r of both. */
double ni_row_alignment(const nb_mat *a, const nb_mat *b, int64_t r);

/* Bin of moved_q / moved_w, 0 to 11. */
int ni_ratio_bin(float moved_q, float moved_w);
/* Bin of 20 |w - q| / width, 0 to 9; -1: left out. */
int ni_distance_bin(float w, float q, float width);

#endif
