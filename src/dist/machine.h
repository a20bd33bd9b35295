/* machine.h: which machine a process runs on. */
#ifndef NI_DIST_MACHINE_H
#define NI_DIST_MACHINE_H

#include <stddef.h>

enum { NI_MACHINE_SIZE = 320 };

#define NI_BOOT_ID "/proc/sys/kernel/random/boot_id"

/* Its host's name and what its kernel drew when it started (`boot_id`, a file), for hosts of one name are not one
 * machine. Without such a file the name alone; empty where there is neither. */
void ni_machine_name(const char *boot_id, char out[NI_MACHINE_SIZE]);

#endif
