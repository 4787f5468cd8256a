/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Before the backend is asked: look, and answer; or wait for an equal request; or let the backend
 * answer and have the filter read along. Runs again, from its beginning, for a request that waited.
 *
 * Budget of a hit from shared memory: no system call, two locks at most, one copy of the value.
 */
#include "mcp_cache.h"

#include <apr_strings.h>
#include <http_protocol.h>

#include "mcp_clock.h"
#include "mcp_httpd_error.h"

/* One who has waited this long for others asks the backend himself. */
#define MAX_WAIT apr_time_from_sec(300)

/* An answer may be gone again when it is looked for; then the backend is asked. */
#define MAX_TRIES 4

void mcp_cache_note(mcp_cache_request_t *q, mcp_cache_result_e result)
{
    static const char *const names[] = {"bypass", "hit", "miss", "stale"};
    apr_table_t *env = q->r->subprocess_env;

    /* The first time nothing is there to be replaced, and looking for it is not free. */
    if (q->is_noted) {
        apr_table_setn(env, "MCP_CACHE", names[result]);
    } else {
        apr_table_addn(env, "MCP_CACHE", names[result]);
    }
    q->is_noted = 1;
    q->result = result;
}

int mcp_cache_count(request_rec *r)
{
    const mcp_cache_request_t *q = ap_get_module_config(r->request_config, &mcp_cache_module);

    if (q && q->is_noted) {
        __atomic_fetch_add(&mcp_cache_env()->counts[q->label][q->result], 1, __ATOMIC_RELAXED);
    }
    return DECLINED;
}

static int serve(mcp_cache_request_t *q, const mcp_cache_entry_t *entry, apr_interval_time_t left)
{
    request_rec *r = q->r;

    mcp_request_take(r);
    mcp_cache_note(q, left < 0 ? MCP_CACHE_RESULT_STALE : MCP_CACHE_RESULT_HIT);
    ap_pass_brigade(r->output_filters, mcp_cache_respond(q, entry, left));
    return OK;
}

/* Fresh for so long; negative: stale since. The store's clock counts, not the entry's. */
static apr_interval_time_t freshness(const mcp_cache_entry_t *entry, apr_interval_time_t left)
{
    apr_interval_time_t fresh = left - entry->stale;

    return fresh < entry->ttl ? fresh : entry->ttl;
}

/* Judge one value that the store gave: a fresh one is copied to *hit, a stale one to q->old. */
static int use_value(mcp_cache_request_t *q, int index, mcp_cache_entry_t *hit,
                     apr_interval_time_t *left)
{
    mcp_cache_query_t *query = &q->ask->query;
    apr_interval_time_t stale = mcp_cache_conf(q->r->per_dir_config, MCP_CACHE_STALE);
    mcp_cache_entry_t entry;

    if (!query->value[index].p) {
        return 0;
    }
    if (mcp_cache_entry_read(&entry, query->value[index], query->digest[index]) != APR_SUCCESS) {
        ap_log_rerror(APLOG_MARK, APLOG_WARNING, 0, q->r, MCP_LOGNO(4010)
                      "the store answered with a value that is damaged, or is another key's; "
                      "it is not used");
        return 0;
    }
    if (!mcp_cache_entry_is_current(&entry, &query->generations, index == 0)) {
        return 0;
    }
    *left = freshness(&entry, query->left[index]);
    if (*left > 0) {
        *hit = entry;
        return 1;
    }
    if (-*left < stale && -*left < entry.stale) {
        q->old = apr_pmemdup(q->r->pool, &entry, sizeof(entry));
        q->old_left = *left;
    }
    return 0;
}

/* An answer that an equal request has just brought, where the store is far or has failed. */
static int use_near(mcp_cache_request_t *q, mcp_cache_entry_t *hit, apr_interval_time_t *left)
{
    const mcp_cache_env_t *env = mcp_cache_env();
    mcp_span_t value;

    if (!env->is_far || !q->joined
        || mcp_cache_shm_get(env->near, q->ask->near_digest, q->r->pool, &value, left)
            != APR_SUCCESS
        || mcp_cache_entry_read(hit, value, q->ask->query.digest[0]) != APR_SUCCESS) {
        return 0;
    }
    *left = hit->ttl;
    return 1;
}

/* What this machine has seen of the session may be newer than what the far store says. */
static int is_ended_near(mcp_cache_request_t *q)
{
    const mcp_cache_env_t *env = mcp_cache_env();
    apr_interval_time_t left;
    mcp_span_t mark;

    return env->is_far && q->ask->query.session
        && mcp_cache_shm_get(env->near, q->session_digest, q->r->pool, &mark, &left) == APR_SUCCESS
        && mark.len == 1 && *mark.p == 'E';
}

/* A hit, in *hit and *left; else 0. */
static int look(mcp_cache_request_t *q, mcp_cache_entry_t *hit, apr_interval_time_t *left)
{
    const mcp_cache_env_t *env = mcp_cache_env();
    int i;

    q->old = NULL;
    if (use_near(q, hit, left)) {
        return 1;
    }
    q->known = env->store->class->lookup(env->store, &q->ask->query, q->r->pool) == APR_SUCCESS;
    if (is_ended_near(q)) {
        q->ask->query.session_state = MCP_CACHE_SESSION_ENDED;
    }
    if (!q->known || q->refresh
        || (q->ask->query.session && q->ask->query.session_state != MCP_CACHE_SESSION_LIVE)) {
        return 0;
    }
    for (i = 0; i < q->ask->query.count; i++) {
        if (use_value(q, i, hit, left)) {
            return 1;
        }
    }
    return 0;
}

/* The same caller and the same key, at the same generations: only then one may wait for another. */
static void digest_flight(mcp_cache_request_t *q)
{
    unsigned char all[2 * MCP_CACHE_DIGEST + sizeof(apr_uint64_t)];
    mcp_cache_ask_t *ask = q->ask;
    const mcp_cache_query_t *query = &ask->query;
    const mcp_cache_generations_t *g = &query->generations;

    memset(all, 0, sizeof(all));
    memcpy(all, query->digest[0], MCP_CACHE_DIGEST);
    /* Where it is not sure that the backend still takes the session, others'
     * answers say nothing. */
    if (query->session && query->session_state != MCP_CACHE_SESSION_LIVE) {
        memcpy(all + MCP_CACHE_DIGEST, query->session, MCP_CACHE_DIGEST);
    }
    q->version = q->known ? mcp_cache_hash(g->value, sizeof(g->value), 4) : 0;
    mcp_sha256(all, 2 * MCP_CACHE_DIGEST, ask->flight_digest);
    memcpy(all + 2 * MCP_CACHE_DIGEST, &q->version, sizeof(q->version));
    mcp_sha256(all, sizeof(all), ask->near_digest);
}

static apr_status_t land_unfinished(void *data)
{
    mcp_cache_request_t *q = data;

    if (q->leads) {
        q->leads = 0;
        mcp_cache_land(&q->ticket, MCP_CACHE_LANDED_FAILED);
    }
    return APR_SUCCESS;
}

/* What to do about equal requests. */
static mcp_cache_flight_e join(mcp_cache_request_t *q, apr_time_t looked)
{
    int may_join = q->ask->store_is_readable && !q->refresh
        && (q->old || mcp_cache_conf(q->r->per_dir_config, MCP_CACHE_COALESCE));
    mcp_cache_flight_e result;

    if (!may_join || (q->wait_until && q->wait_until <= looked)) {
        return MCP_CACHE_FLIGHT_ALONE;
    }
    digest_flight(q);
    q->joined = 1;
    result = mcp_cache_flight_join(mcp_cache_env()->flights, q->ask->flight_digest, q->version,
                                   looked, &q->ticket);
    if (result == MCP_CACHE_FLIGHT_LEAD) {
        q->leads = 1;
        apr_pool_cleanup_register(q->r->pool, q, land_unfinished, apr_pool_cleanup_null);
    } else if (result == MCP_CACHE_FLIGHT_WAIT && !q->wait_until) {
        q->wait_until = looked + MAX_WAIT;
    }
    return result;
}

static int pass_on(mcp_cache_request_t *q, mcp_cache_result_e result)
{
    mcp_cache_note(q, result);
    mcp_cache_watch(q);
    return DECLINED;
}

/* The session has ended, as the backend or mod_mcp_proxy knows: theirs is the word. */
static int pass_ended(mcp_cache_request_t *q)
{
    q->asks = 0;
    return pass_on(q, MCP_CACHE_RESULT_BYPASS);
}

static int ask(mcp_cache_request_t *q)
{
    apr_interval_time_t left = 0;
    mcp_cache_entry_t hit;
    mcp_cache_flight_e flight;
    int status = mcp_request_check_headers(q->r), tries = 0;

    if (status != OK) {
        return mcp_error_send(q->r, status);
    }
    if (mcp_cache_session_lives(q) == 0) {
        return pass_ended(q);
    }
    do {
        apr_time_t looked = mcp_clock_now();

        if (look(q, &hit, &left)) {
            return serve(q, &hit, left);
        }
        if (q->ask->query.session && q->ask->query.session_state == MCP_CACHE_SESSION_ENDED) {
            return pass_ended(q);
        }
        flight = join(q, looked);
    } while (flight == MCP_CACHE_FLIGHT_AGAIN && ++tries < MAX_TRIES);
    if (flight == MCP_CACHE_FLIGHT_WAIT) {
        return q->old ? serve(q, q->old, q->old_left) : mcp_cache_wait(q);
    }
    return pass_on(q, MCP_CACHE_RESULT_MISS);
}

int mcp_cache_handler(request_rec *r)
{
    mcp_cache_request_t *q;

    if (r->handler && !strcmp(r->handler, "mcp-cache")) {
        return mcp_cache_admin(r);
    }
    q = mcp_cache_request(r);
    if (!q || q->forwarded) {
        return DECLINED;
    }
    if (q->asks) {
        return ask(q);
    }
    if (r->method_number == M_POST) {
        return pass_on(q, MCP_CACHE_RESULT_BYPASS);
    }
    mcp_cache_watch(q);
    return DECLINED;
}
