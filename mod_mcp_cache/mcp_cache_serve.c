/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stored result becomes a response: the envelope is made with the request's own id, as JSON or as
 * one event, and the headers are those that the backend's answer had and that a client may look at.
 */
#include "mcp_cache.h"

#include <apr_lib.h>
#include <apr_strings.h>
#include <http_protocol.h>

/* q=0 means no. */
static int is_refused(const char *parameters, apr_size_t len)
{
    apr_size_t i;

    for (i = 0; i + 2 < len; i++) {
        if ((parameters[i] == 'q' || parameters[i] == 'Q') && parameters[i + 1] == '='
            && parameters[i + 2] == '0') {
            for (i += 3; i < len && (parameters[i] == '.' || parameters[i] == '0'); i++);
            return i == len || !apr_isdigit(parameters[i]);
        }
    }
    return 0;
}

static int is_range(const char *at, apr_size_t len, const char *range)
{
    return len == strlen(range) && !strncasecmp(at, range, len);
}

char mcp_cache_accepted(const char *accept)
{
    int json = 0, stream = 0;

    if (!accept || !*accept) {
        return 'j';
    }
    while (*accept) {
        apr_size_t len = strcspn(accept, ","), name;

        while (len && apr_isspace(*accept)) {
            accept++;
            len--;
        }
        for (name = 0; name < len && accept[name] != ';' && !apr_isspace(accept[name]); name++);
        if (!is_refused(accept + name, len - name)) {
            int any = is_range(accept, name, "*/*");

            json |= any || is_range(accept, name, "application/json")
                || is_range(accept, name, "application/*");
            stream |= any || is_range(accept, name, "text/event-stream")
                || is_range(accept, name, "text/*");
        }
        accept += len;
        accept += *accept == ',';
    }
    return json ? 'j' : stream ? 's' : 0;
}

static void set_headers(request_rec *r, mcp_span_t lines)
{
    const char *at = lines.p, *end = lines.p + lines.len;

    while (at < end) {
        const char *stop = memchr(at, '\n', (apr_size_t)(end - at));
        const char *colon = stop ? memchr(at, ':', (apr_size_t)(stop - at)) : NULL;

        if (!colon || stop - colon < 2) {
            return;
        }
        apr_table_addn(r->headers_out, apr_pstrmemdup(r->pool, at, (apr_size_t)(colon - at)),
                       apr_pstrmemdup(r->pool, colon + 2, (apr_size_t)(stop - colon - 2)));
        at = stop + 1;
    }
}

typedef struct body_t {
    apr_bucket_brigade *bb;
    request_rec *r;
    apr_off_t len;
} body_t;

static void add(body_t *body, const char *p, apr_size_t len)
{
    if (len) {
        APR_BRIGADE_INSERT_TAIL(body->bb, apr_bucket_pool_create(p, len, body->r->pool,
                                                                 body->bb->bucket_alloc));
        body->len += (apr_off_t)len;
    }
}

/* Within an event each line would need its own "data:". In JSON text a line end is white space. */
static mcp_span_t on_one_line(mcp_span_t text, apr_pool_t *p)
{
    char *copy = apr_pmemdup(p, text.p, text.len);
    apr_size_t i;

    for (i = 0; i < text.len; i++) {
        if (copy[i] == '\n' || copy[i] == '\r') {
            copy[i] = ' ';
        }
    }
    text.p = copy;
    return text;
}

static void add_result(body_t *body, const mcp_cache_entry_t *entry, int one_line,
                       apr_interval_time_t left)
{
    mcp_span_t payload = entry->payload;
    apr_size_t rest = (apr_size_t)entry->hint_at + entry->hint_len;
    const char *number;

    if (one_line && (entry->flags & MCP_CACHE_ENTRY_NEWLINES)) {
        payload = on_one_line(payload, body->r->pool);
    }
    if (!entry->hint_len) {
        add(body, payload.p, payload.len);
        return;
    }
    /* The client's clock starts now: it is told what is left (2026-07-28, caching). */
    number = apr_psprintf(body->r->pool, "%" APR_INT64_T_FMT,
                          left > 0 ? (apr_int64_t)apr_time_as_msec(left) : 0);
    add(body, payload.p, entry->hint_at);
    add(body, number, strlen(number));
    add(body, payload.p + rest, payload.len - rest);
}

static mcp_span_t id_of(mcp_cache_request_t *q, int one_line)
{
    mcp_span_t id = q->rpc->id;

    return one_line ? on_one_line(id, q->r->pool) : id;
}

static const char *cache_status(apr_pool_t *p, apr_interval_time_t left)
{
    apr_int64_t seconds = apr_time_sec(left);

    /* RFC 9211, section 2.4: negative where the value is stale. */
    if (left < 0) {
        seconds = -((apr_int64_t)apr_time_sec(-left) + 1);
    }
    return apr_psprintf(p, "mcp; hit; ttl=%" APR_INT64_T_FMT, seconds);
}

apr_bucket_brigade *mcp_cache_respond(mcp_cache_request_t *q, const mcp_cache_entry_t *entry,
                                      apr_interval_time_t left)
{
    static const char event[] = "event: message\ndata: ", open[] = "{\"jsonrpc\":\"2.0\",\"id\":",
        middle[] = ",\"result\":";
    request_rec *r = q->r;
    int stream = mcp_cache_accepted(apr_table_get(r->headers_in, "Accept")) == 's';
    body_t body = {apr_brigade_create(r->pool, r->connection->bucket_alloc), r, 0};
    mcp_span_t id = id_of(q, stream);

    if (stream) {
        add(&body, event, sizeof(event) - 1);
    }
    add(&body, open, sizeof(open) - 1);
    add(&body, id.p, id.len);
    add(&body, middle, sizeof(middle) - 1);
    add_result(&body, entry, stream, left);
    add(&body, stream ? "}\n\n" : "}", stream ? 3 : 1);
    APR_BRIGADE_INSERT_TAIL(body.bb, apr_bucket_eos_create(r->connection->bucket_alloc));

    /* A part of a POST's answer is nothing that anybody has asked for (RFC 9110, section 14.2). */
    apr_table_unset(r->headers_in, "Range");
    apr_table_unset(r->headers_in, "Request-Range");
    r->status = HTTP_OK;
    r->status_line = NULL;
    ap_set_content_type(r, stream ? "text/event-stream" : "application/json");
    ap_set_content_length(r, body.len);
    set_headers(r, entry->headers);
    if ((entry->flags & MCP_CACHE_ENTRY_SESSION)
        && apr_table_get(r->headers_in, "Mcp-Session-Id")) {
        apr_table_setn(r->headers_out, "Mcp-Session-Id",
                       apr_table_get(r->headers_in, "Mcp-Session-Id"));
    }
    apr_table_setn(r->err_headers_out, "Cache-Status", cache_status(r->pool, left));
    return body.bb;
}
