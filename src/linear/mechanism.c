/* mechanism.c: the mechanisms that a recipe can ask for, in the order in which their hooks run. The last has no
 * section: it stands behind `outer: delayed` of an operand. */
#include "linear/mechanism.h"

#define ONE(name, about) extern const ni_mechanism ni_mechanism_##name;
NB_MECHANISMS(ONE)
#undef ONE

extern const ni_mechanism ni_mechanism_outer;

#define ONE(name, about) &ni_mechanism_##name,
const ni_mechanism *const ni_mechanisms[] = {NB_MECHANISMS(ONE) & ni_mechanism_outer, NULL};
