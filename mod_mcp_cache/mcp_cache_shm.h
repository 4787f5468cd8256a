/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_CACHE_SHM_H
#define MCP_CACHE_SHM_H

#include "mcp_cache_store.h"

/*
 * The store in memory that all children share: mcp_blobs and the generations. A child that dies
 * while it holds a lock costs the entries of one shard. Nothing in it is a pointer, and its layout
 * has a version: it outlives the module.
 */

#define MCP_CACHE_SHM_MIN (1024 * 1024)

typedef struct mcp_cache_shm_t mcp_cache_shm_t;

/**
 * Lay a store out in @a mem: zeroed, shared, @a size bytes, at least MCP_CACHE_SHM_MIN.
 * @param largest value that it should have room for, if @a size allows
 */
mcp_cache_shm_t *mcp_cache_shm_init(void *mem, apr_size_t size, apr_size_t largest);

/** The store that an earlier mcp_cache_shm_init() laid out there; NULL if it was another layout. */
mcp_cache_shm_t *mcp_cache_shm_attach(void *mem, apr_size_t size);

/** As a store, from @a p. */
mcp_cache_store_t *mcp_cache_shm_store(mcp_cache_shm_t *shm, apr_pool_t *p);

/** A copy of a value from @a p. APR_NOTFOUND. */
apr_status_t mcp_cache_shm_get(mcp_cache_shm_t *shm, const unsigned char digest[MCP_CACHE_DIGEST],
                               apr_pool_t *p, mcp_span_t *value, apr_interval_time_t *left);

/**
 * Keep a copy of a value; the least recently used ones of its shard make room.
 * @return APR_ENOSPC: larger than a quarter of a shard
 */
apr_status_t mcp_cache_shm_put(mcp_cache_shm_t *shm, const unsigned char digest[MCP_CACHE_DIGEST],
                               mcp_span_t value, apr_interval_time_t life);

apr_uint64_t mcp_cache_shm_generation(mcp_cache_shm_t *shm, apr_uint64_t tag);
void mcp_cache_shm_invalidate(mcp_cache_shm_t *shm, apr_uint64_t tag);

/** Entries and bytes of values that are kept, expired ones included. Takes every lock in turn. */
void mcp_cache_shm_usage(mcp_cache_shm_t *shm, apr_uint64_t *entries, apr_uint64_t *bytes);

#endif
