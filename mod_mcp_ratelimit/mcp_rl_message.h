/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_RL_MESSAGE_H
#define MCP_RL_MESSAGE_H

#include <httpd.h>

#include "mcp_rl_config.h"
#include "mcp_rpc.h"

/* What the message of a request asks for, as far as limits depend on it. */

/**
 * Read the body, where a limit of @a dir depends on it. May wait for it, as mcp_request_read().
 * @param rpc out: NULL: one message or none, and what it says decides nothing here
 * @return OK, or as mcp_request_read() and mcp_request_decidable()
 */
int mcp_rl_message_read(request_rec *r, const mcp_rl_dir_t *dir, const mcp_rpc_t **rpc);

/** What it costs: the messages of a batch, else 1. @a rpc may be NULL. */
apr_int64_t mcp_rl_message_count(const mcp_rpc_t *rpc);

/** Its calls of tools whose name matches @a pattern. */
apr_int64_t mcp_rl_message_calls(const mcp_rpc_t *rpc, const char *pattern);

/** Whether the answer may be a standing stream. @a rpc may be NULL. */
int mcp_rl_message_stands(const request_rec *r, const mcp_rpc_t *rpc);

#endif
