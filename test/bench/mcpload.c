/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mcpload serve PORT BOARD: the backend. mcpload drive PORT BOARD: the client, which reads commands
 * from stdin and answers each with one line of key=value pairs. Both have one thread and end when
 * their stdin does, so that nothing outlives the driver that started them.
 */
#include "mcpload.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

void mcpload_die(const char *what)
{
    fprintf(stderr, "mcpload: %s: %s\n", what, strerror(errno));
    exit(1);
}

int mcpload_socket(int flags)
{
    int one = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);

    if (fd < 0) {
        mcpload_die("socket");
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return fd;
}

void mcpload_addr(struct sockaddr_in *sa, int port)
{
    memset(sa, 0, sizeof(*sa));
    sa->sin_family = AF_INET;
    sa->sin_port = htons((uint16_t)port);
    sa->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
}

/* The file's size is what both halves agree on; whoever comes first makes it. */
static mcpload_board_t *board_map(const char *path)
{
    mcpload_board_t *board;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    if (fd < 0 || ftruncate(fd, sizeof(*board))) {
        mcpload_die(path);
    }
    board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (board == MAP_FAILED) {
        mcpload_die("mmap");
    }
    close(fd);
    return board;
}

static void raise_nofile(void)
{
    struct rlimit rl;

    if (!getrlimit(RLIMIT_NOFILE, &rl)) {
        rl.rlim_cur = rl.rlim_max;
        setrlimit(RLIMIT_NOFILE, &rl);
    }
}

int main(int argc, char **argv)
{
    int port = argc == 4 ? atoi(argv[2]) : 0;

    signal(SIGPIPE, SIG_IGN);
    raise_nofile();
    if (port > 0 && !strcmp(argv[1], "serve")) {
        mcpload_serve(port, board_map(argv[3]));
    }
    if (port > 0 && !strcmp(argv[1], "drive")) {
        mcpload_drive(port, board_map(argv[3]));
    }
    fprintf(stderr, "usage: mcpload serve|drive PORT BOARD\n");
    return 2;
}
