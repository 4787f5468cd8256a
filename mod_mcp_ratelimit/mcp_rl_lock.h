/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_RL_LOCK_H
#define MCP_RL_LOCK_H

#include <apr_errno.h>
#include <pthread.h>

/*
 * A mutex in shared memory. A process may be killed while it holds one: the next owner is told
 * so and repairs what the lock protects. A process may also be stopped while it holds one: nobody
 * waits for it longer than MCP_RL_LOCK_WAIT.
 */

#define MCP_RL_LOCK_WAIT_MS 20

typedef pthread_mutex_t mcp_rl_lock_t;

apr_status_t mcp_rl_lock_init(mcp_rl_lock_t *lock);

/**
 * @param owner_died out: repair, then go on
 * @return APR_TIMEUP: somebody else keeps it
 */
apr_status_t mcp_rl_lock_take(mcp_rl_lock_t *lock, int *owner_died);
void mcp_rl_lock_give(mcp_rl_lock_t *lock);

#endif
