/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_CACHE_METRICS_H
#define MCP_CACHE_METRICS_H

#include <apr_errno.h>
#include <apr_time.h>

#include "mcp_cache.h"

/*
 * What all children of this httpd count, in shared memory that outlives a graceful restart: plain
 * atomic additions, so nothing is lost with a child. A pattern keeps its place by its text.
 */

#define MCP_CACHE_METER_BUCKETS 8 /* the last: everything longer */

typedef struct mcp_cache_counter_t {
    char pattern[120]; /* "": free, but for the first */
    apr_uint64_t counts[MCP_CACHE_RESULTS];
} mcp_cache_counter_t;

typedef struct mcp_cache_meter_t {
    mcp_cache_counter_t counters[2 * MCP_CACHE_MAX_RULES];
    apr_uint64_t errors;
    apr_uint64_t microseconds;
    apr_uint64_t buckets[MCP_CACHE_METER_BUCKETS];
} mcp_cache_meter_t;

/** post_config: from now on these. */
void mcp_cache_meter_use(mcp_cache_meter_t *meter);

/** The counters of a pattern; those of the first one where there is no more room. */
apr_uint64_t *mcp_cache_meter_counts(const char *pattern);

/** An operation on a far store has ended. Any thread. */
void mcp_cache_meter_store(void *baton, apr_status_t rv, apr_interval_time_t took);

/** Hand all samples to mod_mcp_proxy's mcp-metrics handler, if it is there. */
void mcp_cache_register_metrics(void);

#endif
