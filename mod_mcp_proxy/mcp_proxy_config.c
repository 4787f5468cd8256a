/* SPDX-License-Identifier: Apache-2.0 */
/* The directives of mod_mcp_proxy: those of the table, and the one that takes a list. */
#include "mcp_proxy.h"

#include <apr_strings.h>
#include <http_main.h>

#include "mcp_httpd_conf.h"
#include "mcp_value.h"

#define AFFINITY_SEALED 1
#define KEY_PREFIX "file:"
#define DEFAULT_ENTRIES 65536
#define MOST_ENTRIES (16 * 1024 * 1024)

#define MCP_DIRECTIVE(id, kind, scope, name, value, min, max, accepted, help) \
    { id, kind, scope, name, value, min, max, accepted },
static const mcp_conf_directive_t table[] = {
#include "mcp_proxy.def"
};
#undef MCP_DIRECTIVE

typedef struct dir_conf_t {
    mcp_conf_t *values;
    apr_array_header_t *origins;
    int has_origins;
} dir_conf_t;

/* Scope S: one set for each reading of the configuration. */
static mcp_conf_t *server_values;
static struct {
    mcp_store_url_t url;
    const char *text, *where; /* as it stands in the configuration; NULL: not said */
} session_store;

void *mcp_proxy_create_dir_config(apr_pool_t *p, char *path)
{
    dir_conf_t *conf = apr_pcalloc(p, sizeof(*conf));

    conf->values = mcp_conf_create(p, table, MCP_PROXY_DIRECTIVES);
    return conf;
}

static int is_silent(const dir_conf_t *conf)
{
    return !conf->has_origins && mcp_conf_is_empty(conf->values);
}

void *mcp_proxy_merge_dir_config(apr_pool_t *p, void *base_, void *add_)
{
    const dir_conf_t *base = base_, *add = add_;
    dir_conf_t *conf;

    /* For each request, and mostly one side has nothing to say: then the other one will do. */
    if (is_silent(add) || is_silent(base)) {
        return is_silent(add) ? base_ : add_;
    }
    conf = apr_pcalloc(p, sizeof(*conf));
    conf->values = mcp_conf_merge(p, base->values, add->values);
    conf->has_origins = add->has_origins || base->has_origins;
    conf->origins = add->has_origins ? add->origins : base->origins;
    return conf;
}

void mcp_proxy_config_reset(apr_pool_t *pconf)
{
    server_values = mcp_conf_create(pconf, table, MCP_PROXY_DIRECTIVES);
    memset(&session_store, 0, sizeof(session_store));
}

static const dir_conf_t *dir_conf(const ap_conf_vector_t *per_dir)
{
    return ap_get_module_config(per_dir, &mcp_proxy_module);
}

apr_int64_t mcp_proxy_conf(const ap_conf_vector_t *per_dir, mcp_proxy_directive_e id)
{
    return mcp_conf_number(dir_conf(per_dir)->values, id);
}

int mcp_proxy_conf_is_set(const ap_conf_vector_t *per_dir, mcp_proxy_directive_e id)
{
    const dir_conf_t *conf = dir_conf(per_dir);

    return conf && mcp_conf_is_set(conf->values, id);
}

apr_int64_t mcp_proxy_server_conf(mcp_proxy_directive_e id)
{
    return mcp_conf_number(server_values, id);
}

const apr_array_header_t *mcp_proxy_origins(const ap_conf_vector_t *per_dir)
{
    return dir_conf(per_dir)->origins;
}

const mcp_store_url_t *mcp_proxy_session_store(void)
{
    return &session_store.url;
}

unsigned mcp_proxy_session_entries(void)
{
    return session_store.url.size ? (unsigned)session_store.url.size : DEFAULT_ENTRIES;
}

int mcp_proxy_is_sealed(void)
{
    return mcp_conf_number(server_values, MCP_PROXY_AFFINITY) == AFFINITY_SEALED;
}

static int is_key_file(const char *text)
{
    return strncmp(text, KEY_PREFIX, strlen(KEY_PREFIX)) == 0 && text[strlen(KEY_PREFIX)];
}

const char *mcp_proxy_session_key(apr_pool_t *p)
{
    const char *text = mcp_conf_text(server_values, MCP_PROXY_SESSION_KEY);

    return *text ? ap_server_root_relative(p, text + strlen(KEY_PREFIX)) : NULL;
}

static const char *set_value(cmd_parms *cmd, void *dir, const char *value)
{
    const mcp_conf_directive_t *d = cmd->info;
    dir_conf_t *conf = dir;

    if (d->id == MCP_PROXY_SESSION_KEY && !is_key_file(value)) {
        return apr_psprintf(cmd->pool, "%s: it takes " KEY_PREFIX "PATH; keys do not stand in the "
                            "configuration itself", d->name);
    }
    return d->scope == MCP_CONF_SERVER ? mcp_conf_set_once(cmd, server_values, d->id, value)
                                       : mcp_conf_set(cmd->pool, conf->values, d->id, value);
}

/* The password, if there is one, is read at once: as root, while httpd starts. */
static const char *set_store(cmd_parms *cmd, void *dir, int argc, char *const argv[])
{
    const char *text = argc ? argv[0] : "", *error;
    mcp_store_url_t url;
    int i;

    for (i = 1; i < argc; i++) {
        text = apr_pstrcat(cmd->pool, text, " ", argv[i], NULL);
    }
    error = mcp_store_url_parse(text, ap_server_root, &url, cmd->pool);
    if (error) {
        /* What may have a password in it is not shown. */
        return apr_psprintf(cmd->pool,
                            "MCPProxySessionStore: '%s' is not accepted: %s; it takes %s",
                            strpbrk(text, "@=") ? "..." : text, error, MCP_STORE_URL_FORMS);
    }
    if (url.size > MOST_ENTRIES) {
        return apr_psprintf(cmd->pool, "MCPProxySessionStore: N of shm:N is from 1 to %d entries",
                            MOST_ENTRIES);
    }
    if (session_store.text && strcmp(session_store.text, text) != 0) {
        return apr_psprintf(cmd->pool, "MCPProxySessionStore is one value for the whole httpd, and "
                            "%s set another one", session_store.where);
    }
    session_store.url = url;
    session_store.text = text;
    session_store.where = apr_psprintf(cmd->pool, "%s:%d", cmd->directive->filename
                                       ? cmd->directive->filename : "-", cmd->directive->line_num);
    return NULL;
}

/* scheme://host[:port], nothing behind it */
static int is_origin(const char *text)
{
    const char *host = strstr(text, "://");

    return host && host > text && host[3] && !strpbrk(host + 3, "/?#* ");
}

static const char *add_origin(cmd_parms *cmd, void *dir, const char *value)
{
    dir_conf_t *conf = dir;

    if (strcasecmp(value, "same") == 0) {
        if (conf->origins) {
            return "MCPProxyAllowOrigin: 'same' stands alone";
        }
        conf->has_origins = 1;
        return NULL;
    }
    if (strcmp(value, "*") != 0 && !is_origin(value)) {
        return apr_psprintf(cmd->pool, "MCPProxyAllowOrigin: '%s' is not accepted; it takes "
                            "origins as in https://app.example:8443, or *, or same", value);
    }
    if (conf->has_origins && !conf->origins) {
        return "MCPProxyAllowOrigin: 'same' stands alone";
    }
    if (!conf->origins) {
        conf->origins = apr_array_make(cmd->pool, 4, sizeof(const char *));
        conf->has_origins = 1;
    }
    APR_ARRAY_PUSH(conf->origins, const char *) = apr_pstrdup(cmd->pool, value);
    return NULL;
}

#define MCP_DIRECTIVE(id, kind, scope, name, value, min, max, accepted, help) \
    AP_INIT_TAKE1(name, set_value, (void *)&table[id], RSRC_CONF | ACCESS_CONF, help),
const command_rec mcp_proxy_commands[] = {
#include "mcp_proxy.def"
    AP_INIT_TAKE_ARGV("MCPProxySessionStore", set_store, NULL, RSRC_CONF | ACCESS_CONF,
                      "where the session table lives: " MCP_STORE_URL_FORMS),
    AP_INIT_ITERATE("MCPProxyAllowOrigin", add_origin, NULL, RSRC_CONF | ACCESS_CONF,
                    "origins that may ask: ORIGIN ..., *, or same"),
    { NULL, { NULL }, NULL, 0, RAW_ARGS, NULL }
};
#undef MCP_DIRECTIVE
