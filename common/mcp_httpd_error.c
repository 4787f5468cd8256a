/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gateway's own refusals, as JSON-RPC errors. The description waits on r->pool, so that the
 * module that knows why and the place that sends can be two, even two modules.
 */
#include "mcp_httpd_error.h"

#include <apr_strings.h>
#include <http_connection.h>
#include <http_core.h>
#include <http_protocol.h>
#include <http_request.h>
#include <util_filter.h>

#include "mcp_httpd_request.h"

#define ERROR_KEY "mcp.error/1"
#define ERROR_CODE_BASE (-31000)

typedef struct description_t {
    int status;
    int code;
    const char *message;
    const char *data;
} description_t;

int mcp_error_set(request_rec *r, int status, int code, const char *message, const char *data)
{
    void *known = NULL;
    description_t *d;

    apr_pool_userdata_get(&known, ERROR_KEY, r->pool);
    if (!known) {
        d = apr_palloc(r->pool, sizeof(*d));
        d->status = status;
        d->code = code ? code : ERROR_CODE_BASE - status;
        d->message = message;
        d->data = data;
        apr_pool_userdata_setn(d, ERROR_KEY, NULL, r->pool);
    }
    return status;
}

static const description_t *description(request_rec *r, int status)
{
    void *known = NULL;
    description_t *d;

    apr_pool_userdata_get(&known, ERROR_KEY, r->pool);
    d = known;
    if (!d || d->status != status) {
        const char *line = ap_get_status_line(status);

        d = apr_pcalloc(r->pool, sizeof(*d));
        d->status = status;
        d->code = ERROR_CODE_BASE - status;
        d->message = strlen(line) > 4 ? line + 4 : line; /* "404 Not Found" */
    }
    return d;
}

const char *mcp_error_body(request_rec *r, int status)
{
    const description_t *d = description(r, status);
    const mcp_request_t *request = mcp_request_get(r);
    const char *id = "";

    if (request->complete && request->length > 0) {
        const mcp_rpc_t *rpc = request->rpc ? request->rpc : mcp_request_rpc(r);

        if (rpc->kind == MCP_RPC_NOTIFICATION || rpc->kind == MCP_RPC_RESPONSE) {
            return "";
        }
        if (rpc->id.p && rpc->kind != MCP_RPC_BATCH) {
            id = apr_pstrcat(r->pool, ",\"id\":",
                             apr_pstrmemdup(r->pool, rpc->id.p, rpc->id.len), NULL);
        }
    }
    return apr_pstrcat(r->pool, "{\"jsonrpc\":\"2.0\"", id, ",\"error\":{\"code\":",
                       apr_itoa(r->pool, d->code), ",\"message\":",
                       mcp_rpc_quote(d->message, r->pool), d->data ? ",\"data\":" : "",
                       d->data ? d->data : "", "}}", NULL);
}

static int has_unread_body(request_rec *r)
{
    return !mcp_request_get(r)->complete
        && (apr_table_get(r->headers_in, "Content-Length")
            || apr_table_get(r->headers_in, "Transfer-Encoding"));
}

int mcp_error_send(request_rec *r, int status)
{
    const char *body = mcp_error_body(r, status);
    apr_table_t *headers = r->headers_out;
    apr_bucket_brigade *bb;

    if (r->header_only && r->method_number != M_GET) {
        body = "";
    }
    if (has_unread_body(r) || ap_status_drops_connection(status)) {
        r->connection->keepalive = AP_CONN_CLOSE;
    }
    r->status = status;
    r->status_line = NULL;
    /* What was meant for the good answer does not go with this one (as httpd's own error page). */
    r->headers_out = r->err_headers_out;
    r->err_headers_out = headers;
    apr_table_clear(r->err_headers_out);
    r->eos_sent = 0;
    r->output_filters = r->proto_output_filters;
    ap_run_insert_error_filter(r);

    if (*body) {
        ap_set_content_type(r, "application/json");
    }
    else {
        r->content_type = NULL;
    }
    ap_set_content_length(r, (apr_off_t)strlen(body));
    bb = apr_brigade_create(r->pool, r->connection->bucket_alloc);
    if (*body) {
        APR_BRIGADE_INSERT_TAIL(bb, apr_bucket_pool_create(body, strlen(body), r->pool,
                                                           r->connection->bucket_alloc));
    }
    APR_BRIGADE_INSERT_TAIL(bb, apr_bucket_eos_create(r->connection->bucket_alloc));
    ap_pass_brigade(r->output_filters, bb);
    return DONE;
}
