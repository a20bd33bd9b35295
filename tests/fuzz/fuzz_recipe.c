/* fuzz_recipe.c: any bytes as a recipe file and as a quantizer. What is accepted survives being shown and read again.
 */
#include "fuzz.h"

#include "recipe/recipe_yaml.h"

#include <string.h>

static nb_status read_recipe(const char *bytes, size_t size, nb_recipe *out, nb_error *err) {
    ni_yaml doc;
    NB_TRY(ni_yaml_parse(bytes, size, "fuzz.yaml", &doc, err));
    nb_status status = ni_recipe_read(doc.root, out, err);
    ni_yaml_free(&doc);
    return status;
}

static char *show(const nb_recipe *recipe, size_t *size) {
    char *text = NULL;
    FILE *to = open_memstream(&text, size);
    FUZZ_CHECK(to);
    ni_recipe_print(recipe, NULL, NI_COMMENTS_NONE, to);
    fclose(to);
    return text;
}

static void check_round_trip(const nb_recipe *recipe) {
    nb_recipe again;
    nb_error err = {0};
    size_t size, size_again;
    char *text = show(recipe, &size);
    FUZZ_CHECK(read_recipe(text, size, &again, &err) == NB_OK);
    char *text_again = show(&again, &size_again);
    FUZZ_CHECK(size == size_again && memcmp(text, text_again, size) == 0);
    free(text);
    free(text_again);
}

static void check_quantizer(const uint8_t *bytes, size_t size) {
    char text[512], shown[512];
    nb_quantizer q, again;
    nb_error err = {0};
    if (size >= sizeof text)
        return;
    memcpy(text, bytes, size);
    text[size] = 0;
    nb_status status = nb_quantizer_parse(text, &q, &err);
    FUZZ_CHECK((status == NB_OK) == (err.message[0] == 0));
    if (status != NB_OK)
        return;
    FUZZ_CHECK(nb_quantizer_parse(nb_quantizer_text(&q, shown, sizeof shown), &again, &err) == NB_OK);
    FUZZ_CHECK(nb_quantizer_equal(&q, &again));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    nb_recipe recipe;
    nb_error err = {0};
    nb_status status = read_recipe((const char *)bytes, size, &recipe, &err);
    FUZZ_CHECK((status == NB_OK) == (err.message[0] == 0));
    for (int32_t block = -1; status == NB_OK && block < 3; block++) {
        nb_plan plan;
        FUZZ_CHECK(nb_recipe_plan(&recipe, "layers.1.self_attn.q_proj", block, 3, &plan, &err) == NB_OK);
    }
    if (status == NB_OK)
        check_round_trip(&recipe);
    check_quantizer(bytes, size);
    return 0;
}
