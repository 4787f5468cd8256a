/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_RL_SHARED_H
#define MCP_RL_SHARED_H

#include "mcp_breaker.h"
#include "mcp_rl_store.h"

/*
 * The memory that all children share, and that a graceful restart finds again: it hangs on the
 * process's pool under a key that names its layout.
 */

typedef struct mcp_rl_shared_t {
    mcp_rl_shm_t *shm;
    mcp_rl_leases_t *leases;
    mcp_rl_deny_t *deny;
    mcp_rl_purses_t *purses;
    mcp_rl_counters_t *counters;
    mcp_breaker_t *breaker;
    mcp_rl_epoch_t *epoch;
} mcp_rl_shared_t;

/**
 * Find or make it. In the parent, from post_config.
 * @param entries keys in the table of buckets and windows
 * @param store_name a change of it forgets what is known of the old store
 * @param process the pool that lives as long as httpd
 * @param p where *shared lives
 */
apr_status_t mcp_rl_shared_open(mcp_rl_shared_t **shared, apr_int64_t entries,
                                const char *store_name, apr_pool_t *process, apr_pool_t *p);

#endif
