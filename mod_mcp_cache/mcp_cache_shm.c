/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Values are mcp_blobs. Generations are an array of counters ahead of them, picked by hash: two
 * tags that share one are invalidated together, which costs hits and nothing else.
 */
#include "mcp_cache_shm.h"

#include "mcp_blobs.h"

#define MAGIC 0x31434853504d0002ULL
#define GENERATIONS 8192

struct mcp_cache_shm_t {
    apr_uint64_t magic;
    apr_uint64_t size;
    apr_uint64_t generation[GENERATIONS]; /* atomic */
};

/* The values lie behind the counters. */
static mcp_blobs_t *blobs_of(mcp_cache_shm_t *shm)
{
    return (mcp_blobs_t *)(shm + 1);
}

mcp_cache_shm_t *mcp_cache_shm_init(void *mem, apr_size_t size, apr_size_t largest)
{
    mcp_cache_shm_t *shm = mem;
    int i;

    shm->size = size;
    for (i = 0; i < GENERATIONS; i++) {
        shm->generation[i] = 1;
    }
    mcp_blobs_init(blobs_of(shm), size - sizeof(*shm), largest);
    shm->magic = MAGIC;
    return shm;
}

mcp_cache_shm_t *mcp_cache_shm_attach(void *mem, apr_size_t size)
{
    mcp_cache_shm_t *shm = mem;

    return shm->magic == MAGIC && shm->size == size
        && mcp_blobs_attach(blobs_of(shm), size - sizeof(*shm)) ? shm : NULL;
}

apr_status_t mcp_cache_shm_get(mcp_cache_shm_t *shm, const unsigned char digest[MCP_CACHE_DIGEST],
                               apr_pool_t *p, mcp_span_t *value, apr_interval_time_t *left)
{
    return mcp_blobs_get(blobs_of(shm), digest, p, value, left);
}

apr_status_t mcp_cache_shm_put(mcp_cache_shm_t *shm, const unsigned char digest[MCP_CACHE_DIGEST],
                               mcp_span_t value, apr_interval_time_t life)
{
    return mcp_blobs_put(blobs_of(shm), digest, value, life);
}

void mcp_cache_shm_usage(mcp_cache_shm_t *shm, apr_uint64_t *entries, apr_uint64_t *bytes)
{
    mcp_blobs_usage(blobs_of(shm), entries, bytes);
}

apr_uint64_t mcp_cache_shm_generation(mcp_cache_shm_t *shm, apr_uint64_t tag)
{
    return __atomic_load_n(&shm->generation[tag % GENERATIONS], __ATOMIC_SEQ_CST);
}

void mcp_cache_shm_invalidate(mcp_cache_shm_t *shm, apr_uint64_t tag)
{
    __atomic_add_fetch(&shm->generation[tag % GENERATIONS], 1, __ATOMIC_SEQ_CST);
}

typedef struct shm_store_t {
    mcp_cache_store_t store;
    mcp_cache_shm_t *shm;
} shm_store_t;

static mcp_cache_shm_t *shm_of(mcp_cache_store_t *store)
{
    return ((shm_store_t *)store)->shm;
}

static void read_session(mcp_cache_shm_t *shm, mcp_cache_query_t *query, apr_pool_t *p)
{
    mcp_span_t mark;
    apr_interval_time_t left;

    query->session_state = MCP_CACHE_SESSION_UNKNOWN;
    if (query->session
        && mcp_cache_shm_get(shm, query->session, p, &mark, &left) == APR_SUCCESS
        && mark.len == 1) {
        query->session_state = *mark.p == 'L' ? MCP_CACHE_SESSION_LIVE : MCP_CACHE_SESSION_ENDED;
    }
}

static apr_status_t shm_lookup(mcp_cache_store_t *store, mcp_cache_query_t *query, apr_pool_t *p)
{
    mcp_cache_shm_t *shm = shm_of(store);
    mcp_cache_generations_t *g = &query->generations;
    int i;

    /* Generations first: what was invalidated after they were read is then served at most once
     * more, never stored as if it were new. */
    for (i = 0; i < MCP_CACHE_TAGS; i++) {
        g->value[i] = g->tag[i] ? mcp_cache_shm_generation(shm, g->tag[i]) : 0;
    }
    read_session(shm, query, p);
    for (i = 0; i < query->count; i++) {
        if (mcp_cache_shm_get(shm, query->digest[i], p, &query->value[i], &query->left[i])
            != APR_SUCCESS) {
            query->value[i].p = NULL;
        }
    }
    return APR_SUCCESS;
}

static apr_status_t shm_put(mcp_cache_store_t *store, const mcp_cache_put_t *put)
{
    mcp_cache_shm_t *shm = shm_of(store);
    const mcp_cache_generations_t *g = put->generations;
    int i;

    for (i = 0; i < MCP_CACHE_TAGS; i++) {
        if (g->tag[i] && mcp_cache_shm_generation(shm, g->tag[i]) != g->value[i]) {
            return APR_EEXIST;
        }
    }
    return mcp_cache_shm_put(shm, put->digest, put->value, put->life);
}

static apr_status_t shm_invalidate(mcp_cache_store_t *store, apr_uint64_t tag)
{
    mcp_cache_shm_invalidate(shm_of(store), tag);
    return APR_SUCCESS;
}

static apr_status_t shm_session(mcp_cache_store_t *store,
                                const unsigned char digest[MCP_CACHE_DIGEST],
                                mcp_cache_session_e state)
{
    static const mcp_span_t live = {"L", 1}, ended = {"E", 1};
    mcp_blobs_t *blobs = blobs_of(shm_of(store));
    apr_status_t rv;

    if (state == MCP_CACHE_SESSION_ENDED) {
        return mcp_blobs_put(blobs, digest, ended, MCP_CACHE_SESSION_ENDED_LIFE);
    }
    rv = mcp_blobs_put_over(blobs, digest, live, MCP_CACHE_SESSION_LIFE, live);
    return rv == APR_EEXIST ? APR_SUCCESS : rv;
}

mcp_cache_store_t *mcp_cache_shm_store(mcp_cache_shm_t *shm, apr_pool_t *p)
{
    static const mcp_cache_store_class_t class = {"shm", shm_lookup, shm_put, shm_invalidate,
                                                  shm_session};
    shm_store_t *store = apr_palloc(p, sizeof(*store));

    store->store.class = &class;
    store->shm = shm;
    return &store->store;
}
