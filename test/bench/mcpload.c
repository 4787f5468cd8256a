/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mcpload serve PORT BOARD: the backend. mcpload drive PORT BOARD: the client, which reads commands
 * from stdin and answers each with one line of key=value pairs. mcpload storm PORT BOARD: another
 * one, for clients that come all at once. Each has one thread and ends when its stdin does, so that
 * nothing outlives the driver that started them.
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

#define MAX_SAMPLES (1u << 21)

static uint64_t samples[MAX_SAMPLES];
static uint32_t nsamples;

void mcpload_samples_reset(void)
{
    nsamples = 0;
}

void mcpload_sample(uint64_t ns)
{
    if (nsamples < MAX_SAMPLES) {
        samples[nsamples++] = ns;
    }
}

uint32_t mcpload_samples_count(void)
{
    return nsamples;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

void mcpload_samples_sort(void)
{
    qsort(samples, nsamples, sizeof(*samples), by_value);
}

double mcpload_pct(double p)
{
    uint32_t at = (uint32_t)((double)nsamples * p / 100);

    if (!nsamples) {
        return -1;
    }
    return (double)samples[at < nsamples ? at : nsamples - 1] / 1000.0;
}

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
    if (port > 0 && !strcmp(argv[1], "storm")) {
        mcpload_storm(port);
    }
    fprintf(stderr, "usage: mcpload serve|drive|storm PORT BOARD\n");
    return 2;
}
