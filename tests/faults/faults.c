/* faults.c: a library to preload that lets the n-th call of a kind fail, or kills the process there.
 *
 *     NIBBLE_FAULT=KIND:N:WHAT   KIND: open, read, write, sync, rename, list, alloc, or any (all but alloc)
 *                                N: 1 is the first; "5+" is the fifth and all later ones
 *                                WHAT: kill (SIGKILL before the call), drop, zero or random (a power cut: bytes that
 *                                were not synced are gone, zeros or anything, then SIGKILL), names (as drop, and new
 *                                names whose folder was not synced are as before), all (names, and names that were
 *                                taken away are there again), some (of each of these the one and not the next), or a
 *                                number of errno
 *
 *     NIBBLE_FAULT_BRANCHES: many of them from one process (branches.h)
 *
 *     NIBBLE_FAULT_COUNT=FILE    writes how many calls of each kind there were: "open 12" a line; and "at 7" where
 *                                files changed or were synced since the call before the seventh of any kind, so
 *                                that to kill there leaves something else
 *
 * Calls count where the program or one of the small libraries makes them; what OpenBLAS, OpenMP, oneDNN and the C++
 * library do inside is theirs.
 */
#define _GNU_SOURCE
#include "branches.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <link.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum kind { OPEN, READ, WRITE, SYNC, RENAME, LIST, ALLOC, KINDS };
static const char *const names[KINDS] = {"open", "read", "write", "sync", "rename", "list", "alloc"};
static atomic_long counts[KINDS], all;
static int chosen = -2; /* -2: not read yet, -1: any, KINDS: none */
static long first;
static bool onwards;
static char what[16];

/* For the count alone, of one thread: the calls of any kind before which something changed. */
enum { MOMENTS = 1 << 16 };
static bool counting, changed = true;
static uint64_t last_seen;
static long moments[MOMENTS];
static int moment_count;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* ---- who calls ---- */

enum { RANGES = 64 };
static struct { uintptr_t begin, end; } ours[RANGES];
static int range_count;

static int add_ranges(struct dl_phdr_info *info, size_t size, void *data) {
    (void)size, (void)data;
    const char *file = strrchr(info->dlpi_name, '/');
    bool counted = !info->dlpi_name[0] || (file && (strstr(file, "jansson") || strstr(file, "libyaml")));
    for (int i = 0; counted && i < info->dlpi_phnum && range_count < RANGES; i++)
        if (info->dlpi_phdr[i].p_type == PT_LOAD && (info->dlpi_phdr[i].p_flags & PF_X)) {
            ours[range_count].begin = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
            ours[range_count].end = ours[range_count].begin + info->dlpi_phdr[i].p_memsz;
            range_count++;
        }
    return 0;
}

static bool is_ours(const void *caller) {
    for (int i = 0; i < range_count; i++)
        if ((uintptr_t)caller >= ours[i].begin && (uintptr_t)caller < ours[i].end)
            return true;
    return false;
}

static void take_fault(const char *fault) {
    char kind[16] = "", number[24] = "";
    if (sscanf(fault, "%15[a-z]:%23[0-9+]:%15s", kind, number, what) != 3)
        return;
    first = atol(number);
    onwards = strchr(number, '+') != NULL;
    for (int k = 0; k < KINDS; k++)
        if (strcmp(kind, names[k]) == 0)
            chosen = k;
    if (strcmp(kind, "any") == 0)
        chosen = -1;
}

__attribute__((constructor)) static void begin(void) {
    const char *fault = getenv("NIBBLE_FAULT");
    dl_iterate_phdr(add_ranges, NULL);
    chosen = KINDS;
    counting = getenv("NIBBLE_FAULT_COUNT") != NULL;
    if (fault)
        take_fault(fault);
    branches_begin();
}

__attribute__((destructor)) static void report(void) {
    const char *path = getenv("NIBBLE_FAULT_COUNT");
    FILE *to = path ? fopen(path, "w") : NULL;
    chosen = KINDS;
    counting = false;
    for (int k = 0; to && k < KINDS; k++)
        fprintf(to, "%s %ld\n", names[k], atomic_load(&counts[k]));
    for (int i = 0; to && i < moment_count; i++)
        fprintf(to, "at %ld\n", moments[i]);
    if (to)
        fprintf(to, "any %ld\n", atomic_load(&all));
    if (to)
        fclose(to);
}

/* ---- power cuts ---- */

/* Files that were written: how much of each is on disk. A name moves with a rename of the file or of its folder. */
enum { FILES = 1024 };
static struct {
    char path[PATH_MAX];
    dev_t device;
    ino_t node;
    off_t synced;
} written[FILES];
static int written_count;

static int find(int fd, struct stat *st) {
    if (fstat(fd, st) != 0 || !S_ISREG(st->st_mode))
        return -1;
    for (int i = 0; i < written_count; i++)
        if (written[i].device == st->st_dev && written[i].node == st->st_ino)
            return i;
    return written_count;
}

/* Before the first write of this process to a file all of it counts as being on disk. */
static void note_write(int fd) {
    struct stat st;
    char link[64];
    int i = find(fd, &st);
    if (i != written_count || i == FILES)
        return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, written[i].path, sizeof written[i].path - 1);
    if (n <= 0)
        return;
    written[i].path[n] = 0;
    written[i].device = st.st_dev;
    written[i].node = st.st_ino;
    written[i].synced = st.st_size;
    written_count++;
}

static void note_names(const struct stat *folder);

static void note_sync(int fd) {
    struct stat st;
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode))
        note_names(&st);
    int i = find(fd, &st);
    if (i >= 0 && i < written_count)
        written[i].synced = st.st_size;
}

/* What a disk held before: bytes that are the same every time. */
static void scribble(const char *path, off_t from, off_t to) {
    uint32_t x = 2463534242u;
    int fd = REAL(open)(path, O_WRONLY);
    for (off_t at = from; fd >= 0 && at < to; at++) {
        x ^= x << 13, x ^= x >> 17, x ^= x << 5; /* xorshift, Marsaglia 2003 */
        unsigned char byte = (unsigned char)(x >> 11);
        if (REAL(pwrite)(fd, &byte, 1, at) != 1)
            break;
    }
}

/* Whether the disk heard of the i-th: the same ones at the same place every time, one in two of them. */
static bool heard_of(int i) {
    uint32_t x = (uint32_t)first * 2654435761u + (uint32_t)i * 2246822519u;
    x = (x ^ x >> 15) * 2246822519u;
    return (x ^ x >> 13) >> 31;
}

static void cut_power(const char *becomes) {
    const bool some = strcmp(becomes, "some") == 0;
    for (int i = 0; i < written_count; i++) {
        if (some && heard_of(i))
            continue;
        /* By number: the file may have another name by now. */
        struct stat st;
        char path[64];
        for (int fd = 3; fd < 1024; fd++)
            if (fstat(fd, &st) == 0 && st.st_dev == written[i].device && st.st_ino == written[i].node) {
                snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
                memcpy(written[i].path, path, strlen(path) + 1);
                break;
            }
        if (stat(written[i].path, &st) != 0 || st.st_ino != written[i].node || st.st_size <= written[i].synced)
            continue;
        if (truncate(written[i].path, written[i].synced) != 0 || some || strcmp(becomes, "drop") == 0)
            continue;
        if (truncate(written[i].path, st.st_size) == 0 && strcmp(becomes, "random") == 0)
            scribble(written[i].path, written[i].synced, st.st_size);
    }
}

/* ---- names that were not synced ---- */

extern void *__libc_malloc(size_t size);

/* What was made, got another name or was taken away, in the order in which it happened. */
static struct {
    enum { MADE, MOVED, GONE, FOLDER_GONE } how;
    char path[PATH_MAX], from[PATH_MAX]; /* from: of what was moved */
    dev_t device;                        /* of the folder */
    ino_t node;
    bool synced;
    char *old; /* what had the name before, as far as it was on disk */
    size_t old_size;
} named[FILES];
static int named_count;

static void note_names(const struct stat *folder) {
    for (int i = 0; i < named_count; i++)
        named[i].synced = named[i].synced || (named[i].device == folder->st_dev && named[i].node == folder->st_ino);
}

static void keep_old(const char *path, int i) {
    struct stat st;
    int fd = REAL(open)(path, O_RDONLY), before = fd >= 0 ? find(fd, &st) : -1;
    if (before >= 0) {
        size_t size = (size_t)(before < written_count ? written[before].synced : st.st_size);
        named[i].old = __libc_malloc(size + 1);
        const ssize_t n = named[i].old ? REAL(pread)(fd, named[i].old, size, 0) : -1;
        named[i].old_size = n > 0 ? (size_t)n : 0;
    }
    if (fd >= 0)
        close(fd);
}

/* `path` below an open folder, or AT_FDCWD; false where it does not fit. */
static bool whole_path(int folder, const char *path, char out[PATH_MAX]) {
    char link[64], above[PATH_MAX] = "";
    snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
    if (path[0] != '/' && readlink(link, above, sizeof above - 1) <= 0)
        return false;
    return snprintf(out, PATH_MAX, "%s%s%s", above, above[0] ? "/" : "", path) < PATH_MAX;
}

/* Before something is moved over it or it is taken away, what has that name is kept. */
static void note_name(int how, int folder, const char *path, const char *from) {
    struct stat st;
    char above[PATH_MAX];
    const int i = named_count;
    if (i == FILES || !whole_path(folder, path, named[i].path) || (from && !whole_path(AT_FDCWD, from, named[i].from)))
        return;
    snprintf(above, sizeof above, "%s", named[i].path);
    *(strrchr(above, '/') + 1) = 0;
    if (stat(above, &st) != 0)
        return;
    named[i].how = how;
    named[i].device = st.st_dev;
    named[i].node = st.st_ino;
    named[i].synced = false;
    named[i].old = NULL;
    named[i].old_size = 0;
    if (how == MOVED || how == GONE)
        keep_old(named[i].path, i);
    named_count++;
}

/* What lies below a folder moves with it. */
static void move_names(int count, const char *from, const char *to) {
    char old[PATH_MAX], new[PATH_MAX];
    if (!whole_path(AT_FDCWD, from, old) || !whole_path(AT_FDCWD, to, new))
        return;
    const size_t length = strlen(old);
    for (int i = 0; i < count; i++)
        if (strncmp(named[i].path, old, length) == 0 && (named[i].path[length] == '/' || !named[i].path[length])) {
            char moved[PATH_MAX];
            if (snprintf(moved, sizeof moved, "%s%s", new, named[i].path + length) < PATH_MAX)
                memcpy(named[i].path, moved, sizeof moved);
        }
}

static int take_away(const char *path, const struct stat *st, int type, struct FTW *at) {
    (void)st, (void)type, (void)at;
    return remove(path);
}

static void put_back(int i) {
    const int fd = named[i].old ? REAL(open)(named[i].path, O_WRONLY | O_CREAT | O_TRUNC, 0644) : -1;
    if (fd >= 0 && REAL(write)(fd, named[i].old, named[i].old_size) >= 0)
        close(fd);
}

/* What was taken away is gone, and with it what was done to its name before. */
static void keep_removals(void) {
    for (int i = 0; i < named_count; i++)
        for (int k = 0; k <= i && named[i].how >= GONE; k++)
            named[k].synced = named[k].synced || strcmp(named[k].path, named[i].path) == 0;
}

static bool is_within(const char *path, const char *folder) {
    const size_t length = strlen(folder);
    return strncmp(path, folder, length) == 0 && path[length] == '/';
}

/* Whether what happened to a name last cannot be on disk without what happened to the other before. */
static bool rests_on(int last, int before) {
    const char *const path = named[before].path, *const from = named[before].how == MOVED ? named[before].from : path;
    const char *const later = named[last].path, *const left = named[last].how == MOVED ? named[last].from : later;
    if (strcmp(path, later) == 0 || strcmp(path, left) == 0 || strcmp(from, later) == 0 || strcmp(from, left) == 0)
        return true;
    return (named[before].how == MADE && is_within(later, path)) ||
           (named[last].how == FOLDER_GONE && is_within(path, later));
}

static void keep_some(void) {
    for (int i = named_count - 1; i >= 0; i--) {
        bool kept = named[i].synced || heard_of(FILES + i);
        for (int k = i + 1; k < named_count && !kept; k++)
            kept = named[k].synced && rests_on(k, i);
        named[i].synced = kept;
    }
}

/* The last first, as if the disk had heard of none. */
static void undo_names(void) {
    for (int i = named_count - 1; i >= 0; i--) {
        if (named[i].synced)
            continue;
        if (named[i].how == MADE)
            nftw(named[i].path, take_away, 16, FTW_DEPTH | FTW_PHYS);
        if (named[i].how == FOLDER_GONE)
            REAL(mkdir)(named[i].path, 0777);
        if (named[i].how == MOVED) {
            REAL(rename)(named[i].path, named[i].from);
            move_names(i, named[i].path, named[i].from);
        }
        if (named[i].how == MOVED || named[i].how == GONE)
            put_back(i);
    }
}

/* ---- the fault ---- */

/* What buffered streams wrote shows in the sizes and offsets of what is open. */
static uint64_t look_at_files(void) {
    uint64_t sum = 14695981039346656037u; /* FNV-1a */
    struct stat st;
    for (int fd = 3; fd < 256; fd++) {
        if (fstat(fd, &st) != 0)
            continue;
        const uint64_t parts[] = {(uint64_t)fd, st.st_dev, st.st_ino, (uint64_t)st.st_size,
                                  (uint64_t)lseek(fd, 0, SEEK_CUR)};
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
            sum = (sum ^ parts[i]) * 1099511628211u;
    }
    return sum;
}

static void note_moment(long n) {
    const int before = errno; /* which readdir leaves alone at the end */
    const uint64_t now = look_at_files();
    errno = before;
    if ((changed || now != last_seen) && moment_count < MOMENTS)
        moments[moment_count++] = n;
    changed = false;
    last_seen = now;
}

/* True: the call must fail, errno says how. */
static bool strikes(enum kind kind, const void *caller) {
    if (chosen == -2 || !is_ours(caller))
        return false;
    long n = atomic_fetch_add(&counts[kind], 1) + 1;
    if (kind != ALLOC) {
        long m = atomic_fetch_add(&all, 1) + 1;
        if (counting)
            note_moment(m);
        n = chosen == -1 ? m : n;
    }
    char fault[FAULT_SIZE];
    if (branch_at(names[kind], n, fault))
        take_fault(fault);
    if (chosen != (int)kind && !(chosen == -1 && kind != ALLOC))
        return false;
    if (n != first && !(onwards && n > first))
        return false;
    if (strcmp(what, "drop") == 0 || strcmp(what, "zero") == 0 || strcmp(what, "random") == 0)
        cut_power(what);
    if (strcmp(what, "names") == 0 || strcmp(what, "all") == 0 || strcmp(what, "some") == 0) {
        cut_power(what[0] == 's' ? what : "drop");
        if (what[0] == 'n')
            keep_removals();
        if (what[0] == 's')
            keep_some();
        undo_names();
    }
    if (what[0] < '0' || what[0] > '9')
        raise(SIGKILL);
    errno = atoi(what);
    return true;
}

#define CALLER __builtin_return_address(0)
#define EXPORT __attribute__((visibility("default")))

EXPORT int open(const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    int mode = (flags & O_CREAT) ? va_arg(args, int) : 0;
    va_end(args);
    if (strikes(OPEN, CALLER))
        return -1;
    const bool made = (flags & O_CREAT) && access(path, F_OK) != 0;
    const int fd = REAL(open)(path, flags, mode);
    changed = changed || (flags & (O_CREAT | O_TRUNC));
    if (made && fd >= 0)
        note_name(MADE, AT_FDCWD, path, NULL);
    return fd;
}

EXPORT DIR *opendir(const char *path) {
    return strikes(OPEN, CALLER) ? NULL : REAL(opendir)(path);
}

EXPORT ssize_t read(int fd, void *to, size_t size) {
    return strikes(READ, CALLER) ? -1 : REAL(read)(fd, to, size);
}

EXPORT ssize_t pread(int fd, void *to, size_t size, off_t at) {
    return strikes(READ, CALLER) ? -1 : REAL(pread)(fd, to, size, at);
}

EXPORT void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset) {
    return fd >= 0 && strikes(READ, CALLER) ? MAP_FAILED : REAL(mmap)(at, size, protection, flags, fd, offset);
}

EXPORT int stat(const char *path, struct stat *out) {
    return strikes(READ, CALLER) ? -1 : REAL(stat)(path, out);
}

EXPORT ssize_t write(int fd, const void *bytes, size_t size) {
    if (strikes(WRITE, CALLER))
        return -1;
    changed = true;
    note_write(fd);
    return REAL(write)(fd, bytes, size);
}

EXPORT ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) {
    if (strikes(WRITE, CALLER))
        return -1;
    changed = true;
    note_write(fd);
    return REAL(pwrite)(fd, bytes, size, at);
}

EXPORT size_t fwrite(const void *bytes, size_t size, size_t count, FILE *to) {
    if (fileno(to) > 2 && strikes(WRITE, CALLER))
        return 0;
    if (fileno(to) > 2)
        note_write(fileno(to));
    return REAL(fwrite)(bytes, size, count, to);
}

EXPORT int fflush(FILE *stream) {
    if (stream && fileno(stream) > 2 && strikes(WRITE, CALLER))
        return EOF;
    return REAL(fflush)(stream);
}

/* It writes what waits and may come back to where the stream was. */
EXPORT int fseeko(FILE *stream, off_t at, int from) {
    changed = true;
    return REAL(fseeko)(stream, at, from);
}

EXPORT int fsync(int fd) {
    if (strikes(SYNC, CALLER))
        return -1;
    changed = true;
    note_sync(fd);
    return REAL(fsync)(fd);
}

EXPORT int fdatasync(int fd) {
    if (strikes(SYNC, CALLER))
        return -1;
    changed = true;
    note_sync(fd);
    return REAL(fdatasync)(fd);
}

EXPORT int rename(const char *from, const char *to) {
    if (strikes(RENAME, CALLER))
        return -1;
    const int before = named_count;
    changed = true;
    note_name(MOVED, AT_FDCWD, to, from);
    const int result = REAL(rename)(from, to);
    if (result != 0)
        named_count = before;
    else
        move_names(before, from, to);
    return result;
}

EXPORT int mkdir(const char *path, mode_t mode) {
    if (strikes(RENAME, CALLER))
        return -1;
    changed = true;
    const int result = REAL(mkdir)(path, mode);
    if (result == 0)
        note_name(MADE, AT_FDCWD, path, NULL);
    return result;
}

EXPORT int ftruncate(int fd, off_t size) {
    if (strikes(RENAME, CALLER))
        return -1;
    changed = true;
    return REAL(ftruncate)(fd, size);
}

EXPORT int unlink(const char *path) {
    if (strikes(RENAME, CALLER))
        return -1;
    const int before = named_count;
    changed = true;
    note_name(GONE, AT_FDCWD, path, NULL);
    const int result = REAL(unlink)(path);
    named_count = result == 0 ? named_count : before;
    return result;
}

EXPORT int unlinkat(int folder, const char *path, int flags) {
    if (strikes(RENAME, CALLER))
        return -1;
    const int before = named_count;
    changed = true;
    note_name(flags & AT_REMOVEDIR ? FOLDER_GONE : GONE, folder, path, NULL);
    const int result = REAL(unlinkat)(folder, path, flags);
    named_count = result == 0 ? named_count : before;
    return result;
}

EXPORT int rmdir(const char *path) {
    const int before = named_count;
    changed = true;
    note_name(FOLDER_GONE, AT_FDCWD, path, NULL);
    const int result = REAL(rmdir)(path);
    named_count = result == 0 ? named_count : before;
    return result;
}

EXPORT struct dirent *readdir(DIR *folder) {
    return strikes(LIST, CALLER) ? NULL : REAL(readdir)(folder);
}

/* glibc's own names, for dlsym itself allocates. */
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);

EXPORT void *malloc(size_t size) {
    return strikes(ALLOC, CALLER) ? NULL : __libc_malloc(size);
}

EXPORT void *calloc(size_t count, size_t size) {
    return strikes(ALLOC, CALLER) ? NULL : __libc_calloc(count, size);
}

EXPORT void *realloc(void *old, size_t size) {
    return strikes(ALLOC, CALLER) ? NULL : __libc_realloc(old, size);
}
