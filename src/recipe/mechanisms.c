/* mechanisms.c: the list of mechanisms as the recipe room sees it. */
#include "recipe/mechanism.h"

#include <math.h>

#define ROW(name, about)                                                                                               \
    {#name, offsetof(nb_mechanism_set, has_##name), offsetof(nb_mechanism_set, name),                                  \
     sizeof(((nb_mechanism_set *)0)->name), &ni_##name##_section},
const ni_mechanism_row ni_mechanism_rows[] = {NB_MECHANISMS(ROW){0}};

nb_status ni_check_steps(const ni_yaml_node *node, const char *path, double steps, nb_error *err) {
    if (steps >= 1 && steps != floor(steps))
        return ni_keys_fail(err, node, path, "expected a share below 1 or a whole number of steps");
    return NB_OK;
}
