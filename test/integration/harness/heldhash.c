/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into httpd by the tests: holds a thread at a place of the code that nothing else can be
 * timed against, where a digest is made. Whoever makes one of 33 bytes that end with "p" is held
 * if there is a FIFO of the name of this library and ".33p", until the FIFO's writer closes it.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

typedef int digest_fn(const void *data, size_t len, unsigned char *digest, unsigned *size,
                      const void *algorithm, void *engine);

digest_fn EVP_Digest;

static void wait_for_writer(size_t len, unsigned char last)
{
    char path[4096], byte;
    Dl_info self;
    int fd;

    if (!dladdr((void *)wait_for_writer, &self)) {
        return;
    }
    snprintf(path, sizeof(path), "%s.%zu%c", self.dli_fname, len, last);
    fd = open(path, O_RDONLY);
    if (fd >= 0) {
        while (read(fd, &byte, 1) > 0) {
        }
        close(fd);
    }
}

int EVP_Digest(const void *data, size_t len, unsigned char *digest, unsigned *size,
               const void *algorithm, void *engine)
{
    digest_fn *next = (digest_fn *)dlsym(RTLD_NEXT, "EVP_Digest");
    unsigned char last = len > 0 ? ((const unsigned char *)data)[len - 1] : 0;

    if (last >= 'a' && last <= 'z') {
        wait_for_writer(len, last);
    }
    return next(data, len, digest, size, algorithm, engine);
}
