/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_SPAN_H
#define MCP_SPAN_H

#include <apr.h>

/** A stretch of somebody else's bytes: not owned, not NUL-terminated. Absent: p is NULL. */
typedef struct mcp_span_t {
    const char *p;
    apr_size_t len;
} mcp_span_t;

#endif
