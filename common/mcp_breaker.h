/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_BREAKER_H
#define MCP_BREAKER_H

#include <apr.h>
#include <apr_time.h>

/*
 * A circuit breaker: after failures in a row nobody asks any more, but for one probe now and then.
 * It is plain memory, all zero at first, and may lie in shared memory: then all processes share
 * what one of them found out, and each change is seen by exactly one caller, who logs it.
 */

#define MCP_BREAKER_THRESHOLD 5
#define MCP_BREAKER_PROBE_EVERY (apr_time_from_msec(500))

typedef struct mcp_breaker_t {
    apr_uint32_t open;
    apr_uint32_t failures;  /* in a row */
    apr_int64_t probe_at;   /* mcp_clock_now() time of the next probe */
    apr_int64_t opened_at;
} mcp_breaker_t;

int mcp_breaker_is_open(const mcp_breaker_t *breaker);

/** @return whether this success closed it */
int mcp_breaker_success(mcp_breaker_t *breaker);

/**
 * @param hard whether there is no doubt (refused, wrong password): opens at once
 * @return whether this failure opened it
 */
int mcp_breaker_failure(mcp_breaker_t *breaker, apr_time_t now, int hard);

/** Whether the caller is to probe now; no two callers are told so for the same moment. */
int mcp_breaker_claim_probe(mcp_breaker_t *breaker, apr_time_t now);

#endif
