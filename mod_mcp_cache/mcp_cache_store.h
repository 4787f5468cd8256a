/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_CACHE_STORE_H
#define MCP_CACHE_STORE_H

#include <apr_errno.h>
#include <apr_pools.h>
#include <apr_time.h>

#include "mcp_cache_entry.h"

/*
 * Where entries live. A store holds values under a digest, generations under tags, and which
 * sessions a backend is known to have accepted or ended. It answers at once or says that it cannot:
 * whoever asks treats that as a miss.
 */

typedef enum {
    MCP_CACHE_SESSION_UNKNOWN, /* the backend has not been seen to accept it */
    MCP_CACHE_SESSION_LIVE,
    MCP_CACHE_SESSION_ENDED
} mcp_cache_session_e;

#define MCP_CACHE_KEYS 2 /* most digests of one question: the caller's own, and the public one */

typedef struct mcp_cache_query_t {
    const char *label;            /* what is asked for, readable, of A-Z a-z 0-9 - . _ ~ @ + % : */
    int count;                    /* of digests */
    unsigned char digest[MCP_CACHE_KEYS][MCP_CACHE_DIGEST];
    const unsigned char *session; /* digest; NULL: the request has none */
    mcp_cache_generations_t generations; /* tags in, values out */
    mcp_span_t value[MCP_CACHE_KEYS];    /* out: from the pool; p NULL: nothing there */
    apr_interval_time_t left[MCP_CACHE_KEYS]; /* out: how long the store still keeps it */
    mcp_cache_session_e session_state;        /* out */
} mcp_cache_query_t;

typedef struct mcp_cache_put_t {
    const char *label;
    const unsigned char *digest;
    mcp_span_t value;
    apr_interval_time_t life;
    const mcp_cache_generations_t *generations; /* as they were before the backend was asked */
} mcp_cache_put_t;

typedef struct mcp_cache_store_t mcp_cache_store_t;

typedef struct mcp_cache_store_class_t {
    const char *name;
    /** Everything that the query names, at once. Any thread. Values come from @a p. */
    apr_status_t (*lookup)(mcp_cache_store_t *store, mcp_cache_query_t *query, apr_pool_t *p);
    /**
     * Keep a value. May wait for the store: on the writer's thread only.
     * @return APR_EEXIST: a generation has moved since: the value would be dead, and might take the
     *         place of one that lives
     */
    apr_status_t (*put)(mcp_cache_store_t *store, const mcp_cache_put_t *put);
    /** Move one generation. When it returns APR_SUCCESS every gateway sees it. May wait. */
    apr_status_t (*invalidate)(mcp_cache_store_t *store, apr_uint64_t tag);
    /** Note what became of a session. An ended one stays ended. May wait. */
    apr_status_t (*session)(mcp_cache_store_t *store, const unsigned char digest[MCP_CACHE_DIGEST],
                            mcp_cache_session_e state);
} mcp_cache_store_class_t;

struct mcp_cache_store_t {
    const mcp_cache_store_class_t *class;
};

/* How long a session is taken for live, or for ended, without being seen again. */
#define MCP_CACHE_SESSION_LIFE apr_time_from_sec(3600)
#define MCP_CACHE_SESSION_ENDED_LIFE apr_time_from_sec(24 * 3600)

/* No entry lives longer than this: what must outlive every entry can then have an end, too. */
#define MCP_CACHE_MAX_LIFE apr_time_from_sec(30 * 24 * 3600)

#endif
