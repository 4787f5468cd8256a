/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The token bucket. Only an admission writes, so rounding down costs at most a millionth of a token
 * per token given out, and a client that keeps asking too early starves nobody, itself included.
 */
#include "mcp_rl_bucket.h"

#include <apr_lib.h>

/* A product of two of our 64-bit numbers does not fit into one. */
__extension__ typedef __int128 wide_t;

/* Some 30 years: as good as never, and far from where sums of times would overflow. */
#define LONGEST APR_INT64_C(1000000000000000)

static apr_int64_t saturate(wide_t v)
{
    return v > LONGEST ? LONGEST : (apr_int64_t)v;
}

/* a * b / c, rounded up by @a up = c - 1. Nearly always 64 bits do, and divide much faster. */
static apr_int64_t share(apr_int64_t a, apr_int64_t b, apr_int64_t c, apr_int64_t up)
{
    apr_int64_t sum;

    if (!__builtin_mul_overflow(a, b, &sum) && !__builtin_add_overflow(sum, up, &sum)) {
        return sum / c < LONGEST ? sum / c : LONGEST;
    }
    return saturate(((wide_t)a * b + up) / c);
}

/* The time in which @a micro come, rounded up, and a millionth more for rounding elsewhere. */
static apr_interval_time_t time_for(const mcp_rl_rule_t *rule, apr_int64_t micro)
{
    apr_int64_t unit = rule->amount * MCP_RL_MICRO;

    return micro <= 0 ? 0 : share(micro + 1, rule->period, unit, unit - 1) + 1;
}

static apr_int64_t micro_at(const mcp_rl_rule_t *rule, const mcp_rl_bucket_t *bucket,
                            apr_time_t now)
{
    apr_int64_t full = rule->burst * MCP_RL_MICRO;
    apr_int64_t micro = bucket->micro;
    apr_interval_time_t elapsed = now - bucket->last;

    if (!bucket->last) {
        return full;
    }
    if (elapsed > 0) {
        micro += share(elapsed, rule->amount * MCP_RL_MICRO, rule->period, 0);
    }
    return micro < full ? micro : full;
}

static apr_interval_time_t wait_for(const mcp_rl_rule_t *rule, apr_int64_t micro,
                                    apr_int64_t cost)
{
    /* What is more than the bucket holds never passes; a full bucket is as good as it gets. */
    apr_int64_t need = (cost < rule->burst ? cost : rule->burst) * MCP_RL_MICRO;

    return time_for(rule, need - micro);
}

void mcp_rl_bucket_judge(const mcp_rl_rule_t *rule, const mcp_rl_bucket_t *bucket,
                         apr_int64_t cost, apr_time_t now, mcp_rl_verdict_t *verdict)
{
    apr_int64_t micro = micro_at(rule, bucket, now);
    apr_int64_t left = micro;

    verdict->allowed = cost <= rule->burst && micro >= cost * MCP_RL_MICRO;
    if (verdict->allowed) {
        left -= cost * MCP_RL_MICRO;
        verdict->wait = 0;
    }
    else {
        verdict->wait = wait_for(rule, micro, cost);
        if (verdict->wait == 0) {
            verdict->wait = 1;
        }
    }
    verdict->remaining = left / MCP_RL_MICRO;
    verdict->wait_one = wait_for(rule, left, 1);
    verdict->reset = time_for(rule, rule->burst * MCP_RL_MICRO - left);
}

void mcp_rl_bucket_take(const mcp_rl_rule_t *rule, mcp_rl_bucket_t *bucket, apr_int64_t cost,
                        apr_time_t now)
{
    bucket->micro = micro_at(rule, bucket, now) - cost * MCP_RL_MICRO;
    if (bucket->last < now) {
        bucket->last = now;
    }
}
