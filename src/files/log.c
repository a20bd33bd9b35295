/* log.c: appending with nothing torn. */
#include "log.h"
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_WAITING = 64 << 20 };

struct ni_log {
    int fd;
    off_t end; /* of what is written */
    char *path;
    char *waiting;
    size_t size, capacity;
    bool ended; /* takes nothing more */
};

nb_status ni_log_open(const char *path, bool fresh, ni_log **out, nb_error *err) {
    bool exists;
    *out = NULL;
    NB_TRY(ni_file_exists(path, &exists, err));
    ni_log *log = calloc(1, sizeof *log);
    if (!log || !(log->path = strdup(path))) {
        free(log);
        return nb_fail(err, NB_NO_MEMORY, "%s: out of memory", path);
    }
    log->fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | (fresh ? O_EXCL : 0), 0644);
    nb_status status = log->fd < 0 ? ni_fail_errno(err, path, "open for appending") : NB_OK;
    if (status == NB_OK && (log->end = lseek(log->fd, 0, SEEK_END)) < 0)
        status = ni_fail_errno(err, path, "find the end");
    if (status == NB_OK && !exists)
        status = ni_sync_parent(path, err);
    if (status != NB_OK) {
        ni_log_close(log);
        return status;
    }
    *out = log;
    return NB_OK;
}

void ni_log_close(ni_log *log) {
    if (!log)
        return;
    if (log->fd >= 0) {
        ni_log_flush(log, NULL);
        close(log->fd);
    }
    free(log->waiting);
    free(log->path);
    free(log);
}

void ni_log_put(ni_log *log, const void *bytes, size_t size) {
    if (log->ended || log->size + size > MOST_WAITING) {
        log->ended = true;
        return;
    }
    if (log->size + size > log->capacity) {
        size_t capacity = 2 * (log->size + size);
        char *grown = realloc(log->waiting, capacity);
        log->ended = !grown;
        if (!grown)
            return;
        log->waiting = grown;
        log->capacity = capacity;
    }
    memcpy(log->waiting + log->size, bytes, size);
    log->size += size;
}

nb_status ni_log_flush(ni_log *log, nb_error *err) {
    for (size_t done = 0; done < log->size;) {
        ssize_t n = pwrite(log->fd, log->waiting + done, log->size - done, log->end + (off_t)done);
        if (n > 0)
            done += (size_t)n;
        if (n > 0 || (n < 0 && errno == EINTR))
            continue;
        nb_status status = ni_fail_errno(err, log->path, "append");
        if (ftruncate(log->fd, log->end) != 0) /* then what stands beyond the end is overwritten next time */
            return status;
        return status;
    }
    log->end += (off_t)log->size;
    log->size = 0;
    return log->ended ? nb_fail(err, NB_NO_MEMORY, "%s: has no more room in memory and ends here", log->path) : NB_OK;
}

nb_status ni_log_sync(ni_log *log, nb_error *err) {
    NB_TRY(ni_log_flush(log, err));
    return fdatasync(log->fd) == 0 || errno == EINVAL ? NB_OK : ni_fail_errno(err, log->path, "sync");
}

nb_status ni_log_cut(ni_log *log, size_t size, nb_error *err) {
    if (ftruncate(log->fd, (off_t)size) != 0)
        return ni_fail_errno(err, log->path, "cut the end off");
    log->end = (off_t)size;
    return NB_OK;
}

const char *ni_log_path(const ni_log *log) {
    return log->path;
}

nb_status ni_file_set_aside(const char *path, char *aside, size_t size, nb_error *err) {
    for (int n = 1; n < 10000; n++) {
        bool taken;
        if (snprintf(aside, size, "%s.damaged-%d", path, n) >= (int)size)
            return nb_fail(err, NB_BAD_USAGE, "%s: the name is too long to be set aside", path);
        NB_TRY(ni_file_exists(aside, &taken, err));
        if (taken)
            continue;
        if (rename(path, aside) != 0)
            return ni_fail_errno(err, path, "set the damaged file aside");
        return ni_sync_parent(path, err);
    }
    return nb_fail(err, NB_IO_ERROR, "%s: too many damaged files of this name", path);
}
