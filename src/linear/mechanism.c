/* mechanism.c: the mechanisms that a recipe can ask for, in the order in which their hooks run. */
#include "linear/mechanism.h"

#define ONE(name, about) extern const ni_mechanism ni_mechanism_##name;
NB_MECHANISMS(ONE)
#undef ONE

#define ONE(name, about) &ni_mechanism_##name,
const ni_mechanism *const ni_mechanisms[] = {NB_MECHANISMS(ONE) NULL};
