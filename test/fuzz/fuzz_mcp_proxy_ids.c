/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any text as a URL with ids in it: finding them changes nothing; what is put in their place is
 * found there again, encoded or not; the rest of the URL stays.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <apr_general.h>
#include <apr_pools.h>
#include <apr_strings.h>
#include <apr_tables.h>

#include "mcp_proxy_ids.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct seen_t {
    apr_pool_t *p;
    apr_array_header_t *ids;
    const char *mark; /* put before each id; NULL: leave it */
} seen_t;

static void expect(int holds)
{
    if (!holds) {
        abort();
    }
}

static const char *note(void *baton, const char *id, int is_guess)
{
    seen_t *seen = baton;

    APR_ARRAY_PUSH(seen->ids, const char *) = id;
    expect(is_guess == 0 || is_guess == 1);
    expect(is_guess ? seen->ids->nelts == 1 : 1);
    return seen->mark ? apr_pstrcat(seen->p, seen->mark, id, NULL) : id;
}

static const char *map(seen_t *seen, const char *url, const char *mark)
{
    seen->ids = apr_array_make(seen->p, 4, sizeof(const char *));
    seen->mark = mark;
    return mcp_id_map_url(seen->p, url, note, seen);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char mark[] = "%/?&;=#+ x";
    static int is_ready;
    apr_array_header_t *before;
    const char *url, *marked;
    seen_t seen;
    int i;

    if (!is_ready) {
        apr_initialize();
        is_ready = 1;
    }
    apr_pool_create(&seen.p, NULL);
    url = apr_pstrmemdup(seen.p, (const char *)data, size);
    expect(map(&seen, url, NULL) == url);
    before = seen.ids;
    marked = map(&seen, url, mark);
    expect((marked == url) == (before->nelts == 0));
    map(&seen, marked, NULL);
    expect(seen.ids->nelts == before->nelts);
    for (i = 0; i < before->nelts; i++) {
        const char *id = APR_ARRAY_IDX(seen.ids, i, const char *);

        expect(strncmp(id, mark, strlen(mark)) == 0);
        expect(strcmp(id + strlen(mark), APR_ARRAY_IDX(before, i, const char *)) == 0);
    }
    apr_pool_destroy(seen.p);
    return 0;
}
