/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_RL_ADVICE_H
#define MCP_RL_ADVICE_H

#include <httpd.h>

/* Warnings about directives that do nothing. */

/** The check_config hook: for httpd -t. */
int mcp_rl_check_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s);

#endif
