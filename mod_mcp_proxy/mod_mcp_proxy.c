/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mod_mcp_proxy: MCP through httpd, no open stream holding a thread. This file is the table of
 * contents: which hook runs what, and why there.
 */
#include "mcp_proxy.h"

#include <http_request.h>
#include <mod_status.h>
#include <mpm_common.h>

#include "mcp_httpd_park.h"
#include "mcp_httpd_peers.h"
#include "mcp_httpd_request.h"

/* A loop moves some 50,000 events a second; two keep both cores of a small machine busy. */
#define LOOPS 2

static int pre_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp)
{
    mcp_proxy_config_reset(pconf);
    return OK;
}

static void register_hooks(apr_pool_t *p)
{
    static const char *const before_balancer[] = { "mod_proxy_balancer.c", NULL };
    static const char *const before_http[] = { "mod_proxy_http.c", "mod_proxy_http2.c", NULL };
    static const char *const before_fixups[] = { "mod_proxy.c", "mod_security2.c", NULL };

    mcp_park_register_hooks(&mcp_proxy_module, LOOPS);
    mcp_request_register(p, "MCP_PROXY_BODY");
    mcp_proxy_register_lbmethod(p);
    APR_REGISTER_OPTIONAL_FN(mcp_proxy_is_on);
    APR_REGISTER_OPTIONAL_FN(mcp_proxy_session_lives);

    ap_hook_pre_config(pre_config, NULL, NULL, APR_HOOK_MIDDLE);
    /* Last: the MPM has made up its mind by then. */
    ap_hook_check_config(mcp_proxy_check_config, NULL, NULL, APR_HOOK_LAST);
    ap_hook_post_config(mcp_proxy_post_config, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_child_init(mcp_proxy_child_init, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_child_status(mcp_proxy_child_status, NULL, NULL, APR_HOOK_MIDDLE);
    mcp_proxy_register_rules(p);
    /* Around mod_authz_core, whose answer to a refused tool is turned into ours. */
    ap_hook_check_access_ex(mcp_proxy_check_access, NULL, NULL, APR_HOOK_REALLY_FIRST,
                            AP_AUTH_INTERNAL_PER_CONF);
    ap_hook_check_authz(mcp_proxy_check_user, NULL, NULL, APR_HOOK_REALLY_FIRST,
                        AP_AUTH_INTERNAL_PER_CONF);
    /*
     * First of the fixups: the message is in the environment for all others, and since nobody ran
     * before, the phase can be run again once a slow body is whole.
     */
    ap_hook_fixups(mcp_proxy_fixups, NULL, before_fixups, APR_HOOK_REALLY_FIRST);
    /* Ahead of the balancer, which asks lbmethod=mcp while it holds its lock. */
    proxy_hook_pre_request(mcp_proxy_pre_request, NULL, before_balancer, APR_HOOK_FIRST);
    /* Behind mod_proxy_http, which need not be loaded. */
    proxy_hook_canon_handler(mcp_proxy_canon, before_http, NULL, APR_HOOK_LAST);
    proxy_hook_scheme_handler(mcp_proxy_handler, NULL, before_http, APR_HOOK_FIRST);
    /* Every request that ends, also those that were refused before they came here. */
    ap_hook_log_transaction(mcp_proxy_count_request, NULL, NULL, APR_HOOK_FIRST);
    ap_hook_handler(mcp_proxy_metrics_handler, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_handler(mcp_proxy_status_handler, NULL, NULL, APR_HOOK_MIDDLE);
    /* The parent's own, every ten seconds. */
    ap_hook_monitor(mcp_proxy_monitor, NULL, NULL, APR_HOOK_MIDDLE);
    APR_OPTIONAL_HOOK(ap, status_hook, mcp_proxy_status_hook, NULL, NULL, APR_HOOK_MIDDLE);
    /* What mod_proxy would answer with an HTML page becomes a JSON-RPC error. */
    APR_OPTIONAL_HOOK(proxy, request_status, mcp_proxy_request_status, NULL, NULL,
                      APR_HOOK_REALLY_LAST);
}

module AP_MODULE_DECLARE_DATA mcp_proxy_module = {
    STANDARD20_MODULE_STUFF,
    mcp_proxy_create_dir_config,
    mcp_proxy_merge_dir_config,
    NULL,
    NULL,
    mcp_proxy_commands,
    register_hooks,
    AP_MODULE_FLAG_NONE
};
