/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_BLOBS_H
#define MCP_BLOBS_H

#include <apr_errno.h>
#include <apr_pools.h>
#include <apr_time.h>

#include "mcp_span.h"

/*
 * Values of any length under a digest, in memory that all children share. It is cut into shards,
 * each with its own lock, hash table, list by last use and blocks. A child that dies while it holds
 * a lock costs the values of that shard. Nothing in it is a pointer, so that it may outlive the
 * module; pages that were never used are never touched. Times are mcp_clock_now()'s.
 */

#define MCP_BLOBS_MIN (512 * 1024)
#define MCP_BLOBS_DIGEST 32

/** What a value takes, with all that is kept of it, if it has no more
 * than MCP_BLOBS_SMALL bytes. */
#define MCP_BLOBS_EACH 1120
#define MCP_BLOBS_SMALL 1000

typedef struct mcp_blobs_t mcp_blobs_t;

/**
 * Lay a store out in @a mem: zeroed, shared, @a size bytes, at least MCP_BLOBS_MIN.
 * @param largest value that it should have room for, if @a size allows
 */
mcp_blobs_t *mcp_blobs_init(void *mem, apr_size_t size, apr_size_t largest);

/** The store that an earlier mcp_blobs_init() laid out there; NULL if it was another layout. */
mcp_blobs_t *mcp_blobs_attach(void *mem, apr_size_t size);

/** A copy of a value from @a p, with a NUL behind it; this counts as a use. APR_NOTFOUND. */
apr_status_t mcp_blobs_get(mcp_blobs_t *blobs, const unsigned char digest[MCP_BLOBS_DIGEST],
                           apr_pool_t *p, mcp_span_t *value, apr_interval_time_t *left);

/**
 * Keep a copy of a value; the least recently used ones of its shard make room.
 * @return APR_ENOSPC: larger than a quarter of a shard
 */
apr_status_t mcp_blobs_put(mcp_blobs_t *blobs, const unsigned char digest[MCP_BLOBS_DIGEST],
                           mcp_span_t value, apr_interval_time_t life);

/**
 * The same in one step with a look at what is there: only where that is nothing, or equal to
 * @a over.
 * @return APR_EEXIST: something else is there, and stays
 */
apr_status_t mcp_blobs_put_over(mcp_blobs_t *blobs, const unsigned char digest[MCP_BLOBS_DIGEST],
                                mcp_span_t value, apr_interval_time_t life, mcp_span_t over);

/** A value lives at least this much longer; a use. APR_NOTFOUND. */
apr_status_t mcp_blobs_prolong(mcp_blobs_t *blobs, const unsigned char digest[MCP_BLOBS_DIGEST],
                               apr_interval_time_t life);

/** Drop a value, if there is one; with @a only, if it is equal to that. */
void mcp_blobs_remove(mcp_blobs_t *blobs, const unsigned char digest[MCP_BLOBS_DIGEST],
                      const mcp_span_t *only);

/** How many there are, and their bytes, expired ones included. Takes every lock in turn. */
void mcp_blobs_usage(mcp_blobs_t *blobs, apr_uint64_t *entries, apr_uint64_t *bytes);

#endif
