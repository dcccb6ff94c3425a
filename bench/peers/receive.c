/*
 * A plain receiver, with the socket buffer that a socket has when nobody asks for another.
 *
 *   receive INTERFACE_ADDRESS GROUP PORT
 *
 * It reads one datagram after the other, and sleeps when there is none. Ends on SIGTERM.
 *
 * SPDX-License-Identifier: GPL-3.0-or-later
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static void fail(const char *what)
{
    fprintf(stderr, "receive: %s: %s\n", what, strerror(errno));
    exit(1);
}

int main(int argc, char **argv)
{
    static char payload[65536];
    struct ip_mreq join;
    struct sockaddr_in address = {.sin_family = AF_INET};
    if (argc != 4 || !inet_aton(argv[1], &join.imr_interface) ||
        !inet_aton(argv[2], &join.imr_multiaddr)) {
        fprintf(stderr, "usage: receive INTERFACE_ADDRESS GROUP PORT\n");
        return 2;
    }
    address.sin_addr = join.imr_multiaddr;
    address.sin_port = htons((uint16_t)atoi(argv[3]));
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &join, sizeof(join)) < 0)
        fail("socket");
    while (recv(fd, payload, sizeof(payload), 0) >= 0 || errno == EINTR)
        ;
    fail("recv");
}
