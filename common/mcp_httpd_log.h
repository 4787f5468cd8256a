/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_HTTPD_LOG_H
#define MCP_HTTPD_LOG_H

#include <httpd.h>
#include <http_log.h>

/*
 * Numbers of log messages: 1xxx shared code, 2xxx mod_mcp_proxy, 3xxx mod_mcp_ratelimit, 4xxx
 * mod_mcp_cache. Each stands once in the sources and once in docs/log-messages.md.
 */
#define MCP_LOGNO(n) "MCP" #n ": "

#endif
