/* beside.c: where libraries that are opened at run time lie. */
#define _GNU_SOURCE /* dladdr, which POSIX has since 2024 */
#include "base/beside.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Folder of the running program, without a final slash; "" if the system does not say. */
static void program_folder(char *folder, size_t size) {
    ssize_t length = readlink("/proc/self/exe", folder, size - 1);
    folder[length > 0 ? length : 0] = '\0';
    char *slash = strrchr(folder, '/');
    if (slash)
        *slash = '\0';
}

/* Folder of libnibble.so, for a program of one's own; that of the program where the library is part of it. */
static void own_folder(char *folder, size_t size) {
    static const char here; /* an address inside of whatever holds this code */
    Dl_info info;
    snprintf(folder, size, "%s", dladdr(&here, &info) && info.dli_fname ? info.dli_fname : "");
    char *slash = strrchr(folder, '/');
    if (slash)
        *slash = '\0';
}

void *ni_open_beside(const char *library, char *why, size_t size) {
    static const struct {
        void (*folder)(char *folder, size_t size);
        const char *path;
    } places[] = {{program_folder, "%s/%s"},
                  {program_folder, "%s/../lib/nibble/%s"},
                  {own_folder, "%s/%s"},
                  {own_folder, "%s/nibble/%s"}};
    char folder[4096], path[4200];
    why[0] = '\0';
    for (size_t i = 0; i <= sizeof places / sizeof *places; i++) {
        if (i < sizeof places / sizeof *places) {
            places[i].folder(folder, sizeof folder);
            snprintf(path, sizeof path, places[i].path, folder, library);
        } else
            snprintf(path, sizeof path, "%s", library);
        if (strchr(path, '/') && access(path, R_OK) != 0)
            continue;
        void *opened = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (opened)
            return opened;
        const char *text = dlerror(); /* names the file */
        if (strchr(path, '/'))        /* it is there, and something that it needs is not */
            snprintf(why, size, "%.500s", text ? text : "unknown");
    }
    return NULL;
}

/* ISO C has no cast between objects and functions; POSIX has, through memory. */
bool ni_find_function(void *library, const char *name, void *function) {
    void *symbol = dlsym(library, name);
    memcpy(function, &symbol, sizeof symbol);
    return symbol != NULL;
}
