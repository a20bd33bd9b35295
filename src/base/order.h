/* order.h: orders for qsort. */
#ifndef NI_BASE_ORDER_H
#define NI_BASE_ORDER_H

/* Doubles, the least first. */
static inline int ni_rising(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

#endif
