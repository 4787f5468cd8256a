/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mod_mcp_ratelimit: limits on standing streams, messages and tools, exact across gateways. This
 * file is the table of contents: which hook runs what, and why there.
 */
#include "mcp_rl_advice.h"
#include "mcp_rl_check.h"

#include <ap_mpm.h>
#include <apr_strings.h>
#include <http_log.h>
#include <http_protocol.h>
#include <http_request.h>
#include <mpm_common.h>

#include "mcp_httpd_peers.h"
#include "mcp_httpd_request.h"
#include "mcp_rl_metrics.h"
#include "mcp_rl_recall.h"
#include "mcp_sha256.h"

#define DEFAULT_ENTRIES 65536

static int pre_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp)
{
    mcp_rl_config_reset(pconf);
    mcp_rl_process = NULL;
    return OK;
}

static int post_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    const mcp_store_url_t *url = mcp_rl_store_url();
    apr_int64_t entries = url->kind == MCP_STORE_SHM && url->size ? url->size : DEFAULT_ENTRIES;
    mcp_rl_process_t *process = apr_pcalloc(pconf, sizeof(*process));
    apr_status_t rv = mcp_rl_shared_open(&process->shared, entries, url->name, s->process->pool,
                                         pconf);

    if (rv != APR_SUCCESS) {
        ap_log_error(APLOG_MARK, APLOG_CRIT, rv, s, MCP_LOGNO(3001)
                     "no shared memory for the limits");
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    mcp_sha256_prepare(pconf);
    process->server = s;
    process->store.shm = process->shared->shm;
    process->store.leases = process->shared->leases;
    process->store.deny = process->shared->deny;
    process->store.purses = process->shared->purses;
    process->store.counters = process->shared->counters;
    process->store.timeout = mcp_rl_server_number(MCP_RL_TIMEOUT);
    mcp_rl_process = process;
    return OK;
}

static void log_store(void *baton, int is_error, const char *text)
{
    mcp_rl_process_t *process = baton;

    ap_log_error(APLOG_MARK, is_error ? APLOG_ERR : APLOG_INFO, 0, process->server,
                 MCP_LOGNO(3004) "%s", text);
}

/* Once per change, of all children together. */
static void log_change(void *baton, int up, const char *name, const char *why)
{
    mcp_rl_process_t *process = baton;

    if (up) {
        ap_log_error(APLOG_MARK, APLOG_WARNING, 0, process->server, MCP_LOGNO(3003)
                     "store %s answers again", name);
    }
    else {
        ap_log_error(APLOG_MARK, APLOG_ERR, 0, process->server, MCP_LOGNO(3002)
                     "store %s cannot be used (%s): MCPRateLimitOnError decides until it can", name,
                     why);
    }
}

static void child_init(apr_pool_t *pchild, server_rec *s)
{
    apr_pool_t *p = pchild;
    mcp_rl_process_t *process = mcp_rl_process;
    const mcp_store_url_t *url = mcp_rl_store_url();
    mcp_redis_options_t options = { .changed = log_change, .baton = process };
    int is_threaded = 0;
    apr_status_t rv;

    if (!process) {
        return;
    }
    /* prefork destroys its pools in a signal handler, where nothing can be waited for: there the
     * thread's memory outlives them. */
    ap_mpm_query(AP_MPMQ_IS_THREADED, &is_threaded);
    if (is_threaded == AP_MPMQ_NOT_SUPPORTED
        && apr_pool_create_unmanaged_ex(&p, NULL, NULL) != APR_SUCCESS) {
        return;
    }
    process->store.pid = getpid();
    process->store.log = log_store;
    process->store.baton = process;
    if (url->kind != MCP_STORE_SHM) {
        options.breaker = process->shared->breaker;
        process->redis.epoch = process->shared->epoch;
        process->redis.lease = mcp_rl_server_number(MCP_RL_LEASE);
        process->redis.instance = apr_psprintf(p, "%d-%" APR_TIME_T_FMT, (int)getpid(),
                                               apr_time_now());
        process->redis.client = mcp_redis_create(url, &options, p);
        mcp_rl_redis_init(&process->redis, p);
        process->store.redis = &process->redis;
    }
    rv = mcp_rl_keeper_start(&process->keeper, &process->store,
                              is_threaded != AP_MPMQ_NOT_SUPPORTED, pchild);
    if (rv != APR_SUCCESS) {
        ap_log_error(APLOG_MARK, APLOG_CRIT, rv, s, MCP_LOGNO(3005)
                     "no thread for the keeper: slots would not be given back");
    }
    if (process->store.redis) {
        rv = mcp_rl_recall_start(&process->store, is_threaded != AP_MPMQ_NOT_SUPPORTED, pchild);
        if (rv != APR_SUCCESS) {
            ap_log_error(APLOG_MARK, APLOG_WARNING, rv, s, MCP_LOGNO(3006)
                         "no thread to listen to recalls: Redis lends nothing from small buckets");
        }
    }
}

/* Memory only: the parent does not talk to Redis. */
static void child_status(server_rec *s, pid_t pid, ap_generation_t generation, int slot,
                         mpm_child_status status)
{
    if (status == MPM_CHILD_EXITED && mcp_rl_process) {
        mcp_rl_lease_child_died(mcp_rl_process->store.leases, pid);
    }
}

static int metrics(request_rec *r, mcp_metrics_sink_t *sink)
{
    if (mcp_rl_process) {
        mcp_rl_metrics_write(&mcp_rl_process->store, sink);
        sink->sample(sink, "mcp_store_up", "gauge", "Whether a module's store is being asked.", "",
                     "module=\"ratelimit\"", !mcp_breaker_is_open(mcp_rl_process->shared->breaker));
    }
    return OK;
}

static void register_hooks(apr_pool_t *p)
{
    static const char *const after_proxy[] = { "mod_mcp_proxy.c", "mod_env.c", "mod_setenvif.c",
                                               NULL };
    static const char *const before_cache[] = { "mod_mcp_cache.c", NULL };

    mcp_request_register(p, "MCP_RATELIMIT_BODY");
    mcp_rl_filter_register();

    ap_hook_pre_config(pre_config, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_check_config(mcp_rl_check_config, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_post_config(post_config, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_child_init(child_init, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_child_status(child_status, NULL, NULL, APR_HOOK_MIDDLE);
    /* The first hook that knows the location; authentication comes later. */
    ap_hook_header_parser(mcp_rl_check_address, NULL, NULL, APR_HOOK_FIRST);
    /*
     * Behind mod_mcp_proxy, which reads the body without holding a thread, and ahead of
     * mod_mcp_cache, whose hits count, too. Handlers that contact a backend come later.
     */
    ap_hook_fixups(mcp_rl_check_request, after_proxy, before_cache, APR_HOOK_FIRST);
    ap_hook_insert_error_filter(mcp_rl_check_error, NULL, NULL, APR_HOOK_FIRST);
    ap_hook_log_transaction(mcp_rl_check_log, NULL, NULL, APR_HOOK_FIRST);
    APR_OPTIONAL_HOOK(mcp, metrics, metrics, NULL, NULL, APR_HOOK_MIDDLE);
}

module AP_MODULE_DECLARE_DATA mcp_ratelimit_module = {
    STANDARD20_MODULE_STUFF,
    mcp_rl_create_dir_config,
    mcp_rl_merge_dir_config,
    NULL,
    NULL,
    mcp_rl_commands,
    register_hooks,
    AP_MODULE_FLAG_NONE
};
