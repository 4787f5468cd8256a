/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_CACHE_CONFIG_H
#define MCP_CACHE_CONFIG_H

#include <ap_expr.h>
#include <httpd.h>
#include <http_config.h>

/* What the operator has set. Read-only once the configuration has been read. */

#define MCP_DIRECTIVE(id, kind, scope, name, value, min, max, accepted, help) id,
typedef enum {
#include "mcp_cache.def"
    MCP_CACHE_DIRECTIVES
} mcp_cache_directive_e;
#undef MCP_DIRECTIVE

typedef enum {
    MCP_CACHE_SCOPE_USER,
    MCP_CACHE_SCOPE_SESSION,
    MCP_CACHE_SCOPE_SHARED
} mcp_cache_scope_e;

#define MCP_CACHE_MAX_RULES 256 /* different patterns in one httpd that are counted apart */

/** One MCPCacheTool. */
typedef struct mcp_cache_tool_t {
    const char *pattern;
    apr_interval_time_t ttl; /* 0: excluded */
    mcp_cache_scope_e scope;
    ap_expr_info_t *key;     /* NULL: MCPCacheKey */
    int label;               /* of its pattern, for metrics: see mcp_cache_labels() */
} mcp_cache_tool_t;

extern const command_rec mcp_cache_commands[];

void *mcp_cache_create_dir_config(apr_pool_t *p, char *path);
void *mcp_cache_merge_dir_config(apr_pool_t *p, void *base, void *add);

/** pre_config: the values of scope S start unset. */
void mcp_cache_config_reset(apr_pool_t *pconf);

/** A value of scope L, as it holds for this request (or section). */
apr_int64_t mcp_cache_conf(const ap_conf_vector_t *per_dir, mcp_cache_directive_e id);

/** A value of scope S. */
apr_int64_t mcp_cache_server_conf(mcp_cache_directive_e id);
const char *mcp_cache_store_text(void);

/** Whether a directive of scope L stands here, or in a section that this one inherits from. */
int mcp_cache_is_configured(const ap_conf_vector_t *per_dir);

/** The first rule for a tool; inner sections come before outer ones. NULL: none. */
const mcp_cache_tool_t *mcp_cache_tool(const ap_conf_vector_t *per_dir, const char *name);

/** MCPCacheKey, or NULL. */
const ap_expr_info_t *mcp_cache_key_expr(const ap_conf_vector_t *per_dir);

/** The patterns by label: an array of const char *. The first is "", for what is no tool. */
const apr_array_header_t *mcp_cache_labels(void);

#endif
