/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_PROXY_CONFIG_H
#define MCP_PROXY_CONFIG_H

#include <httpd.h>
#include <http_config.h>

#include "mcp_store_url.h"

/* What the operator has set. Read-only once the configuration has been read. */

#define MCP_DIRECTIVE(id, kind, scope, name, value, min, max, accepted, help) id,
typedef enum {
#include "mcp_proxy.def"
    MCP_PROXY_DIRECTIVES
} mcp_proxy_directive_e;
#undef MCP_DIRECTIVE

extern const command_rec mcp_proxy_commands[];

void *mcp_proxy_create_dir_config(apr_pool_t *p, char *path);
void *mcp_proxy_merge_dir_config(apr_pool_t *p, void *base, void *add);

/** pre_config: the values of scope S start unset. */
void mcp_proxy_config_reset(apr_pool_t *pconf);

/** A value of scope L, as it holds for this request (or section). */
apr_int64_t mcp_proxy_conf(const ap_conf_vector_t *per_dir, mcp_proxy_directive_e id);

/** Whether a value of scope L stands in this very section. */
int mcp_proxy_conf_is_set(const ap_conf_vector_t *per_dir, mcp_proxy_directive_e id);

/** A value of scope S. */
apr_int64_t mcp_proxy_server_conf(mcp_proxy_directive_e id);

/** MCPProxySessionStore. */
const mcp_store_url_t *mcp_proxy_session_store(void);

/** The N of MCPProxySessionStore shm:N; with another store, how many of its sessions are cached. */
unsigned mcp_proxy_session_entries(void);

/** Whether MCPProxyAffinity is sealed. */
int mcp_proxy_is_sealed(void);

/** The path in MCPProxySessionKey file:PATH, below ServerRoot if it is relative; NULL: not set. */
const char *mcp_proxy_session_key(apr_pool_t *p);

/** MCPProxyAllowOrigin: NULL for "same", else an array of const char *, maybe "*". */
const apr_array_header_t *mcp_proxy_origins(const ap_conf_vector_t *per_dir);

#endif
