/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_RL_RECALL_H
#define MCP_RL_RECALL_H

#include "mcp_rl_store.h"

/*
 * Recalls: a bucket that has to refuse somebody while other machines hold tokens of it says so on a
 * channel of Redis (mcp_rl_script.h), and whoever holds some puts them back. A thread of each
 * process; one process of a machine listens, since purses are shared, and another one takes over
 * when it goes.
 *
 * A Redis user that may not subscribe lends nothing from small buckets; all else goes on.
 */
/**
 * Start the thread, which ends when @a exiting is destroyed.
 * @param waits whether that may wait for it; not in a signal handler
 */
apr_status_t mcp_rl_recall_start(mcp_rl_store_t *store, int waits, apr_pool_t *exiting);

#endif
