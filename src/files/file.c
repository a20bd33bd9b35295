/* file.c: reading, mapping and atomic writing of files. */
#include "file.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "nibble's file formats are read and written in place: only little-endian machines are supported"
#endif

#undef ni_fail_errno
nb_status ni_fail_errno(nb_error *err, const char *path, const char *what) {
    const int reason = errno;
    const char *hint = reason == ENOSPC || reason == EDQUOT ? "; free some space and try again" : "";
    if (reason == ENOMEM)
        return nb_fail(err, NB_NO_MEMORY, "%s: cannot %s: out of memory", path, what);
    return nb_fail(err, NB_IO_ERROR, "%s: cannot %s: %s%s", path, what, strerror(reason), hint);
}

static bool is_absence(int reason) {
    return reason == ENOENT || reason == ENOTDIR;
}

nb_status ni_file_exists(const char *path, bool *exists, nb_error *err) {
    struct stat st;
    *exists = stat(path, &st) == 0;
    return *exists || is_absence(errno) ? NB_OK : ni_fail_errno(err, path, "examine");
}

/* ---- reading ---- */

static nb_status open_for_reading(const char *path, int *fd, struct stat *st, nb_error *err) {
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0)
        return ni_fail_errno(err, path, "open");
    nb_status status = NB_OK;
    if (fstat(*fd, st) != 0)
        status = ni_fail_errno(err, path, "examine");
    else if (S_ISDIR(st->st_mode))
        status = nb_fail(err, NB_IO_ERROR, "%s: is a folder, expected a file", path);
    if (status != NB_OK)
        close(*fd);
    return status;
}

/* Reads until the end or one byte beyond `limit`. Sizes told by stat are hints: pipes and /proc have none. */
static nb_status read_all(int fd, const char *path, size_t limit, size_t expect, char **bytes, size_t *size,
                          nb_error *err) {
    size_t capacity = (expect < limit ? expect : limit) + 2, used = 0;
    char *buffer = malloc(capacity);
    while (buffer) {
        ssize_t got = read(fd, buffer + used, capacity - 1 - used);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            free(buffer);
            return ni_fail_errno(err, path, "read");
        }
        if (got == 0) {
            buffer[used] = 0;
            *bytes = buffer;
            *size = used;
            return NB_OK;
        }
        used += (size_t)got;
        if (used > limit) {
            free(buffer);
            return nb_fail(err, NB_BAD_FILE, "%s: more than %zu bytes, the most that is read of such a file", path,
                           limit);
        }
        if (capacity - 1 - used == 0) {
            capacity += capacity / 2 + 4096;
            char *larger = realloc(buffer, capacity);
            if (!larger)
                free(buffer);
            buffer = larger;
        }
    }
    return nb_fail(err, NB_NO_MEMORY, "%s: no memory to read the file", path);
}

nb_status ni_file_read(const char *path, size_t limit, char **bytes, size_t *size, nb_error *err) {
    int fd;
    struct stat st;
    *bytes = NULL;
    *size = 0;
    NB_TRY(open_for_reading(path, &fd, &st, err));
    if (limit > PTRDIFF_MAX / 2)
        limit = PTRDIFF_MAX / 2;
    nb_status status = read_all(fd, path, limit, st.st_size > 0 ? (size_t)st.st_size : 0, bytes, size, err);
    close(fd);
    return status;
}

nb_status ni_file_map_open(const char *path, ni_file_map *out, nb_error *err) {
    int fd;
    struct stat st;
    *out = (ni_file_map){NULL, 0};
    NB_TRY(open_for_reading(path, &fd, &st, err));
    nb_status status = NB_OK;
    if (!S_ISREG(st.st_mode)) {
        status = nb_fail(err, NB_IO_ERROR, "%s: is a pipe or device, expected a regular file", path);
    } else if (st.st_size > 0) {
        void *bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (bytes == MAP_FAILED)
            status = ni_fail_errno(err, path, "map into memory");
        else
            *out = (ni_file_map){bytes, (size_t)st.st_size};
    }
    close(fd);
    return status;
}

void ni_file_map_close(ni_file_map *map) {
    if (map->bytes)
        munmap((void *)map->bytes, map->size);
    *map = (ni_file_map){NULL, 0};
}

void ni_file_map_forget(const ni_file_map *map, const void *bytes, size_t size) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), at = (size_t)((const char *)bytes - (const char *)map->bytes);
    const size_t begin = at / page * page;
    if (size > 0) /* a hint: where it is not taken, memory alone is lost */
        (void)madvise((char *)map->bytes + begin, at + size - begin, MADV_DONTNEED);
}

/* ---- folders ---- */

/* *made: the length of the outermost name that was not there; 0 if all were. */
static nb_status make_each(char *part, bool sync, size_t *made, nb_error *err) {
    *made = 0;
    for (char *at = part + 1;; at++) {
        if (*at && *at != '/')
            continue;
        char was = *at;
        nb_status status = NB_OK;
        *at = 0;
        if (mkdir(part, 0777) == 0) {
            *made = *made ? *made : (size_t)(at - part);
            status = sync ? ni_sync_parent(part, err) : NB_OK;
        } else if (errno != EEXIST) {
            status = ni_fail_errno(err, part, "make the folder");
        }
        *at = was;
        if (status != NB_OK || !was)
            return status;
    }
}

/* From the inside outwards, as far as they are empty. */
static void unmake_each(char *part, size_t made) {
    for (size_t length = strlen(part); made && length >= made; length--) {
        if (part[length] && part[length] != '/')
            continue;
        part[length] = 0;
        if (rmdir(part) != 0 && errno != ENOENT)
            return;
    }
}

static nb_status check_folder(const char *path, nb_error *err) {
    struct stat st;
    if (stat(path, &st) != 0)
        return ni_fail_errno(err, path, "examine");
    return S_ISDIR(st.st_mode) ? NB_OK : nb_fail(err, NB_IO_ERROR, "%s: exists and is not a folder", path);
}

static nb_status copy_name(const char *path, char **part, nb_error *err) {
    if (!*path)
        return nb_fail(err, NB_BAD_USAGE, "the name of a folder is empty");
    *part = strdup(path);
    return *part ? NB_OK : nb_fail(err, NB_NO_MEMORY, "%s: no memory for the name of a folder", path);
}

nb_status ni_make_folders(const char *path, nb_error *err) {
    char *part;
    size_t made;
    NB_TRY(copy_name(path, &part, err));
    nb_status status = make_each(part, true, &made, err);
    free(part);
    return status == NB_OK ? check_folder(path, err) : status;
}

nb_status ni_try_folders(const char *path, nb_error *err) {
    char *part;
    size_t made;
    NB_TRY(copy_name(path, &part, err));
    nb_status status = make_each(part, false, &made, err);
    if (status == NB_OK)
        status = check_folder(path, err);
    if (status == NB_OK && access(path, W_OK | X_OK) != 0)
        status = ni_fail_errno(err, path, "write into the folder");
    unmake_each(part, made);
    free(part);
    return status;
}

nb_status ni_sync_parent(const char *path, nb_error *err) {
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        length--;
    while (length > 0 && path[length - 1] != '/')
        length--;
    char *parent = length ? strndup(path, length) : strdup(".");
    if (!parent)
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory for the name of its folder", path);
    int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    nb_status status = NB_OK;
    /* EINVAL: file systems that cannot sync folders have nothing to sync. */
    if (fd < 0 || (fsync(fd) != 0 && errno != EINVAL))
        status = ni_fail_errno(err, parent, "sync the folder");
    if (fd >= 0)
        close(fd);
    free(parent);
    return status;
}

/* ---- atomic writing ---- */

struct ni_writer {
    FILE *stream;
    char *path, *temporary;
};

bool ni_is_temporary_name(const char *name) {
    for (const char *at = strstr(name, ".tmp-"); at; at = strstr(at + 1, ".tmp-")) {
        const char *c = at + 5;
        int digits[2] = {0, 0};
        for (; isdigit((unsigned char)*c); c++)
            digits[0]++;
        if (*c == '-')
            for (c++; isdigit((unsigned char)*c); c++)
                digits[1]++;
        if (digits[0] && digits[1] && !*c)
            return true;
    }
    return false;
}

/* Removes what killed writers of this very file left. A writer that lives holds a lock on its own. */
static void sweep_leftovers(const char *path) {
    char pattern[4200];
    glob_t found;
    if (strpbrk(path, "*?[\\") || snprintf(pattern, sizeof pattern, "%s.tmp-*-*", path) >= (int)sizeof pattern ||
        glob(pattern, GLOB_NOSORT, NULL, &found) != 0)
        return;
    for (size_t i = 0; i < found.gl_pathc; i++) {
        const char *name = found.gl_pathv[i];
        int fd = ni_is_temporary_name(name + strlen(path)) ? open(name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW) : -1;
        struct stat st;
        if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && flock(fd, LOCK_EX | LOCK_NB) == 0)
            unlink(name);
        if (fd >= 0)
            close(fd);
    }
    globfree(&found);
}

/* Opens the first free `path.tmp-PID-N`. Names of our own making, because mkstemp's files ignore the umask. */
static int open_temporary(const char *path, char **name) {
    size_t room = strlen(path) + 48;
    *name = malloc(room);
    if (!*name)
        return -1;
    for (int attempt = 0; attempt < 1000; attempt++) {
        snprintf(*name, room, "%s.tmp-%ld-%d", path, (long)getpid(), attempt);
        int fd = open(*name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0)
            flock(fd, LOCK_EX | LOCK_NB); /* where locks are not known, nothing of ours is swept either */
        if (fd >= 0 || errno != EEXIST)
            return fd;
    }
    return -1;
}

nb_status ni_writer_open(const char *path, ni_writer **out, nb_error *err) {
    *out = NULL;
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return nb_fail(err, NB_IO_ERROR, "%s: exists and is not a regular file, so it cannot be replaced", path);
    ni_writer *writer = calloc(1, sizeof *writer);
    if (writer)
        writer->path = strdup(path);
    if (!writer || !writer->path) {
        ni_writer_abandon(writer);
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory to write the file", path);
    }
    sweep_leftovers(path);
    int fd = open_temporary(path, &writer->temporary);
    writer->stream = fd >= 0 ? fdopen(fd, "wb") : NULL;
    if (!writer->stream) {
        nb_status status = ni_fail_errno(err, path, "create");
        if (fd >= 0) {
            close(fd);
            unlink(writer->temporary);
        }
        ni_writer_abandon(writer);
        return status;
    }
    *out = writer;
    return NB_OK;
}

nb_status ni_writer_put(ni_writer *writer, const void *bytes, size_t size, nb_error *err) {
    if (size && fwrite(bytes, 1, size, writer->stream) != size)
        return ni_fail_errno(err, writer->path, "write");
    return NB_OK;
}

nb_status ni_writer_put_at(ni_writer *writer, size_t offset, const void *bytes, size_t size, nb_error *err) {
    if (fseeko(writer->stream, (off_t)offset, SEEK_SET) != 0)
        return ni_fail_errno(err, writer->path, "write");
    NB_TRY(ni_writer_put(writer, bytes, size, err));
    if (fseeko(writer->stream, 0, SEEK_END) != 0)
        return ni_fail_errno(err, writer->path, "write");
    return NB_OK;
}

nb_status ni_writer_commit(ni_writer *writer, nb_error *err) {
    nb_status status = NB_OK;
    if (ferror(writer->stream)) /* a put whose failure nobody looked at */
        status = nb_fail(err, NB_IO_ERROR, "%s: was not written whole", writer->path);
    else if (fflush(writer->stream) != 0 || fsync(fileno(writer->stream)) != 0)
        status = ni_fail_errno(err, writer->path, "write");
    if (fclose(writer->stream) != 0 && status == NB_OK)
        status = ni_fail_errno(err, writer->path, "write");
    writer->stream = NULL;
    if (status == NB_OK && rename(writer->temporary, writer->path) != 0)
        status = ni_fail_errno(err, writer->path, "replace");
    if (status == NB_OK) {
        free(writer->temporary);
        writer->temporary = NULL;
        status = ni_sync_parent(writer->path, err);
    } else {
        unlink(writer->temporary);
    }
    ni_writer_abandon(writer);
    return status;
}

void ni_writer_abandon(ni_writer *writer) {
    if (!writer)
        return;
    if (writer->stream) {
        fclose(writer->stream);
        unlink(writer->temporary);
    }
    free(writer->temporary);
    free(writer->path);
    free(writer);
}

nb_status ni_file_write(const char *path, const void *bytes, size_t size, nb_error *err) {
    ni_writer *writer;
    NB_TRY(ni_writer_open(path, &writer, err));
    nb_status status = ni_writer_put(writer, bytes, size, err);
    if (status != NB_OK) {
        ni_writer_abandon(writer);
        return status;
    }
    return ni_writer_commit(writer, err);
}
