/* test_files.c: atomic files and folders, spools, checksums, and hostile safetensors and npy files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files/checksum.h"
#include "files/file.h"
#include "files/folder.h"
#include "files/npy.h"
#include "files/safetensors.h"
#include "files/spool.h"
#include "temporary.h"

static int entries(const char *folder) {
    DIR *list = opendir(folder);
    int n = 0;
    while (list && readdir(list))
        n++;
    if (list)
        closedir(list);
    return n - 2;
}

/* ---- files ---- */

static void file_round_trip(void **state) {
    const char *path = in_folder(state, "a.txt");
    char *bytes;
    size_t size;
    nb_error err = {0};
    assert_int_equal(ni_file_write(path, "hello", 5, &err), NB_OK);
    assert_int_equal(ni_file_write(path, "other", 5, &err), NB_OK);
    assert_int_equal(ni_file_read(path, 5, &bytes, &size, &err), NB_OK);
    assert_int_equal(size, 5);
    assert_string_equal(bytes, "other");
    free(bytes);
    assert_int_equal(ni_file_read(path, 4, &bytes, &size, &err), NB_BAD_FILE);
    assert_null(bytes);
    assert_int_equal(ni_file_read(in_folder(state, "none"), 4, &bytes, &size, &err), NB_IO_ERROR);
    assert_int_equal(ni_file_read(*state, 4, &bytes, &size, &err), NB_IO_ERROR);
    assert_int_equal(ni_file_write(*state, "x", 1, &err), NB_IO_ERROR);
    assert_int_equal(entries(*state), 1);
}

static void a_device_is_not_replaced(void **state) {
    (void)state;
    nb_error err = {0};
    assert_int_equal(ni_file_write("/dev/null", "x", 1, &err), NB_IO_ERROR);
    struct stat st;
    assert_int_equal(stat("/dev/null", &st), 0);
    assert_true(S_ISCHR(st.st_mode));
}

static void a_write_that_fails_leaves_the_old_file(void **state) {
    const char *path = in_folder(state, "a.bin");
    nb_error err = {0};
    assert_int_equal(ni_file_write(path, "old", 3, &err), NB_OK);
    struct rlimit was, small = {4096, 4096};
    getrlimit(RLIMIT_FSIZE, &was);
    small.rlim_max = was.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small); /* a disk that is full after 4096 bytes */
    char *large = calloc(1, 100000);
    nb_status status = ni_file_write(path, large, 100000, &err);
    setrlimit(RLIMIT_FSIZE, &was);
    free(large);
    assert_int_equal(status, NB_IO_ERROR);
    assert_non_null(strstr(err.message, path));
    char *bytes;
    size_t size;
    assert_int_equal(ni_file_read(path, 100, &bytes, &size, &err), NB_OK);
    assert_string_equal(bytes, "old");
    free(bytes);
    assert_int_equal(entries(*state), 1);
}

static void writer_patches_its_header(void **state) {
    const char *path = in_folder(state, "w.bin");
    ni_writer *writer;
    assert_int_equal(ni_writer_open(path, &writer, NULL), NB_OK);
    assert_int_equal(ni_writer_put(writer, "0000data", 8, NULL), NB_OK);
    assert_int_equal(ni_writer_put_at(writer, 2, "42", 2, NULL), NB_OK);
    assert_int_equal(ni_writer_put(writer, "!", 1, NULL), NB_OK);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(ni_writer_commit(writer, NULL), NB_OK);
    ni_file_map map;
    assert_int_equal(ni_file_map_open(path, &map, NULL), NB_OK);
    assert_int_equal(map.size, 9);
    assert_memory_equal(map.bytes, "0042data!", 9);
    ni_file_map_close(&map);
}

/* It has no name, neither while it is written nor after. */
static void a_spool_comes_back_whole(void **state) {
    enum { PARTS = 3000 };
    char *was = getenv("TMPDIR") ? strdup(getenv("TMPDIR")) : NULL;
    ni_spool *spool;
    ni_file_map map;
    nb_error err = {0};
    setenv("TMPDIR", *state, 1);
    const int there = entries(*state);
    assert_int_equal(ni_spool_open(&spool, &err), NB_OK);
    for (int32_t i = 0; i < PARTS; i++)
        assert_int_equal(ni_spool_put(spool, &i, sizeof i, &err), NB_OK);
    assert_int_equal(entries(*state), there);
    assert_int_equal(ni_spool_map(spool, &map, &err), NB_OK);
    assert_int_equal(map.size, PARTS * sizeof(int32_t));
    for (int32_t i = 0; i < PARTS; i++)
        assert_int_equal(((const int32_t *)map.bytes)[i], i);
    ni_file_map_close(&map);
    assert_int_equal(ni_spool_open(&spool, &err), NB_OK);
    assert_int_equal(ni_spool_map(spool, &map, &err), NB_OK);
    assert_null(map.bytes);
    setenv("TMPDIR", "/nowhere", 1);
    assert_int_equal(ni_spool_open(&spool, &err), NB_IO_ERROR);
    assert_non_null(strstr(err.message, "/nowhere (TMPDIR names another folder)"));
    ni_spool_abandon(spool);
    was ? setenv("TMPDIR", was, 1) : unsetenv("TMPDIR");
    free(was);
}

static void temporary_names(void **state) {
    (void)state;
    assert_true(ni_is_temporary_name("a.bin.tmp-12-0"));
    assert_true(ni_is_temporary_name("a.tmp-x.tmp-1-2"));
    assert_false(ni_is_temporary_name("a.bin"));
    assert_false(ni_is_temporary_name("a.tmp-12"));
    assert_false(ni_is_temporary_name("a.tmp-12-"));
    assert_false(ni_is_temporary_name("a.tmp-12-0.bak"));
}

static void folder_appears_whole(void **state) {
    const char *path = in_folder(state, "step-10");
    nb_error err = {0};
    for (int round = 0; round < 2; round++) {
        ni_folder *folder;
        char inside[800];
        assert_int_equal(ni_folder_begin(path, round == 1, &folder, &err), NB_OK);
        snprintf(inside, sizeof inside, "%s/deep/er", ni_folder_path(folder));
        assert_int_equal(ni_make_folders(inside, &err), NB_OK);
        snprintf(inside, sizeof inside, "%s/deep/er/x%d", ni_folder_path(folder), round);
        assert_int_equal(ni_file_write(inside, "x", 1, &err), NB_OK);
        assert_int_equal(ni_folder_commit(folder, &err), NB_OK);
        assert_int_equal(entries(*state), 1);
    }
    assert_int_equal(access(in_folder(state, "step-10/deep/er/x1"), F_OK), 0);
    assert_int_not_equal(access(in_folder(state, "step-10/deep/er/x0"), F_OK), 0);
}

static void names_that_are_taken(void **state) {
    const char *path = in_folder(state, "taken");
    ni_folder *folder;
    nb_error err = {0};
    assert_int_equal(ni_make_folders(path, &err), NB_OK);
    assert_int_equal(ni_folder_begin(path, false, &folder, &err), NB_OK); /* an empty one is no matter */
    assert_int_equal(ni_file_write(in_folder(state, "taken/x"), "x", 1, &err), NB_OK);
    assert_int_equal(ni_folder_commit(folder, &err), NB_IO_ERROR); /* one that filled meanwhile is */
    assert_int_equal(ni_folder_begin(path, false, &folder, &err), NB_IO_ERROR);
    assert_non_null(strstr(err.message, "taken: exists already and is not empty"));
    for (int replace = 0; replace < 2; replace++) {
        assert_int_equal(ni_folder_begin(in_folder(state, "taken/x"), replace, &folder, &err), NB_IO_ERROR);
        assert_non_null(strstr(err.message, "taken/x: exists already and is no folder"));
    }
    assert_null(folder);
    assert_int_equal(entries(*state), 1);
}

static void removal_follows_no_link(void **state) {
    nb_error err = {0};
    assert_int_equal(ni_make_folders(in_folder(state, "keep"), &err), NB_OK);
    assert_int_equal(ni_file_write(in_folder(state, "keep/me"), "x", 1, &err), NB_OK);
    assert_int_equal(ni_make_folders(in_folder(state, "a.tmp-1-0/b"), &err), NB_OK);
    assert_int_equal(symlink("../keep", in_folder(state, "a.tmp-1-0/link")), 0);
    assert_int_equal(ni_file_write(in_folder(state, "f.tmp-1-0"), "x", 1, &err), NB_OK);
    assert_int_equal(ni_folder_remove_abandoned(*state, &err), NB_OK);
    assert_int_equal(entries(*state), 1);
    assert_int_equal(access(in_folder(state, "keep/me"), F_OK), 0);
    assert_int_equal(ni_folder_remove(in_folder(state, "none"), &err), NB_OK);
    assert_int_equal(ni_make_folders(in_folder(state, "keep/me/x"), &err), NB_IO_ERROR);
}

static void checksum_known_answer(void **state) {
    char sum[NI_CHECKSUM_SIZE];
    ni_checksum("", 0, sum); /* xxhsum -H2 of an empty file */
    assert_string_equal(sum, "99aa06d3014798d86001c324468d497f");
    const char *path = in_folder(state, "sum");
    assert_int_equal(ni_file_write(path, "nibble", 6, NULL), NB_OK);
    char of_file[NI_CHECKSUM_SIZE];
    ni_checksum("nibble", 6, sum);
    assert_int_equal(ni_checksum_file(path, of_file, NULL), NB_OK);
    assert_string_equal(sum, of_file);
}

/* ---- safetensors ---- */

static void safetensors_of_python(void **state) {
    (void)state;
    ni_safetensors *file;
    nb_error err = {0};
    assert_int_equal(ni_safetensors_open(NI_TEST_GOLDEN "/files/python.safetensors", &file, &err), NB_OK);
    assert_int_equal(ni_safetensors_count(file), 5);
    const ni_file_tensor *w = ni_safetensors_find(file, "w");
    assert_non_null(w);
    assert_int_equal(w->dtype, NI_ST_F32);
    assert_int_equal(w->rank, 2);
    assert_int_equal(w->shape[1], 3);
    const float want[6] = {-0.5f, -0.25f, 0, 0.25f, 0.5f, 0.75f};
    assert_memory_equal(w->data, want, sizeof want);
    assert_int_equal(ni_safetensors_find(file, "one")->rank, 0);
    assert_int_equal(*(const int64_t *)ni_safetensors_find(file, "one")->data, 7);
    assert_int_equal(ni_safetensors_find(file, "none")->bytes, 0);
    assert_null(ni_safetensors_find(file, "absent"));
    assert_string_equal(ni_safetensors_metadata(file, "note"), "gr\xc3\xbc\xc3\x9f"
                                                               "e");
    assert_null(ni_safetensors_metadata(file, "absent"));
    ni_safetensors_close(file);
}

static void safetensors_round_trip(void **state) {
    const char *path = in_folder(state, "a.safetensors");
    const uint8_t odd[3] = {1, 2, 3};
    const double wide[2] = {0.5, -1e300};
    const float row[4] = {1, 2, 3, 4};
    ni_file_tensor tensors[] = {{"odd \"name\" / \xc3\xa9", NI_ST_U8, 1, {3}, odd, 3},
                                {"wide", NI_ST_F64, 2, {1, 2}, wide, sizeof wide},
                                {"row", NI_ST_F32, 1, {4}, row, sizeof row},
                                {"empty", NI_ST_I16, 2, {5, 0}, NULL, 0}};
    ni_metadata metadata[] = {{"format", "pt"}, {"b", "two"}};
    nb_error err = {0};
    assert_int_equal(ni_safetensors_write(path, tensors, 4, metadata, 2, &err), NB_OK);
    ni_safetensors *file;
    assert_int_equal(ni_safetensors_open(path, &file, &err), NB_OK);
    assert_int_equal(ni_safetensors_count(file), 4);
    for (int i = 0; i < 4; i++) {
        const ni_file_tensor *t = ni_safetensors_find(file, tensors[i].name);
        assert_non_null(t);
        assert_int_equal(t->dtype, tensors[i].dtype);
        assert_int_equal(t->bytes, tensors[i].bytes);
        assert_int_equal((uintptr_t)t->data % ni_tensor_dtype_size(t->dtype), 0);
        if (t->bytes)
            assert_memory_equal(t->data, tensors[i].data, t->bytes);
    }
    assert_string_equal(ni_safetensors_metadata(file, "b"), "two");
    ni_safetensors_close(file);

    tensors[1].name = "row";
    assert_int_equal(ni_safetensors_write(path, tensors, 4, NULL, 0, &err), NB_BAD_USAGE);
    tensors[1].name = "wide";
    tensors[1].bytes--;
    assert_int_equal(ni_safetensors_write(path, tensors, 4, NULL, 0, &err), NB_BAD_USAGE);
    tensors[0].name = "\xff";
    assert_int_not_equal(ni_safetensors_write(path, tensors, 1, NULL, 0, &err), NB_OK);
    assert_int_equal(entries(*state), 1);
}

typedef struct hostile {
    const char *header;
    size_t data; /* bytes after the header */
    const char *complaint;
} hostile;

static void check_hostile(const hostile *h) {
    static char bytes[1 << 16];
    uint64_t length = strlen(h->header);
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, h->header, length);
    ni_safetensors *file;
    nb_error err = {0};
    nb_status status = ni_safetensors_parse(bytes, 8 + length + h->data, &file, &err);
    if (!h->complaint) {
        assert_int_equal(status, NB_OK);
        ni_safetensors_close(file);
        return;
    }
    assert_int_equal(status, NB_BAD_FILE);
    assert_null(file);
    if (!strstr(err.message, h->complaint))
        fail_msg("'%s' does not say '%s'", err.message, h->complaint);
}

#define T(name, dtype, shape, from, to)                                                                                \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #from "," #to "]}"

static void hostile_safetensors(void **state) {
    (void)state;
    const hostile cases[] = {
        {"{}", 0, NULL},
        {"{" T("a", "F32", "[1]", 0, 4) "}  ", 4, NULL},
        {"{" T("b", "U8", "[2]", 4, 6) "," T("a", "F32", "[1]", 0, 4) "}", 6, NULL},
        {"{" T("a", "F32", "[1]", 0, 4) "}", 3, "truncated"},
        {"{" T("a", "F32", "[1]", 0, 4) "}", 5, "belong to none"},
        {"{" T("a", "F32", "[1]", 1, 5) "}", 5, "a gap"},
        {"{" T("a", "F32", "[1]", 0, 4) "," T("b", "F32", "[1]", 2, 6) "}", 6, "overlap"},
        {"{" T("a", "F32", "[1]", 0, 4) "," T("b", "F32", "[1]", 0, 4) "}", 4, "overlap"},
        {"{" T("a", "F32", "[1]", 0, 4) "," T("b", "F32", "[1]", 5, 9) "}", 9, "a gap"},
        {"{" T("a", "F32", "[1]", 0, 4) "," T("a", "F32", "[1]", 4, 8) "}", 8, "duplicate"},
        {"{" T("a", "F32", "[2]", 0, 4) "}", 4, "needs 8 bytes"},
        {"{" T("a", "F4X", "[1]", 0, 4) "}", 4, "unknown dtype 'F4X'"},
        {"{" T("a", "F32", "[-1]", 0, 4) "}", 4, "not a size"},
        {"{" T("a", "F32", "[1.0]", 0, 4) "}", 4, "not a size"},
        {"{" T("a", "F32", "1", 0, 4) "}", 4, "expected a shape"},
        {"{" T("a", "U8", "[1,1,1,1,1,1,1,1,1]", 0, 1) "}", 1, "at most 8"},
        {"{" T("a", "F32", "[4611686018427387904,4]", 0, 0) "}", 0, "needs 0 bytes"},
        {"{" T("a", "F32", "[99999999999999999999]", 0, 0) "}", 0, "header, byte"},
        {"{" T("a", "F32", "[1]", 4, 0) "}", 4, "do not lie"},
        {"{" T("a", "F32", "[1]", -4, 0) "}", 4, "do not lie"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "exactly"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4, "exactly"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "pair"},
        {"{\"a\":3}", 4, "exactly"},
        {"{\"__metadata__\":{\"a\":1}}", 0, "not text"},
        {"{\"__metadata__\":[]}", 0, "not an object"},
        {"[]", 0, "not a JSON object"},
        {" {}", 0, "not a JSON object"},
        {"{", 0, "header, byte"},
        {"{} x", 0, "header, byte"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_hostile(&cases[i]);
}

static void hostile_safetensors_lengths(void **state) {
    (void)state;
    ni_safetensors *file;
    nb_error err = {0};
    char bytes[16] = {0};
    for (size_t size = 0; size < 9; size++)
        assert_int_equal(ni_safetensors_parse(bytes, size, &file, &err), NB_BAD_FILE);
    memset(bytes, 0xff, 8);
    assert_int_equal(ni_safetensors_parse(bytes, 16, &file, &err), NB_BAD_FILE);
    assert_non_null(strstr(err.message, "does not fit"));
    /* nesting far deeper than any stack */
    size_t deep = 1000000;
    char *nest = malloc(deep + 8);
    uint64_t length = deep;
    memcpy(nest, &length, 8);
    memset(nest + 8, '[', deep);
    memcpy(nest + 8, "{\"a\":", 5);
    assert_int_equal(ni_safetensors_parse(nest, deep + 8, &file, &err), NB_BAD_FILE);
    assert_non_null(strstr(err.message, "depth"));
    free(nest);
}

/* ---- npy ---- */

static void npy_of_python(void **state) {
    (void)state;
    ni_npy npy;
    nb_error err = {0};
    assert_int_equal(ni_npy_read(NI_TEST_GOLDEN "/files/f4.npy", &npy, &err), NB_OK);
    assert_int_equal(npy.tensor.rank, 2);
    assert_int_equal(npy.tensor.shape[0], 2);
    assert_int_equal(npy.tensor.shape[1], 3);
    const float want[6] = {-0.5f, -0.25f, 0, 0.25f, 0.5f, 0.75f};
    assert_memory_equal(npy.tensor.data, want, sizeof want);
    ni_npy_free(&npy);
    assert_int_equal(ni_npy_read(NI_TEST_GOLDEN "/files/u2.npy", &npy, &err), NB_OK);
    assert_string_equal(npy.descr, "<u2");
    assert_int_equal(npy.tensor.dtype, NI_ST_U16);
    assert_int_equal(((const uint16_t *)npy.tensor.data)[2], 65535);
    ni_npy_free(&npy);
    assert_int_equal(ni_npy_read(NI_TEST_GOLDEN "/files/fortran.npy", &npy, &err), NB_BAD_FILE);
    assert_non_null(strstr(err.message, "Fortran"));
    assert_int_equal(ni_npy_read(NI_TEST_GOLDEN "/files/big-endian.npy", &npy, &err), NB_BAD_FILE);
    assert_non_null(strstr(err.message, "big-endian"));
    assert_int_equal(ni_npy_read(NI_TEST_GOLDEN "/files/record.npy", &npy, &err), NB_BAD_FILE);
    assert_non_null(strstr(err.message, "structured"));
}

static void npy_written_as_numpy_does(void **state) {
    const char *path = in_folder(state, "f4.npy");
    const float data[6] = {-0.5f, -0.25f, 0, 0.25f, 0.5f, 0.75f};
    assert_int_equal(ni_npy_write_f32(path, data, 2, 3, NULL), NB_OK);
    ni_file_map ours, numpy;
    assert_int_equal(ni_file_map_open(path, &ours, NULL), NB_OK);
    assert_int_equal(ni_file_map_open(NI_TEST_GOLDEN "/files/f4.npy", &numpy, NULL), NB_OK);
    assert_int_equal(ours.size, numpy.size);
    assert_memory_equal(ours.bytes, numpy.bytes, numpy.size);
    ni_file_map_close(&ours);
    ni_file_map_close(&numpy);
}

static void hostile_npy(void **state) {
    (void)state;
    const hostile cases[] = {
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", 4, NULL},
        {"{'shape': (), 'descr': \"|u1\", 'fortran_order': True}\n", 1, NULL},
        {"{'descr': '<u4', 'fortran_order': False, 'shape': (0, 9), }", 0, NULL},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", 4, "cut short"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", 5, "5 after its header"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1), }", 4, "the header is not"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", 4, "the header is not"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }", 4, "the header is not"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904,4), }", 4, "overflows"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1), }", 4, "the header is not"},
        {"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", 4, "type '|O'"},
        {"{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }", 4, "big-endian"},
        {"{'descr': '', 'fortran_order': False, 'shape': (1,), }", 4, "type ''"},
        {"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", 4, "the header is not"},
        {"{'descr': '<f4', 'shape': (1,), }", 4, "the header is not"},
        {"{'descr': '<f4', 'fortran_order': 0, 'shape': (1,), }", 4, "the header is not"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), } x", 4, "the header is not"},
        {"{'descr': '<f4", 4, "the header is not"},
        {"", 4, "the header is not"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char bytes[256] = "\x93NUMPY\x01";
        size_t length = strlen(cases[i].header);
        bytes[8] = (char)length;
        memcpy(bytes + 10, cases[i].header, length);
        ni_npy npy;
        nb_error err = {0};
        nb_status status = ni_npy_parse(bytes, 10 + length + cases[i].data, &npy, &err);
        assert_int_equal(status, cases[i].complaint ? NB_BAD_FILE : NB_OK);
        if (cases[i].complaint && !strstr(err.message, cases[i].complaint))
            fail_msg("'%s' does not say '%s'", err.message, cases[i].complaint);
        ni_npy_free(&npy);
    }
    ni_npy npy;
    assert_int_equal(ni_npy_parse("\x93NUMPY\x04\0\0\0\0\0\0", 12, &npy, NULL), NB_BAD_FILE);
    assert_int_equal(ni_npy_parse("\x93NUMPY\x02\0\xff\xff\xff\xff", 12, &npy, NULL), NB_BAD_FILE);
    assert_int_equal(ni_npy_parse("PK", 2, &npy, NULL), NB_BAD_FILE);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, temporary_folder, remove_temporary_folder)

/* What a killed writer left goes when the file is written again; what a living one writes stays. */
static void leftovers_are_swept(void **state) {
    nb_error err = {0};
    ni_writer *living;
    char path[600], left[700], other[700];
    snprintf(path, sizeof path, "%s", in_folder(state, "a.bin"));
    snprintf(left, sizeof left, "%s.tmp-99-0", path);
    snprintf(other, sizeof other, "%s.tmp-notes", path);
    FILE *file = fopen(left, "w");
    assert_non_null(file);
    fclose(file);
    file = fopen(other, "w");
    assert_non_null(file);
    fclose(file);
    assert_int_equal(ni_writer_open(path, &living, &err), NB_OK);
    assert_int_not_equal(access(left, F_OK), 0);
    assert_int_equal(access(other, F_OK), 0);
    assert_int_equal(ni_writer_put(living, "first", 5, &err), NB_OK);
    assert_int_equal(ni_file_write(path, "second", 6, &err), NB_OK);
    assert_int_equal(ni_writer_commit(living, &err), NB_OK); /* it was not swept */
    unlink(other);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        IN_FOLDER(file_round_trip),
        IN_FOLDER(leftovers_are_swept),
        cmocka_unit_test(a_device_is_not_replaced),
        IN_FOLDER(a_write_that_fails_leaves_the_old_file),
        IN_FOLDER(writer_patches_its_header),
        IN_FOLDER(a_spool_comes_back_whole),
        cmocka_unit_test(temporary_names),
        IN_FOLDER(folder_appears_whole),
        IN_FOLDER(names_that_are_taken),
        IN_FOLDER(removal_follows_no_link),
        IN_FOLDER(checksum_known_answer),
        cmocka_unit_test(safetensors_of_python),
        IN_FOLDER(safetensors_round_trip),
        cmocka_unit_test(hostile_safetensors),
        cmocka_unit_test(hostile_safetensors_lengths),
        cmocka_unit_test(npy_of_python),
        IN_FOLDER(npy_written_as_numpy_does),
        cmocka_unit_test(hostile_npy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
