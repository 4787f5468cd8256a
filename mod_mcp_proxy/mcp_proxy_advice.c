/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What httpd -t warns of: directives that nothing comes of, ProxyPass lines that are never reached,
 * filters that hold events back. All of it runs, so none of it is an error.
 */
#include "mcp_proxy.h"

#include <apr_strings.h>
#include <http_core.h>

#include "mcp_httpd_advice.h"

/* One <Location> of a server. */
typedef struct place_t {
    const ap_conf_vector_t *section;
    const core_dir_config *core;
    const struct proxy_alias *alias; /* its own ProxyPass; NULL: none */
} place_t;

static place_t place_at(const core_server_config *core, int i)
{
    place_t place = { .section = APR_ARRAY_IDX(core->sec_url, i, ap_conf_vector_t *) };
    const proxy_dir_conf *dir = ap_get_module_config(place.section, &proxy_module);

    place.core = ap_get_core_module_config(place.section);
    place.alias = dir && dir->alias_set ? dir->alias : NULL;
    return place;
}

/* Whether "MCPProxy On" stands in this very section. */
static int says_on(const place_t *place)
{
    return mcp_proxy_conf_is_set(place->section, MCP_PROXY_ENABLED)
        && mcp_proxy_conf(place->section, MCP_PROXY_ENABLED);
}

/* One may be within the other; a regular expression may match anything. */
static int may_meet(const place_t *place, const char *path)
{
    return !path || place->core->r || mcp_proxy_covers(place->core->d, path)
        || mcp_proxy_covers(path, place->core->d);
}

/* Whether anything could proxy what the section is for. mod_rewrite could do it from anywhere. */
static int may_be_proxied(const place_t *place, const core_server_config *core,
                          const proxy_server_conf *conf)
{
    int i;

    if (place->alias || place->core->handler || place->core->expr_handler
        || mcp_advice_find(ap_conftree, "RewriteRule")) {
        return 1;
    }
    for (i = 0; i < conf->aliases->nelts; i++) {
        const struct proxy_alias *alias = &APR_ARRAY_IDX(conf->aliases, i, struct proxy_alias);

        if (may_meet(place, alias->regex ? NULL : alias->fake)) {
            return 1;
        }
    }
    for (i = 0; i < core->sec_url->nelts; i++) {
        place_t other = place_at(core, i);

        if (other.alias && may_meet(place, other.core->r ? NULL : other.core->d)) {
            return 1;
        }
    }
    return 0;
}

/* The scheme of a ProxyPass, behind a unix: path; NULL if it is one that is taken over. */
static const char *foreign_scheme(const struct proxy_alias *alias, apr_pool_t *p)
{
    const char *bar = strchr(alias->real, '|');
    const char *url = bar ? bar + 1 : alias->real;
    const char *end = strstr(url, "://");
    const char *scheme = end ? apr_pstrmemdup(p, url, (apr_size_t)(end - url)) : NULL;

    return !scheme || strcasecmp(scheme, "http") == 0 || strcasecmp(scheme, "https") == 0
        || strcasecmp(scheme, "balancer") == 0 ? NULL : scheme;
}

static void has_no_effect(const place_t *place, const char *why, server_rec *s)
{
    ap_log_error(APLOG_MARK, APLOG_WARNING, 0, s, MCP_LOGNO(2077)
                 "MCPProxy On in <Location \"%s\"> has no effect: %s", place->core->d, why);
}

static void is_hidden(const char *what, const char *why, server_rec *s)
{
    ap_log_error(APLOG_MARK, APLOG_WARNING, 0, s, MCP_LOGNO(2078)
                 "%s is never used: %s", what, why);
}

static void is_filtered(const char *by, server_rec *s)
{
    ap_log_error(APLOG_MARK, APLOG_WARNING, 0, s, MCP_LOGNO(2079)
                 "%s: events may wait in it, and streams may keep their threads", by);
}

static void advise_on(const place_t *place, const core_server_config *core,
                      const proxy_server_conf *conf, server_rec *s, apr_pool_t *p)
{
    const char *scheme = place->alias ? foreign_scheme(place->alias, p) : NULL;

    if (scheme) {
        has_no_effect(place, apr_pstrcat(p, "its ProxyPass goes to ", scheme,
                                         "://, and http and https are taken over", NULL), s);
    }
    else if (!may_be_proxied(place, core, conf)) {
        has_no_effect(place, "no ProxyPass says where its requests go", s);
    }
    if (place->core->output_filters) {
        is_filtered(apr_psprintf(p, "SetOutputFilter %s in <Location \"%s\">",
                                 place->core->output_filters, place->core->d), s);
    }
}

/* The last section that matches decides; one that covers another and stands behind
 * it always does. */
static void advise_order(const core_server_config *core, int i, server_rec *s, apr_pool_t *p)
{
    place_t place = place_at(core, i);
    int j;

    for (j = i + 1; place.alias && !place.core->r && j < core->sec_url->nelts; j++) {
        place_t later = place_at(core, j);

        if (later.alias && !later.core->r && mcp_proxy_covers(later.core->d, place.core->d)) {
            is_hidden(apr_psprintf(p, "the ProxyPass of <Location \"%s\">", place.core->d),
                      apr_psprintf(p, "<Location \"%s\"> behind it has one too; let the longer "
                                   "path stand last", later.core->d), s);
            return;
        }
    }
}

/* Outside of sections the first ProxyPass that fits decides. */
static void advise_aliases(const core_server_config *core, const proxy_server_conf *conf,
                           server_rec *s, apr_pool_t *p)
{
    int i, j;

    for (i = 0; i < conf->aliases->nelts; i++) {
        const struct proxy_alias *late = &APR_ARRAY_IDX(conf->aliases, i, struct proxy_alias);

        for (j = 0; j < i && !late->regex && mcp_proxy_path_is_on(s, late->fake); j++) {
            const struct proxy_alias *early = &APR_ARRAY_IDX(conf->aliases, j, struct proxy_alias);

            if (!early->regex && strcmp(late->real, "!") != 0
                && mcp_proxy_covers(early->fake, late->fake)) {
                is_hidden(apr_pstrcat(p, "ProxyPass ", late->fake, NULL),
                          apr_psprintf(p, "ProxyPass %s stands before it; let the longer path "
                                       "stand first", early->fake), s);
                break;
            }
        }
    }
}

static void advise_server(server_rec *s, apr_pool_t *p)
{
    const core_server_config *core = ap_get_core_module_config(s->module_config);
    const proxy_server_conf *conf = ap_get_module_config(s->module_config, &proxy_module);
    int i;

    for (i = 0; i < core->sec_url->nelts; i++) {
        place_t place = place_at(core, i);

        if (place.core && place.core->d && says_on(&place)) {
            advise_on(&place, core, conf, s, p);
            advise_order(core, i, s, p);
        }
    }
    advise_aliases(core, conf, s, p);
}

/* AddOutputFilterByType FILTER text/event-stream */
static void advise_types(const ap_directive_t *at, server_rec *s, apr_pool_t *p)
{
    for (; at; at = at->next) {
        if (strcasecmp(at->directive, "AddOutputFilterByType") == 0
            && ap_strcasestr(at->args, "text/event-stream")) {
            is_filtered(apr_pstrcat(p, mcp_advice_place(at, p), " ", at->args, NULL), s);
        }
        advise_types(at->first_child, s, p);
    }
}

void mcp_proxy_advise(apr_pool_t *p, server_rec *s, int is_used)
{
    static const char *const itself[] = { "MCPProxy", NULL };
    const ap_directive_t *at = mcp_advice_find_other(ap_conftree, mcp_proxy_commands, itself);

    if (!is_used && at) {
        ap_log_error(APLOG_MARK, APLOG_WARNING, 0, s, MCP_LOGNO(2076)
                     "%s has no effect: MCPProxy is On nowhere", mcp_advice_place(at, p));
    }
    if (is_used) {
        advise_types(ap_conftree, s, p);
    }
    for (; s; s = s->next) {
        advise_server(s, p);
    }
}
