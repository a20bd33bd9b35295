/* mechanism_keys.h: the keys of each mechanism's section of a recipe file. */
#ifndef NB_RECIPE_MECHANISM_KEYS_H
#define NB_RECIPE_MECHANISM_KEYS_H

#include "config/keys.h"

extern const nb_keys nb_dge_keys, nb_occ_keys, nb_hcp_keys, nb_outcontrol_keys, nb_oscireset_keys, nb_qema_keys;

#endif
