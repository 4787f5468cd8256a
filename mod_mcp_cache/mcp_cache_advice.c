/* SPDX-License-Identifier: Apache-2.0 */
/* What httpd -t warns of: directives that nothing comes of. */
#include "mcp_cache.h"

#include <apr_strings.h>
#include <http_core.h>
#include <http_log.h>

#include "mcp_httpd_advice.h"
#include "mcp_value.h"

/* What alone does not make a location one whose answers are kept. */
static const char *const settings[] = { "MCPCacheStore", "MCPCacheMaxEntry", "MCPCacheTimeout",
                                        NULL };

static void has_no_effect(const ap_directive_t *at, const char *why, server_rec *s, apr_pool_t *p)
{
    ap_log_error(APLOG_MARK, APLOG_WARNING, 0, s, MCP_LOGNO(4011) "%s has no effect: %s",
                 mcp_advice_place(at, p), why);
}

static const char *pattern_of(const ap_directive_t *at, apr_pool_t *p)
{
    const char *args = at->args;

    return strcasecmp(at->directive, "MCPCacheTool") == 0 ? ap_getword_conf(p, &args) : NULL;
}

/* Whether each name that fits the one fits the other as well. May say no where it is so. */
static int covers(const char *wide, const char *narrow)
{
    return mcp_value_matches(wide, narrow) && (!strchr(wide, '?') || !strchr(narrow, '*'));
}

/* The first MCPCacheTool of a section that fits counts. */
static void advise_order(const ap_directive_t *late, server_rec *s, apr_pool_t *p)
{
    const ap_directive_t *early = late->parent ? late->parent->first_child : ap_conftree;
    const char *name = pattern_of(late, p);

    for (; early && early != late; early = early->next) {
        const char *wide = pattern_of(early, p);

        if (wide && covers(wide, name)) {
            has_no_effect(late, apr_psprintf(p, "%s before it fits every tool that %s fits", wide,
                                             name), s, p);
            return;
        }
    }
}

static void advise_tools(const ap_directive_t *at, server_rec *s, apr_pool_t *p)
{
    for (; at; at = at->next) {
        if (pattern_of(at, p)) {
            advise_order(at, s, p);
        }
        advise_tools(at->first_child, s, p);
    }
}

static void advise(server_rec *s, apr_pool_t *p)
{
    static const char *const none[] = { NULL };
    const ap_directive_t *at = mcp_advice_find_other(ap_conftree, mcp_cache_commands, none);

    if (at && !mcp_advice_find_other(ap_conftree, mcp_cache_commands, settings)) {
        has_no_effect(at, "nothing is cached without MCPCacheTool or MCPCacheHints", s, p);
    }
    advise_tools(ap_conftree, s, p);
}

int mcp_cache_check_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    if (mcp_advice_is_wanted()) {
        advise(s, ptemp);
    }
    return OK;
}
