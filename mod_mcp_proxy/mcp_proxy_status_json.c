/* SPDX-License-Identifier: Apache-2.0 */
/* The picture for programs. Names stay; what is added later comes beside them. */
#include "mcp_proxy_status.h"

#include <apr_strings.h>
#include <http_protocol.h>
#include <math.h>

#include "mcp_rpc.h"

static void put_text(const mcp_status_t *status, const char *before, const char *text)
{
    ap_rvputs(status->r, before, text ? mcp_rpc_quote(text, status->r->pool) : "null", NULL);
}

/* No %g: APR's has no nought before the point, which JSON wants. */
static void put_number(const mcp_status_t *status, const char *before, double number)
{
    ap_rputs(before, status->r);
    ap_rprintf(status->r, number == floor(number) ? "%.0f" : "%.3f", number);
}

/* Milliseconds since some moment of mcp_clock_now(). */
static double age_ms(const mcp_status_t *status, apr_time_t since)
{
    return since < status->now ? (double)((status->now - since) / 1000) : 0;
}

static void put_members(const mcp_status_t *status)
{
    request_rec *r = status->r;
    int i;

    ap_rputs(",\n\"members\":[", r);
    for (i = 0; i < status->members->nelts; i++) {
        const mcp_member_t *member = &APR_ARRAY_IDX(status->members, i, mcp_member_t);

        put_text(status, i ? ",\n {\"route\":" : "\n {\"route\":", member->route);
        put_text(status, ",\"url\":", member->url);
        put_text(status, ",\"balancer\":", *member->balancer ? member->balancer : NULL);
        put_text(status, ",\"state\":", mcp_status_of_member(member));
        put_number(status, ",\"streams\":", status->streams[i]);
        put_number(status, ",\"inFlight\":", mcp_shared_load(mcp_proxy_shared(), member->slot));
        if (status->sessions) {
            put_number(status, ",\"sessions\":", (double)status->sessions[i]);
        }
        else {
            ap_rputs(",\"sessions\":null", r);
        }
        put_number(status, ",\"requests\":",
                   (double)mcp_shared_calls(mcp_proxy_shared(), member->slot));
        ap_rputs("}", r);
    }
    ap_rputs("]", r);
}

static void put_rows(const mcp_status_t *status, const char *before, const char *key,
                     const apr_array_header_t *rows, const char *const *columns)
{
    int i, j;

    ap_rputs(before, status->r);
    for (i = 0; i < rows->nelts; i++) {
        const mcp_status_row_t *row = &APR_ARRAY_IDX(rows, i, mcp_status_row_t);

        put_text(status, apr_pstrcat(status->r->pool, i ? ",\n {\"" : "\n {\"", key, "\":", NULL),
                 row->name);
        for (j = 0; columns[j]; j++) {
            put_number(status, apr_pstrcat(status->r->pool, ",\"", columns[j], "\":", NULL),
                       row->numbers[j]);
        }
        ap_rputs("}", status->r);
    }
    ap_rputs("]", status->r);
}

static void put_stores(const mcp_status_t *status)
{
    int i;

    ap_rputs(",\n\"stores\":[", status->r);
    for (i = 0; i < status->stores->nelts; i++) {
        const mcp_status_store_t *store = &APR_ARRAY_IDX(status->stores, i, mcp_status_store_t);

        put_text(status, i ? ",\n {\"module\":" : "\n {\"module\":", store->module);
        ap_rvputs(status->r, ",\"up\":",
                  store->state < 0 ? "null" : store->state ? "true" : "false", NULL);
        put_number(status, ",\"questions\":", store->questions);
        put_number(status, ",\"errors\":", store->errors);
        put_number(status, ",\"meanMs\":",
                   store->questions > 0 ? store->seconds * 1000 / store->questions : 0);
        ap_rputs("}", status->r);
    }
    ap_rputs("]", status->r);
}

static void put_longest(const mcp_status_t *status)
{
    int i;

    ap_rputs(",\n\"longest\":[", status->r);
    for (i = 0; i < status->longest->nelts; i++) {
        const mcp_registry_stream_t *s = &APR_ARRAY_IDX(status->longest, i, mcp_registry_stream_t);

        ap_rprintf(status->r, "%s\n {\"stream\":\"%u-%u\"", i ? "," : "", s->index, s->serial);
        put_text(status, ",\"user\":", *s->user ? s->user : NULL);
        put_text(status, ",\"address\":", s->address);
        put_text(status, ",\"method\":", s->method);
        put_text(status, ",\"route\":", mcp_status_route(status, s->member));
        put_number(status, ",\"ageMs\":", age_ms(status, s->opened));
        put_number(status, ",\"lastEventMs\":", age_ms(status, s->last));
        put_number(status, ",\"bytes\":", (double)s->bytes);
        ap_rprintf(status->r, ",\"ending\":%s}", s->is_ended ? "true" : "false");
    }
    ap_rputs("]", status->r);
}

static void put_delay(const mcp_status_t *status, const char *before, double ms)
{
    if (ms < 0) {
        ap_rvputs(status->r, before, "null", NULL);
    }
    else {
        put_number(status, before, ms);
    }
}

static void put_history(const mcp_status_t *status)
{
    unsigned i;

    ap_rputs(",\n\"history\":[", status->r);
    for (i = 0; i < status->step_count; i++) {
        const mcp_history_step_t *step = &status->steps[i];

        ap_rprintf(status->r, "%s\n {\"time\":%" APR_TIME_T_FMT, i ? "," : "", step->when / 1000);
        put_number(status, ",\"streams\":", step->streams);
        put_number(status, ",\"callsPerSecond\":", step->calls);
        put_delay(status, ",\"delayMedianMs\":", step->median_ms);
        put_delay(status, ",\"delayWorstMs\":", step->worst_ms);
        ap_rputs("}", status->r);
    }
    ap_rputs("]", status->r);
}

void mcp_status_write_json(const mcp_status_t *status)
{
    static const char *const decisions[] = { "allowed", "refused", "dryRun", NULL };
    static const char *const results[] = { "hit", "miss", "stale", "bypass", NULL };
    request_rec *r = status->r;
    mcp_shared_t *shared = mcp_proxy_shared();

    ap_set_content_type(r, "application/json");
    ap_rprintf(r, "{\"time\":%" APR_TIME_T_FMT, status->time / 1000);
    put_text(status, ",\"server\":", r->server->server_hostname);
    put_number(status, ",\"requests\":", (double)mcp_shared_all_requests(shared));
    put_number(status, ",\n\"streams\":{\"open\":",
               (double)mcp_shared_get(shared, MCP_SHARED_STREAMS));
    put_number(status, ",\"limit\":", (double)mcp_proxy_server_conf(MCP_PROXY_MAX_STREAMS));
    put_number(status, ",\"opened\":", (double)mcp_shared_get(shared, MCP_SHARED_STREAMS_TOTAL));
    put_number(status, ",\"brokenOff\":", (double)mcp_shared_get(shared, MCP_SHARED_STREAM_ERRORS));
    put_number(status, "},\"sessionsLost\":",
               (double)mcp_shared_get(shared, MCP_SHARED_SESSIONS_LOST));
    put_members(status);
    put_rows(status, ",\n\"limits\":[", "limit", status->limits, decisions);
    put_number(status, ",\n\"slots\":", mcp_status_number(status, "mcp_slots_in_use", 0));
    put_rows(status, ",\n\"cache\":[", "tool", status->tools, results);
    put_stores(status);
    put_longest(status);
    put_history(status);
    put_text(status, ",\n\"token\":", status->token);
    ap_rputs("}\n", r);
}
