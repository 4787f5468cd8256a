/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_PROXY_STATUS_H
#define MCP_PROXY_STATUS_H

#include "mcp_proxy.h"
#include "mcp_proxy_history.h"
#include "mcp_proxy_metrics.h"

/*
 * SetHandler mcp-status: one picture of what there is to know, written as a page or as JSON. All of
 * it is from the pool of the request that asks, on its worker.
 */

#define MCP_STATUS_LONGEST 50

/** A table out of samples: one row for each value of one label, one number for each of another. */
typedef struct mcp_status_row_t {
    const char *name;
    double numbers[4];
} mcp_status_row_t;

typedef struct mcp_status_store_t {
    const char *module;
    int state;        /* 1: answers, 0: does not, -1: nobody says */
    double questions, errors, seconds; /* seconds: all together */
} mcp_status_store_t;

typedef struct mcp_status_t {
    request_rec *r;
    apr_time_t now;                /* mcp_clock_now()'s */
    apr_time_t time;               /* of day */
    apr_array_header_t *members;   /* mcp_member_t */
    apr_uint64_t *sessions;        /* of each member; NULL: their ids carry the member */
    unsigned *streams;             /* of each member, as far as they are shown */
    apr_array_header_t *samples;   /* mcp_sample_t */
    apr_array_header_t *limits;    /* mcp_status_row_t: allowed, refused, dry_run */
    apr_array_header_t *tools;     /* mcp_status_row_t: hit, miss, stale, bypass */
    apr_array_header_t *stores;    /* mcp_status_store_t */
    apr_array_header_t *longest;   /* mcp_registry_stream_t, oldest first, at most ..._LONGEST */
    mcp_history_step_t *steps;
    unsigned step_count;
    int may_change;                /* whoever asks may end streams */
    const char *token;             /* for that; NULL if not */
} mcp_status_t;

/** The number of a family without labels; @a otherwise if no module has it. */
double mcp_status_number(const mcp_status_t *status, const char *family, double otherwise);

/** What a member is up to, in a word: "ok", "draining", "disabled", "stopped", "error", ... */
const char *mcp_status_of_member(const mcp_member_t *member);

/** The route of the member that has a stream; "" if it is none any more. */
const char *mcp_status_route(const mcp_status_t *status, apr_uint64_t member);

/* mcp_proxy_status_page.c, mcp_proxy_status_json.c: write it all as the response's body. */
void mcp_status_write_page(const mcp_status_t *status);
void mcp_status_write_json(const mcp_status_t *status);

#endif
