/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Replays a corpus through a fuzz target with an ordinary compiler, in "make check": the files and
 * folders on the command line or, without any, fuzz/corpus/X for the program fuzz_X. Each input is
 * memory of its exact size, so that a sanitizer sees a read behind it. No input at all is a
 * failure.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <apr_file_info.h>
#include <apr_file_io.h>
#include <apr_general.h>
#include <apr_lib.h>
#include <apr_pools.h>
#include <apr_strings.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned replayed;

static void die(const char *path, apr_status_t rv)
{
    char text[128];

    fprintf(stderr, "%s: %s\n", path, apr_strerror(rv, text, sizeof(text)));
    exit(EXIT_FAILURE);
}

static void replay_file(const char *path, apr_pool_t *p)
{
    apr_file_t *file;
    apr_finfo_t info;
    apr_status_t rv;
    uint8_t *data;

    rv = apr_file_open(&file, path, APR_READ | APR_BINARY, APR_OS_DEFAULT, p);
    if (rv != APR_SUCCESS || (rv = apr_file_info_get(&info, APR_FINFO_SIZE, file)) != APR_SUCCESS) {
        die(path, rv);
    }
    data = malloc(info.size ? (size_t)info.size : 1);
    rv = apr_file_read_full(file, data, (apr_size_t)info.size, NULL);
    if (rv != APR_SUCCESS && info.size) {
        die(path, rv);
    }
    LLVMFuzzerTestOneInput(data, (size_t)info.size);
    free(data);
    replayed++;
    apr_file_close(file);
}

static void replay(const char *path, apr_pool_t *p)
{
    apr_finfo_t info;
    apr_status_t rv;
    apr_dir_t *dir;

    rv = apr_stat(&info, path, APR_FINFO_TYPE, p);
    if (rv != APR_SUCCESS) {
        die(path, rv);
    }
    if (info.filetype != APR_DIR) {
        replay_file(path, p);
        return;
    }
    rv = apr_dir_open(&dir, path, p);
    if (rv != APR_SUCCESS) {
        die(path, rv);
    }
    while (apr_dir_read(&info, APR_FINFO_NAME, dir) == APR_SUCCESS) {
        if (info.name[0] != '.') {
            replay_file(apr_pstrcat(p, path, "/", info.name, NULL), p);
        }
    }
    apr_dir_close(dir);
}

/* Automake tells its tests where the sources are. */
static const char *own_corpus(const char *program, apr_pool_t *p)
{
    const char *name = strstr(apr_filepath_name_get(program), "fuzz_");
    const char *source = getenv("srcdir");

    return apr_pstrcat(p, source ? source : ".", "/fuzz/corpus/", name ? name + 5 : "", NULL);
}

int main(int argc, char **argv)
{
    apr_pool_t *p;
    int i;

    apr_initialize();
    apr_pool_create(&p, NULL);
    for (i = 1; i < argc; i++) {
        replay(argv[i], p);
    }
    if (argc == 1) {
        replay(own_corpus(argv[0], p), p);
    }
    printf("%u inputs replayed\n", replayed);
    apr_pool_destroy(p);
    apr_terminate();
    return replayed ? EXIT_SUCCESS : EXIT_FAILURE;
}
