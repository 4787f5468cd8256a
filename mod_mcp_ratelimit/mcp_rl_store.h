/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_RL_STORE_H
#define MCP_RL_STORE_H

#include "mcp_rl_deny.h"
#include "mcp_rl_lease.h"
#include "mcp_rl_purse.h"
#include "mcp_rl_redis.h"
#include "mcp_rl_shm.h"

/*
 * Decisions: the local deny table, then Redis or shared memory, then, if Redis cannot be asked, the
 * policy. One of these per child; everything it points to is shared or has its own lock.
 */

typedef enum {
    MCP_RL_LOCAL,  /* the order of the directive's choices */
    MCP_RL_OPEN,
    MCP_RL_CLOSED
} mcp_rl_policy_e;

typedef enum {
    MCP_RL_ALLOWED,
    MCP_RL_REFUSED,
    MCP_RL_WOULD_REFUSE, /* dry run */
    MCP_RL_DECISIONS
} mcp_rl_decision_e;

#define MCP_RL_TIME_BUCKETS 10

/** Sums over all children; atomic, never falling. In shared memory, zero at first. */
typedef struct mcp_rl_counters_t {
    apr_uint64_t decisions[MCP_RL_LIMITS][MCP_RL_DECISIONS];
    apr_uint64_t store_errors;
    apr_uint64_t store_calls;
    apr_uint64_t store_usec;
    apr_uint64_t store_times[MCP_RL_TIME_BUCKETS]; /* not cumulative */
    apr_uint64_t streams_lost;
    apr_int64_t complained_at; /* mcp_clock_now() of the last line about a key */
    apr_uint32_t suppressed;   /* and how many were not written since */
} mcp_rl_counters_t;

/** Upper bounds of store_times, in microseconds; the last bucket has none. */
extern const apr_interval_time_t mcp_rl_time_bounds[MCP_RL_TIME_BUCKETS - 1];

typedef void mcp_rl_log_fn(void *baton, int is_error, const char *text);

typedef struct mcp_rl_store_t {
    mcp_rl_shm_t *shm;
    mcp_rl_leases_t *leases;
    mcp_rl_deny_t *deny;
    mcp_rl_purses_t *purses;
    mcp_rl_counters_t *counters;
    mcp_rl_redis_t *redis;       /* NULL: shared memory is the store */
    apr_interval_time_t timeout; /* for one request's commands */
    pid_t pid;
    mcp_rl_log_fn *log;          /* may be NULL */
    void *baton;
} mcp_rl_store_t;

typedef struct mcp_rl_outcome_t {
    int count;
    int refused_by;              /* index; -1: allowed */
    int is_down;                 /* the store could not be asked: allowed by policy open, or, if
                                  * is_closed is set, refused by policy closed */
    int is_closed;
    mcp_rl_verdict_t *verdicts;  /* the caller's room, one for each question */
} mcp_rl_outcome_t;

/**
 * Decide. The answer is always one; what went wrong is logged and counted here.
 * @param asks the one about slots, if any, is the last; its key and digest are set
 * @param row out: for slots, if allowed: the row, HELD, which the caller passes to the keeper.
 *        NULL otherwise. NULL may be passed where no slot is asked for.
 */
void mcp_rl_store_decide(mcp_rl_store_t *store, mcp_rl_ask_t *asks, int count,
                         mcp_rl_policy_e policy, mcp_rl_row_t **row, mcp_rl_outcome_t *outcome);

/** Whether one of @a asks is sure to be refused, without asking anybody. */
int mcp_rl_store_is_denied(mcp_rl_store_t *store, const mcp_rl_ask_t *asks, int count,
                           mcp_rl_outcome_t *outcome);

/**
 * Give back to Redis what its bucket has lent to this machine.
 * @return whether there was anything, and Redis has taken it
 */
int mcp_rl_store_give_back(mcp_rl_store_t *store, const mcp_rl_ask_t *ask);

/** How long the holder of a lease may trust it that was asked for at @a sent. */
apr_time_t mcp_rl_store_deadline(const mcp_rl_store_t *store, apr_time_t sent);

void mcp_rl_count(mcp_rl_counters_t *counters, mcp_rl_limit_e limit, mcp_rl_decision_e decision);

/** Log that a key of the store holds what is not ours, once a minute. */
void mcp_rl_store_complain(mcp_rl_store_t *store, const char *why);

#endif
