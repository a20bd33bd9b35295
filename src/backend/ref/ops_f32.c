/* ops_f32.c: the references of ref.h with activations in BF16, arithmetic in FP32. */
#include "backend/attention4.h"
#include "backend/ref/ref.h"
#include "backend/ref/scaled.h"
#include "format/bf16.h"
#include "format/ieee.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <tgmath.h>

#define REAL NB_F32
#define REF(name) ni_ref_f32_##name
typedef uint16_t act;
typedef float real;

static inline real to_real(act x) {
    return ni_bf16_value(x);
}

static inline act to_act(real x) {
    return ni_bf16_even(x);
}

#include "backend/ref/elementwise.inc"

#include "backend/ref/attention.inc"
#include "backend/ref/gate.inc"
#include "backend/ref/gla.inc"
#include "backend/ref/loss.inc"
#include "backend/ref/norm.inc"
#include "backend/ref/optimizer.inc"
#include "backend/ref/sphere.inc"
