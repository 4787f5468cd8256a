/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_PROXY_METRICS_H
#define MCP_PROXY_METRICS_H

#include "mcp_proxy.h"

/* What there is to know in numbers: this module's own, and what the others hand over. */

typedef struct mcp_sample_t {
    const char *family, *type, *help, *suffix; /* as in mcp_httpd_peers.h */
    const char *labels;
    double value;
} mcp_sample_t;

/**
 * All samples, summed over all children, families in order, each series once: mcp_sample_t, from
 * r->pool. On a worker; walks the session table.
 */
apr_array_header_t *mcp_metrics_collect(request_rec *r);

/** How many sessions each member has, in the order of @a members (mcp_member_t). From @a p. */
apr_uint64_t *mcp_metrics_sessions(const apr_array_header_t *members, apr_pool_t *p);

/** A value for a label: valid UTF-8, with backslash, quote and line feed escaped. From @a p. */
const char *mcp_metrics_quote(const char *value, apr_pool_t *p);

#endif
