/* with_ports.c: runs a command with TCP ports that nobody else gets meanwhile, in NIBBLE_TEST_PORTS.
 *
 *     with_ports COUNT COMMAND...
 *
 * The system chooses them. They stay bound, by sockets that do not listen and that the command inherits: the system
 * gives none of them away, and a program of the command can listen there, since both say SO_REUSEADDR.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* A port of all interfaces, of IPv6 where there is such; 0 if there is none. */
static int hold_port(void) {
    struct sockaddr_in6 six = {.sin6_family = AF_INET6};
    struct sockaddr_in four = {.sin_family = AF_INET};
    const int yes = 1, zero = 0;
    socklen_t size = sizeof six;
    int s = socket(AF_INET6, SOCK_STREAM, 0);
    if (s >= 0 && setsockopt(s, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero) == 0 &&
        setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) == 0 &&
        bind(s, (struct sockaddr *)&six, sizeof six) == 0 && getsockname(s, (struct sockaddr *)&six, &size) == 0)
        return ntohs(six.sin6_port);
    if (s >= 0)
        close(s);
    s = socket(AF_INET, SOCK_STREAM, 0);
    size = sizeof four;
    if (s >= 0 && setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) == 0 &&
        bind(s, (struct sockaddr *)&four, sizeof four) == 0 && getsockname(s, (struct sockaddr *)&four, &size) == 0)
        return ntohs(four.sin_port);
    return 0;
}

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
