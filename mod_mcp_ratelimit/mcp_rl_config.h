/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_RL_CONFIG_H
#define MCP_RL_CONFIG_H

#include <httpd.h>
#include <ap_expr.h>
#include <http_config.h>

#include "mcp_httpd_conf.h"
#include "mcp_httpd_log.h"
#include "mcp_rl_rule.h"
#include "mcp_store_url.h"

extern module AP_MODULE_DECLARE_DATA mcp_ratelimit_module;
APLOG_USE_MODULE(mcp_ratelimit);

#define MCP_DIRECTIVE(id, kind, scope, name, value, min, max, accepted, help) id,
typedef enum {
#include "mcp_rl.def"
    MCP_RL_DIRECTIVES
} mcp_rl_directive_e;
#undef MCP_DIRECTIVE

typedef enum { MCP_RL_HEADERS_X, MCP_RL_HEADERS_DRAFT, MCP_RL_HEADERS_OFF } mcp_rl_headers_e;

/** Tool directives of one section, at most. */
#define MCP_RL_MAX_TOOLS 48

/** What holds for a place; read-only once the configuration has been read. */
typedef struct mcp_rl_dir_t {
    int configured;              /* a directive of scope L stands here, or further out */
    mcp_conf_t *values;
    const mcp_rl_rule_t *rules[MCP_RL_ADDRESS + 1]; /* by limit; NULL: not said; amount 0: none */
    apr_array_header_t *tools;   /* of const mcp_rl_rule_t *; NULL: not said */
    ap_expr_info_t *key;         /* NULL: not said */
    const char *key_header;      /* what key is, if it is no more than a header field; else NULL */
} mcp_rl_dir_t;

void *mcp_rl_create_dir_config(apr_pool_t *p, char *path);
void *mcp_rl_merge_dir_config(apr_pool_t *p, void *base, void *add);

/** A new reading of the configuration begins. */
void mcp_rl_config_reset(apr_pool_t *pconf);

extern const command_rec mcp_rl_commands[];

const mcp_rl_dir_t *mcp_rl_dir(const request_rec *r);

/** The rule in force, or NULL. @a limit is not MCP_RL_TOOL. */
const mcp_rl_rule_t *mcp_rl_rule(const mcp_rl_dir_t *dir, mcp_rl_limit_e limit);

/** Scope S: a value of the whole httpd. */
apr_int64_t mcp_rl_server_number(mcp_rl_directive_e id);

/** The store, of the whole httpd; lives as long as the configuration. */
const mcp_store_url_t *mcp_rl_store_url(void);

#endif
