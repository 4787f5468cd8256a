/* SPDX-License-Identifier: Apache-2.0 */
/* Fixed windows and sliding logs. What is refused is not counted, or it would never end. */
#include "mcp_rl_window.h"

#include <string.h>

static apr_int64_t fixed_count(const mcp_rl_rule_t *rule, const mcp_rl_fixed_t *window,
                               apr_time_t now, apr_interval_time_t *left)
{
    if (window->until <= now) {
        *left = rule->period;
        return 0;
    }
    *left = window->until - now;
    return window->count;
}

void mcp_rl_fixed_judge(const mcp_rl_rule_t *rule, const mcp_rl_fixed_t *window,
                        mcp_rl_mode_e mode, apr_int64_t cost, apr_time_t now,
                        mcp_rl_verdict_t *verdict)
{
    apr_interval_time_t left;
    apr_int64_t count = fixed_count(rule, window, now, &left);
    apr_int64_t wanted = cost > 0 ? cost : 1;
    int blocked = count > rule->amount;

    verdict->reset = left;
    verdict->allowed = mode == MCP_RL_RECORD || (!blocked && wanted <= rule->amount - count);
    if (!verdict->allowed && !blocked && rule->block > 0) {
        left = rule->block;
        count = rule->amount;
    }
    if (verdict->allowed && mode != MCP_RL_LOOK) {
        count += wanted;
        if (mode == MCP_RL_RECORD && !blocked && count >= rule->amount && rule->block > 0) {
            left = rule->block;
        }
    }
    verdict->reset = left;
    verdict->remaining = count < rule->amount ? rule->amount - count : 0;
    verdict->wait = verdict->allowed ? 0 : left;
    verdict->wait_one = verdict->remaining > 0 ? 0 : left;
}

void mcp_rl_fixed_take(const mcp_rl_rule_t *rule, mcp_rl_fixed_t *window, mcp_rl_mode_e mode,
                       apr_int64_t cost, apr_time_t now)
{
    apr_interval_time_t left;
    apr_int64_t count = fixed_count(rule, window, now, &left);

    if (mode == MCP_RL_LOOK || count > rule->amount) {
        return;
    }
    window->count = count + (cost > 0 ? cost : 1);
    window->until = now + left;
    if (mode == MCP_RL_RECORD && window->count >= rule->amount) {
        mcp_rl_fixed_refuse(rule, window, now);
    }
}

void mcp_rl_fixed_refuse(const mcp_rl_rule_t *rule, mcp_rl_fixed_t *window, apr_time_t now)
{
    if (rule->block > 0 && !(window->until > now && window->count > rule->amount)) {
        window->count = rule->amount + 1;
        window->until = now + rule->block;
    }
}

/* The first run that still counts. */
static apr_uint32_t first_live(const mcp_rl_rule_t *rule, const mcp_rl_sliding_t *log,
                               apr_time_t now)
{
    apr_uint32_t i = 0;

    while (i < log->used && log->runs[i].at <= now - rule->period) {
        i++;
    }
    return i;
}

/* How long until no more than @a most of what is logged counts. */
static apr_interval_time_t sliding_wait(const mcp_rl_rule_t *rule, const mcp_rl_sliding_t *log,
                                        apr_uint32_t first, apr_int64_t total, apr_int64_t most,
                                        apr_time_t now)
{
    apr_uint32_t i;

    for (i = first; i < log->used && total > most; i++) {
        total -= log->runs[i].count;
        if (total <= most) {
            return log->runs[i].at + rule->period - now;
        }
    }
    return 0;
}

void mcp_rl_sliding_judge(const mcp_rl_rule_t *rule, const mcp_rl_sliding_t *log,
                          apr_int64_t cost, apr_time_t now, mcp_rl_verdict_t *verdict)
{
    apr_uint32_t first = first_live(rule, log, now), i;
    apr_int64_t total = 0, most;

    memset(verdict, 0, sizeof(*verdict));
    for (i = first; i < log->used; i++) {
        total += log->runs[i].count;
    }
    verdict->reset = first < log->used ? log->runs[log->used - 1].at + rule->period - now : 0;
    if (log->blocked_until > now) {
        verdict->wait = verdict->wait_one = verdict->reset = log->blocked_until - now;
        return;
    }
    verdict->allowed = total + cost <= rule->amount;
    if (verdict->allowed) {
        verdict->remaining = rule->amount - total - cost;
        verdict->reset = rule->period;
        verdict->wait_one = verdict->remaining > 0 ? 0
            : first < log->used ? log->runs[first].at + rule->period - now : rule->period;
        return;
    }
    if (rule->block > 0) {
        verdict->wait = verdict->wait_one = rule->block;
        if (verdict->reset < rule->block) {
            verdict->reset = rule->block;
        }
        return;
    }
    most = cost < rule->amount ? rule->amount - cost : 0;
    verdict->remaining = total < rule->amount ? rule->amount - total : 0;
    verdict->wait = sliding_wait(rule, log, first, total, most, now);
    verdict->wait_one = sliding_wait(rule, log, first, total, rule->amount - 1, now);
    if (verdict->wait == 0) {
        verdict->wait = rule->period; /* more than the window holds: never */
    }
}

static void merge_closest(mcp_rl_sliding_t *log)
{
    apr_uint32_t best = 0, i;

    for (i = 1; i + 1 < log->used; i++) {
        if (log->runs[i + 1].at - log->runs[i].at < log->runs[best + 1].at - log->runs[best].at) {
            best = i;
        }
    }
    log->runs[best].at = log->runs[best + 1].at;
    log->runs[best].count += log->runs[best + 1].count;
    memmove(&log->runs[best + 1], &log->runs[best + 2],
            (log->used - best - 2) * sizeof(log->runs[0]));
    log->used--;
}

void mcp_rl_sliding_take(const mcp_rl_rule_t *rule, mcp_rl_sliding_t *log, apr_int64_t cost,
                         apr_time_t now)
{
    apr_uint32_t first = first_live(rule, log, now);

    memmove(log->runs, log->runs + first, (log->used - first) * sizeof(log->runs[0]));
    log->used -= first;
    if (log->used == MCP_RL_RUNS) {
        merge_closest(log);
    }
    log->runs[log->used].at = now;
    log->runs[log->used].count = (apr_uint32_t)cost;
    log->used++;
}

void mcp_rl_sliding_refuse(const mcp_rl_rule_t *rule, mcp_rl_sliding_t *log, apr_time_t now)
{
    if (rule->block > 0 && log->blocked_until <= now) {
        log->blocked_until = now + rule->block;
    }
}
