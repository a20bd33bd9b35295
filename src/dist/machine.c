/* machine.c: a host's name, and what its kernel drew when it started. */
#include "dist/machine.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { HOST_SIZE = 256, ID_SIZE = 48 };

void ni_machine_name(const char *boot_id, char out[NI_MACHINE_SIZE]) {
    char host[HOST_SIZE] = "", id[ID_SIZE] = "";
    FILE *file = fopen(boot_id, "r");
    if (file) {
        if (!fgets(id, sizeof id, file))
            id[0] = '\0';
        fclose(file);
    }
    id[strcspn(id, "\n")] = '\0';
    if (gethostname(host, sizeof host - 1) != 0)
        host[0] = '\0';
    snprintf(out, NI_MACHINE_SIZE, "%s%s%s", host, id[0] ? " " : "", id);
}
