/* SPDX-License-Identifier: Apache-2.0 */
/* Counting, and handing out what was counted (interface.md, Metrics). Never a user, never a key. */
#include "mcp_cache_metrics.h"

#include <apr_strings.h>

#include "mcp_httpd_peers.h"

static const apr_interval_time_t limits[MCP_CACHE_METER_BUCKETS - 1] = {100, 250, 1000, 2500,
                                                                        10000, 25000, 100000};

static mcp_cache_meter_t *meter;

void mcp_cache_meter_use(mcp_cache_meter_t *use)
{
    meter = use;
}

apr_uint64_t *mcp_cache_meter_counts(const char *pattern)
{
    int i;

    for (i = 1; *pattern && i < 2 * MCP_CACHE_MAX_RULES; i++) {
        mcp_cache_counter_t *c = &meter->counters[i];

        if (!*c->pattern) {
            apr_cpystrn(c->pattern, pattern, sizeof(c->pattern));
        }
        if (!strncmp(c->pattern, pattern, sizeof(c->pattern) - 1)) {
            return c->counts;
        }
    }
    return meter->counters[0].counts;
}

void mcp_cache_meter_store(void *baton, apr_status_t rv, apr_interval_time_t took)
{
    int i;

    if (rv != APR_SUCCESS) {
        __atomic_fetch_add(&meter->errors, 1, __ATOMIC_RELAXED);
    }
    for (i = 0; i < MCP_CACHE_METER_BUCKETS - 1 && took > limits[i]; i++);
    __atomic_fetch_add(&meter->buckets[i], 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&meter->microseconds, (apr_uint64_t)took, __ATOMIC_RELAXED);
}

/* Prometheus text: backslash, quote and line end are escaped in label values. */
static const char *quoted(const char *text, apr_pool_t *p)
{
    char *copy = apr_palloc(p, 2 * strlen(text) + 1), *to = copy;

    for (; *text; text++) {
        if (*text == '\\' || *text == '"' || *text == '\n') {
            *to++ = '\\';
        }
        *to++ = *text == '\n' ? 'n' : *text;
    }
    *to = '\0';
    return copy;
}

static double load(const apr_uint64_t *value)
{
    return (double)__atomic_load_n(value, __ATOMIC_RELAXED);
}

static void tell_requests(request_rec *r, mcp_metrics_sink_t *sink)
{
    static const char *const results[] = {"bypass", "hit", "miss", "stale"};
    int i, j;

    for (i = 0; i < 2 * MCP_CACHE_MAX_RULES; i++) {
        const mcp_cache_counter_t *c = &meter->counters[i];
        const char *tool = i ? quoted(c->pattern, r->pool) : "other";

        for (j = 0; (!i || *c->pattern) && j < MCP_CACHE_RESULTS; j++) {
            sink->sample(sink, "mcp_cache_requests_total", "counter",
                         "POSTs where the cache is configured, by pattern and what became of them",
                         "", apr_psprintf(r->pool, "tool=\"%s\",result=\"%s\"", tool, results[j]),
                         load(&c->counts[j]));
        }
    }
}

static void tell_store(request_rec *r, mcp_metrics_sink_t *sink)
{
    static const char family[] = "mcp_store_seconds", help[] = "time of one call of a store";
    double sum = 0;
    int i;

    for (i = 0; i < MCP_CACHE_METER_BUCKETS; i++) {
        char limit[32] = "+Inf";

        /* The C library's: APR's %g has no nought before the point. */
        if (i < MCP_CACHE_METER_BUCKETS - 1) {
            snprintf(limit, sizeof(limit), "%g", (double)limits[i] / 1e6);
        }
        sum += load(&meter->buckets[i]);
        sink->sample(sink, family, "histogram", help, "_bucket",
                     apr_psprintf(r->pool, "module=\"cache\",le=\"%s\"", limit), sum);
    }
    sink->sample(sink, family, "histogram", help, "_sum", "module=\"cache\"",
                 load(&meter->microseconds) / 1e6);
    sink->sample(sink, family, "histogram", help, "_count", "module=\"cache\"", sum);
    sink->sample(sink, "mcp_store_errors_total", "counter", "calls of a store that failed", "",
                 "module=\"cache\"", load(&meter->errors));
    sink->sample(sink, "mcp_store_up", "gauge", "Whether a module's store is being asked.", "",
                 "module=\"cache\"", mcp_cache_store_is_up());
}

static int tell(request_rec *r, mcp_metrics_sink_t *sink)
{
    tell_requests(r, sink);
    tell_store(r, sink);
    return OK;
}

void mcp_cache_register_metrics(void)
{
    APR_OPTIONAL_HOOK(mcp, metrics, tell, NULL, NULL, APR_HOOK_MIDDLE);
}
