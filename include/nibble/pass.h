/* pass.h: when one forward or backward pass runs, with what noise, and who watches it. */
#ifndef NIBBLE_PASS_H
#define NIBBLE_PASS_H

#include "status.h"
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct nb_lens; /* lens.h: callbacks that see every operand as it is quantized */

typedef struct nb_pass {
    uint32_t step;  /* 0-based optimizer step */
    uint32_t steps; /* of the whole run; 0 = unknown. Mechanisms whose schedule is a share of the run need it. */
    uint32_t micro_batch;
    uint32_t rounding_seed;
    const uint32_t *clock; /* [2] the words step, micro_batch in backend memory, for kernels; the model sets it */
    bool forward_bf16, backward_bf16; /* late switch: ignore the quantizers of that direction */
    double z_loss;
    const struct nb_lens *lens; /* NULL: nobody looks, nothing is counted */
} nb_pass;

#ifdef __cplusplus
}
#endif
#endif
