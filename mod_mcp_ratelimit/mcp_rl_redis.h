/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_RL_REDIS_H
#define MCP_RL_REDIS_H

#include "mcp_redis.h"
#include "mcp_rl_purse.h"
#include "mcp_rl_rule.h"
#include "mcp_rl_script.h"

/*
 * The limits as Redis keeps them: questions become one script call, its answer verdicts. The
 * server's clock decides.
 */

/**
 * Which server this machine has met last; in shared memory, zero at first. A server that came back
 * without its data must not give everything out a second time: see mcp_rl_script.h.
 */
typedef struct mcp_rl_epoch_t {
    apr_uint64_t server;  /* hash of its run id; 0: none met */
    apr_int64_t floor;    /* microseconds of its clock; 0: it was never restarted under us */
} mcp_rl_epoch_t;

typedef struct mcp_rl_redis_t {
    mcp_redis_t *client;
    mcp_rl_epoch_t *epoch;
    apr_interval_time_t lease;
    mcp_redis_script_t decide[MCP_RL_SCRIPT_SETS]; /* by the set of kinds */
    mcp_redis_script_t renew, give_back;
    const char *instance;  /* text that tells this process from all others */
    apr_uint64_t calls;    /* atomic */
} mcp_rl_redis_t;

/** Fill in the scripts, whose texts are from @a p. */
void mcp_rl_redis_init(mcp_rl_redis_t *redis, apr_pool_t *p);

/**
 * Judge all @a asks together, by one round trip.
 * @param deadline mcp_clock_now() time
 * @param loan in and out, for a single bucket; or NULL
 * @return APR_SUCCESS; MCP_RL_NOTREADY: slots are not given out so soon after the server's restart;
 *         MCP_RL_EBADDATA: an error reply (somebody else uses a key); else as mcp_redis_run().
 *         info->why says more.
 */
apr_status_t mcp_rl_redis_decide(mcp_rl_redis_t *redis, const mcp_rl_ask_t *asks, int count,
                                 apr_time_t deadline, mcp_rl_verdict_t *verdicts,
                                 mcp_rl_loan_t *loan, mcp_redis_info_t *info);

/** Put back what mcp_rl_purse_empty() has taken out for @a ask. */
apr_status_t mcp_rl_redis_give_back(mcp_rl_redis_t *redis, const mcp_rl_ask_t *ask,
                                    const mcp_rl_loan_t *loan, apr_time_t deadline);

/** "Not yet", "not like this": of this module's own, beside what APR has. */
#define MCP_RL_NOTREADY (APR_OS_START_USERERR + 3001)
#define MCP_RL_EBADDATA (APR_OS_START_USERERR + 3002)

/** One lease in a batch. */
typedef struct mcp_rl_redis_lease_t {
    const char *key;
    const char *member;
    int held;             /* out, of renew */
} mcp_rl_redis_lease_t;

/** Renew leases that are still there, in one pipeline. */
apr_status_t mcp_rl_redis_renew(mcp_rl_redis_t *redis, mcp_rl_redis_lease_t *leases, int count,
                                apr_time_t deadline);

/** Give leases back, in one pipeline. */
apr_status_t mcp_rl_redis_release(mcp_rl_redis_t *redis, const mcp_rl_redis_lease_t *leases,
                                  int count, apr_time_t deadline);

#endif
