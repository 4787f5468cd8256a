/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What httpd's own pages show: a section in mod_status, and the Busy column of balancer-manager.
 * mod_proxy_balancer counts a member's requests with plain additions in shared memory, so that a
 * killed child's share stays and simultaneous ones get lost. This module's own count of what is in
 * flight is exact; the parent takes the difference off.
 */
#include "mcp_proxy.h"

#include <http_core.h>
#include <http_protocol.h>
#include <mod_status.h>
#include <scoreboard.h>

/* How far busy was off when the parent looked last, by slot. */
static apr_int64_t last_excess[MCP_SHARED_MEMBERS];

static void correct(proxy_worker_shared *s, apr_int64_t excess)
{
    apr_int64_t busy = (apr_int64_t)s->busy - excess;

    s->busy = busy > 0 ? (apr_size_t)busy : 0;
}

void mcp_proxy_forget_busy(server_rec *s, const apr_int32_t *held)
{
    apr_pool_t *p;
    apr_array_header_t *members;
    int i;

    if (apr_pool_create(&p, s->process->pconf) != APR_SUCCESS) {
        return;
    }
    members = mcp_proxy_members(p);
    for (i = 0; i < members->nelts; i++) {
        const mcp_member_t *member = &APR_ARRAY_IDX(members, i, mcp_member_t);

        if (*member->balancer && member->slot >= 0) {
            correct(member->worker->s, held[member->slot]);
        }
    }
    apr_pool_destroy(p);
}

/* What is off now and was off ten seconds ago is no request that is just between two counters. */
static apr_int64_t lasting(apr_int64_t before, apr_int64_t now)
{
    if ((before > 0) != (now > 0)) {
        return 0;
    }
    return (before > now) == (now > 0) ? now : before;
}

static void mend(const apr_array_header_t *members)
{
    int i;

    for (i = 0; i < members->nelts; i++) {
        const mcp_member_t *member = &APR_ARRAY_IDX(members, i, mcp_member_t);
        apr_int64_t excess, off;

        if (!*member->balancer || member->slot < 0) {
            continue;
        }
        excess = (apr_int64_t)member->worker->s->busy
            - mcp_shared_load(mcp_proxy_shared(), member->slot);
        off = lasting(last_excess[member->slot], excess);
        correct(member->worker->s, off);
        last_excess[member->slot] = excess - off;
    }
}

void mcp_proxy_mend_busy(server_rec *s)
{
    apr_pool_t *p;

    /* The parent lives long: nothing of this stays. */
    if (apr_pool_create(&p, s->process->pconf) == APR_SUCCESS) {
        mend(mcp_proxy_members(p));
        apr_pool_destroy(p);
    }
}

static unsigned suspended_connections(void)
{
    unsigned sum = 0;
    int i, limit = 0;

    ap_mpm_query(AP_MPMQ_HARD_LIMIT_DAEMONS, &limit);
    for (i = 0; i < limit; i++) {
        const process_score *process = ap_get_scoreboard_process(i);

        sum += process && process->pid ? process->suspended : 0;
    }
    return sum;
}

int mcp_proxy_status_hook(request_rec *r, int flags)
{
    mcp_shared_t *shared = mcp_proxy_shared();
    apr_int64_t open = mcp_shared_get(shared, MCP_SHARED_STREAMS);
    apr_int64_t opened = mcp_shared_get(shared, MCP_SHARED_STREAMS_TOTAL);
    apr_uint64_t requests = mcp_shared_all_requests(shared);
    unsigned suspended = suspended_connections();

    if (flags & AP_STATUS_SHORT) {
        ap_rprintf(r, "MCPStreams: %" APR_INT64_T_FMT "\nMCPStreamsTotal: %" APR_INT64_T_FMT
                   "\nMCPRequests: %" APR_UINT64_T_FMT "\nConnsAsyncSuspended: %u\n", open, opened,
                   requests, suspended);
        return OK;
    }
    ap_rprintf(r, "<hr />\n<h2>MCP gateway</h2>\n<dl><dt>%" APR_INT64_T_FMT " event streams open, %"
               APR_INT64_T_FMT " opened so far; %" APR_UINT64_T_FMT " requests answered</dt>\n"
               "<dt>%u connections that hold no thread (suspended)</dt></dl>\n", open, opened,
               requests, suspended);
    return OK;
}
