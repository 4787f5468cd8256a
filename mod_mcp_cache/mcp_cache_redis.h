/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_CACHE_REDIS_H
#define MCP_CACHE_REDIS_H

#include "mcp_cache_store.h"
#include "mcp_redis.h"

/*
 * The store in Redis, shared by any number of gateways. Keys: the query's label and the digest in
 * hex for a value, mcp:gen:TAG for a generation, mcp:live:DIGEST for a session; every one has a
 * TTL. A generation is a random number, made by whoever first misses it: one that Redis has lost
 * comes back as another, so losing it can only invalidate.
 */

typedef struct mcp_cache_redis_options_t {
    mcp_redis_t *redis;
    apr_interval_time_t timeout; /* of a lookup; a write may take the longer WRITE_TIMEOUT */
    /** Told about each lookup or write that failed or came back; any thread. May be NULL. */
    void (*measured)(void *baton, apr_status_t rv, apr_interval_time_t took);
    void *baton;
} mcp_cache_redis_options_t;

/** From @a p. */
mcp_cache_store_t *mcp_cache_redis_store(const mcp_cache_redis_options_t *options, apr_pool_t *p);

#endif
