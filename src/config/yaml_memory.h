/* yaml_memory.h: inside the YAML tree: several texts parsed into the memory of one tree. */
#ifndef NB_CONFIG_YAML_MEMORY_H
#define NB_CONFIG_YAML_MEMORY_H

#include "config/yaml.h"

#define NB_YAML_KEY_SIZE 256 /* of one part of a dotted path */

/* Zeroed memory that lives as long as the tree; NULL if there is none. */
void *nb_yaml_alloc(nb_yaml *doc, size_t size);
char *nb_yaml_text(nb_yaml *doc, const char *text, size_t size); /* a copy with a 0 after it */

/* As nb_yaml_parse and nb_yaml_load; the nodes go into doc's memory, doc->root stays as it is. `lines` false: the text
 * has no line numbers worth naming. */
nb_status nb_yaml_parse_into(nb_yaml *doc, const char *bytes, size_t size, const char *name, bool lines,
                             nb_yaml_node **root, nb_error *err);
nb_status nb_yaml_load_into(nb_yaml *doc, const char *path, nb_yaml_node **root, nb_error *err);

#endif
