/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_PROXY_SHARED_H
#define MCP_PROXY_SHARED_H

#include <apr.h>
#include <sys/types.h>

/*
 * Counters that all children share: a row for each child, so that what a killed child held can be
 * taken off, and the sums. Lock-free; lives in shared memory that survives graceful restarts.
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
    MCP_SHARED_VALUES
} mcp_shared_value_e;

typedef struct mcp_shared_t mcp_shared_t;

apr_size_t mcp_shared_size(void);

/** @a mem is zeroed, shared, and lives longer than all users. */
mcp_shared_t *mcp_shared_init(void *mem);

/** A row for this child, from child_init; -1 if there is none. */
int mcp_shared_claim(mcp_shared_t *shared, pid_t pid);

/** In the parent, once a child is gone: keep what it counted, drop what it held. */
void mcp_shared_bury(mcp_shared_t *shared, pid_t pid);

/** The slot of a member, made if it is new; -1 if there is no room. */
int mcp_shared_member(mcp_shared_t *shared, apr_uint64_t hash);

/**
 * Add to what is in flight at a member: event streams and requests. Any thread. Without a row or a
 * member (-1) nothing is counted.
 */
void mcp_shared_load_add(mcp_shared_t *shared, int row, int member, int delta);
int mcp_shared_load(const mcp_shared_t *shared, int member);

/** @return the new sum over all children */
apr_int64_t mcp_shared_add(mcp_shared_t *shared, int row, mcp_shared_value_e value,
                           apr_int64_t delta);
apr_int64_t mcp_shared_get(const mcp_shared_t *shared, mcp_shared_value_e value);

#endif
