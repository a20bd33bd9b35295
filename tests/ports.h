/* ports.h: TCP ports that nobody else gets meanwhile. */
#ifndef NI_TEST_PORTS_H
#define NI_TEST_PORTS_H

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

/* A port that the system chose, held by a socket that does not listen for as long as this process lives: who says
 * SO_REUSEADDR can listen there. Of all interfaces, of IPv6 where there is such; 0 if there is none. */
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

#endif
