/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_SPAN_H
#define MCP_SPAN_H

#include <apr.h>
#include <string.h>

/** A stretch of somebody else's bytes: not owned, not NUL-terminated. Absent: p is NULL. */
typedef struct mcp_span_t {
    const char *p;
    apr_size_t len;
} mcp_span_t;

static inline int mcp_span_is(mcp_span_t span, const char *text)
{
    return span.len == strlen(text) && memcmp(span.p, text, span.len) == 0;
}

#endif
