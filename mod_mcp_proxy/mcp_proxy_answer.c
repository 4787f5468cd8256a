/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The backend's response becomes the client's: head, bytes, end. The bytes of a body are the
 * backend's bytes; the exceptions here are the data of the endpoint event that HTTP+SSE opens with,
 * and the ids of events of rescued sessions (heartbeats between events are mcp_proxy_timeout.c's).
 */
#include "mcp_proxy_exchange.h"

#include <apr_lib.h>
#include <apr_strings.h>
#include <http_core.h>
#include <http_protocol.h>
#include <util_filter.h>

#include "mcp_clock.h"
#include "mcp_httpd_request.h"
#include "mcp_proxy_idmap.h"
#include "mcp_proxy_ids.h"
#include "mcp_proxy_rescue.h"

#define HELD_MOST 8192
#define HOLD_HEAD apr_time_from_msec(200)
#define STREAM_TYPE "text/event-stream"

int mcp_answer_is_stream(const char *type)
{
    apr_size_t len = strlen(STREAM_TYPE);

    return type && strncasecmp(type, STREAM_TYPE, len) == 0
        && (!type[len] || type[len] == ';' || apr_isspace(type[len]));
}

static void add_field(mcp_exchange_t *x, const char *name, const char *value)
{
    request_rec *r = x->r;
    proxy_dir_conf *dconf = ap_get_module_config(r->per_dir_config, &proxy_module);

    if (strcasecmp(name, "Content-Type") == 0) {
        ap_set_content_type(r, apr_pstrdup(r->pool, value));
    }
    else if (strcasecmp(name, "Location") == 0 || strcasecmp(name, "Content-Location") == 0
             || strcasecmp(name, "URI") == 0 || strcasecmp(name, "Destination") == 0) {
        apr_table_addn(r->headers_out, name,
                       mcp_idmap_answer_url(r, ap_proxy_location_reverse_map(r, dconf, value)));
    }
    else if (strcasecmp(name, "Mcp-Session-Id") == 0) {
        const char *id = mcp_idmap_answer_field(r, x->target.worker, value);

        if (id) {
            apr_table_addn(r->headers_out, name, id);
        }
    }
    else if (strcasecmp(name, "Set-Cookie") == 0) {
        apr_table_addn(r->headers_out, name, ap_proxy_cookie_reverse_map(r, dconf, value));
    }
    else {
        apr_table_addn(r->headers_out, name, value);
    }
}

/* Connection names the fields that go no further (RFC 9110, section 7.6.1). */
static void drop_named(request_rec *r, const char *list)
{
    const char *name;

    while (list && *(name = ap_get_token(r->pool, &list, 0))) {
        apr_table_unset(r->headers_out, name);
        list += *list == ',';
    }
}

static void copy_fields(mcp_exchange_t *x)
{
    static const char *const hop_by_hop[] = {
        "Connection", "Keep-Alive", "Transfer-Encoding", "Trailer", "Upgrade", "Proxy-Connection",
        "TE", NULL
    };
    request_rec *r = x->r;
    int i;

    r->headers_out = apr_table_make(r->pool, x->head.fields->nelts + 4);
    for (i = 0; i < x->head.fields->nelts; i++) {
        const mcp_http_field_t *f = &APR_ARRAY_IDX(x->head.fields, i, mcp_http_field_t);

        add_field(x, f->name, f->value);
    }
    drop_named(r, apr_table_getm(r->pool, r->headers_out, "Connection"));
    for (i = 0; hop_by_hop[i]; i++) {
        apr_table_unset(r->headers_out, hop_by_hop[i]);
    }
    if (x->body.has_length) {
        apr_table_setn(r->headers_out, "Content-Length",
                       apr_off_t_toa(r->pool, (apr_off_t)x->body.left));
    }
}

/* The session belongs to its backend: it issues it, and says when it is gone. */
static void follow_session(mcp_exchange_t *x)
{
    const char *issued = mcp_http_field(&x->head, "Mcp-Session-Id");
    int status = x->head.status;
    int is_good = status >= 200 && status < 300;

    if (x->q->session && (status == HTTP_NOT_FOUND
                          || (is_good && x->r->method_number == M_DELETE))) {
        mcp_proxy_forget(x->q);
        return;
    }
    /* Servers repeat the id with every answer; only one that the client did not send is new. */
    if (issued && *issued && is_good && !mcp_request_is_stateless(x->r)
        && (!x->q->session || strcmp(issued, x->q->backend_session) != 0)) {
        mcp_proxy_learn(x->r, x->q, issued, x->target.worker);
        mcp_exchange_store(x);
        mcp_rescue_learnt(x);
    }
}

static apr_int64_t count_stream(mcp_exchange_t *x)
{
    x->counted = 1;
    return mcp_shared_add(mcp_proxy_shared(), mcp_proxy_row(), MCP_SHARED_STREAMS, 1);
}

/*
 * Many may have been let in while there was room for one. A GET loses nothing when it is refused
 * now; what a POST has done at its backend is done, and its answer passes.
 */
static int is_one_too_many(const mcp_exchange_t *x, apr_int64_t streams)
{
    return x->r->method_number == M_GET
        && streams > mcp_proxy_server_conf(MCP_PROXY_MAX_STREAMS);
}

static void become_stream(mcp_exchange_t *x)
{
    request_rec *r = x->r;

    if (is_one_too_many(x, count_stream(x))) {
        x->is_full = 1;
        mcp_exchange_fail(x, HTTP_SERVICE_UNAVAILABLE);
        return;
    }
    x->is_stream = 1;
    x->opened = mcp_clock_now();
    x->is_standing = r->method_number == M_GET || x->is_listen;
    mcp_park_set_patience(x->park, mcp_exchange_conf(x, MCP_PROXY_WRITE_TIMEOUT));
    mcp_shared_add(mcp_proxy_shared(), mcp_proxy_row(), MCP_SHARED_STREAMS_TOTAL, 1);
    mcp_streams_open(x);
    mcp_rescue_mark_events(x);
    if (x->single) {
        mcp_single_opened(x);
    }
    /* Comments and a mapped endpoint are not in the backend's count. */
    if (x->body.kind != MCP_HTTP_BODY_NONE) {
        apr_table_unset(r->headers_out, "Content-Length");
    }
    /* A filter that compresses would hold events back. */
    apr_table_setn(r->subprocess_env, "no-gzip", "1");
    apr_table_setn(r->subprocess_env, "no-brotli", "1");
    if (r->method_number == M_GET && x->head.status == HTTP_OK && !x->q->session
        && !apr_table_get(r->headers_out, "Content-Encoding")) {
        x->holds_first = 1;
        x->hold_until = mcp_clock_now() + HOLD_HEAD;
    }
}

void mcp_answer_head(mcp_exchange_t *x)
{
    request_rec *r = x->r;

    if (mcp_rescue_takes_head(x)) {
        return;
    }
    r->status = x->head.status;
    r->status_line = apr_pstrcat(r->pool, apr_itoa(r->pool, x->head.status), " ", x->head.reason,
                                 NULL);
    follow_session(x);
    mcp_rescue_watch_list(x);
    copy_fields(x);
    x->last_in = x->last_out = mcp_clock_now();
    x->state = MCP_X_BODY;
    if (mcp_answer_is_stream(r->content_type) && !r->header_only) {
        become_stream(x);
    }
}

/* ---- the endpoint event ---- */

/* Cut off what two paths have in common at their end, whole segments only. */
static void common_tail(const char *front, const char *back, apr_size_t *front_len,
                        apr_size_t *back_len)
{
    apr_size_t f = strlen(front), b = strlen(back), i = f, j = b;

    *front_len = f;
    *back_len = b;
    while (i > 0 && j > 0 && front[i - 1] == back[j - 1]) {
        i--;
        j--;
        if (front[i] == '/') {
            *front_len = i;
            *back_len = j;
        }
    }
}

/*
 * A path of the backend's as the client must ask for it: as ProxyPassReverse says, else by what the
 * paths of this very request have before their common end.
 */
static const char *map_path(mcp_exchange_t *x, const char *path)
{
    request_rec *r = x->r;
    proxy_dir_conf *dconf = ap_get_module_config(r->per_dir_config, &proxy_module);
    apr_uri_t back;
    const char *whole, *mapped;
    apr_size_t front_len, back_len;

    if (apr_uri_parse(r->pool, x->url, &back) != APR_SUCCESS || !back.hostinfo || !back.path) {
        return path;
    }
    whole = apr_pstrcat(r->pool, back.scheme, "://", back.hostinfo, path, NULL);
    mapped = ap_proxy_location_reverse_map(r, dconf, whole);
    if (strcmp(mapped, whole) != 0) {
        const char *host = strstr(mapped, "://");
        const char *slash = host ? strchr(host + 3, '/') : mapped;

        return slash ? slash : path;
    }
    common_tail(r->uri, back.path, &front_len, &back_len);
    if (!r->uri[front_len] || strncmp(path, back.path, back_len) != 0
        || (path[back_len] != '/' && back_len)) {
        return path;
    }
    return apr_pstrcat(r->pool, apr_pstrmemdup(r->pool, r->uri, front_len), path + back_len, NULL);
}

/* The host of an absolute URL is the one that was asked: the member's, or the Host it was sent. */
static int is_own_host(mcp_exchange_t *x, const apr_uri_t *uri)
{
    apr_uri_t back;
    const char *sent = apr_table_get(x->r->headers_in, "Host");
    apr_port_t port = uri->port ? uri->port : apr_uri_port_of_scheme(uri->scheme);

    if (apr_uri_parse(x->r->pool, x->url, &back) == APR_SUCCESS && back.hostname
        && strcasecmp(back.hostname, uri->hostname) == 0
        && port == (back.port ? back.port : apr_uri_port_of_scheme(back.scheme))) {
        return 1;
    }
    return sent && uri->hostinfo && strcasecmp(sent, uri->hostinfo) == 0;
}

static void learn_endpoint(mcp_exchange_t *x, const char *path, const char *query)
{
    const char *id = mcp_proxy_endpoint_id(x->r->pool, path, query);

    if (!id) {
        return;
    }
    mcp_proxy_learn(x->r, x->q, id, x->target.worker);
    mcp_exchange_store(x);
    x->learnt_endpoint = 1;
}

/* The endpoint as the client is to see it; NULL: it names a foreign host. */
static const char *map_endpoint(mcp_exchange_t *x, const char *url)
{
    request_rec *r = x->r;
    apr_uri_t uri;
    const char *path, *mapped;

    if (apr_uri_parse(r->pool, url, &uri) != APR_SUCCESS || (url[0] == '/' && url[1] == '/')) {
        return NULL;
    }
    path = uri.path ? uri.path : "";
    if (uri.hostname) {
        if (!uri.scheme || !is_own_host(x, &uri)) {
            return NULL;
        }
    }
    else if (uri.scheme) {
        return NULL;
    }
    learn_endpoint(x, path, uri.query);
    if (!uri.hostname && *path != '/') {
        return url; /* relative to the stream's own URL */
    }
    mapped = map_path(x, *path ? path : "/");
    if (uri.hostname) {
        mapped = ap_construct_url(r->pool, mapped, r);
    }
    return uri.query ? apr_pstrcat(r->pool, mapped, "?", uri.query, NULL) : mapped;
}

static void put(mcp_exchange_t *x, const char *buf, apr_size_t len, int lasts)
{
    apr_bucket_alloc_t *list = x->r->connection->bucket_alloc;

    if (len) {
        APR_BRIGADE_INSERT_TAIL(x->bb, lasts ? apr_bucket_pool_create(buf, len, x->r->pool, list)
                                             : mcp_park_lend(x->park, buf, len));
        mcp_sse_feed(&x->sse, buf, len);
    }
}

/* With the mark that tells whose ids these are. */
static void put_marked(mcp_exchange_t *x, const char *buf, apr_size_t len)
{
    mcp_span_t in = { buf, len }, before;

    while (mcp_sse_next_id(&x->ids, &in, &before)) {
        put(x, before.p, before.len, 0);
        put(x, x->event_mark, strlen(x->event_mark), 0);
    }
    put(x, before.p, before.len, 0);
}

/* For the log: the path and query of an endpoint hold the session id. */
static const char *without_path(apr_pool_t *p, const char *url)
{
    const char *authority = strstr(url, "//");

    authority = authority ? authority + 2 : url;
    return apr_pstrmemdup(p, url, (apr_size_t)(authority - url) + strcspn(authority, "/?"));
}

static apr_status_t refuse_endpoint(mcp_exchange_t *x)
{
    if (x->head_sent) {
        x->broken = 1;
    }
    else {
        x->failed = HTTP_BAD_GATEWAY;
    }
    return APR_EGENERAL;
}

static apr_status_t put_endpoint(mcp_exchange_t *x, mcp_span_t data)
{
    const char *url = apr_pstrmemdup(x->r->pool, data.p, data.len);
    const char *mapped = map_endpoint(x, url);
    const char *end = data.p + data.len;

    if (!mapped) {
        ap_log_rerror(APLOG_MARK, APLOG_ERR, 0, x->r, MCP_LOGNO(2050)
                      "the endpoint event of %s names a foreign host: %s",
                      x->target.worker->s->name_ex,
                      ap_escape_logitem(x->r->pool, without_path(x->r->pool, url)));
        return refuse_endpoint(x);
    }
    mapped = mcp_idmap_endpoint(x->r, x->target.worker, mapped);
    if (!mapped) {
        return refuse_endpoint(x);
    }
    put(x, x->held, (apr_size_t)(data.p - x->held), 1);
    put(x, mapped, strlen(mapped), 1);
    put(x, end, (apr_size_t)(x->held + x->held_len - end), 1);
    x->held_len = 0;
    return APR_SUCCESS;
}

static void hold(mcp_exchange_t *x, const char *buf, apr_size_t len)
{
    if (x->held_len + len > x->held_room) {
        char *grown;

        x->held_room = x->held_len + len + 512;
        grown = apr_palloc(x->r->pool, x->held_room);
        if (x->held_len) {
            memcpy(grown, x->held, x->held_len);
        }
        x->held = grown;
    }
    memcpy(x->held + x->held_len, buf, len);
    x->held_len += len;
}

static apr_status_t release_held(mcp_exchange_t *x)
{
    x->holds_first = 0;
    put(x, x->held, x->held_len, 1);
    x->held_len = 0;
    return APR_SUCCESS;
}

/* How much of what opens a stream is comments and blank lines: never held back. */
static apr_size_t leading_comments(mcp_exchange_t *x, const char *buf, apr_size_t len)
{
    mcp_sse_t at = x->sse;
    apr_size_t i;

    for (i = 0; i < len; i++) {
        if (!at.in_comment && buf[i] != ':' && buf[i] != '\n' && buf[i] != '\r') {
            break;
        }
        mcp_sse_feed(&at, buf + i, 1);
    }
    return i;
}

static apr_status_t answer_first(mcp_exchange_t *x, const char *buf, apr_size_t len)
{
    mcp_span_t data;

    if (x->held_len == 0) {
        apr_size_t comments = leading_comments(x, buf, len);

        put(x, buf, comments, 0);
        buf += comments;
        len -= comments;
        if (len == 0) {
            return APR_SUCCESS;
        }
    }
    hold(x, buf, len);
    switch (mcp_sse_first(x->held, x->held_len, &data)) {
    case MCP_SSE_MORE:
        return x->held_len < HELD_MOST ? APR_SUCCESS : release_held(x);
    case MCP_SSE_OTHER:
        return release_held(x);
    case MCP_SSE_ENDPOINT:
        x->holds_first = 0;
        return put_endpoint(x, data);
    }
    return APR_SUCCESS;
}

apr_status_t mcp_answer_data(mcp_exchange_t *x, const char *buf, apr_size_t len)
{
    if (mcp_rescue_is_own(x)) {
        return mcp_rescue_take_data(x, buf, len);
    }
    if (x->list) {
        mcp_rescue_read_along(x, buf, len);
    }
    if (x->holds_first) {
        return answer_first(x, buf, len);
    }
    if (x->is_stream && x->event_mark) {
        put_marked(x, buf, len);
    }
    else if (x->is_stream) {
        put(x, buf, len, 0);
    }
    else {
        APR_BRIGADE_INSERT_TAIL(x->bb, apr_bucket_transient_create(buf, len,
                                                            x->r->connection->bucket_alloc));
    }
    return APR_SUCCESS;
}

/*
 * What tells a subscription that is over from a connection that was lost (2026-07-28,
 * basic/patterns/subscriptions, Graceful Closure): the response to its request.
 */
static void put_completion(mcp_exchange_t *x)
{
    static const char form[] =
        "event: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":{\"resultType\":"
        "\"complete\",\"_meta\":{\"io.modelcontextprotocol/subscriptionId\":%s}}}\n\n";
    const mcp_span_t id = mcp_request_get(x->r)->rpc->id;
    const char *text, *event;

    if (id.p) {
        text = apr_pstrmemdup(x->r->pool, id.p, id.len);
        event = apr_psprintf(x->r->pool, form, text, text);
        put(x, event, strlen(event), 1);
    }
}

/* As the client would get it without a stream; that there has been one does not matter to it. */
static void put_loss(mcp_exchange_t *x)
{
    static const char form[] =
        "event: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":%s,\"error\":{\"code\":%d,\"message\":"
        "\"The server was lost before it had answered\"}}\n\n";
    const mcp_span_t id = mcp_request_get(x->r)->rpc->id;
    const char *event = apr_psprintf(x->r->pool, form, apr_pstrmemdup(x->r->pool, id.p, id.len),
                                     -31000 - HTTP_BAD_GATEWAY);

    put(x, event, strlen(event), 1);
}

void mcp_answer_end(mcp_exchange_t *x)
{
    apr_bucket_alloc_t *list = x->r->connection->bucket_alloc;

    if (x->holds_first) {
        release_held(x);
    }
    if (x->list) {
        mcp_rescue_note_list(x);
    }
    if (x->closed_here && x->is_listen) {
        put_completion(x);
    }
    if (x->answer_lost) {
        put_loss(x);
    }
    if (x->draining) {
        /* With the last byte: a client that waits before it comes back must not choose this one. */
        x->r->connection->keepalive = AP_CONN_CLOSE;
    }
    if (x->broken) {
        /* Without this the chunk filter would end the body as if it were whole. */
        APR_BRIGADE_INSERT_TAIL(x->bb, ap_bucket_error_create(HTTP_BAD_GATEWAY, NULL, x->r->pool,
                                                              list));
        x->r->connection->keepalive = AP_CONN_CLOSE;
    }
    APR_BRIGADE_INSERT_TAIL(x->bb, apr_bucket_eos_create(list));
    ap_pass_brigade(x->r->output_filters, x->bb);
    apr_brigade_cleanup(x->bb);
    x->head_sent = 1;
}
