/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For peers that would answer instead of a backend: may the session of a request still be used? As
 * pre_request would judge it, but nothing is elected, forgotten or counted.
 */
#include "mcp_proxy.h"

int mcp_proxy_session_lives(request_rec *r)
{
    const mcp_proxy_request_t *q = mcp_proxy_request(r);
    const proxy_worker *member;

    if (!q->balancer || !q->session) {
        return -1;
    }
    if (q->found != APR_SUCCESS) {
        return q->found == APR_EACCES ? 0 : -1;
    }
    member = mcp_proxy_session_member(q);
    return member && !PROXY_WORKER_IS(member, PROXY_WORKER_DISABLED)
        && !PROXY_WORKER_IS(member, PROXY_WORKER_STOPPED);
}
