/* with_ports.c: runs a command with TCP ports that nobody else gets meanwhile, in NIBBLE_TEST_PORTS.
 *
 *     with_ports COUNT COMMAND...
 *
 * The system chooses them. They stay bound, by sockets that do not listen and that the command inherits: the system
 * gives none of them away, and a program of the command can listen there, since both say SO_REUSEADDR.
 */
#include "ports.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
    enum { MOST = 64 };
    char ports[8 * MOST] = "";
    const int count = argc > 2 ? atoi(argv[1]) : 0;
    if (count < 1 || count > MOST) {
        fprintf(stderr, "usage: with_ports COUNT COMMAND...     COUNT: 1 to %d\n", MOST);
        return 2;
    }
    for (int i = 0; i < count; i++) {
        const int port = hold_port();
        const size_t length = strlen(ports);
        if (port == 0) {
            perror("with_ports: no port");
            return 1;
        }
        snprintf(ports + length, sizeof ports - length, "%s%d", i ? " " : "", port);
    }
    if (setenv("NIBBLE_TEST_PORTS", ports, 1) == 0)
        execvp(argv[2], argv + 2);
    perror(argv[2]);
    return 127;
}
