/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into httpd by the tests: whoever gives a block of a pool back to the system is busy for
 * a while before it goes on, as where other threads have the processor.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 8192 /* the smallest that APR takes */
#define BUSY_NS (30 * 1000 * 1000)

static long long now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

int munmap(void *address, size_t length)
{
    int done = (int)syscall(SYS_munmap, address, length);
    long long until = now() + BUSY_NS;

    while (length == BLOCK && now() < until) {
    }
    return done;
}
