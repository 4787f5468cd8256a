/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into httpd by the tests: a descriptor that is closed a second time may be another
 * thread's by then, which no test would notice otherwise.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>

int close(int fd)
{
    int (*next)(int) = dlsym(RTLD_NEXT, "close");
    int rv = next(fd);

    if (rv != 0 && errno == EBADF) {
        fprintf(stderr, "descriptor %d was closed already\n", fd);
        errno = EBADF;
    }
    return rv;
}
