/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_CACHE_WRITER_H
#define MCP_CACHE_WRITER_H

#include <apr_pools.h>

/*
 * A thread of this child that does what may wait: judging large answers, writing to stores. Jobs
 * run one after the other, in the order posted.
 */

typedef struct mcp_cache_writer_t mcp_cache_writer_t;

typedef struct mcp_cache_job_t mcp_cache_job_t;
struct mcp_cache_job_t {
    mcp_cache_job_t *next;                /* private */
    apr_size_t size;                      /* bytes that it holds: the queue is bounded */
    void (*run)(mcp_cache_job_t *job);    /* frees the job */
};

typedef struct mcp_cache_writer_options_t {
    apr_size_t max_bytes; /* of all jobs that wait */
    unsigned max_jobs;
    void (*idle)(void *baton); /* called about once a second, between jobs; NULL: not */
    void *baton;
} mcp_cache_writer_options_t;

/**
 * Start it. When @a exiting goes it does what is queued, then ends. Its memory outlives all pools.
 * @param waits whether its end is waited for; else, as in a signal handler, half a second at most
 * @return NULL: no thread to be had
 */
mcp_cache_writer_t *mcp_cache_writer_create(const mcp_cache_writer_options_t *options, int waits,
                                            apr_pool_t *exiting);

/** Any thread; never waits for a job. @return 0 if the queue is full: the job is still yours */
int mcp_cache_writer_post(mcp_cache_writer_t *writer, mcp_cache_job_t *job);

#endif
