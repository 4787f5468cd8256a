/* SPDX-License-Identifier: Apache-2.0 */
/* What httpd -t warns of: directives that nothing comes of. */
#include "mcp_rl_advice.h"

#include <http_core.h>
#include <http_log.h>

#include "mcp_httpd_advice.h"
#include "mcp_rl_config.h"

static const char *const limits[] = {
    "MCPRateLimitStreams", "MCPRateLimitMessages", "MCPRateLimitWindow", "MCPRateLimitAddress",
    "MCPRateLimitTool", NULL
};
/* What is about a store that can be slow or gone. */
static const char *const remote[] = {
    "MCPRateLimitTimeout", "MCPRateLimitLease", "MCPRateLimitOnError", NULL
};

static void has_no_effect(const ap_directive_t *at, const char *why, server_rec *s, apr_pool_t *p)
{
    ap_log_error(APLOG_MARK, APLOG_WARNING, 0, s, MCP_LOGNO(3011) "%s has no effect: %s",
                 mcp_advice_place(at, p), why);
}

static const ap_directive_t *first_of(const char *const *names)
{
    const ap_directive_t *at = NULL;

    while (*names && !at) {
        at = mcp_advice_find(ap_conftree, *names++);
    }
    return at;
}

static void advise(server_rec *s, apr_pool_t *p)
{
    const ap_directive_t *at = mcp_advice_find_other(ap_conftree, mcp_rl_commands, limits);

    if (at && !first_of(limits)) {
        has_no_effect(at, "nothing is limited", s, p);
        return;
    }
    at = first_of(remote);
    if (at && mcp_rl_store_url()->kind == MCP_STORE_SHM) {
        has_no_effect(at, "it is about Redis, and MCPRateLimitStore is shm", s, p);
    }
}

int mcp_rl_check_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    if (mcp_advice_is_wanted()) {
        advise(s, ptemp);
    }
    return OK;
}
