/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into httpd by the tests: whoever is to be told to continue is gone at that moment, as
 * where a RST comes between the look for the body and this.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

ssize_t writev(int fd, const struct iovec *iov, int count)
{
    static const char interim[] = "HTTP/1.1 100";
    ssize_t (*next)(int, const struct iovec *, int) = dlsym(RTLD_NEXT, "writev");

    if (count > 0 && iov->iov_len >= sizeof(interim) - 1
        && memcmp(iov->iov_base, interim, sizeof(interim) - 1) == 0) {
        shutdown(fd, SHUT_RDWR);
        errno = EPIPE;
        return -1;
    }
    return next(fd, iov, count);
}
