/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_REDIS_WAIT_H
#define MCP_REDIS_WAIT_H

#include "mcp_loop.h"
#include "mcp_redis.h"

/*
 * A job of mcp_redis.h that is waited for on an event loop. The caller's memory, until done has
 * been called. On the loop's thread.
 */
typedef struct mcp_redis_wait_t {
    mcp_redis_t *redis;      /* set by the caller, as what follows */
    mcp_redis_job_t *job;    /* started: APR_EAGAIN was the last that it said */
    apr_time_t deadline;
    void (*done)(void *baton, apr_status_t rv); /* once, as the last act; rv as mcp_redis_run() */
    void *baton;
    mcp_loop_t *loop;        /* private, as what follows */
    mcp_watch_t watch;
    mcp_timer_t timer;
} mcp_redis_wait_t;

/** Wait. May call done before it returns. */
void mcp_redis_wait_start(mcp_redis_wait_t *wait, mcp_loop_t *loop);

#endif
