/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_CACHE_JSON_H
#define MCP_CACHE_JSON_H

#include <apr_errno.h>
#include <apr_pools.h>

#include "mcp_json.h"

/*
 * What the cache needs of JSON (RFC 8259): one canonical text for values that are the same, and a
 * walk over the members of one object. Nothing here does I/O; all memory is the caller's pool.
 */

#define MCP_CACHE_JSON_DEPTH 64 /* of what becomes part of a key */

/**
 * Write @a json so that two texts come out equal exactly where they are the same value: members
 * sorted by name, no white space, strings with the fewest escapes, numbers as they were written.
 * @param skip a member of the outermost object that is left out; NULL: none
 * @param limit most bytes of output
 * @return APR_EINVAL: no single value, or one that two readers may read differently (a name twice,
 *         a lone surrogate, invalid UTF-8, NUL); APR_ENOSPC: nested deeper than
 *         MCP_CACHE_JSON_DEPTH, or longer than @a limit
 */
apr_status_t mcp_cache_json_canonical(mcp_span_t json, const char *skip, apr_size_t limit,
                                      apr_pool_t *p, mcp_span_t *out);

/** A walk over the members of one object. Private. */
typedef struct mcp_cache_json_walk_t {
    mcp_json_t json;
    mcp_json_nest_t nest;
} mcp_cache_json_walk_t;

/** Start at @a json; names come from @a p. @return APR_EINVAL if it is no object */
apr_status_t mcp_cache_json_walk(mcp_cache_json_walk_t *walk, mcp_span_t json, apr_pool_t *p);

/**
 * The next member.
 * @param name out: decoded
 * @param value out: raw text within the input
 * @return APR_EOF behind the last one; APR_EINVAL: this is not JSON, or a name is one that two
 *         readers may read differently
 */
apr_status_t mcp_cache_json_next(mcp_cache_json_walk_t *walk, mcp_span_t *name, mcp_span_t *value);

/** The value of the one member called @a name of an object. APR_NOTFOUND; APR_EINVAL if twice. */
apr_status_t mcp_cache_json_member(mcp_span_t json, const char *name, apr_pool_t *p,
                                   mcp_span_t *value);

/** Whether @a json is the string @a text, whatever its escapes. */
int mcp_cache_json_is(mcp_span_t json, const char *text, apr_pool_t *p);

#endif
