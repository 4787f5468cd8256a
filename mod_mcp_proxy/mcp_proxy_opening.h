/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_PROXY_OPENING_H
#define MCP_PROXY_OPENING_H

#include "mcp_proxy_tools.h"

/*
 * How a session is opened (MCP 2025-11-25, basic/lifecycle, Initialization): what a client sends,
 * and what is read of the server's answer. Bytes only.
 */

/** An answer that is longer than this is none. */
#define MCP_OPENING_MOST (256 * 1024)

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

/** What has come of the server's answer. All zero at its start, but for is_stream. */
typedef struct mcp_opening_t {
    int is_stream;       /* an event stream, which may say other things first; else JSON */
    mcp_opening_e found;
    const char *version; /* with MCP_OPENING_GOOD: the protocol version, NULL if it does not say */
    mcp_gather_t body;
    apr_size_t read;     /* private: of body; events before it say nothing */
} mcp_opening_t;

/**
 * Look for the response in what comes of a body. An event is read once, when it is whole.
 * @param id of the request, raw JSON
 * @param p where the body is gathered; the same each time
 */
mcp_opening_e mcp_opening_take(mcp_opening_t *answer, const char *buf, apr_size_t len,
                               const char *id, apr_pool_t *p);

/** The same when nothing more will come: MCP_OPENING_GOOD or MCP_OPENING_REFUSED. */
mcp_opening_e mcp_opening_end(mcp_opening_t *answer, const char *id, apr_pool_t *p);

#endif
