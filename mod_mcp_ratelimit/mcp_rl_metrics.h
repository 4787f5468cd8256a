/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_RL_METRICS_H
#define MCP_RL_METRICS_H

#include "mcp_httpd_peers.h"
#include "mcp_rl_store.h"

/** Hand this module's sums, over all children, to @a sink. */
void mcp_rl_metrics_write(const mcp_rl_store_t *store, mcp_metrics_sink_t *sink);

#endif
