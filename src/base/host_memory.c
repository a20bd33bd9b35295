/* host_memory.c: /proc/meminfo, and the control groups that a process is in, from its own up to the top: version 2 has
 * one tree of them, version 1 one for memory alone. */
#include "host_memory.h"

#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LONG = 3 * PATH_MAX }; /* of a folder of ours, a group and a file */

/* The number behind `name` at the beginning of a line; name "": the file is that number. false: there is none. */
static bool read_number(const char *path, const char *name, unsigned long long *out) {
    const size_t length = strlen(name);
    char line[256], *end;
    bool found = false;
    FILE *file = fopen(path, "r");
    while (file && !found && fgets(line, sizeof line, file)) {
        *out = strtoull(line + (strncmp(line, name, length) == 0 ? length : 0), &end, 10);
        found = strncmp(line, name, length) == 0 && end != line + length;
    }
    if (file)
        fclose(file);
    return found;
}

static size_t most(unsigned long long bytes) {
    return bytes > SIZE_MAX ? SIZE_MAX : (size_t)bytes;
}

static void lower(size_t *to, size_t bytes) {
    if (bytes < *to)
        *to = bytes;
}

/* How two versions name the same. */
typedef struct names {
    const char *limit, *used, *cache;
} names;
static const names of_one_tree = {"memory.max", "memory.current", "inactive_file "},
                   of_memory = {"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "};

static void look_into(const char *folder, const names *n, ni_host_memory *out) {
    char path[LONG + 64];
    unsigned long long limit, used = 0, cache = 0;
    snprintf(path, sizeof path, "%s/%s", folder, n->limit);
    if (!read_number(path, "", &limit)) /* "max", or no such file */
        return;
    snprintf(path, sizeof path, "%s/%s", folder, n->used);
    if (!read_number(path, "", &used))
        return;
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    read_number(path, n->cache, &cache);
    used -= cache < used ? cache : used;
    lower(&out->left, most(limit > used ? limit - used : 0));
    lower(&out->all, most(limit));
}

/* `group` is "/a/b": /a/b, /a and the top. */
static void look_up(const char *top, char *group, const names *n, ni_host_memory *out) {
    char path[LONG];
    for (char *end = group + strlen(group); end; end = strrchr(group, '/')) {
        *end = '\0';
        snprintf(path, sizeof path, "%s%s", top, group);
        look_into(path, n, out);
    }
}

/* Lines of /proc/self/cgroup: "0::/a/b" of the one tree, "4:memory:/a/b" of a tree for memory. */
static void apply_groups(const char *proc, const char *groups, ni_host_memory *out) {
    char path[2 * PATH_MAX], line[PATH_MAX];
    snprintf(path, sizeof path, "%s/self/cgroup", proc);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        char *names_of = strchr(line, ':'), *group = names_of ? strchr(names_of + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = '\0';
        snprintf(path, sizeof path, "%s/memory", groups);
        if (strcmp(names_of, ":") == 0)
            look_up(groups, group, &of_one_tree, out);
        else if (strcmp(names_of, ":memory") == 0)
            look_up(path, group, &of_memory, out);
    }
    if (file)
        fclose(file);
}

bool ni_host_memory_from(const char *proc, const char *groups, ni_host_memory *out) {
    char path[PATH_MAX];
    unsigned long long all, available, swap = 0;
    snprintf(path, sizeof path, "%s/meminfo", proc);
    if (!read_number(path, "MemTotal:", &all) || !read_number(path, "MemAvailable:", &available))
        return false;
    read_number(path, "SwapFree:", &swap);
    *out = (ni_host_memory){.left = most((available + swap) << 10), .all = most(all << 10)};
    apply_groups(proc, groups, out);
    return true;
}

bool ni_host_memory_now(ni_host_memory *out) {
    return ni_host_memory_from("/proc", "/sys/fs/cgroup", out);
}
