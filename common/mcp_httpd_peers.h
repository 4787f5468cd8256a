/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_HTTPD_PEERS_H
#define MCP_HTTPD_PEERS_H

#include <httpd.h>
#include <apr_hooks.h>
#include <apr_optional.h>
#include <apr_optional_hooks.h>

/*
 * What the modules know of each other, where more than one of them is loaded. Nothing here is
 * needed for a module to work: the hooks are optional ones (apr_optional_hooks.h), found by name.
 */

/** Registered by mod_mcp_proxy: whether MCPProxy is On for this request. */
APR_DECLARE_OPTIONAL_FN(int, mcp_proxy_is_on, (request_rec *r));

/**
 * Registered by mod_mcp_proxy: may the session that a request names be used, behind a balancer and
 * from the fixups phase on? Counts as a use of the session, and elects no member.
 * @return 1: it is known, and so is its member; 0: it is another identity's, or its member is
 *         disabled, stopped or removed; -1: nothing is known of it, or there is none
 */
APR_DECLARE_OPTIONAL_FN(int, mcp_proxy_session_lives, (request_rec *r));

/** The output filter of mod_mcp_ratelimit. It never blocks and holds nothing back. */
#define MCP_RATELIMIT_FILTER "MCP_RATELIMIT"

/** Where samples go. One family's samples may come from several modules. */
typedef struct mcp_metrics_sink_t mcp_metrics_sink_t;
struct mcp_metrics_sink_t {
    /**
     * @param family the metric's name, without _bucket, _sum, _count
     * @param type "counter", "gauge" or "histogram"
     * @param help one line of text
     * @param suffix "", or "_bucket", "_sum", "_count" of a histogram
     * @param labels Prometheus text without the braces, as limit="messages"; "" for none
     */
    void (*sample)(mcp_metrics_sink_t *sink, const char *family, const char *type,
                   const char *help, const char *suffix, const char *labels, double value);
    void *baton;
};

/**
 * Hook mcp_metrics, run by mod_mcp_proxy's mcp-metrics handler on a worker thread. Each module
 * hands its samples, summed over all children, to @a sink. Texts need to live during the call only.
 * Register with APR_OPTIONAL_HOOK(mcp, metrics, fn, NULL, NULL, APR_HOOK_MIDDLE); the runner has
 * APR_IMPLEMENT_OPTIONAL_HOOK_RUN_ALL(mcp, MCP, int, metrics, (request_rec *r,
 * mcp_metrics_sink_t *sink), (r, sink), OK, DECLINED).
 */
#define MCP_DECLARE(type) type
APR_DECLARE_EXTERNAL_HOOK(mcp, MCP, int, metrics, (request_rec *r, mcp_metrics_sink_t *sink))

#endif
