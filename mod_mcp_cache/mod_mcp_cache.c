/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mod_mcp_cache: results of MCP calls, answered again without the backend. This file is the table
 * of contents: which hook runs what, and why there.
 */
#include "mcp_cache.h"

#include <http_protocol.h>
#include <http_request.h>

#include "mcp_cache_metrics.h"

static int pre_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp)
{
    mcp_cache_config_reset(pconf);
    return OK;
}

static void register_hooks(apr_pool_t *p)
{
    static const char *const after_proxy[] = {"mod_mcp_proxy.c", NULL};
    static const char *const before_handlers[] = {"mod_proxy.c", "mod_mcp_proxy.c", NULL};

    /* One loop is enough: it only waits for flights and for bodies. */
    mcp_park_register_hooks(&mcp_cache_module, 1);
    mcp_request_register(p, "MCP_CACHE_BODY");
    mcp_cache_register_filter();

    ap_hook_pre_config(pre_config, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_optional_fn_retrieve(mcp_cache_find_peers, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_check_config(mcp_cache_check_config, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_post_config(mcp_cache_post_config, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_child_init(mcp_cache_child_init, NULL, NULL, APR_HOOK_MIDDLE);
    /* Early, since the phase is run again once a slow body is whole; mod_mcp_proxy's limits on a
     * body come first where it is there. */
    ap_hook_fixups(mcp_cache_fixups, after_proxy, NULL, APR_HOOK_REALLY_FIRST);
    /* Behind all of the fixups, so that a refused request is never served; ahead of whoever would
     * ask a backend. */
    ap_hook_handler(mcp_cache_handler, NULL, before_handlers, APR_HOOK_REALLY_FIRST);
    ap_hook_insert_error_filter(mcp_cache_insert_error_filter, NULL, NULL, APR_HOOK_LAST);
    ap_hook_log_transaction(mcp_cache_count, NULL, NULL, APR_HOOK_MIDDLE);
    mcp_cache_register_metrics();
}

module AP_MODULE_DECLARE_DATA mcp_cache_module = {
    STANDARD20_MODULE_STUFF,
    mcp_cache_create_dir_config,
    mcp_cache_merge_dir_config,
    NULL,
    NULL,
    mcp_cache_commands,
    register_hooks,
    AP_MODULE_FLAG_NONE
};
