/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What MCPProxyAffinity sealed costs, in microseconds, on one thread: to seal an id, to open its
 * text, to see that a text does not open, and to put the text of a URL back into the server's id.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <apr_general.h>

#include "mcp_clock.h"
#include "mcp_proxy_ids.h"
#include "mcp_proxy_seal.h"

#define ROUNDS 200000
#define SCOPE "balancer://mcp"
#define USER "localhost:80:mcp:alice"
#define ID "1e0c2b8e-9a53-4f0a-8f4e-0123456789ab"

typedef struct bench_t {
    mcp_seal_t *seal;
    const char *text, *foreign, *url;
    apr_pool_t *pool;
} bench_t;

static int seal(bench_t *b)
{
    return mcp_seal_id(b->seal, SCOPE, USER, "a", ID, b->pool) != NULL;
}

static int open_text(bench_t *b, const char *text)
{
    const char *member, *id;

    return mcp_seal_open(b->seal, SCOPE, USER, text, &member, &id, b->pool) == APR_SUCCESS;
}

static int open_own(bench_t *b)
{
    return open_text(b, b->text);
}

static int open_foreign(bench_t *b)
{
    return !open_text(b, b->foreign);
}

static int open_raw(bench_t *b)
{
    return !open_text(b, ID);
}

static const char *to_id(void *baton, const char *id, int is_guess)
{
    const bench_t *b = baton;

    return strcmp(id, b->text) == 0 ? ID : id;
}

static int map_url(bench_t *b)
{
    return mcp_id_map_url(b->pool, b->url, to_id, b) != b->url;
}

static int measure(const char *what, int (*fn)(bench_t *), bench_t *b, apr_pool_t *pool)
{
    apr_time_t start;
    int i;

    apr_pool_create(&b->pool, pool);
    start = mcp_clock_now();
    for (i = 0; i < ROUNDS; i++) {
        if (!fn(b)) {
            fprintf(stderr, "%s: failed\n", what);
            return EXIT_FAILURE;
        }
        if (i % 64 == 0) {
            apr_pool_clear(b->pool);
        }
    }
    printf("%-36s %.2f us\n", what, (double)(mcp_clock_now() - start) / ROUNDS);
    apr_pool_destroy(b->pool);
    return EXIT_SUCCESS;
}

int main(void)
{
    unsigned char bytes[1][MCP_KEY_BYTES] = { { 1, 2, 3 } };
    mcp_keys_t keys = { 1, bytes };
    apr_pool_t *pool;
    bench_t b;

    apr_initialize();
    apr_pool_create(&pool, NULL);
    if (mcp_seal_create(&b.seal, &keys, pool) != APR_SUCCESS) {
        return EXIT_FAILURE;
    }
    b.text = mcp_seal_id(b.seal, SCOPE, USER, "a", ID, pool);
    b.foreign = mcp_seal_id(b.seal, SCOPE, "localhost:80:mcp:bob", "a", ID, pool);
    b.url = "http://127.0.0.1:3001/message?sessionId=x";
    printf("%zu characters for %zu\n", strlen(b.text), strlen(ID));
    if (measure("seal", seal, &b, pool) || measure("open", open_own, &b, pool)
        || measure("refuse another identity's", open_foreign, &b, pool)
        || measure("refuse a raw id", open_raw, &b, pool)) {
        return EXIT_FAILURE;
    }
    b.text = "x";
    return measure("put the id into a URL", map_url, &b, pool);
}
