/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_PROXY_OPENING_H
#define MCP_PROXY_OPENING_H

#include "mcp_span.h"

#include <apr_pools.h>

/*
 * How a session is opened (MCP 2025-11-25, basic/lifecycle, Initialization): what a client sends,
 * and what is read of the server's answer. Bytes only.
 */

/** An answer that is longer than this is none. */
#define MCP_OPENING_MOST (1024 * 1024)

/** @param id raw JSON. @param params raw JSON. From @a p. */
mcp_span_t mcp_opening_initialize(const char *id, mcp_span_t params, apr_pool_t *p);
mcp_span_t mcp_opening_initialized(void);

/** A ping: whoever answers it other than by 404 knows the session. */
mcp_span_t mcp_opening_ping(void);

typedef enum {
    MCP_OPENING_MORE,   /* the answer is not there yet */
    MCP_OPENING_GOOD,
    MCP_OPENING_REFUSED /* an error, or nothing that this could be */
} mcp_opening_e;

/**
 * Look for the response in what has come of a body.
 * @param is_stream an event stream, which may say other things first; else JSON
 * @param is_whole nothing more will come
 * @param id of the request, raw JSON
 * @param version out, with MCP_OPENING_GOOD: the protocol version that the server chose, from @a p;
 *        NULL if it does not say
 */
mcp_opening_e mcp_opening_read(mcp_span_t body, int is_stream, int is_whole, const char *id,
                               apr_pool_t *p, const char **version);

#endif
