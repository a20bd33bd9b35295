/* recipe_yaml.h: a recipe file as a table of keys. */
#ifndef NI_RECIPE_RECIPE_YAML_H
#define NI_RECIPE_RECIPE_YAML_H

#include "nibble/recipe.h"
#include "recipe/quantizer_yaml.h"

/* What the keys are read into: the recipe, and its roles as the file says them. */
typedef struct ni_recipe_file {
    nb_recipe recipe;
    ni_operand_fields roles[NB_ROLE_COUNT];
} ni_recipe_file;

extern const ni_keys ni_recipe_keys; /* over ni_recipe_file */

/* A map that names `format` or `from` is a new operand: it replaces the one in the base, whole. */
bool ni_recipe_replaces(const ni_yaml_node *over);

/* Reads and checks a tree. */
nb_status ni_recipe_read(const ni_yaml_node *root, nb_recipe *out, nb_error *err);

/* nb_recipe_load that keeps the tree: it knows where each value was written. Free it with ni_yaml_free. */
nb_status ni_recipe_load_tree(const char *name_or_path, const char *recipes_dir, nb_recipe *out, ni_yaml *tree,
                              nb_error *err);

/* Checks what a table cannot: `from` and `via`, and the pairs of each GEMM. `root` may be NULL. */
nb_status ni_recipe_check(const nb_recipe *recipe, const ni_yaml_node *root, nb_error *err);

/* Writes the effective recipe. Without comments, reading it back gives the same struct. `root` may be NULL. False if
 * memory ran out. */
bool ni_recipe_print(const nb_recipe *recipe, const ni_yaml_node *root, ni_keys_comments comments, FILE *to);

/* Whether two recipes say the same, whatever they are called. False if memory ran out. */
bool ni_recipes_agree(const nb_recipe *a, const nb_recipe *b);

#endif
