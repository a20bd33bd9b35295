/* fuzz_base.c: any bytes as three recipes that may start from each other by `base:`. A line that is "%" ends a file;
 * they are a.yaml, b.yaml and c.yaml of a folder in memory, and a is read. What is accepted can be planned. */
#include "fuzz.h"

#include "files/folder.h"
#include "nibble/recipe.h"

#include <string.h>

enum { FILES = 3, LARGEST = 4096 };

static char folder[64];
static struct {
    uint8_t bytes[LARGEST];
    size_t size;
} written[FILES];

static void remove_files(void) {
    ni_folder_remove(folder, NULL);
}

static void make_folder(void) {
    const char *const places[] = {"/dev/shm", "/tmp"};
    for (int i = 0; i < 2 && !folder[0]; i++) {
        snprintf(folder, sizeof folder, "%s/nibble-fuzz-XXXXXX", places[i]);
        if (!mkdtemp(folder))
            folder[0] = 0;
    }
    FUZZ_CHECK(folder[0]);
    for (int i = 0; i < FILES; i++)
        written[i].size = LARGEST + 1;
    atexit(remove_files);
}

/* Only what changed is written: most inputs differ from the last in one file. */
static void put(int i, const uint8_t *bytes, size_t size) {
    if (size > LARGEST)
        size = LARGEST;
    if (size == written[i].size && memcmp(written[i].bytes, bytes, size) == 0)
        return;
    char path[80];
    snprintf(path, sizeof path, "%s/%c.yaml", folder, 'a' + i);
    FILE *to = fopen(path, "wb");
    FUZZ_CHECK(to && fwrite(bytes, 1, size, to) == size && fclose(to) == 0);
    memcpy(written[i].bytes, bytes, size);
    written[i].size = size;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    if (!folder[0])
        make_folder();
    size_t begin = 0, at = 0;
    for (int i = 0; i < FILES; i++) {
        while (at < size && (i == FILES - 1 || bytes[at] != '%' || (at > begin && bytes[at - 1] != '\n')))
            at++;
        put(i, bytes + begin, at - begin);
        begin = at = at + 2 < size ? at + 2 : size;
    }
    nb_recipe recipe;
    nb_plan plan;
    nb_error err = {0};
    nb_status status = nb_recipe_load("a", folder, &recipe, &err);
    FUZZ_CHECK((status == NB_OK) == (err.message[0] == 0));
    if (status == NB_OK)
        FUZZ_CHECK(nb_recipe_plan(&recipe, "layers.0.mlp.down_proj", 0, 3, &plan, &err) == NB_OK);
    return 0;
}
