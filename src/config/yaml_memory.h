/* yaml_memory.h: inside the YAML tree: several texts parsed into the memory of one tree. */
#ifndef NI_CONFIG_YAML_MEMORY_H
#define NI_CONFIG_YAML_MEMORY_H

#include "config/yaml.h"

#define NI_YAML_KEY_SIZE 256 /* of one part of a dotted path */

/* Zeroed memory that lives as long as the tree; NULL if there is none. */
void *ni_yaml_alloc(ni_yaml *doc, size_t size);
char *ni_yaml_text(ni_yaml *doc, const char *text, size_t size); /* a copy with a 0 after it */

/* As ni_yaml_parse and ni_yaml_load; the nodes go into doc's memory, doc->root stays as it is. `lines` false: the text
 * has no line numbers worth naming. */
nb_status ni_yaml_parse_into(ni_yaml *doc, const char *bytes, size_t size, const char *name, bool lines,
                             ni_yaml_node **root, nb_error *err);
nb_status ni_yaml_load_into(ni_yaml *doc, const char *path, ni_yaml_node **root, nb_error *err);

/* Fails by errno: a file that is not there is the mistake of who named it, anything else the system's. */
nb_status ni_yaml_fail_open(const char *path, nb_error *err);

#endif
