/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_HTTPD_CREW_H
#define MCP_HTTPD_CREW_H

#include <apr_pools.h>
#include <apr_time.h>

/*
 * Threads for what may block, beside the MPM's: they all sleep on one epoll, and the one that is
 * woken for a descriptor serves it itself. Getting work to a thread through the MPM instead costs
 * two more threads' wake-ups, and three times the CPU of a small request.
 */

typedef struct mcp_crew_t mcp_crew_t;

/** Work for any thread of the crew; the caller's memory until fn is called. */
typedef struct mcp_crew_job_t mcp_crew_job_t;
struct mcp_crew_job_t {
    mcp_crew_job_t *next;      /* private */
    void (*fn)(void *baton);
    void *baton;
};

/** Waiting for a descriptor; the caller's memory until fn is called. Zero it before first use. */
typedef struct mcp_crew_wait_t mcp_crew_wait_t;
struct mcp_crew_wait_t {
    mcp_crew_wait_t *next, **prev; /* private, as is_late */
    apr_time_t since, until;       /* private: since */
    int is_late;
    int is_known;                  /* private: the descriptor is in the epoll */
    int fd;                        /* the same one for as long as the memory is used */
    unsigned events;               /* EPOLLIN or EPOLLOUT, with EPOLLRDHUP or without */
    int may_hurry;                 /* mcp_crew_hurry() ends it */
    /** @a is_late: the time is over; the socket has been shut down for reading (what came before
     *  can still be read), or, if it waited for room to write, in both directions. Runs on a
     *  thread of the crew, once. */
    void (*fn)(void *baton, int is_late);
    void *baton;
};

/**
 * Start a crew, from child_init; signals are blocked in its threads. It lives in @a pool, which
 * must not go before mcp_crew_stop().
 * @return a crew of as many threads as could be started; NULL: none
 */
mcp_crew_t *mcp_crew_create(int threads, apr_pool_t *pool);

/** Any thread: run job->fn on the crew, in about the order given. The call may free @a job. */
void mcp_crew_run(mcp_crew_t *crew, mcp_crew_job_t *job);

/**
 * Any thread, as the last act on what wait->baton is: wait until @a until (mcp_clock_now() time,
 * kept to a second) for the descriptor, a connected stream socket.
 * @return an errno as apr_status_t if that cannot be done; fn is not called then
 */
apr_status_t mcp_crew_wait(mcp_crew_t *crew, mcp_crew_wait_t *wait, apr_time_t until);

/**
 * Any thread: end the waits that may hurry, those to come included, as if their time were over, but
 * none before it has lasted for @a grace (kept to a second).
 */
void mcp_crew_hurry(mcp_crew_t *crew, apr_interval_time_t grace);

/**
 * Let every thread finish what it does, and join it, as the process ends. What still waits, or is
 * given to the crew by other modules' threads, is never called.
 */
void mcp_crew_stop(mcp_crew_t *crew);

#endif
