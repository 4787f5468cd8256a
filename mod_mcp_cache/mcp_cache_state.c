/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shared memory of mod_mcp_cache, and this child's connection to a far store. The memory is
 * anonymous and hangs on the process pool, under a key with the layout's version and size, since
 * the module itself is unloaded and loaded again by every graceful restart while old children still
 * use the memory.
 */
#include "mcp_cache.h"

#include <ap_mpm.h>
#include <apr_strings.h>
#include <http_config.h>
#include <http_core.h>
#include <http_main.h>

#include "mcp_cache_metrics.h"
#include "mcp_cache_redis.h"
#include "mcp_lasting.h"
#include "mcp_sha256.h"
#include "mcp_store_url.h"

#define NEAR_SIZE (16 * 1024 * 1024) /* beside Redis: only what somebody waits for, and sessions */
#define DEFAULT_SIZE (64 * 1024 * 1024)
#define WRITER_BYTES (32 * 1024 * 1024)
#define WRITER_JOBS 10000
#define PROBE_TIMEOUT apr_time_from_msec(200)

/* In shared memory: what all children count, and know of the far store. */
typedef struct common_t {
    mcp_cache_meter_t meter;
    mcp_breaker_t breaker;
} common_t;

static struct {
    mcp_cache_env_t env;
    common_t *common;
    mcp_store_url_t url;
    mcp_redis_t *redis;
    server_rec *server;
} state;

const mcp_cache_env_t *mcp_cache_env(void)
{
    return &state.env;
}

int mcp_cache_store_is_up(void)
{
    return !mcp_breaker_is_open(&state.common->breaker);
}

/* Memory under a name that lasts as long as the parent process; made if it is not there. */
static void *lasting_memory(server_rec *s, const char *key, apr_size_t size, int *is_new)
{
    void *mem;
    apr_status_t rv = mcp_lasting_memory(&mem, is_new, key, size, s->process->pool);

    if (rv != APR_SUCCESS) {
        ap_log_error(APLOG_MARK, APLOG_EMERG, rv, s, MCP_LOGNO(4001)
                     "no shared memory of %" APR_SIZE_T_FMT " bytes could be had; is "
                     "MCPCacheStore shm:N too large for this machine?", size);
        return NULL;
    }
    return mem;
}

static int make_store(server_rec *s, apr_pool_t *ptemp)
{
    apr_size_t largest = (apr_size_t)mcp_cache_server_conf(MCP_CACHE_MAX_ENTRY);
    apr_size_t size = state.url.size ? (apr_size_t)state.url.size : DEFAULT_SIZE;
    const char *key;
    int is_new;
    void *mem;

    state.env.is_far = state.url.kind != MCP_STORE_SHM;
    size = state.env.is_far ? NEAR_SIZE : size;
    key = apr_psprintf(ptemp, "mcp_cache.store/2:%" APR_SIZE_T_FMT ":%" APR_SIZE_T_FMT, size,
                       largest);
    mem = lasting_memory(s, key, size, &is_new);
    if (!mem) {
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    state.env.near = is_new ? mcp_cache_shm_init(mem, size, largest)
                            : mcp_cache_shm_attach(mem, size);
    return state.env.near ? OK : HTTP_INTERNAL_SERVER_ERROR;
}

int mcp_cache_post_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    const apr_array_header_t *labels = mcp_cache_labels();
    const char *wrong;
    int is_new, i, status;
    void *mem;

    if (ap_state_query(AP_SQ_MAIN_STATE) == AP_SQ_MS_CREATE_PRE_CONFIG) {
        return OK;
    }
    mcp_sha256_prepare(pconf);
    wrong = mcp_store_url_parse(mcp_cache_store_text(), ap_server_root, &state.url, pconf);
    if (wrong) {
        ap_log_error(APLOG_MARK, APLOG_EMERG, 0, s, MCP_LOGNO(4002) "MCPCacheStore: %s", wrong);
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    status = make_store(s, ptemp);
    if (status != OK) {
        return status;
    }
    mem = lasting_memory(s, "mcp_cache.flights/1", mcp_cache_flight_size(), &is_new);
    state.common = lasting_memory(s, "mcp_cache.common/1", sizeof(common_t), &is_new);
    if (!mem || !state.common) {
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    state.env.flights = mcp_cache_flight_attach(mem);
    if (!state.env.flights) {
        state.env.flights = mcp_cache_flight_init(mem);
    }
    /* The store may be another one now: what was found out of the old one does not count. */
    memset(&state.common->breaker, 0, sizeof(state.common->breaker));
    mcp_cache_meter_use(&state.common->meter);
    for (i = 0; i < labels->nelts; i++) {
        state.env.counts[i] = mcp_cache_meter_counts(APR_ARRAY_IDX(labels, i, const char *));
    }
    return OK;
}

static void store_changed(void *baton, int up, const char *name, const char *why)
{
    if (up) {
        ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, state.server, MCP_LOGNO(4003)
                     "the cache's store %s answers again", name);
    } else {
        ap_log_error(APLOG_MARK, APLOG_WARNING, 0, state.server, MCP_LOGNO(4004)
                     "the cache's store %s does not answer (%s): every request is a miss until it "
                     "does", name, why);
    }
}

static void maintain(void *baton)
{
    if (state.redis) {
        mcp_redis_maintain(state.redis, PROBE_TIMEOUT);
    }
}

static mcp_cache_store_t *connect_far(apr_pool_t *p)
{
    mcp_redis_options_t options = {&state.common->breaker, store_changed, NULL};
    mcp_cache_redis_options_t store = {0};

    state.redis = mcp_redis_create(&state.url, &options, p);
    store.redis = state.redis;
    store.timeout = mcp_cache_server_conf(MCP_CACHE_TIMEOUT);
    store.measured = mcp_cache_meter_store;
    return mcp_cache_redis_store(&store, p);
}

void mcp_cache_child_init(apr_pool_t *pchild, server_rec *s)
{
    mcp_cache_writer_options_t options = {WRITER_BYTES, WRITER_JOBS, maintain, NULL};
    apr_pool_t *p = pchild;
    int is_threaded = 0;

    /* prefork destroys its pools in a signal handler, where nothing can be waited for: there what
     * the writer uses outlives them. */
    ap_mpm_query(AP_MPMQ_IS_THREADED, &is_threaded);
    if (is_threaded == AP_MPMQ_NOT_SUPPORTED
        && apr_pool_create_unmanaged_ex(&p, NULL, NULL) != APR_SUCCESS) {
        p = pchild;
    }
    state.server = s;
    state.env.near_store = mcp_cache_shm_store(state.env.near, p);
    state.env.store = state.env.is_far ? connect_far(p) : state.env.near_store;
    state.env.writer = mcp_cache_writer_create(
        &options, is_threaded != AP_MPMQ_NOT_SUPPORTED, pchild);
    if (!state.env.writer) {
        ap_log_error(APLOG_MARK, APLOG_ERR, 0, s, MCP_LOGNO(4005)
                     "no thread could be had to store results: this child stores none");
    }
}
