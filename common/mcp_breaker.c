/* SPDX-License-Identifier: Apache-2.0 */
/* The circuit breaker. No lock: each change is one compare-and-swap that one caller wins. */
#include "mcp_breaker.h"

int mcp_breaker_is_open(const mcp_breaker_t *breaker)
{
    return __atomic_load_n(&breaker->open, __ATOMIC_ACQUIRE) != 0;
}

static int change(mcp_breaker_t *breaker, apr_uint32_t from, apr_uint32_t to)
{
    return __atomic_compare_exchange_n(&breaker->open, &from, to, 0, __ATOMIC_ACQ_REL,
                                       __ATOMIC_ACQUIRE);
}

int mcp_breaker_success(mcp_breaker_t *breaker)
{
    /* The usual case only reads: the line of memory is shared by all processes. */
    if (__atomic_load_n(&breaker->failures, __ATOMIC_RELAXED)) {
        __atomic_store_n(&breaker->failures, 0, __ATOMIC_RELAXED);
    }
    return mcp_breaker_is_open(breaker) && change(breaker, 1, 0);
}

int mcp_breaker_failure(mcp_breaker_t *breaker, apr_time_t now, int hard)
{
    apr_uint32_t failures = __atomic_add_fetch(&breaker->failures, 1, __ATOMIC_RELAXED);

    if (!hard && failures < MCP_BREAKER_THRESHOLD) {
        return 0;
    }
    if (mcp_breaker_is_open(breaker)) {
        return 0;
    }
    __atomic_store_n(&breaker->probe_at, now + MCP_BREAKER_PROBE_EVERY, __ATOMIC_RELAXED);
    if (!change(breaker, 0, 1)) {
        return 0;
    }
    __atomic_store_n(&breaker->opened_at, now, __ATOMIC_RELAXED);
    return 1;
}

int mcp_breaker_claim_probe(mcp_breaker_t *breaker, apr_time_t now)
{
    apr_int64_t due = __atomic_load_n(&breaker->probe_at, __ATOMIC_RELAXED);

    return mcp_breaker_is_open(breaker) && due <= now
        && __atomic_compare_exchange_n(&breaker->probe_at, &due, now + MCP_BREAKER_PROBE_EVERY, 0,
                                       __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}
