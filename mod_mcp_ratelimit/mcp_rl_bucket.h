/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_RL_BUCKET_H
#define MCP_RL_BUCKET_H

#include "mcp_rl_rule.h"

/*
 * A token bucket: rule->amount tokens come per rule->period, and rule->burst is what it holds. All
 * arithmetic is in whole millionths of a token, rounded down, so that in any time t no more than
 * burst + t * amount / period is ever given out. Pure functions: no clock, no lock.
 */

#define MCP_RL_MICRO APR_INT64_C(1000000)

typedef struct mcp_rl_bucket_t {
    apr_int64_t micro; /* tokens, in millionths, at last */
    apr_time_t last;   /* 0: never used, so full */
} mcp_rl_bucket_t;

void mcp_rl_bucket_judge(const mcp_rl_rule_t *rule, const mcp_rl_bucket_t *bucket,
                         apr_int64_t cost, apr_time_t now, mcp_rl_verdict_t *verdict);

/** After a verdict that allowed it, at the same @a now. */
void mcp_rl_bucket_take(const mcp_rl_rule_t *rule, mcp_rl_bucket_t *bucket, apr_int64_t cost,
                        apr_time_t now);

#endif
