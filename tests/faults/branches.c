#define _GNU_SOURCE
#include "branches.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int orders = -1, answers;
static char here[PATH_MAX], there[PATH_MAX], writes[256];
static char next[FAULT_SIZE], next_kind[16];
static long next_n;
static pid_t first_of_us; /* in a child: the process that it goes on as */

/* Names of temporary files have it. */
__attribute__((visibility("default"))) pid_t getpid(void) {
    return first_of_us ? first_of_us : (pid_t)syscall(SYS_getpid);
}

/* Without an order there is nothing to run for. */
static void take_order(void) {
    size_t length = 0;
    while (length + 1 < sizeof next && read(orders, next + length, 1) == 1 && next[length] != '\n')
        length++;
    next[length] = 0;
    if (sscanf(next, "%15[a-z]:%ld", next_kind, &next_n) != 2)
        _exit(0);
}

static void answer(long number) {
    char line[32];
    const int length = snprintf(line, sizeof line, "%ld\n", number);
    if (write(answers, line, (size_t)length) != length)
        _exit(1);
}

void branches_begin(void) {
    const char *asked = getenv("NIBBLE_FAULT_BRANCHES");
    if (!asked)
        return;
    if (sscanf(asked, "%d %d %4095s %255s", &orders, &answers, there, writes) != 4 || !getcwd(here, sizeof here))
        _exit(1);
    take_order();
}

/* ---- a child's own files ---- */

static void copy(const char *from, const char *to);

static void copy_folder(const char *from, const char *to) {
    char a[PATH_MAX], b[PATH_MAX];
    DIR *folder = opendir(from);
    mkdir(to, 0777);
    for (struct dirent *entry; folder && (entry = readdir(folder));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
            snprintf(a, sizeof a, "%s/%s", from, entry->d_name) < PATH_MAX &&
            snprintf(b, sizeof b, "%s/%s", to, entry->d_name) < PATH_MAX)
            copy(a, b);
    if (folder)
        closedir(folder);
}

/* Nothing writes to numbers that are committed: they are the same file, which strike.py reads once. A branch whose
 * files are not those of its trunk would be judged for nothing: it ends by a signal, which no strike may. */
static void copy(const char *from, const char *to) {
    struct stat st;
    if (strstr(from, ".safetensors") && !strstr(from, ".tmp-") && link(from, to) == 0)
        return;
    if (lstat(from, &st) != 0)
        return;
    if (S_ISDIR(st.st_mode)) {
        copy_folder(from, to);
        return;
    }
    const int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_TRUNC, st.st_mode);
    ssize_t copied;
    do
        copied = in >= 0 && out >= 0 ? copy_file_range(in, NULL, out, NULL, 1 << 30, 0) : -1;
    while (copied > 0);
    if (copied < 0)
        abort();
    close(in);
    close(out);
}

static void copy_what_was_written(void) {
    char a[PATH_MAX], b[PATH_MAX];
    DIR *folder = opendir(here);
    for (struct dirent *entry; folder && (entry = readdir(folder));)
        if ((strcmp(entry->d_name, writes) == 0 || strstr(entry->d_name, ".tmp-")) &&
            snprintf(a, sizeof a, "%s/%s", here, entry->d_name) < PATH_MAX &&
            snprintf(b, sizeof b, "%s/%s", there, entry->d_name) < PATH_MAX)
            copy(a, b);
    if (folder)
        closedir(folder);
}

static bool is_locked(int fd) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    const int info = open(path, O_RDONLY);
    const ssize_t size = read(info, text, sizeof text - 1);
    close(info);
    text[size > 0 ? size : 0] = 0;
    return strstr(text, "FLOCK");
}

/* What is open here becomes its copy there, at the same place. */
static void reopen(int fd) {
    char link[64], path[PATH_MAX], moved[PATH_MAX];
    const size_t length = strlen(here);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t size = fcntl(fd, F_GETFD) >= 0 ? readlink(link, path, sizeof path - 1) : 0;
    path[size > 0 ? size : 0] = 0;
    if (strncmp(path, here, length) != 0 || (path[length] && path[length] != '/') ||
        snprintf(moved, sizeof moved, "%s%s", there, path + length) >= PATH_MAX)
        return;
    const int copied = open(moved, fcntl(fd, F_GETFL));
    if (copied < 0)
        return;
    lseek(copied, lseek(fd, 0, SEEK_CUR), SEEK_SET);
    if (is_locked(fd))
        flock(copied, LOCK_EX | LOCK_NB);
    dup3(copied, fd, fcntl(fd, F_GETFD) & FD_CLOEXEC ? O_CLOEXEC : 0);
    close(copied);
}

static void move_over(void) {
    copy_what_was_written();
    close(orders);
    close(answers);
    orders = -1;
    for (int fd = 3; fd < 256; fd++)
        reopen(fd);
    if (chdir(there) != 0)
        _exit(1);
    const int log = open("log", O_WRONLY | O_CREAT | O_TRUNC, 0666);
    dup2(log, 1);
    dup2(log, 2);
    close(log);
}

bool branch_at(const char *kind, long n, char fault[FAULT_SIZE]) {
    while (orders >= 0 && n == next_n && strcmp(kind, next_kind) == 0) {
        const pid_t self = getpid(), child = fork();
        if (child == 0) {
            first_of_us = self;
            move_over();
            memcpy(fault, next, FAULT_SIZE);
            return true;
        }
        int status = 0;
        answer(child);
        waitpid(child, &status, 0);
        answer(status);
        take_order();
    }
    return false;
}
