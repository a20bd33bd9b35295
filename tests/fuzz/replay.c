/* replay.c: a fuzz target without libFuzzer: replay FILE|FOLDER... runs every seed and mutations of it.
 *
 * The mutations are drawn from Philox by the seed's name and a counter: the same in every run, so that a failure is
 * found again. NIBBLE_REPLAY says how many a seed gets (default 4000).
 */
#include "fuzz.h"

#include "base/philox.h"
#include "files/file.h"
#include "nibble/format.h"

#include <dirent.h>
#include <string.h>
#include <sys/stat.h>

enum { LARGEST = 1 << 20, DEFAULT_MUTATIONS = 4000 };

typedef struct random_stream {
    uint32_t key, counter;
} random_stream;

static uint32_t draw(random_stream *r, size_t below) {
    return below ? ni_philox(r->key, 0xf022, r->counter++, 0, 0, 0).w[0] % (uint32_t)below : 0;
}

/* One small change: a bit, a byte, a piece taken out, doubled or cut off. Returns the new size; room for twice `size`.
 */
static size_t mutate(random_stream *r, uint8_t *bytes, size_t size) {
    size_t at = draw(r, size), length = draw(r, 32);
    if (at + length > size)
        length = size - at;
    switch (draw(r, 6)) {
    case 0:
        if (size)
            bytes[at] ^= (uint8_t)(1u << draw(r, 8));
        return size;
    case 1:
        if (size)
            bytes[at] = (uint8_t)draw(r, 256);
        return size;
    case 2:
        memmove(bytes + at, bytes + at + length, size - at - length);
        return size - length;
    case 3:
        memmove(bytes + at + length, bytes + at, size - at);
        return size + length;
    case 4:
        return at;
    default:
        memset(bytes + at, "0 9-:{["[draw(r, 7)], length);
        return size;
    }
}

static void run_seed(const char *path, int mutations) {
    nb_error err = {0};
    char *seed;
    size_t size;
    if (ni_file_read(path, LARGEST, &seed, &size, &err) != NB_OK) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    const char *name = strrchr(path, '/');
    random_stream r = {nb_name_hash(name ? name + 1 : path, NULL), 0};
    /* A copy of exactly the input's size, so that a sanitizer sees a read beyond it. */
    for (int i = 0; i <= mutations; i++) {
        size_t n = size, changes = i ? 1 + draw(&r, 4) : 0;
        uint8_t *work = malloc(size + 4 * 32 + 1), *input;
        if (!work)
            exit(1);
        memcpy(work, seed, size);
        for (size_t k = 0; k < changes; k++)
            n = mutate(&r, work, n);
        if (i && fuzz_repair && draw(&r, 8) != 0)
            fuzz_repair(work, n);
        input = malloc(n ? n : 1);
        if (!input)
            exit(1);
        memcpy(input, work, n);
        LLVMFuzzerTestOneInput(input, n);
        free(input);
        free(work);
    }
    free(seed);
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int run_folder(const char *path, int mutations) {
    char *names[1024];
    int count = 0;
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && count < 1024 && (entry = readdir(dir)) != NULL;)
        if (entry->d_name[0] != '.' && (names[count] = strdup(entry->d_name)) != NULL)
            count++;
    if (dir)
        closedir(dir);
    qsort(names, (size_t)count, sizeof names[0], by_name);
    for (int i = 0; i < count; i++) {
        char file[4096];
        snprintf(file, sizeof file, "%s/%s", path, names[i]);
        run_seed(file, mutations);
        free(names[i]);
    }
    return count;
}

int main(int argc, char **argv) {
    const char *wish = getenv("NIBBLE_REPLAY");
    int mutations = wish ? atoi(wish) : DEFAULT_MUTATIONS, seeds = 0;
    for (int i = 1; i < argc; i++) {
        struct stat st;
        bool folder = stat(argv[i], &st) == 0 && S_ISDIR(st.st_mode);
        if (folder)
            seeds += run_folder(argv[i], mutations);
        else
            run_seed(argv[i], mutations);
        seeds += !folder;
    }
    printf("%d seeds, %d inputs each\n", seeds, mutations + 1);
    return seeds ? 0 : 1;
}
