/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_PROXY_TOOLS_H
#define MCP_PROXY_TOOLS_H

#include <apr_errno.h>
#include <apr_pools.h>

#include "mcp_span.h"

/*
 * What a server says of its own tools (MCP 2025-11-25, server/tools, ToolAnnotations): which only
 * read. Bytes only.
 */

/** Bytes that are gathered in a pool. All zero: none. */
typedef struct mcp_gather_t {
    char *p;
    apr_size_t len, room;
} mcp_gather_t;

/** Append. @return APR_ENOSPC: it would be more than @a most; what is there stays */
apr_status_t mcp_gather(mcp_gather_t *to, const char *buf, apr_size_t len, apr_size_t most,
                        apr_pool_t *p);

/** No more tools than this are told of one list. */
#define MCP_TOOLS_MOST 1000

/** @param name lives until it returns. */
typedef void mcp_tools_fn(void *baton, const char *name, int is_read_only);

/**
 * Tell the tools in the answer to a tools/list.
 * @param body whole: JSON, or an event stream
 * @param id of the request, raw JSON
 */
void mcp_tools_read(mcp_span_t body, int is_stream, mcp_span_t id, mcp_tools_fn *fn, void *baton,
                    apr_pool_t *p);

#endif
