/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into httpd by the tests: a request that looks its session up is held in the middle of
 * that, between the table and the records of rescues, where the first thing done is to name one.
 * The one that finds a FIFO beside this library is held, until the FIFO's writer closes it.
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

/* Two digests, and the kind of record: parameters (mcp_proxy_record.c). */
#define SUBJECT 33
#define KIND 'p'

static void wait_for_writer(void)
{
    char path[4096], byte;
    Dl_info self;
    int fd;

    if (!dladdr((void *)wait_for_writer, &self)) {
        return;
    }
    snprintf(path, sizeof(path), "%s.fifo", self.dli_fname);
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

    if (len == SUBJECT && ((const unsigned char *)data)[SUBJECT - 1] == KIND) {
        wait_for_writer();
    }
    return next(data, len, digest, size, algorithm, engine);
}
