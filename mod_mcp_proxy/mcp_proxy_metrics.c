/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SetHandler mcp-metrics: Prometheus text 0.0.4. Samples come through the sink of
 * mcp_httpd_peers.h, this module's own as well as those of the others, are put in order by family,
 * and are printed. The format wants HELP and TYPE once a family, all of its lines together, and no
 * series twice.
 */
#include "mcp_proxy_metrics.h"

#include <apr_hash.h>
#include <apr_strings.h>
#include <http_protocol.h>
#include <math.h>

#include "mcp_httpd_peers.h"
#include "mcp_httpd_request.h"
#include "mcp_json.h"
#include "mcp_proxy_label.h"

APR_IMPLEMENT_OPTIONAL_HOOK_RUN_ALL(mcp, MCP, int, metrics,
                                    (request_rec *r, mcp_metrics_sink_t *sink), (r, sink), OK,
                                    DECLINED)

/* ---- counting ---- */

/* What mcp_requests_total calls this request: a method of MCP where there is a message to read. */
static int method_of(const request_rec *r, const mcp_request_t *body)
{
    const mcp_rpc_t *rpc = body ? body->rpc : NULL;

    if (!r->header_only && (r->method_number == M_GET || r->method_number == M_DELETE)) {
        return mcp_label_of_word(r->method_number == M_GET ? "GET" : "DELETE");
    }
    if (!rpc || r->method_number != M_POST) {
        return mcp_label_of_word("other");
    }
    if (rpc->kind == MCP_RPC_BATCH || rpc->kind == MCP_RPC_RESPONSE) {
        return mcp_label_of_word(rpc->kind == MCP_RPC_BATCH ? "batch" : "response");
    }
    return mcp_label_of_method(rpc->method);
}

int mcp_proxy_count_request(request_rec *r)
{
    const mcp_proxy_request_t *q = ap_get_module_config(r->request_config, &mcp_proxy_module);
    const request_rec *last = r;
    int status;

    if (r->proxyreq != PROXYREQ_REVERSE || !mcp_proxy_is_on(r) || r->method_number == M_OPTIONS) {
        return DECLINED;
    }
    while (last->next) {
        last = last->next;
    }
    status = q && q->abandoned ? 499 : last->status;
    mcp_shared_request_add(mcp_proxy_shared(), mcp_proxy_row(),
                           method_of(r, q ? mcp_request_get(r) : NULL),
                           mcp_label_of_status(status));
    return DECLINED;
}

/* ---- gathering ---- */

typedef struct gatherer_t {
    mcp_metrics_sink_t sink; /* first: what the modules are given */
    apr_pool_t *pool;
    apr_array_header_t *samples; /* mcp_sample_t * */
    apr_hash_t *series;          /* its text -> mcp_sample_t * */
} gatherer_t;

static void take_sample(mcp_metrics_sink_t *sink, const char *family, const char *type,
                        const char *help, const char *suffix, const char *labels, double value)
{
    gatherer_t *g = sink->baton;
    const char *series = apr_pstrcat(g->pool, family, suffix, "{", labels, NULL);
    mcp_sample_t *sample = apr_hash_get(g->series, series, APR_HASH_KEY_STRING);

    if (sample) {
        sample->value += value;
        return;
    }
    sample = apr_palloc(g->pool, sizeof(*sample));
    *sample = (mcp_sample_t){ apr_pstrdup(g->pool, family), apr_pstrdup(g->pool, type),
                              apr_pstrdup(g->pool, help), apr_pstrdup(g->pool, suffix),
                              apr_pstrdup(g->pool, labels), value };
    apr_hash_set(g->series, series, APR_HASH_KEY_STRING, sample);
    APR_ARRAY_PUSH(g->samples, mcp_sample_t *) = sample;
}

/* All samples of a family together, families in the order in which they came. */
static apr_array_header_t *in_order(const gatherer_t *g)
{
    apr_array_header_t *out = apr_array_make(g->pool, g->samples->nelts, sizeof(mcp_sample_t));
    apr_hash_t *done = apr_hash_make(g->pool);
    int i, j;

    for (i = 0; i < g->samples->nelts; i++) {
        const char *family = APR_ARRAY_IDX(g->samples, i, mcp_sample_t *)->family;

        if (apr_hash_get(done, family, APR_HASH_KEY_STRING)) {
            continue;
        }
        apr_hash_set(done, family, APR_HASH_KEY_STRING, family);
        for (j = i; j < g->samples->nelts; j++) {
            const mcp_sample_t *sample = APR_ARRAY_IDX(g->samples, j, mcp_sample_t *);

            if (strcmp(sample->family, family) == 0) {
                APR_ARRAY_PUSH(out, mcp_sample_t) = *sample;
            }
        }
    }
    return out;
}

/* ---- this module's own ---- */

static void tell_one(mcp_metrics_sink_t *sink, const char *family, const char *type,
                     const char *help, mcp_shared_value_e value)
{
    sink->sample(sink, family, type, help, "", "",
                 (double)mcp_shared_get(mcp_proxy_shared(), value));
}

static void tell_streams(mcp_metrics_sink_t *sink)
{
    tell_one(sink, "mcp_router_sse_connections", "gauge", "Event streams in flight.",
             MCP_SHARED_STREAMS);
    tell_one(sink, "mcp_router_sse_connections_total", "counter", "Event streams opened.",
             MCP_SHARED_STREAMS_TOTAL);
    tell_one(sink, "mcp_router_sse_errors_total", "counter",
             "Event streams that broke off before their backend ended them.",
             MCP_SHARED_STREAM_ERRORS);
    tell_one(sink, "mcp_sessions_lost_total", "counter",
             "Requests whose session was lost with its member.", MCP_SHARED_SESSIONS_LOST);
}

static void tell_requests(request_rec *r, mcp_metrics_sink_t *sink)
{
    /* Always there, so that a rate begins with the first call and not with the second. */
    int call = mcp_label_of_method("tools/call"), ok = mcp_label_of_status(HTTP_OK);
    int method, status;

    for (method = 0; method < MCP_LABEL_METHODS; method++) {
        for (status = 0; status < MCP_LABEL_STATUSES; status++) {
            apr_uint64_t count = mcp_shared_requests(mcp_proxy_shared(), method, status);

            if (count || (method == call && status == ok)) {
                sink->sample(sink, "mcp_requests_total", "counter",
                             "Requests answered, by MCP method and HTTP status.", "",
                             apr_psprintf(r->pool, "method=\"%s\",status=\"%d\"",
                                          mcp_label_method(method), mcp_label_status(status)),
                             (double)count);
            }
        }
    }
}

/* @a label is put before others; "" or with a comma at its end */
static void tell_time(request_rec *r, mcp_metrics_sink_t *sink, const char *family,
                      const char *help, const char *label, mcp_shared_time_e which)
{
    const char *alone = apr_pstrmemdup(r->pool, label, *label ? strlen(label) - 1 : 0);
    mcp_shared_times_t times;
    char le[64];
    double sum = 0;
    int i;

    mcp_shared_times(mcp_proxy_shared(), which, &times);
    for (i = 0; i < MCP_SHARED_BUCKETS; i++) {
        /* The C library's: APR's %g has no nought before the point. */
        if (i < MCP_SHARED_BUCKETS - 1) {
            snprintf(le, sizeof(le), "%sle=\"%g\"", label,
                     (double)mcp_shared_bounds[which][i] / 1e6);
        }
        else {
            snprintf(le, sizeof(le), "%sle=\"+Inf\"", label);
        }
        sum += (double)times.count[i];
        sink->sample(sink, family, "histogram", help, "_bucket", le, sum);
    }
    sink->sample(sink, family, "histogram", help, "_sum", alone, (double)times.sum / 1e6);
    sink->sample(sink, family, "histogram", help, "_count", alone, sum);
}

/* In the words of the other modules' stores: what they say stands in one family. */
static void tell_store(request_rec *r, mcp_metrics_sink_t *sink)
{
    sink->sample(sink, "mcp_store_errors_total", "counter",
                 "Questions that a module's store did not answer.", "", "module=\"proxy\"",
                 (double)mcp_shared_get(mcp_proxy_shared(), MCP_SHARED_STORE_ERRORS));
    sink->sample(sink, "mcp_store_up", "gauge", "Whether a module's store is being asked.", "",
                 "module=\"proxy\"", mcp_proxy_store_is_up());
    tell_time(r, sink, "mcp_store_seconds", "Time that requests waited for a module's store.",
              "module=\"proxy\",", MCP_SHARED_STORE_TIME);
}

typedef struct tally_t {
    apr_uint64_t of_slot[MCP_SHARED_MEMBERS];
} tally_t;

static void tally_session(void *baton, apr_uint64_t member)
{
    tally_t *tally = baton;
    int slot = mcp_shared_find_member(mcp_proxy_shared(), member);

    if (slot >= 0) {
        tally->of_slot[slot]++;
    }
}

apr_uint64_t *mcp_metrics_sessions(const apr_array_header_t *members, apr_pool_t *p)
{
    tally_t *tally = apr_pcalloc(p, sizeof(*tally));
    apr_uint64_t *counts = apr_pcalloc(p, sizeof(*counts) * (apr_size_t)(members->nelts + 1));
    int i;

    if (mcp_proxy_sessions()) {
        mcp_session_each(mcp_proxy_sessions(), tally_session, tally);
    }
    for (i = 0; i < members->nelts; i++) {
        int slot = APR_ARRAY_IDX(members, i, mcp_member_t).slot;

        counts[i] = slot >= 0 ? tally->of_slot[slot] : 0;
    }
    return counts;
}

static void tell_sessions(request_rec *r, mcp_metrics_sink_t *sink)
{
    apr_array_header_t *members = mcp_proxy_members(r->pool);
    apr_uint64_t *counts = mcp_metrics_sessions(members, r->pool);
    int i;

    for (i = 0; i < members->nelts; i++) {
        sink->sample(sink, "mcp_sessions", "gauge", "Sessions known, by the member that has them.",
                     "", apr_psprintf(r->pool, "route=\"%s\"",
                                      mcp_metrics_quote(APR_ARRAY_IDX(members, i, mcp_member_t)
                                                            .route, r->pool)),
                     (double)counts[i]);
    }
}

apr_array_header_t *mcp_metrics_collect(request_rec *r)
{
    gatherer_t g = { .sink.sample = take_sample, .pool = r->pool };

    g.sink.baton = &g;
    g.samples = apr_array_make(r->pool, 64, sizeof(mcp_sample_t *));
    g.series = apr_hash_make(r->pool);
    tell_streams(&g.sink);
    if (!mcp_proxy_is_sealed()) {
        tell_sessions(r, &g.sink);
    }
    tell_requests(r, &g.sink);
    tell_time(r, &g.sink, "mcp_stream_seconds", "How long event streams were open.", "",
              MCP_SHARED_STREAM_TIME);
    tell_time(r, &g.sink, "mcp_disconnect_propagation_seconds",
              "From noticing that a client left to closing the connection to its backend.", "",
              MCP_SHARED_DISCONNECT_TIME);
    tell_time(r, &g.sink, "mcp_event_delay_seconds",
              "From noticing bytes of an event stream to having written them to its client.", "",
              MCP_SHARED_EVENT_TIME);
    tell_store(r, &g.sink);
    mcp_run_metrics(r, &g.sink);
    return in_order(&g);
}

/* ---- printing ---- */

const char *mcp_metrics_quote(const char *value, apr_pool_t *p)
{
    const char *end = value + strlen(value);
    char *copy = apr_palloc(p, 3 * (apr_size_t)(end - value) + 1), *to = copy;

    while (value < end) {
        apr_size_t len = mcp_json_utf8(value, end);

        if (!len) {
            memcpy(to, "\xef\xbf\xbd", 3); /* U+FFFD */
            to += 3;
            value++;
            continue;
        }
        if (*value == '\\' || *value == '"' || *value == '\n') {
            *to++ = '\\';
        }
        memcpy(to, *value == '\n' ? "n" : value, len);
        to += len;
        value += len;
    }
    *to = '\0';
    return copy;
}

static void print(request_rec *r, const mcp_sample_t *sample, int is_first)
{
    int is_whole = sample->value == floor(sample->value) && fabs(sample->value) < 1e15;

    if (is_first) {
        ap_rprintf(r, "# HELP %s %s\n# TYPE %s %s\n", sample->family, sample->help, sample->family,
                   sample->type);
    }
    ap_rputs(sample->family, r);
    ap_rputs(sample->suffix, r);
    if (*sample->labels) {
        ap_rvputs(r, "{", sample->labels, "}", NULL);
    }
    ap_rprintf(r, is_whole ? " %.0f\n" : " %.9f\n", sample->value);
}

int mcp_proxy_metrics_handler(request_rec *r)
{
    apr_array_header_t *samples;
    const char *family = "";
    int i;

    if (!r->handler || strcmp(r->handler, "mcp-metrics") != 0) {
        return DECLINED;
    }
    ap_allow_standard_methods(r, REPLACE_ALLOW, M_GET, -1);
    if (r->method_number != M_GET) {
        return HTTP_METHOD_NOT_ALLOWED;
    }
    ap_set_content_type(r, "text/plain; version=0.0.4; charset=utf-8");
    apr_table_setn(r->headers_out, "Cache-Control", "no-store");
    samples = mcp_metrics_collect(r);
    for (i = 0; i < samples->nelts; i++) {
        const mcp_sample_t *sample = &APR_ARRAY_IDX(samples, i, mcp_sample_t);

        print(r, sample, strcmp(sample->family, family) != 0);
        family = sample->family;
    }
    return OK;
}
