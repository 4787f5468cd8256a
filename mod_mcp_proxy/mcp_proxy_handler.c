/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The scheme handler: set an exchange up, and finish it. A request that never left its thread
 * returns to proxy_handler, which then does what it does for any backend. One that did is finished
 * here, with the same steps: marking the member, another member, post_request, the answer.
 */
#include "mcp_proxy_exchange.h"

#include <apr_strings.h>
#include <http_core.h>
#include <http_protocol.h>

#include "mcp_clock.h"
#include "mcp_httpd_error.h"
#include "mcp_httpd_request.h"
#include "mcp_proxy_far.h"
#include "mcp_proxy_idmap.h"
#include "mcp_proxy_rescue.h"

#define PORT_TEXT 32
#define RETRY_AFTER_FULL "5"
#define RETRY_AFTER_RESTART "1"

static int accepts_streams(request_rec *r)
{
    const char *accept = apr_table_get(r->headers_in, "Accept");

    return accept && (ap_strcasestr(accept, "text/event-stream") || ap_strcasestr(accept, "*/*"));
}

/* For start(): said where the exchange ends, and not the member's fault. */
static int not_this_session(request_rec *r)
{
    return mcp_error_set(r, HTTP_NOT_FOUND, 0, "Session not found", NULL);
}

/* The header lines that mod_proxy makes, in one piece, with the length of the body added. */
static int build_request(mcp_exchange_t *x, apr_uri_t *uri, char *url, char *port)
{
    request_rec *r = x->r;
    mcp_request_t *request = mcp_request_get(r);
    apr_bucket_brigade *bb = apr_brigade_create(r->pool, r->connection->bucket_alloc);
    char *old_length = NULL, *old_coding = NULL;
    apr_table_t *fields = r->headers_in;
    mcp_span_t body = { request->body, request->length };
    const char *method = r->method;
    const char *last;
    apr_size_t len;
    char *head;
    int status;

    r->headers_in = mcp_idmap_request_fields(r, x->target.worker);
    if (!r->headers_in) {
        r->headers_in = fields;
        return not_this_session(r);
    }
    mcp_rescue_dress(x, &body);
    status = ap_proxy_create_hdrbrgd(r->pool, bb, r, x->target.resolved, x->target.worker, x->conf,
                                     uri, url, port, &old_length, &old_coding);
    r->headers_in = fields;
    r->method = method;
    if (status != OK) {
        return status;
    }
    /* No apr_brigade_printf(): it takes 8 KB from the connection, which would keep them. */
    last = old_length || old_coding
        ? apr_pstrcat(r->pool, "Content-Length: ", apr_off_t_toa(r->pool, (apr_off_t)body.len),
                      CRLF CRLF, NULL)
        : CRLF;
    APR_BRIGADE_INSERT_TAIL(bb, apr_bucket_immortal_create(last, strlen(last), bb->bucket_alloc));
    apr_brigade_pflatten(bb, &head, &len, r->pool);
    apr_brigade_destroy(bb);
    mcp_request_take(r);
    x->request[0] = (struct iovec){ head, len };
    x->request[1] = (struct iovec){ (char *)body.p, body.len };
    x->request_bytes = len + body.len;
    return OK;
}

static void count_in(mcp_exchange_t *x)
{
    mcp_shared_t *shared = mcp_proxy_shared();

    x->member = mcp_shared_member(shared, mcp_proxy_member_hash(x->target.worker));
    mcp_shared_load_add(shared, mcp_proxy_row(), x->member, 1);
}

static void count_out(mcp_exchange_t *x)
{
    mcp_shared_load_add(mcp_proxy_shared(), mcp_proxy_row(), x->member, -1);
    x->member = -1;
}

static void count_stream_out(mcp_exchange_t *x)
{
    if (x->counted) {
        mcp_shared_add(mcp_proxy_shared(), mcp_proxy_row(), MCP_SHARED_STREAMS, -1);
        x->counted = 0;
    }
}

static apr_sockaddr_t *copy_addresses(apr_pool_t *p, const apr_sockaddr_t *from)
{
    apr_sockaddr_t *first = NULL, **link = &first;

    for (; from; from = from->next) {
        *link = apr_pmemdup(p, from, sizeof(*from));
        (*link)->next = NULL;
        link = &(*link)->next;
    }
    return first;
}

/*
 * Ask mod_proxy where to connect to. It counts who uses a member's address until the asker's pool
 * is cleared; a request may end later than the member itself when a child stops, so it keeps a
 * copy.
 */
static int resolve(mcp_exchange_t *x, apr_uri_t *uri, char **url, char *port)
{
    proxy_conn_rec *conn = x->target.resolved;
    apr_pool_t *asking;
    int status;

    apr_pool_create(&asking, x->r->pool);
    conn->pool = asking;
    status = ap_proxy_determine_connection(x->r->pool, x->r, x->conf, x->target.worker, conn, uri,
                                           url, NULL, 0, port, PORT_TEXT);
    x->target.address = copy_addresses(x->r->pool, conn->addr);
    conn->pool = x->r->pool;
    conn->addr = NULL;
    conn->address = NULL;
    conn->hostname = conn->uds_path = NULL;
    apr_pool_destroy(asking);
    return status;
}

int mcp_exchange_start(mcp_exchange_t *x)
{
    request_rec *r = x->r;
    proxy_worker *worker = x->target.worker;
    apr_uri_t *uri = apr_pcalloc(r->pool, sizeof(*uri));
    char *url = (char *)mcp_idmap_request_url(r, worker, mcp_rescue_url(x));
    char port[PORT_TEXT];
    int is_ssl = strncasecmp(x->url, "https:", 6) == 0;
    int status;

    x->failed = x->timed_out = x->broken = x->was_sent = x->send_failed = x->heads = 0;
    x->session_gone = x->leftover = 0;
    x->raw_len = 0;
    memset(&x->head, 0, sizeof(x->head));
    memset(&x->body, 0, sizeof(x->body));
    x->started = mcp_clock_now();
    if (!url) {
        return not_this_session(r);
    }
    x->target.resolved = mcp_backend_conn_rec(r->pool, worker, is_ssl);
    status = resolve(x, uri, &url, port);
    if (status == OK) {
        status = build_request(x, uri, url, port);
    }
    if (status != OK) {
        return status;
    }
    apr_table_setn(r->subprocess_env, "MCP_ROUTE",
                   *worker->s->route ? worker->s->route : worker->s->name_ex);
    x->backend = mcp_backend_reuse(&x->target);
    x->state = x->backend ? MCP_X_SEND : MCP_X_CONNECT;
    count_in(x);
    return OK;
}

/* A member in error is tried again after its retry= time; mod_proxy keeps that to itself. */
static int retry_worker(const char *scheme, proxy_worker *worker, server_rec *s)
{
    APR_OPTIONAL_FN_TYPE(ap_proxy_retry_worker) *fn =
        APR_RETRIEVE_OPTIONAL_FN(ap_proxy_retry_worker);

    return fn ? fn(scheme, worker, s) : DECLINED;
}

static mcp_exchange_t *make_exchange(request_rec *r, proxy_worker *worker, proxy_server_conf *conf,
                                     char *url)
{
    mcp_exchange_t *x = apr_pcalloc(r->pool, sizeof(*x));
    const mcp_request_t *request = mcp_request_get(r);

    x->r = r;
    x->q = mcp_proxy_request(r);
    x->conf = conf;
    x->url = url;
    x->member = -1;
    x->target.r = r;
    x->target.worker = worker;
    x->target.conf = conf;
    x->expects_stream = r->method_number == M_GET && !r->header_only && accepts_streams(r);
    x->is_listen = request->rpc && request->rpc->method
        && strcmp(request->rpc->method, "subscriptions/listen") == 0;
    x->bb = apr_brigade_create(r->pool, r->connection->bucket_alloc);
    x->park = mcp_park_create(r);
    return x;
}

/* A request that could open a stream, when there are as many as there may be. */
static int is_full(request_rec *r)
{
    return mcp_shared_get(mcp_proxy_shared(), MCP_SHARED_STREAMS)
            >= mcp_proxy_server_conf(MCP_PROXY_MAX_STREAMS)
        && (r->method_number == M_GET || r->method_number == M_POST) && !r->header_only
        && accepts_streams(r);
}

static int refuse_full(request_rec *r)
{
    apr_table_setn(r->err_headers_out, "Retry-After", RETRY_AFTER_FULL);
    mcp_error_set(r, HTTP_SERVICE_UNAVAILABLE, 0, "Too many event streams are open", NULL);
    return mcp_error_send(r, HTTP_SERVICE_UNAVAILABLE);
}

static int session_not_found(request_rec *r)
{
    return mcp_error_send(r, not_this_session(r));
}

int mcp_proxy_handler(request_rec *r, proxy_worker *worker, proxy_server_conf *conf, char *url,
                      const char *proxyname, apr_port_t proxyport)
{
    mcp_exchange_t *x;
    int status;

    if (!mcp_proxy_is_on(r) || r->proxyreq != PROXYREQ_REVERSE || proxyname
        || (strncasecmp(url, "http:", 5) != 0 && strncasecmp(url, "https:", 6) != 0)) {
        return DECLINED;
    }
    if (is_full(r)) {
        return refuse_full(r);
    }
    x = make_exchange(r, worker, conf, url);
    /* Where a session is known there is nowhere else to ask. */
    if (!x->q->balancer && !x->q->session_known && !PROXY_WORKER_IS_USABLE(worker)
        && retry_worker("MCP", worker, r->server) != OK) {
        return HTTP_SERVICE_UNAVAILABLE;
    }
    status = mcp_single_ask(x);
    if (status != OK) {
        return mcp_error_send(r, status);
    }
    if (x->q->is_out) {
        mcp_rescue_open(x);
        return mcp_exchange_run(x);
    }
    status = mcp_exchange_start(x);
    if (status != OK) {
        return status;
    }
    mcp_single_begin(x);
    return mcp_exchange_run(x);
}

/* ---- the end ---- */

void mcp_exchange_mark_member(mcp_exchange_t *x)
{
    proxy_worker_shared *s = x->target.worker->s;

    if (!(s->status & PROXY_WORKER_IGNORE_ERRORS)) {
        s->status |= PROXY_WORKER_IN_ERROR;
        s->error_time = apr_time_now();
    }
}

/*
 * "Keep-Alive: timeout=N": be gone well before the backend is. A busy one runs its timers before it
 * reads what has come, and a request that was sent must not be sent again.
 */
static apr_interval_time_t keep_for(const mcp_exchange_t *x)
{
    const char *field = mcp_http_field(&x->head, "Keep-Alive");
    const char *hint = field ? ap_strcasestr(field, "timeout=") : NULL;
    apr_int64_t seconds = hint ? apr_atoi64(hint + strlen("timeout=")) : 0;

    return apr_time_from_sec(seconds) / 2;
}

/* Servers that answer HEAD as they answer GET go on to serve the stream, and nothing else. */
static int is_still_served(const mcp_exchange_t *x)
{
    return x->r->header_only && mcp_answer_is_stream(mcp_http_field(&x->head, "Content-Type"));
}

static int may_reuse(const mcp_exchange_t *x)
{
    int i;

    if (!x->body.done || x->leftover || x->failed || x->broken || x->head.minor < 1
        || x->body.kind == MCP_HTTP_BODY_CLOSE || x->target.resolved->close
        || x->request[0].iov_len + x->request[1].iov_len > 0 || is_still_served(x)) {
        return 0;
    }
    for (i = 0; i < x->head.fields->nelts; i++) {
        const mcp_http_field_t *f = &APR_ARRAY_IDX(x->head.fields, i, mcp_http_field_t);

        if (strcasecmp(f->name, "Connection") == 0
            && ap_find_token(x->r->pool, f->value, "close")) {
            return 0;
        }
    }
    return 1;
}

/* What TLS has decrypted lies where no peek at the socket sees it. */
static int is_dry(mcp_exchange_t *x)
{
    char c;
    apr_size_t len;

    return !mcp_backend_is_tls(x->backend)
        || APR_STATUS_IS_EAGAIN(mcp_backend_recv(x->backend, &c, 1, &len));
}

static void give_back(mcp_exchange_t *x)
{
    if (!x->backend) {
        return;
    }
    if (may_reuse(x) && is_dry(x)) {
        mcp_backend_release(x->backend, keep_for(x));
    }
    else {
        mcp_exchange_drop_backend(x);
    }
    x->backend = NULL;
}

static void update_statistics(mcp_exchange_t *x)
{
    proxy_worker_shared *s = x->target.worker->s;

    if (x->was_sent) {
        s->transferred += (apr_off_t)x->request_bytes;
    }
    s->read += x->bytes_in;
}

void mcp_exchange_let_go(mcp_exchange_t *x)
{
    give_back(x);
    count_out(x);
    update_statistics(x);
    x->request_bytes = 0;
    x->bytes_in = 0;
}

/* As proxy_handler does after a scheme handler that answers at once. */
static void post_request(mcp_exchange_t *x, int status)
{
    request_rec *r = x->r;
    int saved = r->status;

    if (status == OK) {
        ap_proxy_post_request(x->target.worker, x->q->balancer, r, x->conf);
        return;
    }
    r->status = status;
    ap_proxy_post_request(x->target.worker, x->q->balancer, r, x->conf);
    if (r->status == status) {
        r->status = saved;
    }
}

static int max_attempts(const mcp_exchange_t *x)
{
    const proxy_balancer *balancer = x->q->balancer;

    return balancer && balancer->s->max_attempts_set ? balancer->s->max_attempts : 0;
}

/*
 * With the URL of the first time, as proxy_handler does: r->filename is the last member's by now,
 * and would have its query twice.
 */
int mcp_exchange_ask_balancer(mcp_exchange_t *x)
{
    proxy_balancer *balancer = x->q->balancer;
    char *url = apr_pstrdup(x->r->pool, x->q->asked_for);
    proxy_worker *worker = NULL;
    int status = ap_proxy_pre_request(&worker, &balancer, x->r, x->conf, &url);

    if (status == OK) {
        ap_proxy_initialize_worker(worker, x->r->server, x->conf->pool);
        x->target.worker = worker;
        x->url = url;
    }
    return status;
}

/* Another member for a request that was never sent. The status if there is none. */
static int try_another(mcp_exchange_t *x, int status)
{
    while (status == HTTP_SERVICE_UNAVAILABLE && x->q->balancer
           && !PROXY_WORKER_IS_USABLE(x->target.worker) && max_attempts(x) > x->attempts++) {
        status = mcp_exchange_ask_balancer(x);
        if (status != OK) {
            return status;
        }
        status = mcp_exchange_start(x);
        if (status == OK) {
            return mcp_exchange_run(x);
        }
        if (status == HTTP_NOT_FOUND) {
            return status;
        }
        mcp_exchange_mark_member(x);
    }
    return status;
}

/* This child goes, or there are all the streams that there may be: nobody's fault. */
static int refuse_late(mcp_exchange_t *x)
{
    request_rec *r = x->r;

    if (x->left) {
        post_request(x, OK);
    }
    if (x->is_full) {
        return refuse_full(r);
    }
    if (x->is_second) {
        return mcp_error_send(r, HTTP_CONFLICT);
    }
    apr_table_setn(r->err_headers_out, "Retry-After", RETRY_AFTER_RESTART);
    mcp_error_set(r, HTTP_SERVICE_UNAVAILABLE, 0, "The gateway is restarting", NULL);
    r->connection->keepalive = AP_CONN_CLOSE;
    return mcp_error_send(r, HTTP_SERVICE_UNAVAILABLE);
}

/* It failed before the client saw anything. */
static int fail(mcp_exchange_t *x)
{
    request_rec *r = x->r;
    int status = x->failed;

    if (x->timed_out) {
        apr_table_setn(r->notes, "proxy_timedout", "1");
    }
    if (x->draining || x->is_full || x->is_second) {
        return refuse_late(x);
    }
    if (x->session_lost) {
        if (x->left) {
            post_request(x, status);
        }
        return session_not_found(r);
    }
    if (status == HTTP_SERVICE_UNAVAILABLE) {
        mcp_exchange_mark_member(x);
        if (x->q->session_known) {
            /* The entry stays: the member may come back and still have the session. */
            mcp_shared_add(mcp_proxy_shared(), mcp_proxy_row(), MCP_SHARED_SESSIONS_LOST, 1);
            if (x->left) {
                post_request(x, status);
            }
            return session_not_found(r);
        }
    }
    if (!x->left) {
        return status;
    }
    status = try_another(x, status);
    if (ap_is_HTTP_ERROR(status)) {
        post_request(x, status);
        return mcp_error_send(r, status);
    }
    return status;
}

int mcp_exchange_finish(mcp_exchange_t *x)
{
    int was_stream = x->is_stream;

    if (x->broken && !x->head_sent && !x->failed) {
        x->failed = HTTP_BAD_GATEWAY;
    }
    if (x->put) {
        mcp_far_put_end(x->put);
        x->put = NULL;
    }
    mcp_exchange_let_go(x);
    count_stream_out(x);
    if (x->learnt_endpoint && !x->broken) {
        mcp_proxy_forget(x->q);
    }
    if (was_stream && (x->broken || x->failed || x->answer_lost)) {
        mcp_shared_add(mcp_proxy_shared(), mcp_proxy_row(), MCP_SHARED_STREAM_ERRORS, 1);
    }
    if (was_stream) {
        mcp_streams_close(x);
        mcp_shared_time_add(mcp_proxy_shared(), mcp_proxy_row(), MCP_SHARED_STREAM_TIME,
                            mcp_clock_now() - x->opened);
    }
    if (x->client_gone) {
        x->q->abandoned = !x->head_sent;
        x->r->connection->aborted = 1;
        apr_brigade_cleanup(x->bb);
    }
    else if (x->failed && !x->head_sent) {
        return fail(x);
    }
    else {
        mcp_answer_end(x);
        if (was_stream) {
            mcp_park_set_patience(x->park, 0);
        }
    }
    if (x->left) {
        post_request(x, OK);
    }
    return OK;
}

int mcp_proxy_request_status(int *status, request_rec *r)
{
    if (mcp_proxy_is_on(r) && r->proxyreq == PROXYREQ_REVERSE && ap_is_HTTP_ERROR(*status)) {
        *status = mcp_error_send(r, *status);
        return OK;
    }
    return DECLINED;
}
