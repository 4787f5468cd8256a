/* SPDX-License-Identifier: Apache-2.0 */
/* The directives of mod_mcp_cache: those of the table, and the two that hold expressions. */
#include "mcp_cache.h"

#include <apr_strings.h>
#include <http_main.h>

#include "mcp_httpd_conf.h"
#include "mcp_store_url.h"
#include "mcp_value.h"

#define MCP_DIRECTIVE(id, kind, scope, name, value, min, max, accepted, help) \
    { id, kind, scope, name, value, min, max, accepted },
static const mcp_conf_directive_t table[] = {
#include "mcp_cache.def"
};
#undef MCP_DIRECTIVE

typedef struct dir_conf_t {
    mcp_conf_t *values;
    apr_array_header_t *tools; /* of mcp_cache_tool_t; NULL: none */
    ap_expr_info_t *key;
    int configured;
} dir_conf_t;

/* Of one reading of the configuration. */
static struct {
    mcp_conf_t *server;
    apr_array_header_t *labels;
} pass;

void *mcp_cache_create_dir_config(apr_pool_t *p, char *path)
{
    dir_conf_t *conf = apr_pcalloc(p, sizeof(*conf));

    conf->values = mcp_conf_create(p, table, MCP_CACHE_DIRECTIVES);
    return conf;
}

void *mcp_cache_merge_dir_config(apr_pool_t *p, void *base_, void *add_)
{
    const dir_conf_t *base = base_, *add = add_;
    dir_conf_t *conf;

    /* For each request, and mostly one side has nothing to say: then the other one will do. */
    if (!add->configured || !base->configured) {
        return add->configured ? add_ : base_;
    }
    conf = apr_pcalloc(p, sizeof(*conf));
    conf->configured = 1;
    conf->values = mcp_conf_merge(p, base->values, add->values);
    conf->key = add->key ? add->key : base->key;
    conf->tools = add->tools ? add->tools : base->tools;
    if (add->tools && base->tools) {
        conf->tools = apr_array_append(p, add->tools, base->tools);
    }
    return conf;
}

void mcp_cache_config_reset(apr_pool_t *pconf)
{
    pass.server = mcp_conf_create(pconf, table, MCP_CACHE_DIRECTIVES);
    pass.labels = apr_array_make(pconf, 8, sizeof(const char *));
    APR_ARRAY_PUSH(pass.labels, const char *) = "";
}

static const dir_conf_t *dir_conf(const ap_conf_vector_t *per_dir)
{
    return ap_get_module_config(per_dir, &mcp_cache_module);
}

apr_int64_t mcp_cache_conf(const ap_conf_vector_t *per_dir, mcp_cache_directive_e id)
{
    return mcp_conf_number(dir_conf(per_dir)->values, id);
}

apr_int64_t mcp_cache_server_conf(mcp_cache_directive_e id)
{
    return mcp_conf_number(pass.server, id);
}

const char *mcp_cache_store_text(void)
{
    return mcp_conf_text(pass.server, MCP_CACHE_STORE);
}

int mcp_cache_is_configured(const ap_conf_vector_t *per_dir)
{
    return dir_conf(per_dir)->configured;
}

const ap_expr_info_t *mcp_cache_key_expr(const ap_conf_vector_t *per_dir)
{
    return dir_conf(per_dir)->key;
}

const apr_array_header_t *mcp_cache_labels(void)
{
    return pass.labels;
}

const mcp_cache_tool_t *mcp_cache_tool(const ap_conf_vector_t *per_dir, const char *name)
{
    const apr_array_header_t *tools = dir_conf(per_dir)->tools;
    int i;

    for (i = 0; tools && i < tools->nelts; i++) {
        const mcp_cache_tool_t *tool = &APR_ARRAY_IDX(tools, i, mcp_cache_tool_t);

        if (mcp_value_matches(tool->pattern, name)) {
            return tool;
        }
    }
    return NULL;
}

static const char *set_value(cmd_parms *cmd, void *dir, const char *value)
{
    const mcp_conf_directive_t *d = cmd->info;
    dir_conf_t *conf = dir;

    if (d->scope == MCP_CONF_SERVER) {
        return mcp_conf_set_once(cmd, pass.server, d->id, value);
    }
    conf->configured = 1;
    return mcp_conf_set(cmd->pool, conf->values, d->id, value);
}

static const char *set_store(cmd_parms *cmd, void *dir, const char *address, const char *option)
{
    const char *text = option ? apr_pstrcat(cmd->pool, address, " ", option, NULL) : address;
    const char *wrong;
    mcp_store_url_t url;

    /* A password file that cannot be read is an error of httpd -t, not of the next reload. */
    wrong = mcp_store_url_parse(text, ap_server_root, &url, cmd->temp_pool);
    if (!wrong && url.kind == MCP_STORE_SHM && url.size && url.size < MCP_CACHE_STORE_MIN) {
        wrong = "a store in shared memory takes at least 1M";
    }
    if (wrong) {
        return apr_psprintf(cmd->pool, "%s: %s; it takes %s", cmd->cmd->name, wrong,
                            MCP_STORE_URL_FORMS);
    }
    return mcp_conf_set_once(cmd, pass.server, MCP_CACHE_STORE, text);
}

static const char *parse_key(cmd_parms *cmd, const char *text, ap_expr_info_t **key)
{
    const char *error = NULL;

    *key = ap_expr_parse_cmd(cmd, text, AP_EXPR_FLAG_STRING_RESULT, &error, NULL);
    return error ? apr_psprintf(cmd->pool, "%s: '%s' is no expression: %s", cmd->cmd->name, text,
                                error) : NULL;
}

static const char *set_key(cmd_parms *cmd, void *dir, const char *text)
{
    dir_conf_t *conf = dir;

    conf->configured = 1;
    return parse_key(cmd, text, &conf->key);
}

static const char *set_tool_option(cmd_parms *cmd, mcp_cache_tool_t *tool, const char *option)
{
    if (!strcasecmp(option, "scope=user")) {
        tool->scope = MCP_CACHE_SCOPE_USER;
    } else if (!strcasecmp(option, "scope=session")) {
        tool->scope = MCP_CACHE_SCOPE_SESSION;
    } else if (!strcasecmp(option, "scope=shared")) {
        tool->scope = MCP_CACHE_SCOPE_SHARED;
    } else if (!strncasecmp(option, "key=", 4)) {
        return parse_key(cmd, option + 4, &tool->key);
    } else {
        return apr_psprintf(cmd->pool, "%s: '%s' is not accepted; it takes PATTERN TTL "
                            "[scope=user|session|shared] [key=EXPR]", cmd->cmd->name, option);
    }
    return NULL;
}

/* Equal patterns are counted together; beyond the limit, with what is no tool. */
static int label_of(const char *pattern)
{
    int i;

    for (i = 0; i < pass.labels->nelts; i++) {
        if (!strcmp(APR_ARRAY_IDX(pass.labels, i, const char *), pattern)) {
            return i;
        }
    }
    if (i == MCP_CACHE_MAX_RULES) {
        return 0;
    }
    APR_ARRAY_PUSH(pass.labels, const char *) = pattern;
    return i;
}

static const char *add_tool(cmd_parms *cmd, void *dir, int argc, char *const argv[])
{
    dir_conf_t *conf = dir;
    mcp_cache_tool_t *tool;
    const char *error = NULL;
    int i;

    if (argc < 2 || !*argv[0]) {
        return apr_psprintf(cmd->pool, "%s takes PATTERN TTL [scope=user|session|shared] "
                            "[key=EXPR]", cmd->cmd->name);
    }
    if (!conf->tools) {
        conf->tools = apr_array_make(cmd->pool, 4, sizeof(mcp_cache_tool_t));
    }
    tool = apr_array_push(conf->tools);
    memset(tool, 0, sizeof(*tool));
    tool->pattern = apr_pstrdup(cmd->pool, argv[0]);
    tool->label = label_of(tool->pattern);
    conf->configured = 1;
    if (mcp_value_duration(argv[1], &tool->ttl) != APR_SUCCESS
        || tool->ttl > MCP_CACHE_MAX_LIFE) {
        return apr_psprintf(cmd->pool, "%s: '%s' is not accepted as TTL; it takes a duration of up "
                            "to 30d, as in 250ms, 30s, 10m, 4h, or 0 to exclude the tool",
                            cmd->cmd->name, argv[1]);
    }
    for (i = 2; i < argc && !error; i++) {
        error = set_tool_option(cmd, tool, argv[i]);
    }
    return error;
}

/* The one text of the table is an address with an option behind it. */
#define CMD_MCP_CONF_TEXT(id, name, help) \
    AP_INIT_TAKE12(name, set_store, NULL, RSRC_CONF | ACCESS_CONF, help),
#define CMD_MCP_CONF_SIZE(id, name, help) \
    AP_INIT_TAKE1(name, set_value, (void *)&table[id], RSRC_CONF | ACCESS_CONF, help),
#define CMD_MCP_CONF_FLAG CMD_MCP_CONF_SIZE
#define CMD_MCP_CONF_DURATION CMD_MCP_CONF_SIZE
#define MCP_DIRECTIVE(id, kind, scope, name, value, min, max, accepted, help) \
    CMD_##kind(id, name, help)
const command_rec mcp_cache_commands[] = {
#include "mcp_cache.def"
    AP_INIT_TAKE1("MCPCacheKey", set_key, NULL, RSRC_CONF | ACCESS_CONF,
                  "an expression: who asks"),
    AP_INIT_TAKE_ARGV("MCPCacheTool", add_tool, NULL, RSRC_CONF | ACCESS_CONF,
                      "PATTERN TTL [scope=user|session|shared] [key=EXPR]"),
    { NULL, { NULL }, NULL, 0, RAW_ARGS, NULL }
};
#undef MCP_DIRECTIVE
