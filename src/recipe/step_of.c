/* step_of.c: points in time that a recipe file gives in steps or in shares of the run. */
#include "nibble/recipe.h"

#include <math.h>

/* The small step back keeps 0.07 of 100 at 7 although neither 0.07 nor the product is exact in binary. */
int64_t nb_step_of(double point, int64_t steps) {
    return (int64_t)(point < 1 ? ceil(point * (double)steps - 1e-9) : point);
}
