/* mechanism.c: the mechanisms that a recipe can ask for, in the order in which their hooks run. */
#include "linear/mechanism.h"

extern const nb_mechanism nb_mechanism_occ, nb_mechanism_hcp, nb_mechanism_outcontrol, nb_mechanism_qema,
    nb_mechanism_dge, nb_mechanism_oscireset;

const nb_mechanism *const nb_mechanisms[] = {&nb_mechanism_occ,
                                             &nb_mechanism_hcp,
                                             &nb_mechanism_outcontrol,
                                             &nb_mechanism_qema,
                                             &nb_mechanism_dge,
                                             &nb_mechanism_oscireset,
                                             NULL};
