/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the backend answers, read along while it passes. The filter may run on mod_mcp_proxy's event
 * loop, where it reads what is there and never waits; it hands the answer to the writer behind the
 * last byte. What it puts into the response is one header. It takes the response over in one case
 * only: where the backend has failed before the first byte and an old value may stand in.
 */
#include "mcp_cache.h"

#include <apr_strings.h>
#include <http_protocol.h>
#include <util_filter.h>

#include "mcp_cache_capture.h"

/* An answer that is whole at once, and no larger, is judged before its head goes out. */
#define JUDGE_NOW (32 * 1024)

/* As much of an answer that is still being made is held before it goes on. */
#define HOLD_MOST (64 * 1024)

#define BYPASS "mcp; fwd=bypass"

typedef struct filter_t {
    mcp_cache_request_t *q;
    mcp_cache_capture_t *capture; /* NULL: nothing is wanted of what passes */
    int begun;
    int said;         /* the head has its Cache-Status */
    int replaced;     /* the old value went out instead; what still comes is dropped */
    int is_error;     /* the response is httpd's or mod_mcp_proxy's own error */
    int broken;       /* the response will not be whole */
    int wants_answer;
    int mark_session; /* the backend has taken the session */
    apr_off_t seen;
    apr_off_t declared; /* Content-Length; -1: none */
    const char *headers;
    apr_uint32_t flags;
    apr_bucket_brigade *rest; /* what is still to be read, while what stands before it goes on */
} filter_t;

static apr_status_t read_response(ap_filter_t *f, apr_bucket_brigade *bb);

static ap_filter_rec_t *handle;

void mcp_cache_register_filter(void)
{
    handle = ap_register_output_filter(MCP_CACHE_FILTER, read_response, NULL, AP_FTYPE_RESOURCE);
}

static apr_status_t drop_capture(void *data)
{
    filter_t *ctx = data;

    if (ctx->capture) {
        mcp_cache_capture_destroy(ctx->capture);
        ctx->capture = NULL;
    }
    return APR_SUCCESS;
}

/*
 * What is encoded can be neither read nor given to who wants it plain. What httpd's own filters
 * do for the client stands behind this one, and goes by what that accepts.
 */
static void ask_for_plain(mcp_cache_request_t *q)
{
    q->encoding = apr_table_get(q->r->headers_in, "Accept-Encoding");
    if (q->encoding) {
        apr_table_setn(q->r->headers_in, "Accept-Encoding", "identity");
    }
}

static void give_encoding_back(mcp_cache_request_t *q)
{
    if (q->encoding) {
        apr_table_setn(q->r->headers_in, "Accept-Encoding", q->encoding);
        q->encoding = NULL;
    }
}

void mcp_cache_watch(mcp_cache_request_t *q)
{
    filter_t *ctx = apr_pcalloc(q->r->pool, sizeof(*ctx));

    if (q->asks) {
        ask_for_plain(q);
    }
    ctx->q = q;
    ctx->declared = -1;
    q->forwarded = 1;
    ap_add_output_filter_handle(handle, ctx, q->r, q->r->connection);
}

/* RFC 9211: beside what another cache on the way may have said. */
static void say(request_rec *r, const char *status)
{
    if (r->method_number == M_POST) {
        apr_table_addn(r->headers_out, "Cache-Status", status);
    }
}

/*
 * httpd, or mod_mcp_proxy, is about to send an error of its own: maybe an old value will do. A 404
 * of mod_mcp_proxy's ends a session, unless that stays in its table.
 */
void mcp_cache_insert_error_filter(request_rec *r)
{
    mcp_cache_request_t *q = ap_get_module_config(r->request_config, &mcp_cache_module);

    if (!q || !q->forwarded) {
        return;
    }
    give_encoding_back(q);
    if (r->status == HTTP_NOT_FOUND && mcp_cache_find_session(q)
        && mcp_cache_session_lives(q) != 1) {
        mcp_cache_keep_session(q->session_digest, MCP_CACHE_SESSION_ENDED);
    }
    if (q->old && r->status >= HTTP_INTERNAL_SERVER_ERROR) {
        filter_t *ctx = apr_pcalloc(r->pool, sizeof(*ctx));

        ctx->q = q;
        ctx->is_error = 1;
        ap_add_output_filter_handle(handle, ctx, r, r->connection);
        return;
    }
    apr_table_unset(r->headers_out, "Cache-Status");
    apr_table_unset(r->err_headers_out, "Cache-Status");
    /* httpd forgets the other table behind this hook. */
    if (r->method_number == M_POST) {
        apr_table_setn(r->err_headers_out, "Cache-Status", BYPASS);
    }
}

static void changed(void *baton, mcp_cache_change_e what, const char *uri)
{
    static const char *const names[] = {"tools", "prompts", "resources"};
    const filter_t *ctx = baton;
    const char *name = what == MCP_CACHE_CHANGED_RESOURCE ? uri : names[what];

    if (name) {
        mcp_cache_keep_change(mcp_cache_feed_tag(mcp_cache_feed(ctx->q), name));
    }
}

static const char *out(request_rec *r, const char *name)
{
    const char *value = apr_table_get(r->headers_out, name);

    return value ? value : apr_table_get(r->err_headers_out, name);
}

static int is_stream(request_rec *r)
{
    return r->content_type && !strncasecmp(r->content_type, "text/event-stream", 17);
}

static int is_json(request_rec *r)
{
    return r->content_type && !strncasecmp(r->content_type, "application/json", 16);
}

/* Only by what is in the key may an answer vary. */
static int is_vary_known(request_rec *r)
{
    static const char *const known[] = {"Accept", "Accept-Encoding", "Accept-Language", "Origin",
                                        "Authorization", "Mcp-Session-Id", "Mcp-Method",
                                        "MCP-Protocol-Version", "Mcp-Name", "Content-Type", NULL};
    const char *vary = out(r, "Vary");
    char *copy = apr_pstrdup(r->pool, vary ? vary : ""), *name, *state = NULL;
    int i;

    for (name = apr_strtok(copy, ", \t", &state); name; name = apr_strtok(NULL, ", \t", &state)) {
        for (i = 0; known[i] && strcasecmp(known[i], name); i++);
        if (!known[i]) {
            return 0;
        }
    }
    return 1;
}

/* A header that a client may look at goes with the stored result. */
static int add_kept(void *rec, const char *name, const char *value)
{
    apr_array_header_t *lines = rec;

    if (!strncasecmp(name, "Access-Control-", 15) || !strcasecmp(name, "Cache-Control")
        || !strcasecmp(name, "Vary") || !strcasecmp(name, "MCP-Protocol-Version")
        || !strcasecmp(name, "X-Accel-Buffering")) {
        APR_ARRAY_PUSH(lines, const char *) = name;
        APR_ARRAY_PUSH(lines, const char *) = ": ";
        APR_ARRAY_PUSH(lines, const char *) = value;
        APR_ARRAY_PUSH(lines, const char *) = "\n";
    }
    return 1;
}

/* Whether the head lets the answer be stored. */
static int may_be_stored(filter_t *ctx)
{
    mcp_cache_request_t *q = ctx->q;
    request_rec *r = q->r;
    const char *session = out(r, "Mcp-Session-Id"), *control = out(r, "Cache-Control");
    const char *asked = apr_table_get(r->headers_in, "Mcp-Session-Id");

    if (r->status != HTTP_OK || (!is_json(r) && !is_stream(r)) || out(r, "Set-Cookie")
        || out(r, "Content-Encoding") || out(r, "WWW-Authenticate") || out(r, "Content-Range")
        || !is_vary_known(r) || (session && (!asked || strcmp(session, asked)))) {
        return 0;
    }
    if (control && (ap_strcasestr(control, "no-store")
                    || (q->tool && q->tool->scope == MCP_CACHE_SCOPE_SHARED
                        && ap_strcasestr(control, "private")))) {
        return 0;
    }
    ctx->flags = session ? MCP_CACHE_ENTRY_SESSION : 0;
    return 1;
}

/* What the status says of the session that the request, or the answer to initialize, names. */
static void note_session(filter_t *ctx)
{
    mcp_cache_request_t *q = ctx->q;
    request_rec *r = q->r;
    const char *issued;
    unsigned char digest[MCP_CACHE_DIGEST];

    if (r->status == HTTP_NOT_FOUND || (r->method_number == M_DELETE && r->status < 300)) {
        if (mcp_cache_find_session(q)) {
            mcp_cache_keep_session(q->session_digest, MCP_CACHE_SESSION_ENDED);
        }
        return;
    }
    if (r->status != HTTP_OK) {
        return;
    }
    if (q->asks) {
        ctx->mark_session = q->session && q->ask->query.session_state == MCP_CACHE_SESSION_UNKNOWN;
    }
    issued = q->session ? NULL : out(r, "Mcp-Session-Id");
    if (issued && !mcp_cache_find_session(q)) {
        mcp_cache_digest_session(q, issued, digest);
        mcp_cache_keep_session(digest, MCP_CACHE_SESSION_LIVE);
    }
}

static mcp_cache_capture_t *new_capture(filter_t *ctx)
{
    request_rec *r = ctx->q->r;
    mcp_cache_capture_rule_t rule = {0};

    rule.is_stream = is_stream(r);
    rule.max = (apr_size_t)mcp_cache_server_conf(MCP_CACHE_MAX_ENTRY);
    rule.by_hints = ctx->q->by_hints;
    if (ctx->wants_answer) {
        rule.id = ctx->q->rpc->id;
    }
    rule.changed = rule.is_stream ? changed : NULL;
    rule.baton = ctx;
    return mcp_cache_capture_create(&rule);
}

static int has_error(const apr_bucket_brigade *bb)
{
    const apr_bucket *b;

    for (b = APR_BRIGADE_FIRST(bb); b != APR_BRIGADE_SENTINEL(bb); b = APR_BUCKET_NEXT(b)) {
        if (AP_BUCKET_IS_ERROR(b)) {
            return 1;
        }
    }
    return 0;
}

/* Whether there is an answer at all, as far as one brigade tells. */
static int is_failure(request_rec *r, const apr_bucket_brigade *bb)
{
    return r->connection->aborted || has_error(bb)
        || (r->status >= HTTP_BAD_GATEWAY && r->status <= HTTP_GATEWAY_TIME_OUT);
}

/* No answer for others will come of this: they need not wait for its end. */
static void land_early(mcp_cache_request_t *q, const apr_bucket_brigade *bb)
{
    if (q->leads) {
        q->leads = 0;
        mcp_cache_land(&q->ticket, is_failure(q->r, bb)
                              ? MCP_CACHE_LANDED_FAILED : MCP_CACHE_LANDED_REFUSED);
    }
}

static void begin(filter_t *ctx, const apr_bucket_brigade *bb)
{
    request_rec *r = ctx->q->r;
    apr_array_header_t *lines;
    const char *length;

    ctx->begun = 1;
    note_session(ctx);
    ctx->wants_answer = ctx->q->asks && may_be_stored(ctx);
    if (!ctx->wants_answer) {
        land_early(ctx->q, bb);
    }
    if (!ctx->wants_answer && !is_stream(r)) {
        return;
    }
    ctx->capture = new_capture(ctx);
    if (!ctx->capture) {
        return;
    }
    apr_pool_cleanup_register(r->pool, ctx, drop_capture, apr_pool_cleanup_null);
    if (ctx->wants_answer) {
        lines = apr_array_make(r->pool, 8, sizeof(const char *));
        apr_table_do(add_kept, lines, r->headers_out, NULL);
        ctx->headers = apr_array_pstrcat(r->pool, lines, 0);
        length = out(r, "Content-Length");
        if (!length || !ap_parse_strict_length(&ctx->declared, length)) {
            ctx->declared = -1;
        }
    }
}

static int is_begin_of_failure(const filter_t *ctx)
{
    return !ctx->begun && ctx->q->old && ctx->q->r->status >= HTTP_INTERNAL_SERVER_ERROR
        && !ctx->q->r->connection->aborted;
}

static apr_status_t replace(ap_filter_t *f, filter_t *ctx, apr_bucket_brigade *bb)
{
    mcp_cache_request_t *q = ctx->q;
    apr_interval_time_t left = q->old_left;

    apr_brigade_cleanup(bb);
    ctx->begun = ctx->replaced = 1;
    /* An error has moved the gateway's own headers here; otherwise they are the backend's. */
    if (!ctx->is_error) {
        apr_table_clear(q->r->headers_out);
    }
    apr_table_unset(q->r->headers_out, "Cache-Status");
    apr_table_unset(q->r->headers_out, "Retry-After");
    mcp_cache_note(q, MCP_CACHE_RESULT_STALE);
    return ap_pass_brigade(f->next, mcp_cache_respond(q, q->old, left));
}

static int is_whole(const filter_t *ctx)
{
    return !ctx->broken && (ctx->declared < 0 || ctx->declared == ctx->seen);
}

/* The head is about to go: say what will probably become of the answer. */
static void set_status(filter_t *ctx, int ends)
{
    mcp_cache_answer_t answer;
    int stored = ctx->wants_answer && ctx->q->known
        && !mcp_cache_capture_is_refused(ctx->capture);

    if (ctx->said) {
        return;
    }
    ctx->said = 1;
    if (stored && ends && ctx->seen <= JUDGE_NOW) {
        stored = mcp_cache_capture_judge(ctx->capture, is_whole(ctx), &answer)
            == MCP_CACHE_ANSWER_STORE
            && (!ctx->q->by_hints || answer.ttl_ms > 0);
    }
    say(ctx->q->r, stored ? "mcp; fwd=miss; stored" : BYPASS);
}

/* What a program writes when it likes (mod_cgid) may be waited for, on the request's own thread. */
static int may_wait(const conn_rec *c)
{
    apr_thread_t *self = ap_thread_current();

    return self && c->current_thread == self;
}

/* What stands before @a b goes on to the client. */
static apr_status_t pass_before(ap_filter_t *f, apr_bucket_brigade *bb, apr_bucket *b)
{
    filter_t *ctx = f->ctx;
    apr_status_t rv;

    if (ctx->wants_answer && mcp_cache_capture_is_refused(ctx->capture)) {
        land_early(ctx->q, bb);
    }
    set_status(ctx, 0);
    ctx->rest = apr_brigade_split_ex(bb, b, ctx->rest);
    APR_BRIGADE_INSERT_TAIL(bb, apr_bucket_flush_create(f->c->bucket_alloc));
    rv = ap_pass_brigade(f->next, bb);
    apr_brigade_cleanup(bb);
    APR_BRIGADE_CONCAT(bb, ctx->rest);
    return rv;
}

static apr_status_t read_bucket(ap_filter_t *f, apr_bucket_brigade *bb, apr_bucket *b,
                                const char **data, apr_size_t *len)
{
    apr_status_t rv = apr_bucket_read(b, data, len, APR_NONBLOCK_READ);

    if (APR_STATUS_IS_EAGAIN(rv) && may_wait(f->c)) {
        rv = pass_before(f, bb, b);
        return rv == APR_SUCCESS ? apr_bucket_read(b, data, len, APR_BLOCK_READ) : rv;
    }
    return rv;
}

/* Returns whether the response ends with this brigade. */
static int read_along(ap_filter_t *f, apr_bucket_brigade *bb)
{
    filter_t *ctx = f->ctx;
    apr_size_t held = 0;
    apr_bucket *b, *next;

    for (b = APR_BRIGADE_FIRST(bb); b != APR_BRIGADE_SENTINEL(bb); b = next) {
        int is_made_now = b->length == (apr_size_t)-1;
        const char *data;
        apr_size_t len;

        if (APR_BUCKET_IS_EOS(b)) {
            return 1;
        }
        if (APR_BUCKET_IS_METADATA(b)) {
            ctx->broken |= AP_BUCKET_IS_ERROR(b);
            next = APR_BUCKET_NEXT(b);
            continue;
        }
        if (read_bucket(f, bb, b, &data, &len) != APR_SUCCESS) {
            ctx->broken = 1;
            return 0;
        }
        mcp_cache_capture_feed(ctx->capture, data, len);
        ctx->seen += (apr_off_t)len;
        next = APR_BUCKET_NEXT(b);
        held += is_made_now ? len : 0;
        if (held >= HOLD_MOST) {
            held = 0;
            if (pass_before(f, bb, next) != APR_SUCCESS) {
                ctx->broken = 1;
                return 0;
            }
            next = APR_BRIGADE_FIRST(bb);
        }
    }
    return 0;
}

static void end(filter_t *ctx)
{
    mcp_cache_capture_t *capture = ctx->capture;

    ctx->capture = NULL;
    if (!ctx->wants_answer) {
        mcp_cache_capture_destroy(capture);
        return;
    }
    mcp_cache_keep(ctx->q, capture, is_whole(ctx), ctx->mark_session, ctx->headers, ctx->flags);
}

static apr_status_t read_response(ap_filter_t *f, apr_bucket_brigade *bb)
{
    filter_t *ctx = f->ctx;
    apr_status_t rv;
    int ends;

    if (ctx->replaced) {
        apr_brigade_cleanup(bb);
        return APR_SUCCESS;
    }
    give_encoding_back(ctx->q);
    if (is_begin_of_failure(ctx)) {
        return replace(f, ctx, bb);
    }
    if (!ctx->begun) {
        begin(ctx, bb);
    }
    if (!ctx->capture) {
        say(ctx->q->r, BYPASS);
        if (ctx->mark_session) {
            mcp_cache_keep_session(ctx->q->session_digest, MCP_CACHE_SESSION_LIVE);
        }
        ap_remove_output_filter(f);
        return ap_pass_brigade(f->next, bb);
    }
    ends = read_along(f, bb);
    if (ctx->wants_answer && mcp_cache_capture_is_refused(ctx->capture)) {
        land_early(ctx->q, bb);
    }
    set_status(ctx, ends);
    rv = ap_pass_brigade(f->next, bb);
    if (ends) {
        end(ctx);
        ap_remove_output_filter(f);
    }
    return rv;
}
