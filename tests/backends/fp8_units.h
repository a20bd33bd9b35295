/* fp8_units.h: what units for 8 bits of compute capability 9.0 make of a sum of products, to the bit.
 *
 * An instruction adds 32 products and the sum that it carries. Each of the 33 is cut, towards zero, to 13 bits behind
 * the largest exponent among them (a product's is the sum of its factors' as they are stored), and so is what comes
 * out; every 128 products the sum moves into an FP32 one (fast accumulation off). arXiv:2511.10909 and 2512.07004 found
 * the instruction; that cuBLASLt 13.1 gives these very bits on an H200, with scales of rows and of tensors, is a row of
 * docs/ledger.md.
 *
 * So an instruction loses at most 34 times 2^-13 of the largest of its addends, a sum of any length at most
 * 4 * 34 * 2^-13 = 1.7 % of the sum of magnitudes; what it does lose depends on how many bits the numbers have.
 * Products of E2M1 codes are quarters up to 36, and 14 bits hold every quarter below 4096: 128 of them lose nothing
 * unless they add up to that (114 times 6 by 6). With INT4 codes (up to 7) on one side or both, products of four bits
 * lose nothing.
 */
#ifndef NI_TEST_FP8_UNITS_H
#define NI_TEST_FP8_UNITS_H

#include "trial.h"

/* `least`: the exponent of the smallest normal number of each side's element. */
double fp8_units_sum(const double *a, int a_least, const double *b, int b_least, int64_t k);

/* How far that is from the exact product of x, as a left operand under `pair[0]`, and w, as a right one under pair[1]:
 * [x->rows, w->rows], scales included, in units of U. Host matrices. */
double *fp8_units_cut(const nb_quantizer pair[2], const nb_mat *x, const nb_mat *w);

#endif
