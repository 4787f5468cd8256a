/* SPDX-License-Identifier: Apache-2.0 */
/* The directives of mod_mcp_ratelimit: those of the table, and those that describe limits. */
#include "mcp_rl_config.h"

#include <apr_lib.h>
#include <apr_strings.h>
#include <http_main.h>

#include "mcp_value.h"

#define MCP_DIRECTIVE(id, kind, scope, name, value, min, max, accepted, help) \
    { id, kind, scope, name, value, min, max, accepted },
static const mcp_conf_directive_t table[] = {
#include "mcp_rl.def"
};
#undef MCP_DIRECTIVE

/* Scope S: one set for each reading of the configuration. */
typedef struct server_values_t {
    mcp_conf_t *values;
    mcp_store_url_t store;
    const char *store_text;  /* as it stands in the configuration; NULL: not said */
    const char *store_where;
} server_values_t;

static server_values_t *server;

/* "none": an inherited limit does not hold here. */
static const mcp_rl_rule_t no_rule;

void mcp_rl_config_reset(apr_pool_t *pconf)
{
    server = apr_pcalloc(pconf, sizeof(*server));
    server->values = mcp_conf_create(pconf, table, MCP_RL_DIRECTIVES);
    server->store.kind = MCP_STORE_SHM;
    server->store.name = "shm";
}

apr_int64_t mcp_rl_server_number(mcp_rl_directive_e id)
{
    return mcp_conf_number(server->values, id);
}

const mcp_store_url_t *mcp_rl_store_url(void)
{
    return &server->store;
}

void *mcp_rl_create_dir_config(apr_pool_t *p, char *path)
{
    mcp_rl_dir_t *dir = apr_pcalloc(p, sizeof(*dir));

    dir->values = mcp_conf_create(p, table, MCP_RL_DIRECTIVES);
    return dir;
}

static int has_pattern(const apr_array_header_t *tools, const char *pattern)
{
    int i;

    for (i = 0; i < tools->nelts; i++) {
        if (strcmp(APR_ARRAY_IDX(tools, i, const mcp_rl_rule_t *)->pattern, pattern) == 0) {
            return 1;
        }
    }
    return 0;
}

/* The outer ones stay in force, but for patterns that the inner section speaks of itself. */
static apr_array_header_t *merge_tools(apr_pool_t *p, apr_array_header_t *base,
                                       apr_array_header_t *add)
{
    apr_array_header_t *tools;
    int i;

    if (!base || !add) {
        return add ? add : base;
    }
    tools = apr_array_make(p, base->nelts + add->nelts, sizeof(const mcp_rl_rule_t *));
    for (i = 0; i < base->nelts; i++) {
        const mcp_rl_rule_t *rule = APR_ARRAY_IDX(base, i, const mcp_rl_rule_t *);

        if (!has_pattern(add, rule->pattern)) {
            APR_ARRAY_PUSH(tools, const mcp_rl_rule_t *) = rule;
        }
    }
    apr_array_cat(tools, add);
    return tools;
}

void *mcp_rl_merge_dir_config(apr_pool_t *p, void *base_, void *add_)
{
    const mcp_rl_dir_t *base = base_, *add = add_;
    mcp_rl_dir_t *dir;
    int i;

    /* For each request, and mostly one side has nothing to say: then the other one will do. */
    if (!add->configured || !base->configured) {
        return add->configured ? add_ : base_;
    }
    dir = apr_pcalloc(p, sizeof(*dir));
    dir->configured = 1;
    dir->values = mcp_conf_merge(p, base->values, add->values);
    for (i = 0; i <= MCP_RL_ADDRESS; i++) {
        dir->rules[i] = add->rules[i] ? add->rules[i] : base->rules[i];
    }
    dir->tools = merge_tools(p, base->tools, add->tools);
    dir->key = add->key ? add->key : base->key;
    dir->key_header = add->key ? add->key_header : base->key_header;
    return dir;
}

const mcp_rl_dir_t *mcp_rl_dir(const request_rec *r)
{
    return ap_get_module_config(r->per_dir_config, &mcp_ratelimit_module);
}

const mcp_rl_rule_t *mcp_rl_rule(const mcp_rl_dir_t *dir, mcp_rl_limit_e limit)
{
    const mcp_rl_rule_t *rule = dir->rules[limit];

    return rule && rule->amount > 0 ? rule : NULL;
}

static const char *set_value(cmd_parms *cmd, void *dir, const char *value)
{
    const mcp_conf_directive_t *d = cmd->info;
    mcp_rl_dir_t *conf = dir;

    if (d->scope == MCP_CONF_SERVER) {
        return mcp_conf_set_once(cmd, server->values, d->id, value);
    }
    conf->configured = 1;
    return mcp_conf_set(cmd->pool, conf->values, d->id, value);
}

static const char *join(apr_pool_t *p, int argc, char *const argv[])
{
    const char *text = argc ? argv[0] : "";
    int i;

    for (i = 1; i < argc; i++) {
        text = apr_pstrcat(p, text, " ", argv[i], NULL);
    }
    return text;
}

static const char *set_store(cmd_parms *cmd, void *dir, int argc, char *const argv[])
{
    const char *text = join(cmd->pool, argc, argv);
    const char *error = mcp_store_url_parse(text, ap_server_root, &server->store, cmd->pool);

    if (error) {
        return apr_psprintf(cmd->pool, "MCPRateLimitStore: %s; it takes %s", error,
                            MCP_STORE_URL_FORMS);
    }
    if (server->store.size > 16 * 1024 * 1024) {
        return "MCPRateLimitStore: N of shm:N is from 1 to 16M entries";
    }
    if (server->store_text && strcmp(server->store_text, text) != 0) {
        return apr_psprintf(cmd->pool, "MCPRateLimitStore is one value for the whole httpd, and "
                            "%s set another one", server->store_where);
    }
    server->store_text = text;
    server->store_where = apr_psprintf(cmd->pool, "%s:%d", cmd->directive->filename
                                       ? cmd->directive->filename : "-", cmd->directive->line_num);
    return NULL;
}

static const char *not_accepted(cmd_parms *cmd, int argc, char *const argv[], const char *takes)
{
    return apr_psprintf(cmd->pool, "%s: '%s' is not accepted; it takes %s", cmd->cmd->name,
                        join(cmd->pool, argc, argv), takes);
}

static int is_none(int argc, char *const argv[])
{
    return argc == 1 && (strcasecmp(argv[0], "none") == 0 || strcasecmp(argv[0], "off") == 0);
}

static void write_limit(mcp_rl_rule_t *rule, apr_pool_t *p)
{
    rule->limit_text = apr_off_t_toa(p, mcp_rl_rule_capacity(rule));
}

static const char *set_streams(cmd_parms *cmd, void *dir, int argc, char *const argv[])
{
    mcp_rl_dir_t *conf = dir;
    mcp_rl_rule_t *rule = apr_pcalloc(cmd->pool, sizeof(*rule));

    conf->configured = 1;
    rule->limit = MCP_RL_STREAMS;
    rule->kind = MCP_RL_SLOTS;
    if (is_none(argc, argv)) {
        conf->rules[MCP_RL_STREAMS] = &no_rule;
        return NULL;
    }
    if (argc != 1 || mcp_value_count(argv[0], &rule->amount) != APR_SUCCESS || rule->amount < 1
        || rule->amount > MCP_RL_MAX_AMOUNT) {
        return not_accepted(cmd, argc, argv, "a number from 1 to 1000000000, or none");
    }
    write_limit(rule, cmd->pool);
    conf->rules[MCP_RL_STREAMS] = rule;
    return NULL;
}

/* Messages, Window, Address: cmd->info points to the limit. */
static const char *set_rate(cmd_parms *cmd, void *dir, int argc, char *const argv[])
{
    mcp_rl_dir_t *conf = dir;
    mcp_rl_limit_e limit = *(const mcp_rl_limit_e *)cmd->info;
    mcp_rl_rule_t *rule = apr_pcalloc(cmd->pool, sizeof(*rule));
    const char *error;

    conf->configured = 1;
    if (is_none(argc, argv)) {
        conf->rules[limit] = &no_rule;
        return NULL;
    }
    rule->limit = limit;
    error = argc < 1 ? "N/PERIOD, as in 200/60s"
                     : mcp_rl_rule_parse(rule, argv[0], argc - 1, argv + 1, cmd->pool);
    if (error) {
        return not_accepted(cmd, argc, argv, error);
    }
    write_limit(rule, cmd->pool);
    conf->rules[limit] = rule;
    return NULL;
}

static const char *add_tool(cmd_parms *cmd, void *dir, int argc, char *const argv[])
{
    mcp_rl_dir_t *conf = dir;
    mcp_rl_rule_t *rule = apr_pcalloc(cmd->pool, sizeof(*rule));
    const char *error;

    conf->configured = 1;
    rule->limit = MCP_RL_TOOL;
    if (argc < 2 || !*argv[0]) {
        return not_accepted(cmd, argc, argv, "PATTERN N/PERIOD [burst=B], or PATTERN none");
    }
    rule->pattern = argv[0];
    if (!is_none(argc - 1, argv + 1)) {
        error = mcp_rl_rule_parse(rule, argv[1], argc - 2, argv + 2, cmd->pool);
        if (error) {
            return not_accepted(cmd, argc, argv, apr_pstrcat(cmd->pool, "PATTERN ", error, NULL));
        }
    }
    rule->tag = apr_psprintf(cmd->pool, "%s:%" APR_INT64_T_FMT "-%" APR_INT64_T_FMT "-%"
                             APR_INT64_T_FMT,
                             mcp_value_escape(rule->pattern, strlen(rule->pattern), cmd->pool),
                             rule->amount, apr_time_as_msec(rule->period), rule->burst);
    write_limit(rule, cmd->pool);
    if (!conf->tools) {
        conf->tools = apr_array_make(cmd->pool, 4, sizeof(const mcp_rl_rule_t *));
    }
    if (conf->tools->nelts == MCP_RL_MAX_TOOLS) {
        return apr_psprintf(cmd->pool, "MCPRateLimitTool: no more than %d in one section",
                            MCP_RL_MAX_TOOLS);
    }
    APR_ARRAY_PUSH(conf->tools, const mcp_rl_rule_t *) = rule;
    return NULL;
}

/* "%{HTTP:NAME}": looked up without evaluating an expression, which takes seven times as long. */
static const char *header_of(const char *text, apr_pool_t *p)
{
    static const char start[] = "%{HTTP:";
    const apr_size_t len = sizeof(start) - 1;
    apr_size_t i = len;

    if (strncmp(text, start, len) != 0) {
        return NULL;
    }
    while (apr_isalnum(text[i]) || text[i] == '-') {
        i++;
    }
    return i > len && strcmp(text + i, "}") == 0 ? apr_pstrmemdup(p, text + len, i - len) : NULL;
}

static const char *set_key(cmd_parms *cmd, void *dir, const char *text)
{
    mcp_rl_dir_t *conf = dir;
    const char *error = NULL;

    conf->configured = 1;
    conf->key_header = header_of(text, cmd->pool);
    /* Whose limit it is does not make it another answer. */
    conf->key = ap_expr_parse_cmd(cmd, text, AP_EXPR_FLAG_STRING_RESULT | AP_EXPR_FLAG_DONT_VARY,
                                  &error, NULL);
    return error ? apr_psprintf(cmd->pool, "MCPRateLimitKey: '%s' is not accepted; it takes an "
                                "expression that yields a string: %s", text, error)
                 : NULL;
}

static const mcp_rl_limit_e limit_messages = MCP_RL_MESSAGES;
static const mcp_rl_limit_e limit_window = MCP_RL_WINDOW;
static const mcp_rl_limit_e limit_address = MCP_RL_ADDRESS;

#define ANYWHERE (RSRC_CONF | ACCESS_CONF)
#define MCP_DIRECTIVE(id, kind, scope, name, value, min, max, accepted, help) \
    AP_INIT_TAKE1(name, set_value, (void *)&table[id], ANYWHERE, help),
const command_rec mcp_rl_commands[] = {
#include "mcp_rl.def"
    AP_INIT_TAKE_ARGV("MCPRateLimitStore", set_store, NULL, ANYWHERE,
                      "where the counts are: " MCP_STORE_URL_FORMS),
    AP_INIT_TAKE1("MCPRateLimitKey", set_key, NULL, ANYWHERE,
                  "whose limit it is: an expression"),
    AP_INIT_TAKE_ARGV("MCPRateLimitStreams", set_streams, NULL, ANYWHERE,
                      "standing streams at once per key: N, or none"),
    AP_INIT_TAKE_ARGV("MCPRateLimitMessages", set_rate, (void *)&limit_messages, ANYWHERE,
                      "token bucket per key for every POST: N/PERIOD [burst=B], or none"),
    AP_INIT_TAKE_ARGV("MCPRateLimitWindow", set_rate, (void *)&limit_window, ANYWHERE,
                      "window per key: N/PERIOD [block=D] [type=fixed|sliding], or none"),
    AP_INIT_TAKE_ARGV("MCPRateLimitAddress", set_rate, (void *)&limit_address, ANYWHERE,
                      "window per address: N/PERIOD [block=D], or none"),
    AP_INIT_TAKE_ARGV("MCPRateLimitTool", add_tool, NULL, ANYWHERE,
                      "token bucket for tools/call of some tools: PATTERN N/PERIOD [burst=B]"),
    { .name = NULL }
};
#undef MCP_DIRECTIVE
