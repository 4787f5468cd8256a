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
#include <unistd.h>

#include "mcp_httpd_park.h"
#include "mcp_lasting.h"
#include "mcp_proxy_backend.h"

#define SHARED_KEY "mcp_proxy.shared/1"
#define SESSIONS_KEY "mcp_proxy.sessions/1"

static struct {
    mcp_shared_t *shared;
    mcp_session_table_t *sessions;
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
    return OK;
}

void mcp_proxy_child_init(apr_pool_t *p, server_rec *s)
{
    int threads = 1;

    state.row = mcp_shared_claim(state.shared, getpid());
    ap_mpm_query(AP_MPMQ_MAX_THREADS, &threads);
    mcp_backend_init(p, threads);
}

void mcp_proxy_child_status(server_rec *s, pid_t pid, ap_generation_t gen, int slot,
                            mpm_child_status status)
{
    if (status == MPM_CHILD_EXITED && state.shared) {
        mcp_shared_bury(state.shared, pid);
    }
}

mcp_session_table_t *mcp_proxy_sessions(void)
{
    return state.sessions;
}

mcp_shared_t *mcp_proxy_shared(void)
{
    return state.shared;
}

int mcp_proxy_row(void)
{
    return state.row;
}
