/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_PROXY_SHARED_H
#define MCP_PROXY_SHARED_H

#include <apr.h>
#include <apr_time.h>
#include <sys/types.h>

/*
 * What all children count: a row for each child, so that they do not write to each other's memory,
 * and so that what a killed child held can be taken off. Lock-free; lives in shared memory that
 * survives graceful restarts. Adding is one atomic addition, or two where a limit needs the sum.
 * Counters are summed over the rows by whoever asks. They stay in their row when its child is gone,
 * and the row's next child goes on from there: no sum ever falls.
 */

#define MCP_SHARED_MEMBERS 512
#define MCP_SHARED_CHILDREN 1024

typedef enum {
    /* gauges: fall back when a child dies */
    MCP_SHARED_STREAMS,        /* event streams in flight */
    MCP_SHARED_GAUGES,
    /* counters: kept */
    MCP_SHARED_STREAMS_TOTAL = MCP_SHARED_GAUGES,
    MCP_SHARED_STREAM_ERRORS,
    MCP_SHARED_SESSIONS_LOST,
    MCP_SHARED_STORE_ERRORS,   /* questions that MCPProxySessionStore did not answer */
    MCP_SHARED_VALUES
} mcp_shared_value_e;

/** What is measured in time. */
typedef enum {
    MCP_SHARED_STREAM_TIME,     /* how long an event stream was open */
    MCP_SHARED_DISCONNECT_TIME, /* from noticing that a client left to closing its backend's side */
    MCP_SHARED_EVENT_TIME,      /* from noticing bytes of a stream to having written them */
    MCP_SHARED_STORE_TIME,      /* that a request waited for MCPProxySessionStore */
    MCP_SHARED_TIMES
} mcp_shared_time_e;

#define MCP_SHARED_BUCKETS 12 /* the last has no bound */

/** Upper bounds of the buckets, in microseconds; 0 behind the last one. */
extern const apr_interval_time_t mcp_shared_bounds[MCP_SHARED_TIMES][MCP_SHARED_BUCKETS];

typedef struct mcp_shared_times_t {
    apr_uint64_t count[MCP_SHARED_BUCKETS]; /* not cumulative */
    apr_uint64_t sum;                       /* microseconds */
} mcp_shared_times_t;

typedef struct mcp_shared_t mcp_shared_t;

apr_size_t mcp_shared_size(void);

/** @a mem is zeroed, shared, and lives longer than all users. */
mcp_shared_t *mcp_shared_init(void *mem);

/** A row for this child, from child_init; -1 if there is none. */
int mcp_shared_claim(mcp_shared_t *shared, pid_t pid);

/**
 * In the parent, once a child is gone: keep what it counted, drop what it held.
 * @param held out: what it had in flight at each of MCP_SHARED_MEMBERS
 * @return whether it had anything in flight; else held is all zero
 */
int mcp_shared_bury(mcp_shared_t *shared, pid_t pid, apr_int32_t *held);

/** The slot of a member, made if it is new; -1 if there is no room. */
int mcp_shared_member(mcp_shared_t *shared, apr_uint64_t hash);

/** The slot of a member; -1 if it never had one. */
int mcp_shared_find_member(const mcp_shared_t *shared, apr_uint64_t hash);

/**
 * Add to what is in flight at a member: event streams and requests. Any thread. Without a row or a
 * member (-1) nothing is counted. What is added, if positive, also counts as calls.
 */
void mcp_shared_load_add(mcp_shared_t *shared, int row, int member, int delta);
int mcp_shared_load(const mcp_shared_t *shared, int member);

/** How many requests a member has been asked, ever. */
apr_uint64_t mcp_shared_calls(const mcp_shared_t *shared, int member);

/** @return of a gauge, the new sum over all children; of a counter, 0 */
apr_int64_t mcp_shared_add(mcp_shared_t *shared, int row, mcp_shared_value_e value,
                           apr_int64_t delta);

/** The sum over all children. Of a gauge one read; of a counter one for each row. */
apr_int64_t mcp_shared_get(const mcp_shared_t *shared, mcp_shared_value_e value);

/** A request is over; labels as in mcp_proxy_label.h. */
void mcp_shared_request_add(mcp_shared_t *shared, int row, int method, int status);
apr_uint64_t mcp_shared_requests(const mcp_shared_t *shared, int method, int status);

/** Requests of all methods and statuses. */
apr_uint64_t mcp_shared_all_requests(const mcp_shared_t *shared);

/** @a took is in microseconds; less than none is none. */
void mcp_shared_time_add(mcp_shared_t *shared, int row, mcp_shared_time_e which,
                         apr_interval_time_t took);
void mcp_shared_times(const mcp_shared_t *shared, mcp_shared_time_e which,
                      mcp_shared_times_t *sums);

#endif
