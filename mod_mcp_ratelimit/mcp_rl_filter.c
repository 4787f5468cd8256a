/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The output filter: at the head of a response it says how things stand, gives back a slot that was
 * taken for what turns out to be no event stream, and charges a 401; in a stream that has lost its
 * slot it lets nothing pass. It never blocks: it may run on mod_mcp_proxy's event loop.
 */
#include "mcp_rl_check.h"

#include <util_filter.h>

#include "mcp_httpd_peers.h"

static ap_filter_rec_t *handle;

static int is_event_stream(const request_rec *r)
{
    static const char type[] = "text/event-stream";
    const apr_size_t len = sizeof(type) - 1;

    return r->content_type && strncasecmp(r->content_type, type, len) == 0
        && (!r->content_type[len] || strchr("; \t", r->content_type[len]));
}

static void see_head(mcp_rl_request_t *q)
{
    request_rec *r = q->r;
    int i;

    q->head_seen = 1;
    mcp_rl_say(q, r->headers_out);
    /* What a CGI program says is there, and goes out, too. */
    for (i = 0; i < q->lines && !apr_is_empty_table(r->err_headers_out); i++) {
        apr_table_unset(r->err_headers_out, q->line[i].name);
    }
    if (r->status == HTTP_UNAUTHORIZED) {
        mcp_rl_charge_401(r);
    }
    if (q->stream && !(r->status == HTTP_OK && is_event_stream(r))) {
        mcp_rl_keeper_remove(mcp_rl_process->keeper, q->stream);
        q->stream = NULL;
    }
}

static apr_status_t filter(ap_filter_t *f, apr_bucket_brigade *bb)
{
    mcp_rl_request_t *q = f->ctx;

    if (!q->head_seen) {
        see_head(q);
    }
    if (!q->stream) {
        ap_remove_output_filter(f);
    }
    else if (mcp_rl_keeper_is_lost(mcp_rl_process->keeper, q->stream)) {
        f->c->aborted = 1;
        apr_brigade_cleanup(bb);
        return APR_ECONNABORTED;
    }
    return ap_pass_brigade(f->next, bb);
}

void mcp_rl_filter_register(void)
{
    handle = ap_register_output_filter(MCP_RATELIMIT_FILTER, filter, NULL, AP_FTYPE_CONTENT_SET);
}

void mcp_rl_filter_add(mcp_rl_request_t *q)
{
    q->filtered = 1;
    ap_add_output_filter_handle(handle, q, q->r, q->r->connection);
}
