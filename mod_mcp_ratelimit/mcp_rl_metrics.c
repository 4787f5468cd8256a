/* SPDX-License-Identifier: Apache-2.0 */
/* The counters in shared memory as samples. Never one per user. */
#include "mcp_rl_metrics.h"

#include <stdio.h>

static double load(const apr_uint64_t *counter)
{
    return (double)__atomic_load_n(counter, __ATOMIC_RELAXED);
}

static void write_decisions(const mcp_rl_counters_t *c, mcp_metrics_sink_t *sink)
{
    static const char *const words[MCP_RL_DECISIONS] = { "allowed", "refused", "dry_run" };
    char labels[80];
    int limit, decision;

    for (limit = 0; limit < MCP_RL_LIMITS; limit++) {
        for (decision = 0; decision < MCP_RL_DECISIONS; decision++) {
            snprintf(labels, sizeof(labels), "limit=\"%s\",decision=\"%s\"",
                     mcp_rl_limit_name((mcp_rl_limit_e)limit), words[decision]);
            sink->sample(sink, "mcp_limit_decisions_total", "counter",
                         "Decisions of mod_mcp_ratelimit.", "", labels,
                         load(&c->decisions[limit][decision]));
        }
    }
}

static void write_times(const mcp_rl_counters_t *c, mcp_metrics_sink_t *sink)
{
    static const char help[] = "Time that requests waited for a module's store.";
    static const char family[] = "mcp_store_seconds";
    char labels[80];
    double sum = 0;
    int i;

    for (i = 0; i < MCP_RL_TIME_BUCKETS; i++) {
        sum += load(&c->store_times[i]);
        if (i < MCP_RL_TIME_BUCKETS - 1) {
            snprintf(labels, sizeof(labels), "module=\"ratelimit\",le=\"%g\"",
                     (double)mcp_rl_time_bounds[i] / 1e6);
        }
        else {
            snprintf(labels, sizeof(labels), "module=\"ratelimit\",le=\"+Inf\"");
        }
        sink->sample(sink, family, "histogram", help, "_bucket", labels, sum);
    }
    sink->sample(sink, family, "histogram", help, "_sum", "module=\"ratelimit\"",
                 load(&c->store_usec) / 1e6);
    sink->sample(sink, family, "histogram", help, "_count", "module=\"ratelimit\"", sum);
}

void mcp_rl_metrics_write(const mcp_rl_store_t *store, mcp_metrics_sink_t *sink)
{
    const mcp_rl_counters_t *c = store->counters;

    write_decisions(c, sink);
    sink->sample(sink, "mcp_slots_in_use", "gauge", "Standing streams that hold a slot here.", "",
                 "", (double)mcp_rl_leases_in_use(store->leases));
    sink->sample(sink, "mcp_store_errors_total", "counter",
                 "Questions that a module's store did not answer.", "", "module=\"ratelimit\"",
                 load(&c->store_errors));
    write_times(c, sink);
}
