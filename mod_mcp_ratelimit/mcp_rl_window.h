/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_RL_WINDOW_H
#define MCP_RL_WINDOW_H

#include "mcp_rl_rule.h"

/*
 * Windows. A fixed one starts with the first request and may let 2 N pass around its edge; a
 * sliding one never lets more than N pass in any stretch of its length. Either may block for a time
 * once it is hit. Pure functions: no clock, no lock.
 */

typedef struct mcp_rl_fixed_t {
    apr_int64_t count; /* more than rule->amount: blocked, or out of requests, until `until` */
    apr_time_t until;
} mcp_rl_fixed_t;

/** Zero cost is read as 1. Writes nothing. */
void mcp_rl_fixed_judge(const mcp_rl_rule_t *rule, const mcp_rl_fixed_t *window,
                        mcp_rl_mode_e mode, apr_int64_t cost, apr_time_t now,
                        mcp_rl_verdict_t *verdict);

/** All rules allowed the request: charge it. MCP_RL_LOOK charges nothing. */
void mcp_rl_fixed_take(const mcp_rl_rule_t *rule, mcp_rl_fixed_t *window, mcp_rl_mode_e mode,
                       apr_int64_t cost, apr_time_t now);

/** This rule refused: a block begins, where one is configured and none runs. */
void mcp_rl_fixed_refuse(const mcp_rl_rule_t *rule, mcp_rl_fixed_t *window, apr_time_t now);

/* With up to this many different times the log is exact; then neighbours are merged, the later time
 * counting for both: a request is forgotten too late, never too early. */
#define MCP_RL_RUNS 16

typedef struct mcp_rl_run_t {
    apr_time_t at;
    apr_uint32_t count;
} mcp_rl_run_t;

typedef struct mcp_rl_sliding_t {
    apr_time_t blocked_until;
    apr_uint32_t used;
    mcp_rl_run_t runs[MCP_RL_RUNS]; /* oldest first */
} mcp_rl_sliding_t;

void mcp_rl_sliding_judge(const mcp_rl_rule_t *rule, const mcp_rl_sliding_t *log,
                          apr_int64_t cost, apr_time_t now, mcp_rl_verdict_t *verdict);
void mcp_rl_sliding_take(const mcp_rl_rule_t *rule, mcp_rl_sliding_t *log, apr_int64_t cost,
                         apr_time_t now);
void mcp_rl_sliding_refuse(const mcp_rl_rule_t *rule, mcp_rl_sliding_t *log, apr_time_t now);

#endif
