/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_PROXY_HISTORY_H
#define MCP_PROXY_HISTORY_H

#include "mcp_proxy_shared.h"

/*
 * What the counters were in the last minutes: a ring in shared memory. One process adds to it, and
 * any reads. All zero is an empty one.
 */

#define MCP_HISTORY_POINTS 96

typedef struct mcp_history_point_t {
    apr_time_t when;         /* time of day, microseconds */
    apr_uint64_t requests;   /* counters, as they stood then */
    mcp_shared_times_t events;
    apr_uint64_t streams;    /* open then */
} mcp_history_point_t;

typedef struct mcp_history_t {
    apr_uint64_t written;
    mcp_history_point_t points[MCP_HISTORY_POINTS];
} mcp_history_t;

/** What lies between two points. Milliseconds are negative where there were no events. */
typedef struct mcp_history_step_t {
    apr_time_t when;    /* its end */
    double streams;     /* at its end */
    double calls;       /* a second */
    double median_ms, worst_ms; /* of event delays: half, and 99 of 100, were no longer */
} mcp_history_step_t;

/** The process that writes: what stands in the counters now. */
void mcp_history_add(mcp_history_t *history, const mcp_shared_t *shared, apr_time_t when);

/**
 * The steps that are known, oldest first, with one that goes up to now.
 * @param steps room for MCP_HISTORY_POINTS
 * @return how many there are
 */
unsigned mcp_history_read(const mcp_history_t *history, const mcp_shared_t *shared,
                          apr_time_t now, mcp_history_step_t *steps);

/**
 * Where in the range of its values this share of what was timed ends, in microseconds; within a
 * bucket, as if it were evenly filled. Negative if nothing was timed.
 */
double mcp_history_quantile(const mcp_shared_times_t *times, mcp_shared_time_e which,
                            double share);

#endif
