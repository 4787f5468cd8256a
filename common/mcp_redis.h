/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_REDIS_H
#define MCP_REDIS_H

#include <apr_pools.h>
#include <apr_time.h>
#include <hiredis/hiredis.h>

#include "mcp_breaker.h"
#include "mcp_store_url.h"

/*
 * A Redis client of one process: connections to one server, user and database, a circuit breaker,
 * and pipelines that end by a deadline. A connection that anything was wrong with is closed and
 * never used again, so no reply is ever taken for the answer to another question.
 *
 * Made after fork, in child_init. Any thread may use it.
 */

typedef struct mcp_redis_t mcp_redis_t;

/** A Lua script and the SHA-1 that Redis knows it by. */
typedef struct mcp_redis_script_t {
    const char *source;
    size_t length;
    char sha[41];
} mcp_redis_script_t;

/** @a source is kept, not copied. */
void mcp_redis_script_init(mcp_redis_script_t *script, const char *source);

typedef struct mcp_redis_command_t {
    int argc;
    const char **argv;      /* any bytes; with a script, argv[0] and argv[1] are filled in here */
    const size_t *argvlen;  /* for a script, [0] and [1] are ignored */
    const mcp_redis_script_t *script; /* EVALSHA, or EVAL if the server does not know it; or NULL */
    int expect;             /* REDIS_REPLY_*; 0: any. An error reply is always possible */
    redisReply *reply;      /* out: the caller's; see mcp_redis_free_replies() */
} mcp_redis_command_t;

/** Called by whoever's call changed the breaker, once per change. @a why is "" when @a up. */
typedef void mcp_redis_changed_fn(void *baton, int up, const char *name, const char *why);

typedef struct mcp_redis_options_t {
    mcp_breaker_t *breaker;  /* may lie in shared memory; NULL: one of this client's own */
    mcp_redis_changed_fn *changed; /* may be NULL */
    void *baton;
} mcp_redis_options_t;

/**
 * A client for @a url, which outlives it, as @a p does. Resolves the host's name (blocking), does
 * not connect.
 */
mcp_redis_t *mcp_redis_create(const mcp_store_url_t *url, const mcp_redis_options_t *options,
                              apr_pool_t *p);

#define MCP_REDIS_WHY 160

/**
 * What one pipeline met. All zero at first, but for what the caller sets.
 */
typedef struct mcp_redis_info_t mcp_redis_info_t;
struct mcp_redis_info_t {
    /* Set by the caller, or NULL: called before the commands are formatted, when the server is
     * known (run_id, server_start), so that arguments can depend on it. */
    void (*prepare)(mcp_redis_info_t *info);
    void *baton;

    char why[MCP_REDIS_WHY]; /* after an error: what went wrong, for the log */
    char run_id[41];         /* of the server that answered; "" if it does not say */
    apr_int64_t server_start; /* its start at the latest, in microseconds of its clock */
    int sent;                /* after an error: whether the server may have seen the commands */
};

/**
 * Run commands in one pipeline, and wait for all replies.
 * @param deadline mcp_clock_now() time; connecting, logging in and a second try of scripts count
 * @param info in and out; may be NULL
 * @return APR_SUCCESS: all replies are there, of the types expected, or error replies that concern
 *         one command only; APR_EBUSY: the breaker is open, nothing was tried; APR_TIMEUP; APR_EOF;
 *         APR_EGENERAL: nonsense, or a server that cannot serve (LOADING, READONLY, OOM, NOAUTH,
 *         MOVED, ...); or an errno. There are no replies to free then.
 */
apr_status_t mcp_redis_run(mcp_redis_t *redis, mcp_redis_command_t *commands, int count,
                           apr_time_t deadline, mcp_redis_info_t *info);

void mcp_redis_free_replies(mcp_redis_command_t *commands, int count);

int mcp_redis_is_open(const mcp_redis_t *redis);

/**
 * From one thread that may wait, every now and then: close idle connections; while the breaker is
 * open, ask for the host's address anew, and try (at most every MCP_BREAKER_PROBE_EVERY, one
 * process at a time) whether the server takes a write within @a timeout, and close the breaker if
 * so.
 */
void mcp_redis_maintain(mcp_redis_t *redis, apr_interval_time_t timeout);

/*
 * The same without waiting, for a thread that has an event loop: start, then step whenever fd is
 * ready for events, until something other than APR_EAGAIN comes; the owner watches the deadline and
 * calls mcp_redis_job_cancel() when it passes. mcp_redis_run() is made of these.
 */
typedef struct mcp_redis_job_t {
    mcp_redis_command_t *commands;
    int count;
    mcp_redis_info_t info;
    int fd;
    short events;            /* POLLIN or POLLOUT */
    int keeps_wire;          /* set by the caller: wire is its own when the job is done */
    struct mcp_redis_wire_t *wire; /* private, as what follows */
    int stage;
    int next;                /* the command whose reply is awaited */
    int failed_scripts;
    int probe;
} mcp_redis_job_t;

/** commands, count and maybe info.prepare are set by the caller, the rest is zero.
 * Returns as mcp_redis_job_step(). */
apr_status_t mcp_redis_job_start(mcp_redis_t *redis, mcp_redis_job_t *job);
apr_status_t mcp_redis_job_step(mcp_redis_t *redis, mcp_redis_job_t *job);

/**
 * Poll and step, for a thread that may wait a little.
 * @return as mcp_redis_job_step(); APR_EAGAIN: @a until (mcp_clock_now() time) has come first
 */
apr_status_t mcp_redis_job_wait(mcp_redis_t *redis, mcp_redis_job_t *job, apr_time_t until);

/** Nobody wants the answer any more, and nobody is to blame: the connection is closed. */
void mcp_redis_job_abandon(mcp_redis_job_t *job);

/** Out of time: the connection is closed. @return APR_TIMEUP */
apr_status_t mcp_redis_job_cancel(mcp_redis_t *redis, mcp_redis_job_t *job);

#endif
