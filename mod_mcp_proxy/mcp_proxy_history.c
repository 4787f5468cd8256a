/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A reader takes what was written before it looked, without the oldest point, which may be being
 * overwritten.
 */
#include "mcp_proxy_history.h"

#include <string.h>

/* A step that is shorter would show noise. */
#define SHORTEST apr_time_from_sec(1)

static void take(mcp_history_point_t *point, const mcp_shared_t *shared, apr_time_t when)
{
    apr_int64_t streams = mcp_shared_get(shared, MCP_SHARED_STREAMS);

    point->when = when;
    point->requests = mcp_shared_all_requests(shared);
    point->streams = streams > 0 ? (apr_uint64_t)streams : 0;
    mcp_shared_times(shared, MCP_SHARED_EVENT_TIME, &point->events);
}

void mcp_history_add(mcp_history_t *history, const mcp_shared_t *shared, apr_time_t when)
{
    take(&history->points[history->written % MCP_HISTORY_POINTS], shared, when);
    __atomic_store_n(&history->written, history->written + 1, __ATOMIC_RELEASE);
}

double mcp_history_quantile(const mcp_shared_times_t *times, mcp_shared_time_e which,
                            double share)
{
    const apr_interval_time_t *bounds = mcp_shared_bounds[which];
    double all = 0, wanted, before = 0;
    int i;

    for (i = 0; i < MCP_SHARED_BUCKETS; i++) {
        all += (double)times->count[i];
    }
    if (all <= 0) {
        return -1;
    }
    wanted = share * all;
    for (i = 0; i < MCP_SHARED_BUCKETS - 1; i++) {
        double here = (double)times->count[i], low = i ? (double)bounds[i - 1] : 0;

        if (here > 0 && before + here >= wanted) {
            return low + ((double)bounds[i] - low) * (wanted - before) / here;
        }
        before += here;
    }
    return (double)bounds[MCP_SHARED_BUCKETS - 2];
}

static void step_between(const mcp_history_point_t *from, const mcp_history_point_t *to,
                         mcp_history_step_t *step)
{
    mcp_shared_times_t events;
    int i;

    for (i = 0; i < MCP_SHARED_BUCKETS; i++) {
        events.count[i] = to->events.count[i] - from->events.count[i];
    }
    events.sum = to->events.sum - from->events.sum;
    step->when = to->when;
    step->streams = (double)to->streams;
    step->calls = (double)(to->requests - from->requests) * APR_USEC_PER_SEC
        / (double)(to->when - from->when);
    step->median_ms = mcp_history_quantile(&events, MCP_SHARED_EVENT_TIME, 0.5) / 1000;
    step->worst_ms = mcp_history_quantile(&events, MCP_SHARED_EVENT_TIME, 0.99) / 1000;
}

unsigned mcp_history_read(const mcp_history_t *history, const mcp_shared_t *shared,
                          apr_time_t now, mcp_history_step_t *steps)
{
    apr_uint64_t written = __atomic_load_n(&history->written, __ATOMIC_ACQUIRE);
    apr_uint64_t most = MCP_HISTORY_POINTS - 1, i = written > most ? written - most : 0;
    mcp_history_point_t before, point;
    unsigned count = 0;

    if (!written) {
        return 0;
    }
    for (before = history->points[i++ % MCP_HISTORY_POINTS]; i <= written; i++) {
        if (i < written) {
            point = history->points[i % MCP_HISTORY_POINTS];
        }
        else {
            take(&point, shared, now);
        }
        if (point.when - before.when >= SHORTEST) {
            step_between(&before, &point, &steps[count++]);
            before = point;
        }
    }
    return count;
}
