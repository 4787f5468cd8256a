/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shared memory of mod_mcp_proxy and this child's place in it. It is anonymous and hangs on the
 * process pool, under a key with the layout's version, since the module itself is unloaded and
 * loaded again by every restart while sessions and streams of old children go on. The table's key
 * has its number of entries too: another number is another table, and the old one stays until httpd
 * is stopped.
 */
#include "mcp_proxy.h"

#include <apr_strings.h>
#include <http_log.h>
#include <openssl/rand.h>
#include <unistd.h>

#include "mcp_httpd_park.h"
#include "mcp_lasting.h"
#include "mcp_proxy_backend.h"
#include "mcp_proxy_far.h"
#include "mcp_proxy_rescue_store.h"
#include "mcp_sha256.h"

#define SHARED_KEY "mcp_proxy.shared/3"
#define SESSIONS_KEY "mcp_proxy.sessions/2"
#define FAR_KEY "mcp_proxy.far/1"
#define RESCUES_KEY "mcp_proxy.rescues/1"
#define SECRET_KEY "mcp_proxy.secret/1"
#define SECRET_BYTES 32

static struct {
    mcp_shared_t *shared;
    mcp_session_table_t *sessions;
    mcp_rescue_store_t rescues; /* near is NULL: there is none */
    mcp_far_shared_t *far;      /* NULL: MCPProxySessionStore is shm */
    int row;
} state = { .row = -1 };

/* Memory under a name that lasts as long as the parent process; made if it is not there. */
static void *lasting_memory(server_rec *s, const char *key, apr_size_t size, int *is_new)
{
    void *mem;
    apr_status_t rv = mcp_lasting_memory(&mem, is_new, key, size, s->process->pool);

    if (rv != APR_SUCCESS) {
        ap_log_error(APLOG_MARK, APLOG_EMERG, rv, s, MCP_LOGNO(2001)
                     "no shared memory of %" APR_SIZE_T_FMT " bytes could be had", size);
        return NULL;
    }
    return mem;
}

/* What is kept of sessions that can be rescued is encrypted, by what no one outside can know. */
static int set_rescue_up(apr_pool_t *ptemp, server_rec *s, unsigned entries)
{
    apr_size_t size = mcp_rescue_store_size(entries);
    const char *key = apr_psprintf(ptemp, RESCUES_KEY ":%" APR_SIZE_T_FMT, size);
    void *mem, *secret;
    int is_new;

    state.rescues.near = NULL;
    if (!mcp_proxy_server_conf(MCP_PROXY_RESCUE)) {
        return OK;
    }
    secret = lasting_memory(s, SECRET_KEY, SECRET_BYTES, &is_new);
    if (!secret || (is_new && RAND_bytes(secret, SECRET_BYTES) != 1)) {
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    /* Behind the operator's: it reads what was kept while there were none. */
    state.rescues.keys = mcp_sealed_record_keys();
    mcp_record_add_key(mcp_sealed_record_keys(), secret, SECRET_BYTES);
    mem = lasting_memory(s, key, size, &is_new);
    if (!mem) {
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    state.rescues.ttl = mcp_proxy_server_conf(MCP_PROXY_SESSION_TTL);
    state.rescues.near = is_new ? mcp_blobs_init(mem, size, MCP_RECORD_MAX_PARAMS)
                                : mcp_blobs_attach(mem, size);
    return state.rescues.near ? OK : HTTP_INTERNAL_SERVER_ERROR;
}

static int set_far_up(server_rec *s)
{
    int is_new;

    state.far = NULL;
    if (mcp_proxy_session_store()->kind == MCP_STORE_SHM) {
        return OK;
    }
    state.far = lasting_memory(s, FAR_KEY, sizeof(*state.far), &is_new);
    if (!state.far) {
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    /* The store may be another one now: what was found out of the old one does not count. */
    memset(&state.far->breaker, 0, sizeof(state.far->breaker));
    return OK;
}

int mcp_proxy_post_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    unsigned entries = mcp_proxy_session_entries();
    apr_interval_time_t ttl = mcp_proxy_server_conf(MCP_PROXY_SESSION_TTL);
    char *key = apr_psprintf(ptemp, SESSIONS_KEY ":%u", entries);
    void *mem;
    int is_new;

    if (ap_state_query(AP_SQ_MAIN_STATE) == AP_SQ_MS_CREATE_PRE_CONFIG) {
        return OK;
    }
    mcp_sha256_prepare(pconf);
    mcp_proxy_check_capacity(ptemp, s);
    mcp_park_allow((int)mcp_proxy_server_conf(MCP_PROXY_ASYNC));
    mem = lasting_memory(s, SHARED_KEY, mcp_shared_size(), &is_new);
    if (!mem) {
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    state.shared = mcp_shared_init(mem);
    mem = lasting_memory(s, key, mcp_session_table_size(entries), &is_new);
    if (!mem) {
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    if (is_new) {
        state.sessions = mcp_session_table_init(mem, entries, ttl);
    }
    else {
        state.sessions = mem;
        mcp_session_table_set_ttl(state.sessions, ttl);
    }
    if (mcp_streams_set_up(s, ptemp) != APR_SUCCESS || mcp_status_set_up(s) != APR_SUCCESS) {
        ap_log_error(APLOG_MARK, APLOG_EMERG, 0, s, MCP_LOGNO(2090)
                     "no shared memory, or no descriptor, for what mcp-status shows");
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    if (set_far_up(s) != OK) {
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    return set_rescue_up(ptemp, s, entries);
}

static void far_ended(apr_status_t rv, apr_interval_time_t took, const mcp_redis_info_t *info)
{
    mcp_far_count(rv, took);
    if (rv == APR_SUCCESS) {
        mcp_far_met(info);
    }
}

void mcp_proxy_child_init(apr_pool_t *p, server_rec *s)
{
    int threads = 1;

    state.row = mcp_shared_claim(state.shared, getpid());
    ap_mpm_query(AP_MPMQ_MAX_THREADS, &threads);
    mcp_backend_init(p, threads);
    if (state.far && (!mcp_proxy_is_sealed() || state.rescues.near)) {
        mcp_far_child_init(p, s, state.far);
    }
    state.rescues.far = (mcp_rescue_far_t){ mcp_far_redis(), far_ended };
}

void mcp_proxy_child_status(server_rec *s, pid_t pid, ap_generation_t gen, int slot,
                            mpm_child_status status)
{
    if (status == MPM_CHILD_EXITED && state.shared) {
        apr_int32_t held[MCP_SHARED_MEMBERS];

        if (mcp_shared_bury(state.shared, pid, held)) {
            mcp_proxy_forget_busy(s, held);
        }
        mcp_streams_bury(pid);
    }
}

int mcp_proxy_store_is_up(void)
{
    return !state.far || !mcp_breaker_is_open(&state.far->breaker);
}

mcp_session_table_t *mcp_proxy_sessions(void)
{
    return state.sessions;
}

mcp_shared_t *mcp_proxy_shared(void)
{
    return state.shared;
}

const mcp_rescue_store_t *mcp_proxy_rescues(void)
{
    return state.rescues.near ? &state.rescues : NULL;
}

int mcp_proxy_row(void)
{
    return state.row;
}
