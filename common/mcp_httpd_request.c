/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The body of a request, read once for all modules, and what they ask of it. The record is found by
 * every module on r->pool; its first two members say whether the finder knows this layout. A body
 * that has been read is handed to the next handler by an input filter, unless the handler takes
 * it from the record.
 */
#include "mcp_httpd_request.h"

#include <arpa/inet.h>
#include <apr_base64.h>
#include <apr_lib.h>
#include <apr_strings.h>
#include <http_connection.h>
#include <http_core.h>
#include <http_protocol.h>
#include <http_request.h>
#include <http_ssl.h>
#include <util_filter.h>

#include "mcp_clock.h"
#include "mcp_httpd_error.h"
#include "mcp_httpd_park.h"
#include "mcp_value.h"

#define REQUEST_KEY "mcp/3" /* short: looked up, by hash, several times a request */
#define REQUEST_MAGIC 0x4d435031u
#define READ_SIZE (32 * 1024)
#define SMALL_BODY 4096 /* one that is declared and no longer is kept in the pool */
#define STATELESS_SINCE "2026-07-28"
#define VERSION_LENGTH 10
#define MOST_LENGTH APR_INT64_C(1000000000000000)
/* Records without data that are read in a row, and the pause after them. */
#define MOST_RECORDS 16
#define PAUSE apr_time_from_msec(20)

/* What revision 2026-07-28 answers where headers and body do not say the same. */
#define CODE_HEADER_MISMATCH (-32020)

/* A body on its way in. Only the thread that has the request touches it. */
typedef struct reading_t {
    mcp_request_t pub;
    const char *type;    /* Content-Type; NULL: none */
    const char *coding;  /* Content-Encoding; NULL: none */
    apr_size_t room;
    int on_heap;
    apr_time_t deadline; /* 0: nothing has been waited for */
    apr_bucket_brigade *bb;
    mcp_park_t *park;
    mcp_timer_t timer;
    int replayed;    /* an input filter hands it on */
    int has_raw;     /* bytes wait where no descriptor tells of them */
    apr_size_t sent; /* by the input filter */
} reading_t;

static ap_filter_rec_t *body_filter_handle;

/* ap_parse_strict_length() without strtol(): this is done for every request. */
static apr_off_t length_of(const char *text)
{
    apr_off_t length = 0;
    const char *at;

    for (at = text; apr_isdigit(*at); at++) {
        if (length > MOST_LENGTH / 10) {
            return -1;
        }
        length = 10 * length + (*at - '0');
    }
    return at > text && !*at ? length : -1;
}

/* Whether there is a body, and of what kind. One pass costs less than four look-ups. */
static void read_head(request_rec *r, reading_t *in)
{
    const apr_array_header_t *lines = apr_table_elts(r->headers_in);
    int i, has_length = 0, is_chunked = 0;

    for (i = 0; i < lines->nelts; i++) {
        const apr_table_entry_t *line = &APR_ARRAY_IDX(lines, i, apr_table_entry_t);
        char first = (char)(*line->key | 0x20);

        if (first == 't') {
            is_chunked |= !strcasecmp(line->key, "Transfer-Encoding");
        } else if (first != 'c') {
            continue;
        } else if (!in->type && !strcasecmp(line->key, "Content-Type")) {
            in->type = line->val;
        } else if (!has_length && !strcasecmp(line->key, "Content-Length")) {
            has_length = 1;
            in->pub.declared = length_of(line->val);
        } else if (!in->coding && !strcasecmp(line->key, "Content-Encoding")) {
            in->coding = line->val;
        }
    }
    in->pub.complete = !has_length && !is_chunked;
    in->pub.json = in->type && !in->coding && strncasecmp(in->type, "application/json", 16) == 0
        && (!in->type[16] || in->type[16] == ';' || apr_isspace(in->type[16]));
}

/* NULL: nobody has made a record, or one that is laid out otherwise. */
static inline reading_t *known_reading(request_rec *r)
{
    void *known = NULL;
    reading_t *in;

    apr_pool_userdata_get(&known, REQUEST_KEY, r->pool);
    in = known;
    return in && in->pub.magic == REQUEST_MAGIC && in->pub.size >= sizeof(mcp_request_t)
        ? in : NULL;
}

static reading_t *reading(request_rec *r)
{
    reading_t *in = known_reading(r);

    if (in) {
        return in;
    }
    in = apr_pcalloc(r->pool, sizeof(*in));
    in->pub.magic = REQUEST_MAGIC;
    in->pub.size = sizeof(mcp_request_t);
    read_head(r, in);
    apr_pool_userdata_setn(in, REQUEST_KEY, NULL, r->pool);
    return in;
}

mcp_request_t *mcp_request_get(request_rec *r)
{
    return &reading(r)->pub;
}

static apr_status_t free_body(void *data)
{
    reading_t *in = data;

    free(in->pub.body);
    in->pub.body = NULL;
    return APR_SUCCESS;
}

/* Room for more bytes and a NUL: from the pool where the length is known and small. */
static int make_room(request_rec *r, reading_t *in, apr_size_t more)
{
    apr_size_t wanted = in->pub.length + more + 1;
    char *grown;

    if (wanted <= in->room) {
        return OK;
    }
    if (!in->pub.body && in->pub.declared >= 0 && in->pub.declared <= SMALL_BODY
        && more <= (apr_size_t)in->pub.declared) {
        in->room = (apr_size_t)in->pub.declared + 1;
        in->pub.body = apr_palloc(r->pool, in->room);
        return OK;
    }
    wanted = wanted < 2 * in->room ? 2 * in->room : wanted;
    wanted = wanted < 4096 ? 4096 : wanted;
    grown = realloc(in->on_heap ? in->pub.body : NULL, wanted);
    if (!grown) {
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    if (!in->on_heap) {
        if (in->pub.length) {
            memcpy(grown, in->pub.body, in->pub.length);
        }
        in->on_heap = 1;
        apr_pool_cleanup_register(r->pool, in, free_body, apr_pool_cleanup_null);
    }
    in->pub.body = grown;
    in->room = wanted;
    return OK;
}

/* Move a brigade into the body. OK also where it ends; in->pub.complete tells. */
static int take_brigade(request_rec *r, reading_t *in, apr_off_t limit)
{
    apr_bucket *b;

    for (b = APR_BRIGADE_FIRST(in->bb); b != APR_BRIGADE_SENTINEL(in->bb); b = APR_BUCKET_NEXT(b)) {
        const char *data;
        apr_size_t len;

        if (APR_BUCKET_IS_EOS(b)) {
            in->pub.complete = 1;
            break;
        }
        if (APR_BUCKET_IS_METADATA(b)) {
            continue;
        }
        if (apr_bucket_read(b, &data, &len, APR_BLOCK_READ) != APR_SUCCESS) {
            return HTTP_BAD_REQUEST;
        }
        if (in->pub.length + len > (apr_size_t)limit) {
            return HTTP_REQUEST_ENTITY_TOO_LARGE;
        }
        if (make_room(r, in, len) != OK) {
            return HTTP_INTERNAL_SERVER_ERROR;
        }
        memcpy(in->pub.body + in->pub.length, data, len);
        in->pub.length += len;
        in->pub.body[in->pub.length] = '\0';
    }
    apr_brigade_cleanup(in->bb);
    return OK;
}

static void go_on(mcp_park_t *park, void *baton)
{
    reading_t *in = baton;

    mcp_park_unwatch_client(park);
    mcp_timer_stop(mcp_park_loop(park), &in->timer);
    mcp_park_work(park, mcp_park_run_fixups, NULL);
}

static void time_is_up(mcp_timer_t *timer)
{
    reading_t *in = timer->baton;

    go_on(in->park, in);
}

static void wait_for_body(mcp_park_t *park, void *baton)
{
    reading_t *in = baton;

    in->timer.fn = time_is_up;
    in->timer.baton = in;
    mcp_timer_start(mcp_park_loop(park), &in->timer,
                    in->has_raw ? mcp_loop_now(mcp_park_loop(park)) + PAUSE : in->deadline);
    mcp_park_on_client_readable(park, go_on, in);
}

/* httpd answers "Expect: 100-continue" in a blocking read only. */
static void tell_to_continue(request_rec *r)
{
    int status = r->status;
    const char *line = r->status_line;

    if (r->expecting_100) {
        r->status = HTTP_CONTINUE;
        r->status_line = NULL;
        ap_send_interim_response(r, 0);
        r->status = status;
        r->status_line = line;
    }
}

static apr_status_t read_some(request_rec *r, reading_t *in, apr_read_type_e block)
{
    apr_socket_t *sock = NULL;
    apr_interval_time_t saved = 0;
    apr_interval_time_t left = in->deadline ? in->deadline - mcp_clock_now() : 0;
    apr_status_t rv;

    if (in->deadline && left <= 0) {
        return APR_TIMEUP;
    }
    if (block == APR_BLOCK_READ && !r->connection->master) {
        sock = ap_get_conn_socket(r->connection);
        apr_socket_timeout_get(sock, &saved);
        apr_socket_timeout_set(sock, left);
    }
    rv = ap_get_brigade(r->input_filters, in->bb, AP_MODE_READBYTES, block, READ_SIZE);
    if (sock) {
        apr_socket_timeout_set(sock, saved);
    }
    if (rv == APR_SUCCESS && APR_BRIGADE_EMPTY(in->bb)) {
        rv = block == APR_BLOCK_READ ? APR_EOF : APR_EAGAIN;
    }
    return rv;
}

/*
 * As read_some(), without waiting. mod_ssl answers EAGAIN also where more records have come, since
 * the one that it met has no data. The next one may lack its end, so that is no reason to wait.
 */
static apr_status_t read_what_is_there(request_rec *r, reading_t *in)
{
    conn_rec *c = r->connection;
    int records = 0;
    apr_status_t rv;

    do {
        rv = read_some(r, in, APR_NONBLOCK_READ);
        in->has_raw = APR_STATUS_IS_EAGAIN(rv) && !c->master && ap_ssl_conn_is_ssl(c)
            && mcp_park_has_raw_input(c, in->bb);
    } while (in->has_raw && ++records < MOST_RECORDS);
    return rv;
}

static int refuse_read(request_rec *r, apr_status_t rv)
{
    if (APR_STATUS_IS_TIMEUP(rv)) {
        return mcp_error_set(r, HTTP_REQUEST_TIME_OUT, 0,
                             "The request body did not come in time", NULL);
    }
    if (rv == AP_FILTER_ERROR) {
        return AP_FILTER_ERROR;
    }
    return mcp_error_set(r, ap_map_http_request_error(rv, HTTP_BAD_REQUEST), 0,
                         "The request body could not be read", NULL);
}

static int too_large(request_rec *r, apr_off_t limit)
{
    return mcp_error_set(r, HTTP_REQUEST_ENTITY_TOO_LARGE, 0,
                         apr_psprintf(r->pool, "The request body is larger than %"
                                      APR_OFF_T_FMT " bytes", limit), NULL);
}

static int start_reading(request_rec *r, reading_t *in, apr_off_t limit)
{
    if (in->pub.declared > limit) {
        return too_large(r, limit);
    }
    in->bb = apr_brigade_create(r->pool, r->connection->bucket_alloc);
    return OK;
}

int mcp_request_read(request_rec *r, apr_off_t limit, apr_interval_time_t timeout, int may_suspend)
{
    return mcp_request_read_known(r, mcp_request_get(r), limit, timeout, may_suspend);
}

int mcp_request_read_known(request_rec *r, mcp_request_t *request, apr_off_t limit,
                           apr_interval_time_t timeout, int may_suspend)
{
    reading_t *in = (reading_t *)request;
    apr_read_type_e block = APR_NONBLOCK_READ;
    int status = in->bb || in->pub.complete ? OK : start_reading(r, in, limit);

    while (status == OK && !in->pub.complete) {
        apr_status_t rv = block == APR_NONBLOCK_READ ? read_what_is_there(r, in)
                                                     : read_some(r, in, block);

        if (APR_STATUS_IS_EAGAIN(rv) && block == APR_NONBLOCK_READ) {
            /* Nearly always the body has come with the head, and no clock is looked at. */
            in->deadline = in->deadline ? in->deadline : mcp_clock_now() + timeout;
            if (may_suspend) {
                in->park = in->park ? in->park : mcp_park_create(r);
                if (mcp_park_is_async(in->park)) {
                    tell_to_continue(r);
                    return mcp_park_leave(in->park, wait_for_body, in);
                }
            }
            block = APR_BLOCK_READ;
            continue;
        }
        if (rv != APR_SUCCESS) {
            return refuse_read(r, rv);
        }
        status = take_brigade(r, in, limit);
        if (status == HTTP_REQUEST_ENTITY_TOO_LARGE) {
            return too_large(r, limit);
        }
        block = APR_NONBLOCK_READ;
    }
    if (status == OK && in->bb && !in->replayed) {
        in->replayed = 1;
        apr_brigade_cleanup(in->bb);
        ap_add_input_filter_handle(body_filter_handle, in, r, r->connection);
    }
    return status;
}

/* What cannot be had at once is not there, and no error of the request's. */
int mcp_request_read_ready(request_rec *r, apr_off_t limit)
{
    reading_t *in = reading(r);
    apr_status_t rv = APR_SUCCESS;

    if (in->bb || r->expecting_100 || in->pub.declared > limit) {
        return OK;
    }
    in->bb = apr_brigade_create(r->pool, r->connection->bucket_alloc);
    while (rv == APR_SUCCESS && !in->pub.complete) {
        rv = read_some(r, in, APR_NONBLOCK_READ);
        rv = rv == APR_SUCCESS && take_brigade(r, in, limit) != OK ? APR_EGENERAL : rv;
    }
    return rv == AP_FILTER_ERROR ? AP_FILTER_ERROR : OK;
}

/* Hands the body that has been read to whatever handler reads its request the usual way. */
static apr_status_t body_filter(ap_filter_t *f, apr_bucket_brigade *bb, ap_input_mode_t mode,
                                apr_read_type_e block, apr_off_t readbytes)
{
    reading_t *in = f->ctx;
    apr_size_t n = in->pub.length - in->sent;

    if (mode == AP_MODE_INIT || mode == AP_MODE_EATCRLF) {
        return APR_SUCCESS;
    }
    if (n > 0) {
        if (mode != AP_MODE_EXHAUSTIVE && readbytes > 0 && (apr_off_t)n > readbytes) {
            n = (apr_size_t)readbytes;
        }
        APR_BRIGADE_INSERT_TAIL(bb, apr_bucket_immortal_create(in->pub.body + in->sent, n,
                                                               f->c->bucket_alloc));
        if (mode == AP_MODE_SPECULATIVE) {
            return APR_SUCCESS;
        }
        in->sent += n;
    }
    if (in->sent == in->pub.length) {
        APR_BRIGADE_INSERT_TAIL(bb, apr_bucket_eos_create(f->c->bucket_alloc));
    }
    return APR_SUCCESS;
}

/* An internal redirect begins with the filters of the connection: ours is not among them. */
static void hand_on_again(request_rec *r)
{
    reading_t *in = r->prev ? known_reading(r) : NULL;
    ap_filter_t *f;

    if (!in || !in->replayed) {
        return;
    }
    for (f = r->input_filters; f && f->ctx != in; f = f->next) {
    }
    if (!f) {
        ap_add_input_filter_handle(body_filter_handle, in, r, r->connection);
    }
}

void mcp_request_register(const char *filter_name)
{
    body_filter_handle = ap_register_input_filter(filter_name, body_filter, NULL,
                                                  AP_FTYPE_RESOURCE);
    ap_hook_insert_filter(hand_on_again, NULL, NULL, APR_HOOK_MIDDLE);
}

void mcp_request_take(request_rec *r)
{
    reading_t *in = reading(r);

    in->sent = in->pub.length;
}

static const mcp_rpc_t *rpc_of(request_rec *r, reading_t *in)
{
    if (!in->pub.rpc) {
        in->pub.rpc = mcp_rpc_parse(in->pub.body ? in->pub.body : "", in->pub.length, r->pool);
    }
    return in->pub.rpc;
}

const mcp_rpc_t *mcp_request_rpc(request_rec *r)
{
    return rpc_of(r, reading(r));
}

static int has_foreign_charset(const reading_t *in)
{
    const char *parameters = in->type ? strchr(in->type, ';') : NULL;
    const char *charset = parameters ? ap_strcasestr(parameters, "charset=") : NULL;

    if (!charset) {
        return 0;
    }
    charset += strlen("charset=");
    charset += *charset == '"';
    return strncasecmp(charset, "utf-8", 5) != 0 || apr_isalnum(charset[5]) || charset[5] == '-';
}

static int judge_message(request_rec *r, const mcp_rpc_t *rpc)
{
    int i;

    if (rpc->kind == MCP_RPC_INVALID) {
        return mcp_error_set(r, HTTP_BAD_REQUEST, rpc->error,
                             rpc->detail ? rpc->detail : "Not a JSON-RPC message", NULL);
    }
    if (rpc->ambiguous) {
        return mcp_error_set(r, HTTP_BAD_REQUEST, MCP_RPC_EINVALID,
                             "A member that decides stands twice, or in another case", NULL);
    }
    for (i = 0; rpc->kind == MCP_RPC_BATCH && i < rpc->batch->nelts; i++) {
        int status = judge_message(r, APR_ARRAY_IDX(rpc->batch, i, const mcp_rpc_t *));

        if (status != OK) {
            return status;
        }
    }
    return OK;
}

int mcp_request_decidable(request_rec *r)
{
    return mcp_request_decidable_known(r, mcp_request_get(r));
}

int mcp_request_decidable_known(request_rec *r, mcp_request_t *request)
{
    reading_t *in = (reading_t *)request;

    if (in->coding && strcasecmp(in->coding, "identity") != 0) {
        return mcp_error_set(r, HTTP_UNSUPPORTED_MEDIA_TYPE, 0,
                             "A Content-Encoding is not accepted here", NULL);
    }
    if (has_foreign_charset(in)) {
        return mcp_error_set(r, HTTP_UNSUPPORTED_MEDIA_TYPE, 0,
                             "A charset other than utf-8 is not accepted here", NULL);
    }
    return judge_message(r, rpc_of(r, in));
}

static int is_stateless_version(const char *version)
{
    return version && strlen(version) == VERSION_LENGTH && apr_isdigit(version[0])
        && strcmp(version, STATELESS_SINCE) >= 0;
}

int mcp_request_is_stateless(request_rec *r)
{
    return is_stateless_version(apr_table_get(r->headers_in, "MCP-Protocol-Version"));
}

static int mismatch(request_rec *r, const char *header, const char *what)
{
    return mcp_error_set(r, HTTP_BAD_REQUEST, CODE_HEADER_MISMATCH,
                         apr_pstrcat(r->pool, "Header mismatch: ", header, " ", what, NULL), NULL);
}

/* Mcp-Name may be =?base64?...?= (2026-07-28, Streamable HTTP, value encoding). NULL: malformed. */
static const char *decode_name(request_rec *r, const char *value)
{
    static const char prefix[] = "=?base64?";
    apr_size_t len = strlen(value);
    char *coded, *plain;
    int n;

    if (strncmp(value, prefix, sizeof(prefix) - 1) != 0 || len < sizeof(prefix) + 1
        || strcmp(value + len - 2, "?=") != 0) {
        return value;
    }
    coded = apr_pstrmemdup(r->pool, value + sizeof(prefix) - 1, len - 2 - (sizeof(prefix) - 1));
    len = strlen(coded);
    if (len % 4 != 0
        || strspn(coded, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                         "0123456789+/=") != len) {
        return NULL;
    }
    plain = apr_palloc(r->pool, (apr_size_t)apr_base64_decode_len(coded) + 1);
    n = apr_base64_decode(plain, coded);
    plain[n] = '\0';
    return memchr(plain, '\0', (apr_size_t)n) ? NULL : plain;
}

static int check_name(request_rec *r, const mcp_rpc_t *rpc)
{
    const char *header = apr_table_get(r->headers_in, "Mcp-Name");
    const char *wanted;

    if (strcmp(rpc->method, "tools/call") == 0 || strcmp(rpc->method, "prompts/get") == 0) {
        wanted = rpc->name;
    }
    else if (strcmp(rpc->method, "resources/read") == 0) {
        wanted = rpc->uri;
    }
    else {
        return OK;
    }
    if (!header) {
        return mismatch(r, "Mcp-Name", "is missing");
    }
    header = decode_name(r, header);
    if (!header || !wanted || strcmp(header, wanted) != 0) {
        return mismatch(r, "Mcp-Name", "does not match the body");
    }
    return OK;
}

int mcp_request_check_headers(request_rec *r)
{
    const mcp_rpc_t *rpc = mcp_request_rpc(r);
    const char *version = apr_table_get(r->headers_in, "MCP-Protocol-Version");
    const char *method = apr_table_get(r->headers_in, "Mcp-Method");
    int status;

    if (!mcp_request_is_stateless(r) && !is_stateless_version(rpc->version)) {
        return OK;
    }
    status = mcp_request_decidable(r);
    if (status != OK) {
        return status;
    }
    if (rpc->kind == MCP_RPC_BATCH) {
        return mcp_error_set(r, HTTP_BAD_REQUEST, MCP_RPC_EINVALID,
                             "This revision of MCP has no batches", NULL);
    }
    if (!rpc->method) {
        return OK;
    }
    if (!version) {
        return mismatch(r, "MCP-Protocol-Version", "is missing");
    }
    /* A body that names no revision is the server's to refuse: it has another code for that. */
    if (rpc->version && strcmp(version, rpc->version) != 0) {
        return mismatch(r, "MCP-Protocol-Version", "does not match the body");
    }
    if (!method) {
        return rpc->kind == MCP_RPC_REQUEST ? mismatch(r, "Mcp-Method", "is missing") : OK;
    }
    if (strcmp(method, rpc->method) != 0) {
        return mismatch(r, "Mcp-Method", "does not match the body");
    }
    return check_name(r, rpc);
}

const char *mcp_request_identity(request_rec *r)
{
    const char *realm = ap_auth_name(r);
    server_rec *s = r->server;

    if (!r->user) {
        return NULL;
    }
    return apr_psprintf(r->pool, "%s.%d/%s/%s",
                        mcp_value_escape(s->server_hostname ? s->server_hostname : "",
                                         s->server_hostname ? strlen(s->server_hostname) : 0,
                                         r->pool),
                        (int)s->port,
                        mcp_value_escape(realm ? realm : "", realm ? strlen(realm) : 0, r->pool),
                        mcp_value_escape(r->user, strlen(r->user), r->pool));
}

const char *mcp_request_address(request_rec *r)
{
    struct in6_addr a6;
    char text[INET6_ADDRSTRLEN];

    if (inet_pton(AF_INET6, r->useragent_ip, &a6) != 1) {
        return apr_pstrcat(r->pool, "ip:", r->useragent_ip, NULL);
    }
    if (IN6_IS_ADDR_V4MAPPED(&a6)) {
        inet_ntop(AF_INET, &a6.s6_addr[12], text, sizeof(text));
        return apr_pstrcat(r->pool, "ip:", text, NULL);
    }
    memset(&a6.s6_addr[8], 0, 8);
    inet_ntop(AF_INET6, &a6, text, sizeof(text));
    return apr_pstrcat(r->pool, "ip:", text, "/64", NULL);
}
