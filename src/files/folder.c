/* folder.c: folders that appear whole, and the safe removal of folder trees. */
#include "folder.h"
#include "file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MAX_DEPTH = 32 }; /* of folders in folders: one descriptor each */

struct ni_folder {
    char *path, *temporary;
    bool replace;
};

static bool is_dot(const char *name) {
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* ---- removal ---- */

static nb_status remove_at(int parent, const char *name, const char *shown, int depth, nb_error *err);

static nb_status remove_entries(DIR *folder, const char *shown, int depth, nb_error *err) {
    nb_status status = NB_OK;
    struct dirent *entry;
    while (status == NB_OK && (errno = 0, entry = readdir(folder)) != NULL)
        if (!is_dot(entry->d_name))
            status = remove_at(dirfd(folder), entry->d_name, shown, depth + 1, err);
    if (status == NB_OK && errno != 0)
        status = ni_fail_errno(err, shown, "list the folder");
    return status;
}

/* Works on open folders rather than on paths, so that nobody can swap a folder for a link half-way. */
static nb_status remove_at(int parent, const char *name, const char *shown, int depth, nb_error *err) {
    if (depth > MAX_DEPTH)
        return nb_fail(err, NB_IO_ERROR, "%s: folders nested more than %d deep are not removed", shown, MAX_DEPTH);
    if (unlinkat(parent, name, 0) == 0 || errno == ENOENT)
        return NB_OK;
    if (errno != EISDIR && errno != EPERM)
        return ni_fail_errno(err, shown, "remove");
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *folder = fd >= 0 ? fdopendir(fd) : NULL;
    if (!folder) {
        nb_status status = ni_fail_errno(err, shown, "open the folder");
        if (fd >= 0)
            close(fd);
        return status;
    }
    nb_status status = remove_entries(folder, shown, depth, err);
    closedir(folder);
    if (status == NB_OK && unlinkat(parent, name, AT_REMOVEDIR) != 0)
        status = ni_fail_errno(err, shown, "remove the folder");
    return status;
}

nb_status ni_folder_remove(const char *path, nb_error *err) {
    return remove_at(AT_FDCWD, path, path, 0, err);
}

nb_status ni_folder_remove_abandoned(const char *path, nb_error *err) {
    DIR *folder = opendir(path);
    if (!folder)
        return errno == ENOENT ? NB_OK : ni_fail_errno(err, path, "open the folder");
    nb_status status = NB_OK;
    struct dirent *entry;
    while (status == NB_OK && (errno = 0, entry = readdir(folder)) != NULL)
        if (ni_is_temporary_name(entry->d_name))
            status = remove_at(dirfd(folder), entry->d_name, path, 0, err);
    if (status == NB_OK && errno != 0)
        status = ni_fail_errno(err, path, "list the folder");
    closedir(folder);
    return status;
}

/* ---- construction ---- */

static bool is_empty(const char *path) {
    DIR *folder = opendir(path);
    struct dirent *entry = NULL;
    while (folder && (entry = readdir(folder)) != NULL && is_dot(entry->d_name))
        ;
    if (folder)
        closedir(folder);
    return !entry;
}

static nb_status fail_taken(const char *path, nb_error *err) {
    return nb_fail(err, NB_IO_ERROR, "%s: exists already and is not empty", path);
}

/* Whoever cannot look hears of it from who makes the folder. */
nb_status ni_folder_check(const char *path, bool replace, nb_error *err) {
    struct stat st;
    if (lstat(path, &st) != 0)
        return NB_OK;
    if (!S_ISDIR(st.st_mode))
        return nb_fail(err, NB_IO_ERROR, "%s: exists already and is no folder", path);
    return replace || is_empty(path) ? NB_OK : fail_taken(path, err);
}

nb_status ni_folder_begin(const char *path, bool replace, ni_folder **out, nb_error *err) {
    *out = NULL;
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        length--;
    size_t room = length + 48;
    ni_folder *folder = calloc(1, sizeof *folder);
    if (folder) {
        folder->replace = replace;
        folder->path = strndup(path, length);
        folder->temporary = malloc(room);
    }
    if (!folder || !folder->path || !folder->temporary) {
        if (folder)
            free(folder->path);
        free(folder);
        return nb_fail(err, NB_NO_MEMORY, "%s: no memory to make the folder", path);
    }
    int made = -1;
    nb_status status = ni_folder_check(folder->path, replace, err);
    for (int attempt = 0; status == NB_OK && made != 0 && attempt < 1000; attempt++) {
        snprintf(folder->temporary, room, "%s.tmp-%ld-%d", folder->path, (long)getpid(), attempt);
        made = mkdir(folder->temporary, 0777);
        if (made != 0 && errno != EEXIST)
            break;
    }
    if (made != 0) {
        if (status == NB_OK)
            status = ni_fail_errno(err, path, "make the folder");
        free(folder->temporary);
        free(folder->path);
        free(folder);
        return status;
    }
    *out = folder;
    return NB_OK;
}

const char *ni_folder_path(const ni_folder *folder) {
    return folder->temporary;
}

static nb_status sync_tree(int parent, const char *name, const char *shown, int depth, nb_error *err) {
    struct stat st;
    if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return ni_fail_errno(err, shown, "examine");
    if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
        return NB_OK;
    int fd = openat(parent, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return ni_fail_errno(err, shown, "open");
    nb_status status = NB_OK;
    if (S_ISDIR(st.st_mode) && depth < MAX_DEPTH) {
        int list_fd = dup(fd);
        DIR *folder = list_fd >= 0 ? fdopendir(list_fd) : NULL;
        struct dirent *entry;
        if (!folder)
            status = ni_fail_errno(err, shown, "list the folder");
        while (status == NB_OK && (errno = 0, entry = readdir(folder)) != NULL)
            if (!is_dot(entry->d_name))
                status = sync_tree(fd, entry->d_name, shown, depth + 1, err);
        if (status == NB_OK && errno != 0)
            status = ni_fail_errno(err, shown, "list the folder");
        if (folder)
            closedir(folder);
        else if (list_fd >= 0)
            close(list_fd);
    }
    if (status == NB_OK && fsync(fd) != 0 && errno != EINVAL)
        status = ni_fail_errno(err, shown, "sync");
    if (S_ISREG(st.st_mode))
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED); /* a hint: what comes of it is no failure */
    close(fd);
    return status;
}

/* One system call puts the new folder in the old one's place; a kill finds either the one or the other. */
static int exchange(const char *a, const char *b) {
    const unsigned flag_exchange = 2; /* RENAME_EXCHANGE of Linux */
    return (int)syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, flag_exchange);
}

nb_status ni_folder_sync(const ni_folder *folder, nb_error *err) {
    return sync_tree(AT_FDCWD, folder->temporary, folder->path, 0, err);
}

nb_status ni_folder_commit(ni_folder *folder, nb_error *err) {
    nb_status status = ni_folder_sync(folder, err);
    if (status == NB_OK && rename(folder->temporary, folder->path) != 0) {
        bool exists = errno == ENOTEMPTY || errno == EEXIST;
        if (exists && !folder->replace)
            status = fail_taken(folder->path, err);
        else if (!exists || exchange(folder->temporary, folder->path) != 0)
            status = ni_fail_errno(err, folder->path, "put the new folder in place");
    }
    if (status == NB_OK)
        status = ni_sync_parent(folder->path, err);
    ni_folder_abandon(folder); /* after an exchange, the old folder bears the temporary name */
    return status;
}

void ni_folder_abandon(ni_folder *folder) {
    if (!folder)
        return;
    ni_folder_remove(folder->temporary, NULL);
    free(folder->temporary);
    free(folder->path);
    free(folder);
}
