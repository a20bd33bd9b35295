/* mechanism.c: the mechanisms that a recipe can ask for. */
#include "linear/mechanism.h"

const nb_mechanism *const nb_mechanisms[] = {NULL};
