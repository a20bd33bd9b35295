/* host_memory.h: how much memory of this machine a process could still take. */
#ifndef NI_BASE_HOST_MEMORY_H
#define NI_BASE_HOST_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

typedef struct ni_host_memory {
    size_t left; /* bytes: what the kernel could give without taking from others, swap in it, and what the limits of the
                    process's control groups leave; page cache counts as free */
    size_t all;  /* of the machine, or the least of those limits */
} ni_host_memory;

/* false: the system does not say. */
bool ni_host_memory_now(ni_host_memory *out);

/* The same from other folders than /proc and /sys/fs/cgroup. */
bool ni_host_memory_from(const char *proc, const char *groups, ni_host_memory *out);

#endif
