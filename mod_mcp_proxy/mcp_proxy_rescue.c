/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A rescue, step by step: the request is tried once more where its session should be, if that can
 * do no harm; the claim is taken, or its owner waited for; initialize, notifications/initialized;
 * the route is written down; the request is sent there. Each step is an attempt of the exchange and
 * ends in mcp_rescue_goes_on(), on a worker. Invariant: whoever holds the claim renews it and gives
 * it back there, or it ends by itself. It saves work and decides nothing: what counts is who writes
 * the route first.
 */
#include "mcp_proxy_rescue_steps.h"

#include <apr_escape.h>
#include <apr_strings.h>
#include <http_log.h>
#include <openssl/rand.h>

#include "mcp_clock.h"
#include "mcp_httpd_request.h"

/* A rescue as a whole, waiting for another one's as well. */
#define MOST apr_time_from_sec(30)
/* One step at one member, where there is another: it may hang, which looks like slowness. */
#define MOST_STEP apr_time_from_sec(5)
/* A claim is renewed until its rescue is over: that of a gateway that is gone is in nobody's way
 * for long. */
#define CLAIM_LIFE apr_time_from_sec(4)
#define RENEW_EVERY (CLAIM_LIFE / 4)
#define MOST_ASKING apr_time_from_sec(5)
/*
 * A process that is being killed takes connections until the system gets to its listening socket,
 * and drops them. A stream has time to look again, a moment between two looks; what is sent again
 * and again may be what kills it.
 */
#define MOST_AGAIN 2
#define MOST_LOOKS 15
#define MOST_ADOPTIONS 3
/* Between two looks at another one's rescue: a part of what it has taken so far. A look may cost a
 * question to Redis, and there may be many that wait. */
#define LOOK_PART 8
#define LOOK_MOST apr_time_from_msec(500)

/* ---- whether ---- */

int mcp_rescue_is_possible(const mcp_exchange_t *x)
{
    const mcp_rpc_t *rpc = mcp_request_get(x->r)->rpc;

    return mcp_proxy_rescues() && x->q->session_known
        && !x->r->header_only /* its answers would be taken for heads only */
        && !x->learnt_endpoint && !(x->rescue && x->rescue->step == MCP_RESCUE_OVER)
        && !(rpc && rpc->method && strcmp(rpc->method, "initialize") == 0);
}

int mcp_rescue_could(const mcp_proxy_request_t *q)
{
    proxy_worker **workers = (proxy_worker **)q->balancer->workers->elts;
    int i;

    for (i = 0; mcp_proxy_rescues() && i < q->balancer->workers->nelts; i++) {
        if (PROXY_WORKER_IS_USABLE(workers[i]) && !PROXY_WORKER_IS_DRAINING(workers[i])) {
            return 1;
        }
    }
    return 0;
}

/* No byte of the request can have got there. */
static int is_unsent(const mcp_exchange_t *x)
{
    return !x->was_sent && (x->failed == HTTP_SERVICE_UNAVAILABLE || x->failed == HTTP_BAD_GATEWAY
                            || (x->rescue && x->broken));
}

static int is_one_of(const char *name, const char *const *names)
{
    while (*names && strcmp(name, *names) != 0) {
        names++;
    }
    return *names != NULL;
}

/* Doing it twice is doing it once. */
static int is_read_only(const mcp_exchange_t *x)
{
    static const char *const methods[] = {
        "ping", "tools/list", "prompts/list", "resources/list", "resources/templates/list",
        "resources/read", NULL
    };
    const mcp_rpc_t *rpc = mcp_request_get(x->r)->rpc;

    if (x->r->method_number == M_GET) {
        return 1;
    }
    if (!rpc || rpc->kind != MCP_RPC_REQUEST || rpc->ambiguous || rpc->has_task) {
        return 0;
    }
    if (strcmp(rpc->method, "tools/call") == 0) {
        return rpc->name && mcp_rescue_tool_reads(mcp_proxy_rescues(), x->q->scope, rpc->name);
    }
    return is_one_of(rpc->method, methods);
}

/* A message about what only the lost session knew: its server's questions, its requests. */
static int speaks_of_the_past(const mcp_exchange_t *x)
{
    static const char *const methods[] = {
        "notifications/initialized", "notifications/cancelled", "notifications/progress", NULL
    };
    const mcp_rpc_t *rpc = mcp_request_get(x->r)->rpc;

    return rpc && (rpc->kind == MCP_RPC_RESPONSE
                   || (rpc->kind == MCP_RPC_NOTIFICATION && is_one_of(rpc->method, methods)));
}

/*
 * One that was resumed is resumed by its client: it may well be the stream of a call, and would
 * take the place of the standing stream.
 */
static int broke_between_events(const mcp_exchange_t *x)
{
    return x->broken && x->is_standing && x->head_sent && x->r->method_number == M_GET
        && !x->holds_first && mcp_sse_is_between_events(&x->sse)
        && !apr_table_get(x->r->headers_in, "Last-Event-ID")
        && !apr_table_get(x->r->headers_out, "Content-Encoding");
}

/*
 * Nobody else can answer such a call. A client that waits for it hears that at once, if there is a
 * place for it to be told.
 */
static int call_broke_between_events(const mcp_exchange_t *x)
{
    const mcp_rpc_t *rpc = mcp_request_get(x->r)->rpc;

    return x->broken && x->is_stream && x->head_sent && !x->is_standing && !x->blocked_since
        && rpc && rpc->kind == MCP_RPC_REQUEST && rpc->id.p && mcp_sse_is_between_events(&x->sse)
        && !apr_table_get(x->r->headers_out, "Content-Encoding");
}

/* ---- steps ---- */

/* In the end there is time for servers that all take long to open a session. */
static apr_time_t time_for_step(const mcp_exchange_t *x)
{
    apr_time_t until = mcp_clock_now() + MOST_STEP;

    return until <= x->rescue->until - MOST / 2 && mcp_proxy_has_another(x->q, x->target.worker)
        ? until : x->rescue->until;
}

static int start_step(mcp_exchange_t *x, mcp_rescue_step_e step)
{
    mcp_opening_t *answer = &x->rescue->answer;
    int status;

    mcp_exchange_let_go(x);
    x->rescue->step = step;
    x->rescue->step_until = time_for_step(x);
    answer->found = MCP_OPENING_MORE;
    answer->body.len = answer->read = 0;
    status = mcp_exchange_start(x);
    if (status != OK) {
        /* 404: what the request names does not fit this member, which is no fault of its. */
        mcp_exchange_fail(x, status == HTTP_NOT_FOUND ? status : HTTP_SERVICE_UNAVAILABLE);
    }
    return 1;
}

/* Until mcp_rescue_look_again(), soon. */
static int pause_for(mcp_exchange_t *x, mcp_rescue_step_e step)
{
    mcp_exchange_let_go(x);
    x->rescue->step = step;
    x->failed = x->broken = 0;
    x->state = MCP_X_WAIT;
    return 1;
}

/* APR_EEXIST: another one has been faster, and the session is where that has taken it. */
static apr_status_t give_claim_back(mcp_exchange_t *x, const mcp_record_route_t *route)
{
    if (!x->rescue->holds_claim) {
        return APR_SUCCESS;
    }
    x->rescue->holds_claim = 0;
    return mcp_rescue_release(mcp_proxy_rescues(), &x->q->key, &x->rescue->claim, route,
                              x->r->pool);
}

static void restore_session(mcp_exchange_t *x)
{
    if (x->rescue->old_session) {
        x->q->backend_session = x->rescue->old_session;
        x->rescue->old_session = NULL;
    }
}

static int take_claim(mcp_exchange_t *x);

/* What the member at hand has opened, if anything, is left to it. */
static int follow_other(mcp_exchange_t *x)
{
    x->rescue->holds_claim = 0;
    restore_session(x);
    return take_claim(x);
}

/*
 * It cannot be rescued. Where no member could be reached nothing has been said of the session;
 * where one refused it, or it is not to be tried again, it is over.
 */
static int give_up(mcp_exchange_t *x, int is_over, const char *why)
{
    mcp_rescue_t *rescue = x->rescue;

    if (give_claim_back(x, NULL) == APR_EEXIST) {
        return follow_other(x);
    }
    ap_log_rerror(APLOG_MARK, APLOG_INFO, 0, x->r, MCP_LOGNO(2151)
                  "the session could not be rescued: %s", why);
    restore_session(x);
    if (is_over || rescue->was_refused) {
        mcp_proxy_forget(x->q);
    }
    rescue->step = MCP_RESCUE_OVER;
    x->state = MCP_X_END;
    x->session_lost = !rescue->resumes;
    x->broken = rescue->resumes;
    x->failed = rescue->resumes ? 0 : HTTP_NOT_FOUND;
    mcp_shared_add(mcp_proxy_shared(), mcp_proxy_row(), MCP_SHARED_SESSIONS_LOST, 1);
    return 0;
}

/* Whatever its retry= says: it has just failed here. */
static void avoid_member(mcp_exchange_t *x)
{
    mcp_proxy_request_t *q = x->q;

    if (!q->avoided) {
        q->avoided = apr_array_make(x->r->pool, 4, sizeof(const proxy_worker *));
    }
    APR_ARRAY_PUSH(q->avoided, const proxy_worker *) = x->target.worker;
}

/* Any member that can be used, by load. A single server is tried again only if it answers. */
static int choose_member(mcp_exchange_t *x)
{
    mcp_rescue_t *rescue = x->rescue;

    if (rescue->has_member) {
        rescue->has_member = 0;
        return OK;
    }
    if (!x->q->balancer) {
        return rescue->was_refused && !rescue->tries ? OK : HTTP_SERVICE_UNAVAILABLE;
    }
    if (rescue->tries >= (unsigned)x->q->balancer->workers->nelts) {
        return HTTP_SERVICE_UNAVAILABLE;
    }
    x->q->pinned = NULL;
    x->q->by_load = 1;
    return mcp_exchange_ask_balancer(x);
}

static int initialize(mcp_exchange_t *x)
{
    mcp_rescue_t *rescue = x->rescue;
    unsigned char random[8];

    if (mcp_clock_now() >= rescue->until || choose_member(x) != OK) {
        return give_up(x, 0, "no member could be reached");
    }
    rescue->tries++;
    RAND_bytes(random, sizeof(random));
    rescue->id = apr_pstrcat(x->r->pool, "\"mcp-rescue-",
                             apr_pescape_hex(x->r->pool, random, sizeof(random), 0), "\"", NULL);
    return start_step(x, MCP_RESCUE_INITIALIZE);
}

/* Not of this member: there may be one that can. What it has opened, if anything, is left to it. */
static int initialize_elsewhere(mcp_exchange_t *x)
{
    if (is_unsent(x)) { /* else it may be slow, or broken: not for mod_proxy to know */
        mcp_exchange_mark_member(x);
    }
    restore_session(x);
    avoid_member(x);
    return initialize(x);
}

/* The client's request again; or an answer to it, if it speaks of what is lost. */
static int replay(mcp_exchange_t *x)
{
    mcp_rescue_t *rescue = x->rescue;

    if (rescue->resumes || !speaks_of_the_past(x)) {
        return start_step(x, MCP_RESCUE_REPLAY);
    }
    mcp_exchange_let_go(x);
    rescue->step = MCP_RESCUE_OVER;
    x->failed = x->broken = 0;
    x->r->status = HTTP_ACCEPTED;
    x->state = MCP_X_END;
    return 0;
}

/* Another request was faster: go where it has taken the session. */
static int adopt(mcp_exchange_t *x, const mcp_record_route_t *route)
{
    mcp_proxy_request_t *q = x->q;

    if (++x->rescue->adoptions > MOST_ADOPTIONS) {
        return give_up(x, 0, "it is moved all the time");
    }
    q->backend_session = route->session;
    q->generation = route->generation;
    if (q->balancer) {
        q->pinned = mcp_proxy_member_by_name(q->balancer, route->member);
        if (!q->pinned || mcp_exchange_ask_balancer(x) != OK) {
            return give_up(x, 0, "the member that has it is not one of this balancer's");
        }
    }
    return replay(x);
}

static int wait_for_other(mcp_exchange_t *x)
{
    apr_time_t now = mcp_clock_now();
    apr_interval_time_t pause = (now - (x->rescue->until - MOST)) / LOOK_PART;

    x->rescue->look_at = now + (pause < LOOK_MOST ? pause : LOOK_MOST);
    return pause_for(x, MCP_RESCUE_WAITING);
}

/* Its client ends it, and nobody will have opened it anew: then it is over here, too. */
static int end_session(mcp_exchange_t *x)
{
    give_claim_back(x, NULL);
    mcp_proxy_forget(x->q);
    x->rescue->step = MCP_RESCUE_OVER;
    x->state = MCP_X_END;
    x->session_lost = 1;
    x->failed = HTTP_NOT_FOUND;
    return 0;
}

static int take_claim(mcp_exchange_t *x)
{
    mcp_rescue_t *rescue = x->rescue;
    mcp_rescue_claim_t *claim = &rescue->claim;
    apr_pool_t *look; /* one of many, and the parameters may be long */
    apr_status_t rv;

    apr_pool_create(&look, x->r->pool);
    rv = mcp_rescue_claim(mcp_proxy_rescues(), &x->q->key, CLAIM_LIFE, look, claim);
    rescue->holds_claim = rv == APR_SUCCESS;
    rescue->renew_at = mcp_clock_now() + RENEW_EVERY;
    if (claim->route.generation > x->q->generation) {
        give_claim_back(x, NULL);
        return adopt(x, &claim->route);
    }
    if (rv == APR_EBUSY) {
        apr_pool_destroy(look);
        memset(claim, 0, sizeof(*claim));
        return wait_for_other(x);
    }
    if (x->r->method_number == M_DELETE) {
        return end_session(x);
    }
    if (rv != APR_SUCCESS) {
        return give_up(x, 0, "nothing is known of how it was opened");
    }
    rescue->until = mcp_clock_now() + MOST;
    if (!mcp_record_may_rescue(&claim->route, apr_time_now())) {
        return give_up(x, 1, "it was rescued too often");
    }
    return initialize(x);
}

static int begin(mcp_exchange_t *x)
{
    x->rescue->until = mcp_clock_now() + MOST;
    return take_claim(x);
}

static int try_again(mcp_exchange_t *x)
{
    x->rescue->until = mcp_clock_now() + MOST;
    if (!x->rescue->agains++) {
        return start_step(x, MCP_RESCUE_AGAIN);
    }
    return pause_for(x, MCP_RESCUE_PAUSE);
}

static int ask(mcp_exchange_t *x)
{
    x->rescue->until = mcp_clock_now() + MOST_ASKING;
    x->rescue->asks = 1;
    x->rescue->agains++;
    return start_step(x, MCP_RESCUE_ASK);
}

void mcp_rescue_look_again(mcp_exchange_t *x)
{
    if (x->rescue->step == MCP_RESCUE_PAUSE) {
        start_step(x, x->rescue->asks ? MCP_RESCUE_ASK : MCP_RESCUE_AGAIN);
    }
    else if (mcp_clock_now() >= x->rescue->look_at) {
        take_claim(x);
    }
}

/* Why an attempt of the client's request has ended decides whether its session is looked after. */
static int after_request(mcp_exchange_t *x)
{
    mcp_rescue_t *rescue = x->rescue;

    if (is_unsent(x)) {
        mcp_exchange_mark_member(x);
        avoid_member(x);
        return begin(x);
    }
    if (x->session_gone) {
        rescue->was_refused = 1;
        return begin(x);
    }
    if (rescue->agains < (rescue->resumes ? MOST_LOOKS : MOST_AGAIN) && x->was_sent
        && x->failed == HTTP_BAD_GATEWAY && (rescue->resumes || !x->head_sent)
        && is_read_only(x)) {
        return try_again(x);
    }
    if (!rescue->agains && broke_between_events(x)) {
        rescue->resumes = 1;
        return try_again(x);
    }
    if (!rescue->agains && call_broke_between_events(x)) {
        return ask(x);
    }
    ap_log_rerror(APLOG_MARK, APLOG_DEBUG, 0, x->r,
                  "not to be rescued: status %d, failed %d, sent %d, broken %d, again %u",
                  x->head.status, x->failed, x->was_sent, x->broken, rescue->agains);
    rescue->step = MCP_RESCUE_OVER;
    if (rescue->resumes) {
        x->failed = 0;
        x->broken = 1;
    }
    return 0;
}

/* A member that lives and knows the session may have the answer yet: its client comes for it. */
static int after_ask(mcp_exchange_t *x)
{
    mcp_rescue_t *rescue = x->rescue;

    if (x->was_sent && x->failed == HTTP_BAD_GATEWAY && rescue->agains++ < MOST_LOOKS) {
        return pause_for(x, MCP_RESCUE_PAUSE);
    }
    if (is_unsent(x)) {
        mcp_exchange_mark_member(x);
    }
    x->answer_lost = is_unsent(x) || x->head.status == HTTP_NOT_FOUND;
    x->broken = !x->answer_lost;
    x->failed = 0;
    rescue->step = MCP_RESCUE_OVER;
    return 0;
}

static int after_initialize(mcp_exchange_t *x)
{
    mcp_rescue_t *rescue = x->rescue;
    int has_failed = x->failed || (x->broken && rescue->answer.found == MCP_OPENING_MORE);

    if (has_failed || x->head.status >= HTTP_INTERNAL_SERVER_ERROR) {
        return initialize_elsewhere(x);
    }
    mcp_opening_end(&rescue->answer, rescue->id, x->r->pool);
    rescue->session = apr_pstrdup(x->r->pool, mcp_http_field(&x->head, "Mcp-Session-Id"));
    if (x->head.status < 200 || x->head.status >= 300 || rescue->answer.found != MCP_OPENING_GOOD
        || !rescue->session || !*rescue->session) {
        return give_up(x, 1, "the member opens no session");
    }
    rescue->version = rescue->answer.version;
    rescue->old_session = x->q->backend_session;
    x->q->backend_session = rescue->session;
    return start_step(x, MCP_RESCUE_INITIALIZED);
}

static int after_initialized(mcp_exchange_t *x)
{
    mcp_rescue_t *rescue = x->rescue;
    mcp_proxy_request_t *q = x->q;
    mcp_record_route_t *route = &rescue->claim.route;

    if (x->failed || !x->head.status || x->head.status >= HTTP_INTERNAL_SERVER_ERROR) {
        return initialize_elsewhere(x);
    }
    if (x->head.status >= HTTP_BAD_REQUEST) {
        return give_up(x, 1, "the member does not go on with the session that it has opened");
    }
    route->generation = (route->generation > q->generation ? route->generation : q->generation) + 1;
    route->member = mcp_proxy_member_name(x->r->pool, x->target.worker);
    route->session = rescue->session;
    if (give_claim_back(x, route) == APR_EEXIST) {
        return follow_other(x);
    }
    q->generation = route->generation;
    q->pinned = q->balancer ? x->target.worker : NULL;
    rescue->old_session = NULL;
    mcp_proxy_move(x->r, q, x->target.worker);
    ap_log_rerror(APLOG_MARK, APLOG_INFO, 0, x->r, MCP_LOGNO(2152)
                  "session rescued: opened anew at %s; rescue %u of it, %u within a minute",
                  x->target.worker->s->name_ex, route->generation, route->recent);
    rescue->is_done = 1;
    return replay(x);
}

/* It is the client's to hear of, whatever it was; half a stream must not look like a whole one. */
static int after_replay(mcp_exchange_t *x)
{
    if (x->rescue->resumes) {
        x->failed = 0;
        x->broken = 1;
    }
    return 0;
}

static mcp_rescue_t *make_rescue(mcp_exchange_t *x)
{
    x->rescue = apr_pcalloc(x->r->pool, sizeof(*x->rescue));
    return x->rescue;
}

void mcp_rescue_open(mcp_exchange_t *x)
{
    mcp_rescue_t *rescue = make_rescue(x);

    rescue->has_member = rescue->was_refused = 1;
    begin(x);
}

int mcp_rescue_goes_on(mcp_exchange_t *x)
{
    if (!mcp_rescue_is_possible(x)) {
        return 0;
    }
    if (x->client_gone || x->draining || x->closed_here || x->is_full) {
        if (x->rescue) {
            give_claim_back(x, NULL);
            x->rescue->step = MCP_RESCUE_OVER;
        }
        return 0;
    }
    if (!x->rescue) {
        if (!is_unsent(x) && !x->session_gone && !x->broken && x->failed != HTTP_BAD_GATEWAY) {
            return 0;
        }
        make_rescue(x);
    }
    switch (x->rescue->step) {
    case MCP_RESCUE_ASK:
        return after_ask(x);
    case MCP_RESCUE_INITIALIZE:
        return after_initialize(x);
    case MCP_RESCUE_INITIALIZED:
        return after_initialized(x);
    case MCP_RESCUE_WAITING:
        return give_up(x, 0, "another request was about to, and did not end");
    case MCP_RESCUE_REPLAY:
        return x->rescue->is_done ? after_replay(x) : after_request(x);
    default:
        return after_request(x);
    }
}

apr_time_t mcp_rescue_deadline(const mcp_exchange_t *x)
{
    if (!x->rescue || (x->state != MCP_X_WAIT && !mcp_rescue_is_own(x))) {
        return 0;
    }
    return x->rescue->holds_claim ? x->rescue->step_until : x->rescue->until;
}

apr_time_t mcp_rescue_renewal(const mcp_exchange_t *x)
{
    return x->rescue && x->rescue->holds_claim ? x->rescue->renew_at : 0;
}

void mcp_rescue_renew_claim(mcp_exchange_t *x)
{
    apr_time_t now = mcp_clock_now(), when = mcp_rescue_renewal(x);
    apr_pool_t *p; /* one of many */
    apr_status_t rv;

    if (!when || now < when || x->state == MCP_X_END) {
        return;
    }
    x->rescue->renew_at = now + RENEW_EVERY;
    apr_pool_create(&p, x->r->pool);
    rv = mcp_rescue_renew(mcp_proxy_rescues(), &x->q->key, &x->rescue->claim, CLAIM_LIFE, p);
    apr_pool_destroy(p);
    if (rv == APR_EEXIST) {
        follow_other(x);
    }
}
