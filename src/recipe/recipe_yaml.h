/* recipe_yaml.h: a recipe file as a table of keys. */
#ifndef NB_RECIPE_RECIPE_YAML_H
#define NB_RECIPE_RECIPE_YAML_H

#include "nibble/recipe.h"
#include "recipe/quantizer_yaml.h"

/* What the keys are read into: the recipe, and its roles as the file says them. */
typedef struct nb_recipe_file {
    nb_recipe recipe;
    nb_operand_fields roles[NB_ROLE_COUNT];
} nb_recipe_file;

extern const nb_keys nb_recipe_keys; /* over nb_recipe_file */

/* A map that names `format` or `from` is a new operand: it replaces the one in the base, whole. */
bool nb_recipe_replaces(const nb_yaml_node *over);

/* Reads and checks a tree. */
nb_status nb_recipe_read(const nb_yaml_node *root, nb_recipe *out, nb_error *err);

/* nb_recipe_load that keeps the tree: it knows where each value was written. Free it with nb_yaml_free. */
nb_status nb_recipe_load_tree(const char *name_or_path, const char *recipes_dir, nb_recipe *out, nb_yaml *tree,
                              nb_error *err);

/* Checks what a table cannot: `from` and `via`, and the pairs of each GEMM. `root` may be NULL. */
nb_status nb_recipe_check(const nb_recipe *recipe, const nb_yaml_node *root, nb_error *err);

/* Writes the effective recipe. Without comments, reading it back gives the same struct. `root` may be NULL. */
void nb_recipe_print(const nb_recipe *recipe, const nb_yaml_node *root, nb_keys_comments comments, FILE *to);

#endif
