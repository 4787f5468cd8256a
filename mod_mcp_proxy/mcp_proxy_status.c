/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SetHandler mcp-status: gather the picture, judge who may change something, end a stream. Reading
 * is up to Require. Ending a stream needs POST, a user or a client on this machine, a request that
 * no foreign page can have made, and a token that only a reader of this page can know.
 */
#include "mcp_proxy_status.h"

#include <apr_escape.h>
#include <apr_lib.h>
#include <apr_strings.h>
#include <http_core.h>
#include <http_protocol.h>
#include <openssl/crypto.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <util_script.h>

#include "mcp_clock.h"
#include "mcp_lasting.h"

#define MEMORY_KEY "mcp_proxy.status/1"
#define SECRET 32
#define FORM_MOST 1024
#define FORM_FIELDS 8

/* Shared by all children, and kept over restarts. */
typedef struct memory_t {
    unsigned char secret[SECRET];
    mcp_history_t history;
} memory_t;

static memory_t *memory;

apr_status_t mcp_status_set_up(server_rec *s)
{
    void *mem;
    int is_new;
    apr_status_t rv = mcp_lasting_memory(&mem, &is_new, MEMORY_KEY, sizeof(memory_t),
                                         s->process->pool);

    if (rv != APR_SUCCESS) {
        return rv;
    }
    memory = mem;
    if (is_new && RAND_bytes(memory->secret, SECRET) != 1) {
        return APR_EGENERAL;
    }
    mcp_history_add(&memory->history, mcp_proxy_shared(), apr_time_now());
    return APR_SUCCESS;
}

int mcp_proxy_monitor(apr_pool_t *p, server_rec *s)
{
    if (memory) {
        mcp_history_add(&memory->history, mcp_proxy_shared(), apr_time_now());
        mcp_proxy_mend_busy(s);
    }
    return DECLINED;
}

/* ---- who may change something ---- */

static int is_loopback(const char *ip)
{
    return strncmp(ip, "127.", 4) == 0 || strcmp(ip, "::1") == 0
        || strncmp(ip, "::ffff:127.", 11) == 0;
}

static int may_change(request_rec *r)
{
    return r->user || is_loopback(r->useragent_ip);
}

static int is_address(const char *host)
{
    return strchr(host, ':') || strspn(host, "0123456789.") == strlen(host);
}

/*
 * The name that the browser asked for is this server's: no page of a foreign name that was pointed
 * at this address (DNS rebinding) can then be of the same origin.
 */
static int is_own_host(request_rec *r)
{
    const char *host = r->hostname;

    return host && (is_address(host) || strcasecmp(host, "localhost") == 0
                    || mcp_proxy_is_name_of(r->server, host));
}

/* Sent by a page of this very origin, or by no page at all. */
static int is_same_origin(request_rec *r)
{
    const char *site = apr_table_get(r->headers_in, "Sec-Fetch-Site");
    const char *origin = apr_table_get(r->headers_in, "Origin");
    const char *host = apr_table_get(r->headers_in, "Host");

    if (site && strcmp(site, "same-origin") != 0) {
        return 0;
    }
    return !origin
        || (host
            && strcmp(origin, apr_pstrcat(r->pool, ap_http_scheme(r), "://", host, NULL)) == 0);
}

/* The same in every child; another user's is another one. */
static const char *make_token(request_rec *r)
{
    unsigned char mac[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    const char *user = r->user ? r->user : "";

    if (!HMAC(EVP_sha256(), memory->secret, SECRET, (const unsigned char *)user, strlen(user), mac,
              &len)) {
        return NULL;
    }
    return apr_pescape_hex(r->pool, mac, 16, 0);
}

static int is_token(request_rec *r, const char *given)
{
    const char *token = make_token(r);

    return token && given && strlen(given) == strlen(token)
        && CRYPTO_memcmp(given, token, strlen(token)) == 0;
}

/* ---- ending a stream ---- */

static const char *field(apr_array_header_t *form, const char *name, request_rec *r)
{
    int i;

    for (i = 0; form && i < form->nelts; i++) {
        ap_form_pair_t *pair = &APR_ARRAY_IDX(form, i, ap_form_pair_t);
        apr_off_t len;
        apr_size_t size;
        char *value;

        if (strcmp(pair->name, name) == 0) {
            apr_brigade_length(pair->value, 1, &len);
            size = (apr_size_t)len;
            value = apr_palloc(r->pool, size + 1);
            apr_brigade_flatten(pair->value, value, &size);
            value[size] = '\0';
            return value;
        }
    }
    return NULL;
}

/* INDEX-SERIAL, as the page has it. */
static apr_status_t end_stream(const char *name)
{
    char *dash, *end;
    unsigned long index = strtoul(name, &dash, 10), serial;

    if (!apr_isdigit(*name) || *dash != '-' || !apr_isdigit(dash[1])) {
        return APR_EINVAL;
    }
    serial = strtoul(dash + 1, &end, 10);
    if (*end || index > APR_UINT32_MAX || serial > APR_UINT32_MAX) {
        return APR_EINVAL;
    }
    return mcp_streams_end((apr_uint32_t)index, (apr_uint32_t)serial);
}

static int refuse(request_rec *r, const char *why)
{
    ap_log_rerror(APLOG_MARK, APLOG_INFO, 0, r, MCP_LOGNO(2091)
                  "a change by mcp-status is refused: %s", why);
    return HTTP_FORBIDDEN;
}

/* ?json, with or without a value. */
static int wants_json(const request_rec *r)
{
    return r->args && strncmp(r->args, "json", 4) == 0 && (!r->args[4] || strchr("=&", r->args[4]));
}

static int answer_post(request_rec *r, const char *outcome)
{
    if (wants_json(r)) {
        ap_set_content_type(r, "application/json");
        ap_rprintf(r, "{\"outcome\":\"%s\"}\n", outcome);
        return OK;
    }
    apr_table_setn(r->headers_out, "Location",
                   apr_pstrcat(r->pool, r->uri, "?outcome=", outcome, NULL));
    return HTTP_SEE_OTHER;
}

static int handle_post(request_rec *r)
{
    apr_array_header_t *form = NULL;
    const char *name;
    apr_status_t rv;

    if (!may_change(r)) {
        return refuse(r, "nobody is authenticated and the client is on another machine");
    }
    if (!is_same_origin(r) || (!r->user && !is_own_host(r))) {
        return refuse(r, "it may come from a foreign page");
    }
    if (ap_parse_form_data(r, NULL, &form, FORM_FIELDS, FORM_MOST) != OK) {
        return HTTP_BAD_REQUEST;
    }
    if (!is_token(r, field(form, "token", r))) {
        return refuse(r, "its token is none, or another user's");
    }
    name = field(form, "end", r);
    rv = name ? end_stream(name) : APR_EINVAL;
    if (rv == APR_EINVAL) {
        return HTTP_BAD_REQUEST;
    }
    if (rv != APR_SUCCESS) {
        return answer_post(r, "gone");
    }
    ap_log_rerror(APLOG_MARK, APLOG_NOTICE, 0, r, MCP_LOGNO(2092)
                  "event stream %s is ended at the wish of %s", name,
                  r->user ? ap_escape_logitem(r->pool, r->user) : "a client on this machine");
    return answer_post(r, "ended");
}

/* ---- gathering ---- */

double mcp_status_number(const mcp_status_t *status, const char *family, double otherwise)
{
    int i;

    for (i = 0; i < status->samples->nelts; i++) {
        const mcp_sample_t *sample = &APR_ARRAY_IDX(status->samples, i, mcp_sample_t);

        if (strcmp(sample->family, family) == 0 && !*sample->suffix) {
            return sample->value;
        }
    }
    return otherwise;
}

/* The value of a label in Prometheus text, its escapes undone; "" if it is not there. */
static const char *label(const char *labels, const char *name, apr_pool_t *p)
{
    apr_size_t len = strlen(name);
    const char *at = labels;

    while (at && *at) {
        const char *value = strstr(at, "=\"");
        char *copy, *to;

        if (!value) {
            break;
        }
        to = copy = apr_palloc(p, strlen(value));
        for (value += 2; *value && *value != '"'; value++) {
            if (*value == '\\' && value[1]) {
                value++;
                *to++ = *value == 'n' ? '\n' : *value;
            }
            else {
                *to++ = *value;
            }
        }
        *to = '\0';
        if (strncmp(at, name, len) == 0 && at[len] == '=') {
            return copy;
        }
        at = strchr(value, ',');
        at = at ? at + 1 : NULL;
    }
    return "";
}

/* Rows by one label of a family, their numbers by the values of another. */
static apr_array_header_t *pivot(const mcp_status_t *status, const char *family, const char *row,
                                 const char *column, const char *const *values)
{
    apr_pool_t *p = status->r->pool;
    apr_array_header_t *rows = apr_array_make(p, 8, sizeof(mcp_status_row_t));
    int i, j;

    for (i = 0; i < status->samples->nelts; i++) {
        const mcp_sample_t *sample = &APR_ARRAY_IDX(status->samples, i, mcp_sample_t);
        mcp_status_row_t *found = NULL;
        const char *name, *value;

        if (strcmp(sample->family, family) != 0) {
            continue;
        }
        name = label(sample->labels, row, p);
        value = label(sample->labels, column, p);
        for (j = 0; j < rows->nelts && !found; j++) {
            mcp_status_row_t *one = &APR_ARRAY_IDX(rows, j, mcp_status_row_t);

            found = strcmp(one->name, name) == 0 ? one : NULL;
        }
        if (!found) {
            found = apr_array_push(rows);
            *found = (mcp_status_row_t){ .name = name };
        }
        for (j = 0; values[j]; j++) {
            found->numbers[j] += strcmp(values[j], value) == 0 ? sample->value : 0;
        }
    }
    return rows;
}

static apr_array_header_t *gather_stores(const mcp_status_t *status)
{
    apr_pool_t *p = status->r->pool;
    apr_array_header_t *stores = apr_array_make(p, 4, sizeof(mcp_status_store_t));
    int i, j;

    for (i = 0; i < status->samples->nelts; i++) {
        const mcp_sample_t *sample = &APR_ARRAY_IDX(status->samples, i, mcp_sample_t);
        const char *module = label(sample->labels, "module", p);
        mcp_status_store_t *store = NULL;

        if (strncmp(sample->family, "mcp_store_", 10) != 0 || !*module) {
            continue;
        }
        for (j = 0; j < stores->nelts && !store; j++) {
            mcp_status_store_t *one = &APR_ARRAY_IDX(stores, j, mcp_status_store_t);

            store = strcmp(one->module, module) == 0 ? one : NULL;
        }
        if (!store) {
            store = apr_array_push(stores);
            *store = (mcp_status_store_t){ .module = module, .state = -1 };
        }
        if (strcmp(sample->family, "mcp_store_errors_total") == 0) {
            store->errors = sample->value;
        }
        else if (strcmp(sample->family, "mcp_store_up") == 0) {
            store->state = sample->value > 0;
        }
        else if (strcmp(sample->suffix, "_count") == 0) {
            store->questions = sample->value;
        }
        else if (strcmp(sample->suffix, "_sum") == 0) {
            store->seconds = sample->value;
        }
    }
    return stores;
}

static int find_member(const mcp_status_t *status, apr_uint64_t hash)
{
    int i;

    for (i = 0; i < status->members->nelts; i++) {
        if (APR_ARRAY_IDX(status->members, i, mcp_member_t).hash == hash) {
            return i;
        }
    }
    return -1;
}

/* Keep the oldest, in order: one that is no older than the last of a full list is nothing. */
static void take_stream(void *baton, const mcp_registry_stream_t *stream)
{
    mcp_status_t *status = baton;
    apr_array_header_t *longest = status->longest;
    mcp_registry_stream_t *list = (mcp_registry_stream_t *)longest->elts;
    int i = longest->nelts, member = find_member(status, stream->member);

    if (member >= 0) {
        status->streams[member]++;
    }
    if (i == MCP_STATUS_LONGEST) {
        if (stream->opened >= list[i - 1].opened) {
            return;
        }
        i--;
    }
    else {
        apr_array_push(longest);
        list = (mcp_registry_stream_t *)longest->elts;
    }
    for (; i > 0 && list[i - 1].opened > stream->opened; i--) {
        list[i] = list[i - 1];
    }
    list[i] = *stream;
}

static void gather(mcp_status_t *status, request_rec *r)
{
    static const char *const decisions[] = { "allowed", "refused", "dry_run", NULL };
    static const char *const results[] = { "hit", "miss", "stale", "bypass", NULL };
    apr_pool_t *p = r->pool;

    status->r = r;
    status->now = mcp_clock_now();
    status->time = apr_time_now();
    status->members = mcp_proxy_members(p);
    status->samples = mcp_metrics_collect(r);
    status->sessions = mcp_proxy_is_sealed() ? NULL : mcp_metrics_sessions(status->members, p);
    status->streams = apr_pcalloc(p, sizeof(*status->streams)
                                     * (apr_size_t)(status->members->nelts + 1));
    status->limits = pivot(status, "mcp_limit_decisions_total", "limit", "decision", decisions);
    status->tools = pivot(status, "mcp_cache_requests_total", "tool", "result", results);
    status->stores = gather_stores(status);
    status->longest = apr_array_make(p, MCP_STATUS_LONGEST, sizeof(mcp_registry_stream_t));
    mcp_registry_each(mcp_streams_registry(), take_stream, status);
    status->steps = apr_palloc(p, sizeof(*status->steps) * MCP_HISTORY_POINTS);
    status->step_count = mcp_history_read(&memory->history, mcp_proxy_shared(), status->time,
                                          status->steps);
    status->may_change = may_change(r);
    status->token = status->may_change ? make_token(r) : NULL;
}

const char *mcp_status_route(const mcp_status_t *status, apr_uint64_t member)
{
    int i = find_member(status, member);

    return i < 0 ? "" : APR_ARRAY_IDX(status->members, i, mcp_member_t).route;
}

const char *mcp_status_of_member(const mcp_member_t *member)
{
    static const struct { unsigned bit; const char *word; } words[] = {
        { PROXY_WORKER_STOPPED, "stopped" },
        { PROXY_WORKER_DISABLED, "disabled" },
        { PROXY_WORKER_IN_ERROR, "error" },
        { PROXY_WORKER_HC_FAIL, "unhealthy" },
        { PROXY_WORKER_DRAIN, "draining" },
        { PROXY_WORKER_HOT_STANDBY, "standby" },
        { PROXY_WORKER_HOT_SPARE, "spare" }
    };
    unsigned i, bits = member->worker->s->status;

    for (i = 0; i < sizeof(words) / sizeof(*words); i++) {
        if (bits & words[i].bit) {
            return words[i].word;
        }
    }
    return "ok";
}

int mcp_proxy_status_handler(request_rec *r)
{
    mcp_status_t status;

    if (!r->handler || strcmp(r->handler, "mcp-status") != 0) {
        return DECLINED;
    }
    ap_allow_standard_methods(r, REPLACE_ALLOW, M_GET, M_POST, -1);
    apr_table_setn(r->err_headers_out, "Cache-Control", "no-store");
    apr_table_setn(r->err_headers_out, "X-Content-Type-Options", "nosniff");
    apr_table_setn(r->err_headers_out, "Cross-Origin-Resource-Policy", "same-origin");
    if (r->method_number == M_POST) {
        return handle_post(r);
    }
    if (r->method_number != M_GET) {
        return HTTP_METHOD_NOT_ALLOWED;
    }
    gather(&status, r);
    if (wants_json(r)) {
        mcp_status_write_json(&status);
    }
    else {
        mcp_status_write_page(&status);
    }
    return OK;
}
