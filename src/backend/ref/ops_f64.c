/* ops_f64.c: the references of ref.h with everything in double. */
#include "backend/attention4.h"
#include "backend/ref/ref.h"
#include "backend/ref/scaled.h"
#include "format/ieee.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <tgmath.h>

#define REAL NB_F64
#define REF(name) ni_ref_f64_##name
typedef double act;
typedef double real;

static inline real to_real(act x) {
    return x;
}

static inline act to_act(real x) {
    return x;
}

#include "backend/ref/elementwise.inc"

#include "backend/ref/attention.inc"
#include "backend/ref/gate.inc"
#include "backend/ref/gla.inc"
#include "backend/ref/loss.inc"
#include "backend/ref/norm.inc"
#include "backend/ref/optimizer.inc"
#include "backend/ref/sphere.inc"
