/* mechanism.c: the mechanisms that a recipe can ask for, in the order in which their hooks run. */
#include "linear/mechanism.h"

extern const ni_mechanism ni_mechanism_occ, ni_mechanism_hcp, ni_mechanism_outcontrol, ni_mechanism_qema,
    ni_mechanism_dge, ni_mechanism_oscireset;

const ni_mechanism *const ni_mechanisms[] = {&ni_mechanism_occ,
                                             &ni_mechanism_hcp,
                                             &ni_mechanism_outcontrol,
                                             &ni_mechanism_qema,
                                             &ni_mechanism_dge,
                                             &ni_mechanism_oscireset,
                                             NULL};
