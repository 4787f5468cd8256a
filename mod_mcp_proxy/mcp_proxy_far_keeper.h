/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_PROXY_FAR_KEEPER_H
#define MCP_PROXY_FAR_KEEPER_H

#include <apr_pools.h>

#include "mcp_proxy_far_value.h"
#include "mcp_redis.h"

/*
 * A thread of this child that may wait for Redis: it writes sessions that are used, forgets those
 * that have ended, and looks whether the server is there.
 */

typedef struct mcp_far_keeper_t mcp_far_keeper_t;

/** A session that is to be written, or forgotten if it has no member. */
typedef struct mcp_far_op_t {
    mcp_session_key_t key;
    char member[MCP_FAR_MEMBER_SIZE]; /* "": forget */
    int replaces;                     /* whatever stands there */
} mcp_far_op_t;

typedef struct mcp_far_keeper_options_t {
    mcp_redis_t *redis;
    apr_interval_time_t ttl; /* of a session that is not used */
    /** What became of one: APR_SUCCESS; APR_EEXIST: there is another value; else it
     * is not known. */
    void (*done)(const mcp_far_op_t *op, apr_status_t rv);
    void (*met)(const mcp_redis_info_t *info); /* after each answer */
    void (*count)(apr_status_t rv); /* after each call */
} mcp_far_keeper_options_t;

/**
 * Start it.
 * @param waits whether the end of @a p may wait for the thread: not in a signal handler
 * @return NULL: no thread to be had
 */
mcp_far_keeper_t *mcp_far_keeper_start(const mcp_far_keeper_options_t *options, int waits,
                                       apr_pool_t *p);

/** Any thread, never blocks. @return 0: there is too much to do, or the child ends */
int mcp_far_keeper_post(mcp_far_keeper_t *keeper, const mcp_far_op_t *op);

#endif
