/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_PROXY_IDMAP_H
#define MCP_PROXY_IDMAP_H

#include "mcp_proxy.h"

/*
 * A session has an id that its client goes by, q->session, and one that its member goes by,
 * q->backend_session. Mostly they are the same; where they are not, this is the one place that puts
 * either in the place of the other. What other modules and logs see of a request is the client's.
 * With MCPProxyAffinity sealed a member only ever gets ids that this identity had sealed by it:
 * wherever else in a request one could read an id, the request is refused.
 * On the thread that has the request; everything is from r->pool.
 */

/**
 * The URL to ask @a worker for: @a url with the member's ids.
 * @return NULL: there is an id in it that must not get there
 */
const char *mcp_idmap_request_url(request_rec *r, const proxy_worker *worker, const char *url);

/**
 * The header fields to ask @a worker with: r->headers_in itself, or a copy with the member's id.
 * The answer to a request that may open an HTTP+SSE stream must be readable, so it asks for no
 * coding where the endpoint event's URL has to be changed.
 * @return NULL: there is an id in them that must not get there
 */
apr_table_t *mcp_idmap_request_fields(request_rec *r, const proxy_worker *worker);

/** The value of an Mcp-Session-Id field of the answer, as the client goes by it; NULL: drop it. */
const char *mcp_idmap_answer_field(request_rec *r, const proxy_worker *worker, const char *id);

/** A URL in the answer that may hold the id of the request's session, with the client's. */
const char *mcp_idmap_answer_url(request_rec *r, const char *url);

/** The URL of an endpoint event, whose id has been learnt, with the client's ids. */
const char *mcp_idmap_endpoint(request_rec *r, const proxy_worker *worker, const char *url);

#endif
