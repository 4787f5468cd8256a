/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What happens on the writer's thread: an answer is judged and stored, and whoever waits for it is
 * let go, in this order: store, shared memory beside it, landing. A job holds copies of all it
 * needs; the request may be gone.
 */
#include "mcp_cache.h"

#include <apr_strings.h>

#include "mcp_cache_capture.h"

/* How long those who wait find an answer beside a store that is far. */
#define NEAR_LIFE apr_time_from_sec(5)

struct mcp_cache_keep_t {
    mcp_cache_job_t job;
    apr_pool_t *pool;              /* of its own; the job lives in it */
    mcp_cache_capture_t *capture;  /* NULL: no answer */
    int whole;
    int known;
    int by_hints;                  /* 2: "public" counts */
    const char *label;
    mcp_cache_entry_t entry;       /* digest: of the one who asked */
    mcp_cache_generations_t generations;
    unsigned char public_digest[MCP_CACHE_DIGEST];
    int leads;
    mcp_cache_ticket_t ticket;
    unsigned char near_digest[MCP_CACHE_DIGEST];
    int near;                      /* somebody may wait for it */
    unsigned char session[MCP_CACHE_DIGEST];
    mcp_cache_session_e session_state; /* MCP_CACHE_SESSION_UNKNOWN: nothing to say */
    apr_uint64_t tag;              /* to invalidate; 0: none */
};

static mcp_cache_keep_t *new_job(void (*run)(mcp_cache_job_t *job))
{
    mcp_cache_keep_t *k;
    apr_pool_t *p;

    if (apr_pool_create_unmanaged_ex(&p, NULL, NULL) != APR_SUCCESS) {
        return NULL;
    }
    k = apr_pcalloc(p, sizeof(*k));
    k->pool = p;
    k->job.run = run;
    k->job.size = sizeof(*k);
    return k;
}

static void post(mcp_cache_keep_t *k)
{
    const mcp_cache_env_t *env = mcp_cache_env();

    if (env->writer && mcp_cache_writer_post(env->writer, &k->job)) {
        return;
    }
    if (k->leads) {
        mcp_cache_land(&k->ticket, MCP_CACHE_LANDED_FAILED);
    }
    if (k->capture) {
        mcp_cache_capture_destroy(k->capture);
    }
    apr_pool_destroy(k->pool);
}

/* Far stores only. */
static void run_note(mcp_cache_job_t *job)
{
    mcp_cache_keep_t *k = (mcp_cache_keep_t *)job;
    mcp_cache_store_t *store = mcp_cache_env()->store;

    if (k->tag) {
        store->class->invalidate(store, k->tag);
    } else {
        store->class->session(store, k->session, k->session_state);
    }
    apr_pool_destroy(k->pool);
}

void mcp_cache_keep_change(apr_uint64_t tag)
{
    const mcp_cache_env_t *env = mcp_cache_env();
    mcp_cache_keep_t *k;

    mcp_cache_shm_invalidate(env->near, tag);
    k = env->is_far ? new_job(run_note) : NULL;
    if (k) {
        k->tag = tag;
        post(k);
    }
}

void mcp_cache_keep_session(const unsigned char digest[MCP_CACHE_DIGEST],
                            mcp_cache_session_e state)
{
    const mcp_cache_env_t *env = mcp_cache_env();
    mcp_cache_store_t *near = env->near_store;
    mcp_cache_keep_t *k;

    near->class->session(near, digest, state);
    k = env->is_far ? new_job(run_note) : NULL;
    if (k) {
        memcpy(k->session, digest, MCP_CACHE_DIGEST);
        k->session_state = state;
        post(k);
    }
}

/* For how long, and whose: what the server said of its result. Returns 0 where it is not
 * to be kept. */
static int read_hints(mcp_cache_keep_t *k, const mcp_cache_answer_t *answer)
{
    static const apr_int64_t most = 3600 * 1000;
    int i;

    k->entry.ttl = apr_time_from_msec(answer->ttl_ms < most ? answer->ttl_ms : most);
    k->entry.hint_at = answer->hint_at;
    k->entry.hint_len = answer->hint_len;
    if (answer->is_public && k->by_hints == 2) {
        memcpy(k->entry.digest, k->public_digest, MCP_CACHE_DIGEST);
        k->near = 0;
        for (i = MCP_CACHE_TAG_CALLER; i <= MCP_CACHE_TAG_TOOL_USER; i++) {
            k->entry.generation[i] = 0;
        }
    }
    return k->entry.ttl > 0;
}

static void store_answer(mcp_cache_keep_t *k, const mcp_cache_answer_t *answer)
{
    const mcp_cache_env_t *env = mcp_cache_env();
    mcp_cache_put_t put = {k->label, k->entry.digest, {NULL, 0}, k->entry.ttl + k->entry.stale,
                           &k->generations};
    mcp_span_t value;

    k->entry.payload = answer->result;
    k->entry.flags |= answer->newlines ? MCP_CACHE_ENTRY_NEWLINES : 0;
    value = mcp_cache_entry_write(&k->entry, k->pool);
    if (k->known) {
        put.value = value;
        env->store->class->put(env->store, &put);
    }
    if (env->is_far && k->near) {
        mcp_cache_shm_put(env->near, k->near_digest, value,
                          k->entry.ttl < NEAR_LIFE ? k->entry.ttl : NEAR_LIFE);
    }
}

static void run_keep(mcp_cache_job_t *job)
{
    static const mcp_cache_landing_e landings[] = {
        MCP_CACHE_LANDED_STORED, MCP_CACHE_LANDED_REFUSED, MCP_CACHE_LANDED_FAILED
    };
    mcp_cache_keep_t *k = (mcp_cache_keep_t *)job;
    const mcp_cache_env_t *env = mcp_cache_env();
    mcp_cache_answer_t answer;
    mcp_cache_answer_e verdict = mcp_cache_capture_judge(k->capture, k->whole, &answer);

    if (verdict == MCP_CACHE_ANSWER_STORE && k->by_hints && !read_hints(k, &answer)) {
        verdict = MCP_CACHE_ANSWER_REFUSE;
    }
    if (k->session_state != MCP_CACHE_SESSION_UNKNOWN && verdict != MCP_CACHE_ANSWER_BROKEN) {
        env->store->class->session(env->store, k->session, k->session_state);
    }
    if (verdict == MCP_CACHE_ANSWER_STORE) {
        store_answer(k, &answer);
    }
    if (k->leads) {
        mcp_cache_land(&k->ticket, landings[verdict]);
    }
    mcp_cache_capture_destroy(k->capture);
    apr_pool_destroy(k->pool);
}

static void copy_entry(mcp_cache_keep_t *k, const mcp_cache_request_t *q, const char *headers,
                       apr_uint32_t flags)
{
    const char *copy = apr_pstrdup(k->pool, headers);

    memcpy(k->entry.digest, q->ask->store_digest, MCP_CACHE_DIGEST);
    memcpy(k->public_digest, q->ask->query.digest[1], MCP_CACHE_DIGEST);
    k->entry.ttl = q->tool ? q->tool->ttl : 0;
    k->entry.stale = mcp_cache_conf(q->r->per_dir_config, MCP_CACHE_STALE);
    k->generations = q->ask->query.generations;
    memcpy(k->entry.generation, q->ask->query.generations.value, sizeof(k->entry.generation));
    k->entry.flags = flags;
    k->entry.headers.p = copy;
    k->entry.headers.len = strlen(copy);
}

void mcp_cache_keep(mcp_cache_request_t *q, struct mcp_cache_capture_t *capture, int whole,
                    int mark_session, const char *headers, apr_uint32_t flags)
{
    mcp_cache_keep_t *k = new_job(run_keep);

    if (!k) {
        mcp_cache_capture_destroy(capture);
        return;
    }
    k->job.size += mcp_cache_capture_held(capture);
    k->capture = capture;
    k->whole = whole;
    k->known = q->known;
    k->by_hints = q->by_hints;
    k->label = apr_pstrdup(k->pool, q->ask->query.label);
    copy_entry(k, q, headers, flags);
    k->leads = k->near = q->leads;
    k->ticket = q->ticket;
    memcpy(k->near_digest, q->ask->near_digest, MCP_CACHE_DIGEST);
    if (mark_session) {
        memcpy(k->session, q->session_digest, MCP_CACHE_DIGEST);
        k->session_state = MCP_CACHE_SESSION_LIVE;
    }
    q->leads = 0;
    post(k);
}
