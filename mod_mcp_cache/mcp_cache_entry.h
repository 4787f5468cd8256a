/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_CACHE_ENTRY_H
#define MCP_CACHE_ENTRY_H

#include <apr_errno.h>
#include <apr_pools.h>
#include <apr_time.h>

#include "mcp_cache_key.h"

/*
 * One stored value: a result with what must be known to serve it. It carries the whole digest of
 * its key, and a sum over its bytes, so that a store that mixes up or damages values is found out.
 * There is no time of day in it: how long it still lives is the store's to say.
 */

/*
 * What can be invalidated: everything, a tool, a user, a tool of a user, what a backend says has
 * changed. Each is a counter ("generation") in the store; an entry holds those that were read
 * before the backend was asked, and is dead once one of them has moved.
 */
typedef enum {
    MCP_CACHE_TAG_ALL,
    MCP_CACHE_TAG_TOOL,      /* or the method, for what is no tool */
    MCP_CACHE_TAG_CALLER,
    MCP_CACHE_TAG_USER,      /* the same by the plain user name */
    MCP_CACHE_TAG_TOOL_CALLER,
    MCP_CACHE_TAG_TOOL_USER,
    MCP_CACHE_TAG_FEED,      /* lists and tools of one backend, or one resource */
    MCP_CACHE_TAG_FEED_ALL,  /* all resources of one backend */
    MCP_CACHE_TAGS
} mcp_cache_tag_e;

typedef struct mcp_cache_generations_t {
    apr_uint64_t tag[MCP_CACHE_TAGS];   /* names, as hashes */
    apr_uint64_t value[MCP_CACHE_TAGS]; /* 0: not known */
} mcp_cache_generations_t;

#define MCP_CACHE_ENTRY_SESSION 1u  /* the backend repeated the request's session id */
#define MCP_CACHE_ENTRY_NEWLINES 2u /* the payload has line ends in it */

typedef struct mcp_cache_entry_t {
    unsigned char digest[MCP_CACHE_DIGEST];
    apr_interval_time_t ttl;   /* fresh for this long from storing; whole milliseconds count */
    apr_interval_time_t stale; /* and usable for this long after that */
    apr_uint64_t generation[MCP_CACHE_TAGS];
    apr_uint32_t flags;
    apr_uint32_t hint_at, hint_len; /* where the number of ttlMs stands in payload; 0, 0: nowhere */
    mcp_span_t headers;             /* "Name: value" lines, each with LF */
    mcp_span_t payload;             /* the bytes of "result" */
} mcp_cache_entry_t;

/** The value to store, from @a p. */
mcp_span_t mcp_cache_entry_write(const mcp_cache_entry_t *entry, apr_pool_t *p);

/**
 * Read a stored value; spans point into it.
 * @return APR_EINVAL for anything but a whole, undamaged value of this digest
 */
apr_status_t mcp_cache_entry_read(mcp_cache_entry_t *entry, mcp_span_t value,
                                  const unsigned char digest[MCP_CACHE_DIGEST]);

/**
 * Whether nothing that the entry depends on has been invalidated since.
 * @param personal 0: an entry for everybody; what is one caller's does not count
 */
int mcp_cache_entry_is_current(const mcp_cache_entry_t *entry, const mcp_cache_generations_t *now,
                               int personal);

#endif
