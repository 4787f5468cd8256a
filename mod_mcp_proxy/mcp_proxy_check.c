/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What can be said of a configuration before the first request: combinations that cannot work stop
 * httpd -t, limits that the promised streams will meet are warned of at the start.
 */
#include "mcp_proxy.h"

#include <apr_fnmatch.h>
#include <apr_strings.h>
#include <http_core.h>
#include <sys/resource.h>

#include "mcp_httpd_advice.h"

/* What httpd itself keeps open beside connections: logs, listeners, pipes. */
#define OTHER_FILES 64
#define DEFAULT_FACTOR 2.0

/* What a look at the configuration of all servers has found. */
typedef struct found_t {
    int used;                    /* MCPProxy is On somewhere */
    const proxy_worker *limited; /* the first member that has max= */
} found_t;

/* A value of scope L in one section, or what the server says where the section is silent. */
static int is_on(const ap_conf_vector_t *section, const server_rec *s)
{
    if (mcp_proxy_conf_is_set(section, MCP_PROXY_ENABLED)) {
        return (int)mcp_proxy_conf(section, MCP_PROXY_ENABLED);
    }
    return mcp_proxy_conf_is_set(s->lookup_defaults, MCP_PROXY_ENABLED)
        && mcp_proxy_conf(s->lookup_defaults, MCP_PROXY_ENABLED);
}

/* A sealed id, or what is kept of a rescue, names a member by its route, which must
 * not mean two. */
static int check_names(const proxy_balancer *balancer, const server_rec *s)
{
    proxy_worker **workers = (proxy_worker **)balancer->workers->elts;
    int i;

    for (i = 0; i < balancer->workers->nelts; i++) {
        const char *route = workers[i]->s->route;

        if (*route && mcp_proxy_member_by_name(balancer, route) != workers[i]) {
            ap_log_error(APLOG_MARK, APLOG_EMERG, 0, s, MCP_LOGNO(2080)
                         "two members of %s have route=%s: %s needs a route for each",
                         balancer->s->name, route, mcp_proxy_is_sealed()
                             ? "MCPProxyAffinity sealed" : "MCPProxyRescue");
            return HTTP_INTERNAL_SERVER_ERROR;
        }
    }
    return OK;
}

/* mod_proxy puts its default there only later. */
static void note_limit(const proxy_worker *worker, found_t *found)
{
    if (!found->limited && worker->s->hmax > 0) {
        found->limited = worker;
    }
}

static int check_balancer(const proxy_balancer *balancer, const server_rec *s, found_t *found)
{
    proxy_worker **workers = (proxy_worker **)balancer->workers->elts;
    int i;

    if (strcmp(balancer->s->lbpname, MCP_PROXY_LBMETHOD) != 0) {
        ap_log_error(APLOG_MARK, APLOG_EMERG, 0, s, MCP_LOGNO(2070)
                     "MCPProxy On needs lbmethod=mcp on %s, and that has lbmethod=%s",
                     balancer->s->name, balancer->s->lbpname);
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    if (*balancer->s->sticky) {
        ap_log_error(APLOG_MARK, APLOG_EMERG, 0, s, MCP_LOGNO(2071)
                     "MCPProxy On does not go with stickysession=%s on %s: lbmethod=mcp knows "
                     "the sessions", balancer->s->sticky, balancer->s->name);
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    for (i = 0; i < balancer->workers->nelts; i++) {
        note_limit(workers[i], found);
    }
    return mcp_proxy_is_sealed() || mcp_proxy_server_conf(MCP_PROXY_RESCUE)
        ? check_names(balancer, s) : OK;
}

static int check_alias(const struct proxy_alias *alias, apr_pool_t *p, server_rec *s,
                       found_t *found)
{
    proxy_server_conf *conf = ap_get_module_config(s->module_config, &proxy_module);
    proxy_balancer *balancer = alias->balancer;
    const proxy_worker *worker;

    if (!balancer && strncasecmp(alias->real, BALANCER_PREFIX, strlen(BALANCER_PREFIX)) == 0) {
        balancer = ap_proxy_get_balancer(p, conf, alias->real, 0);
    }
    if (balancer) {
        return check_balancer(balancer, s, found);
    }
    worker = ap_proxy_get_worker(p, NULL, conf, alias->real);
    if (worker) {
        note_limit(worker, found);
    }
    return OK;
}

int mcp_proxy_covers(const char *location, const char *path)
{
    apr_size_t len = strlen(location);

    return strncmp(location, path, len) == 0
        && (!path[len] || path[len] == '/' || (len && location[len - 1] == '/'));
}

/* The section that a ProxyPass of the server falls into. */
static const ap_conf_vector_t *section_of(const core_server_config *core, const char *path)
{
    const ap_conf_vector_t *found = NULL;
    int i;

    for (i = 0; i < core->sec_url->nelts; i++) {
        ap_conf_vector_t *section = APR_ARRAY_IDX(core->sec_url, i, ap_conf_vector_t *);
        const core_dir_config *dir = ap_get_core_module_config(section);

        if (dir && dir->d && !dir->r && mcp_proxy_covers(dir->d, path)
            && mcp_proxy_conf_is_set(section, MCP_PROXY_ENABLED)) {
            found = section;
        }
    }
    return found;
}

int mcp_proxy_path_is_on(const server_rec *s, const char *path)
{
    const ap_conf_vector_t *section = section_of(ap_get_core_module_config(s->module_config), path);

    return is_on(section ? section : s->lookup_defaults, s);
}

static int is_for(const proxy_dir_conf *section, const char *url)
{
    if (section->r) {
        return ap_regexec(section->r, url, 0, NULL, 0) == 0;
    }
    return section->p_is_fnmatch ? apr_fnmatch(section->p, url, 0) == APR_SUCCESS
        : strncmp(url, section->p, strlen(section->p)) == 0;
}

/* The <Proxy> section that decides for a URL, or for any; the last one does, as in mod_proxy. */
static const ap_conf_vector_t *proxy_section_of(const server_rec *s, const char *url)
{
    const proxy_server_conf *conf = ap_get_module_config(s->module_config, &proxy_module);
    const ap_conf_vector_t *found = NULL;
    int i;

    for (i = 0; i < conf->sec_proxy->nelts; i++) {
        ap_conf_vector_t *section = APR_ARRAY_IDX(conf->sec_proxy, i, ap_conf_vector_t *);
        const proxy_dir_conf *dir = ap_get_module_config(section, &proxy_module);

        if (mcp_proxy_conf_is_set(section, MCP_PROXY_ENABLED)
            && (url ? is_for(dir, url) : mcp_proxy_conf(section, MCP_PROXY_ENABLED))) {
            found = section;
        }
    }
    return found;
}

/* A <Location> wins over the <Proxy> of what it leads to, and this over the server. */
static int leads_here(const ap_conf_vector_t *location, const struct proxy_alias *alias,
                      const server_rec *s)
{
    if (!location || !mcp_proxy_conf_is_set(location, MCP_PROXY_ENABLED)) {
        location = proxy_section_of(s, alias->real);
    }
    return is_on(location ? location : s->lookup_defaults, s);
}

static int check_server(apr_pool_t *p, server_rec *s, found_t *found)
{
    const core_server_config *core = ap_get_core_module_config(s->module_config);
    const proxy_server_conf *conf = ap_get_module_config(s->module_config, &proxy_module);
    int i, status = OK;

    found->used |= proxy_section_of(s, NULL) != NULL;

    for (i = 0; status == OK && i < core->sec_url->nelts; i++) {
        ap_conf_vector_t *section = APR_ARRAY_IDX(core->sec_url, i, ap_conf_vector_t *);
        const proxy_dir_conf *dir = ap_get_module_config(section, &proxy_module);

        found->used |= is_on(section, s);
        if (dir && dir->alias_set && dir->alias && leads_here(section, dir->alias, s)) {
            found->used = 1;
            status = check_alias(dir->alias, p, s, found);
        }
    }
    for (i = 0; status == OK && i < conf->aliases->nelts; i++) {
        const struct proxy_alias *alias = &APR_ARRAY_IDX(conf->aliases, i, struct proxy_alias);

        if (leads_here(alias->regex ? NULL : section_of(core, alias->fake), alias, s)) {
            found->used = 1;
            status = check_alias(alias, p, s, found);
        }
    }
    return status;
}

/* Both do the same for several gateways, and only one of them can. */
static void check_store(server_rec *s)
{
    const mcp_store_url_t *store = mcp_proxy_session_store();

    if (mcp_proxy_is_sealed() && store->kind != MCP_STORE_SHM
        && !mcp_proxy_server_conf(MCP_PROXY_RESCUE)) {
        ap_log_error(APLOG_MARK, APLOG_WARNING, 0, s, MCP_LOGNO(2103)
                     "MCPProxySessionStore %s is not used: with MCPProxyAffinity sealed the ids "
                     "themselves say where sessions are", store->name);
    }
}

/*
 * A limit that somebody relies on, maybe. It is not honoured: it counts connections for each child,
 * and a server's few would be held by streams for hours while calls wait in vain.
 */
static void warn_of_limit(const proxy_worker *worker, server_rec *s)
{
    ap_log_error(APLOG_MARK, APLOG_WARNING, 0, s, MCP_LOGNO(2084)
                 "max=%d of %s limits nothing where MCPProxy is On, nor does any other member's; "
                 "MCPProxyMaxStreams and MCPRateLimitStreams do", worker->s->hmax,
                 worker->s->name_ex);
}

/* The last AsyncRequestWorkerFactor of the configuration; the MPM does not tell. */
static double async_factor(const ap_directive_t *at, double factor)
{
    for (; at; at = at->next) {
        if (strcasecmp(at->directive, "AsyncRequestWorkerFactor") == 0) {
            factor = atof(at->args);
        }
        factor = async_factor(at->first_child, factor);
    }
    return factor;
}

static void check_mpm(server_rec *s, apr_int64_t streams, int children, int threads)
{
    double factor = async_factor(ap_conftree, DEFAULT_FACTOR);
    double room = children * threads * (factor + 1);
    int limit = 0;

    if (room < (double)streams) {
        ap_log_error(APLOG_MARK, APLOG_WARNING, 0, s, MCP_LOGNO(2072)
                     "MCPProxyMaxStreams is %" APR_INT64_T_FMT ", but %d children of %d threads "
                     "accept about %.0f connections; raise AsyncRequestWorkerFactor to %.0f",
                     streams, children, threads, room,
                     (double)streams / ((double)children * threads));
    }
    ap_mpm_query(AP_MPMQ_HARD_LIMIT_DAEMONS, &limit);
    if (limit <= children) {
        ap_log_error(APLOG_MARK, APLOG_WARNING, 0, s, MCP_LOGNO(2073)
                     "ServerLimit %d has no room for new children while old ones drain: a graceful "
                     "restart would wait for them; raise it to %d or more", limit, 2 * children);
    }
}

static void check_files(server_rec *s, apr_int64_t streams, int children)
{
    struct rlimit files;
    apr_int64_t wanted = 2 * ((streams + children - 1) / children) + OTHER_FILES;

    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur != RLIM_INFINITY
        && (apr_int64_t)files.rlim_cur < wanted) {
        ap_log_error(APLOG_MARK, APLOG_WARNING, 0, s, MCP_LOGNO(2074)
                     "MCPProxyMaxStreams is %" APR_INT64_T_FMT ", which takes %" APR_INT64_T_FMT
                     " open files a child, and %" APR_INT64_T_FMT " are allowed; raise ulimit -n",
                     streams, wanted, (apr_int64_t)files.rlim_cur);
    }
}

/* The shell that runs httpd -t may have other limits than the service. */
static void check_sizes(server_rec *s, int used, int knows_limits)
{
    apr_int64_t streams = mcp_proxy_server_conf(MCP_PROXY_MAX_STREAMS);
    int is_async = 0, children = 0, threads = 0;

    if (!used || !mcp_proxy_server_conf(MCP_PROXY_ASYNC)
        || ap_mpm_query(AP_MPMQ_IS_ASYNC, &is_async) != APR_SUCCESS || !is_async) {
        return;
    }
    ap_mpm_query(AP_MPMQ_MAX_DAEMONS, &children);
    ap_mpm_query(AP_MPMQ_MAX_THREADS, &threads);
    children = children > 0 ? children : 1;
    check_mpm(s, streams, children, threads > 0 ? threads : 1);
    if (knows_limits) {
        check_files(s, streams, children);
    }
}

int mcp_proxy_check_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    int status = mcp_sealed_read_keys(pconf, s);
    found_t found = { 0 };
    server_rec *one;

    /* Linked to mod_proxy, this module is there without it, but nothing could work. */
    if (proxy_module.module_index < 0) {
        ap_log_error(APLOG_MARK, APLOG_EMERG, 0, s, MCP_LOGNO(2075)
                     "mod_mcp_proxy needs mod_proxy, mod_proxy_balancer and mod_slotmem_shm: load "
                     "them as well (Debian: a2enmod proxy proxy_balancer slotmem_shm)");
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    check_store(s);
    for (one = s; one && status == OK; one = one->next) {
        status = check_server(ptemp, one, &found);
    }
    if (status == OK && found.limited) {
        warn_of_limit(found.limited, s);
    }
    if (status == OK && mcp_advice_is_wanted()) {
        mcp_proxy_advise(ptemp, s, found.used);
        check_sizes(s, found.used, 0);
    }
    return status;
}

void mcp_proxy_check_capacity(apr_pool_t *ptemp, server_rec *s)
{
    found_t found = { 0 };
    server_rec *one;

    for (one = s; one; one = one->next) {
        check_server(ptemp, one, &found);
    }
    check_sizes(s, found.used, 1);
}
