/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_PROXY_IDS_H
#define MCP_PROXY_IDS_H

#include <apr_pools.h>

#include "mcp_span.h"

/*
 * Where session ids stand in a URL: in the query, and as the last segment of the path. Backends
 * differ in how they read a URL, so whatever one of them could take for an id counts as one. Pure
 * functions; what they make is from the pool.
 */

/** A place in a URL where an id stands, as it stands there: percent-encoded. */
typedef struct mcp_id_place_t {
    mcp_span_t text;
    int is_guess; /* may be an ordinary segment of a path as well */
} mcp_id_place_t;

/**
 * The next id in a query: the value of session_id, sessionId or sessionid, in any case, since some
 * backends ignore it, and with anything in brackets behind, which some take for an array. A name
 * may be encoded.
 * @param query moved behind it
 * @return 0: no more
 */
int mcp_id_next_in_query(apr_pool_t *p, const char **query, mcp_id_place_t *place);

/**
 * The last segment of a path that has a slash before it. Behind message or messages (in any case,
 * or encoded, or with parameters) it is an id by the custom of HTTP+SSE servers; elsewhere it is a
 * guess.
 * @param len of the path, without its query
 * @return 0: there is none
 */
int mcp_id_in_path(apr_pool_t *p, const char *path, apr_size_t len, mcp_id_place_t *place);

/** Whether a URL's path has a segment that is . or .., so that its last one may not be the last. */
int mcp_id_may_move(apr_pool_t *p, const char *url);

/**
 * Whether the last segment of a path can be an id at all; others are never taken for one. A segment
 * that looks like a word is a path and no id: everybody has the same one.
 */
int mcp_id_is_likely(const char *segment);

/** %XX decoded once; anything else as it is, so that equal text means an equal id. */
char *mcp_id_decode(apr_pool_t *p, mcp_span_t text);

/** An id as it can stand in a query or a path. */
char *mcp_id_encode(apr_pool_t *p, const char *id);

/**
 * What an id in a URL is to be replaced by.
 * @param id decoded
 * @return the other id; @a id itself: it stays, as it is written; NULL: give up
 */
typedef const char *mcp_id_map_fn(void *baton, const char *id, int is_guess);

/**
 * A URL, or a path with a query, with every id replaced.
 * @return NULL: @a map gave up
 */
const char *mcp_id_map_url(apr_pool_t *p, const char *url, mcp_id_map_fn *map, void *baton);

/** A URL without the parameters of its query that hold ids. */
const char *mcp_id_without(apr_pool_t *p, const char *url);

#endif
