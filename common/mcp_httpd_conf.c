/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Directives out of a module's table: set, inherit, read. No value is touched once the
 * configuration has been read, so requests read without a lock.
 */
#include "mcp_httpd_conf.h"

#include <apr_lib.h>
#include <apr_strings.h>

#include "mcp_value.h"

typedef struct conf_slot_t {
    int set;
    mcp_conf_value_t value;
    const char *where; /* file:line, kept for scope S only */
} conf_slot_t;

struct mcp_conf_t {
    const mcp_conf_directive_t *table;
    int count;
    int any; /* value is set */
    conf_slot_t slots[];
};

mcp_conf_t *mcp_conf_create(apr_pool_t *p, const mcp_conf_directive_t *table, int count)
{
    mcp_conf_t *conf = apr_pcalloc(p, sizeof(*conf) + (apr_size_t)count * sizeof(conf_slot_t));

    conf->table = table;
    conf->count = count;
    return conf;
}

mcp_conf_t *mcp_conf_merge(apr_pool_t *p, const mcp_conf_t *base, const mcp_conf_t *add)
{
    mcp_conf_t *conf = mcp_conf_create(p, base->table, base->count);
    int i;

    conf->any = base->any || add->any;
    for (i = 0; i < conf->count; i++) {
        conf->slots[i] = add->slots[i].set ? add->slots[i] : base->slots[i];
    }
    return conf;
}

int mcp_conf_is_empty(const mcp_conf_t *conf)
{
    return !conf->any;
}

int mcp_conf_is_set(const mcp_conf_t *conf, int id)
{
    return conf->slots[id].set;
}

apr_int64_t mcp_conf_number(const mcp_conf_t *conf, int id)
{
    return conf->slots[id].set ? conf->slots[id].value.number : conf->table[id].value;
}

const char *mcp_conf_text(const mcp_conf_t *conf, int id)
{
    return conf->slots[id].set ? conf->slots[id].value.text : conf->table[id].accepted;
}

/* The index of value among "a|b|c", in any case; APR_EINVAL if it is none of them. */
static apr_status_t read_choice(const char *choices, const char *value, apr_int64_t *out)
{
    apr_size_t len = strlen(value);
    const char *p = choices;

    for (*out = 0; p; (*out)++) {
        const char *end = strchr(p, '|');
        apr_size_t n = end ? (apr_size_t)(end - p) : strlen(p);

        if (n == len && strncasecmp(p, value, n) == 0) {
            return APR_SUCCESS;
        }
        p = end ? end + 1 : NULL;
    }
    return APR_EINVAL;
}

static apr_status_t read_value(const mcp_conf_directive_t *d, const char *text,
                               mcp_conf_value_t *out)
{
    switch (d->kind) {
    case MCP_CONF_FLAG:
        out->number = strcasecmp(text, "on") == 0;
        return out->number || strcasecmp(text, "off") == 0 ? APR_SUCCESS : APR_EINVAL;
    case MCP_CONF_COUNT:
        return mcp_value_count(text, &out->number);
    case MCP_CONF_DURATION_OR_OFF:
        if (strcasecmp(text, "off") == 0) {
            out->number = 0;
            return APR_SUCCESS;
        }
        return mcp_value_duration(text, &out->number);
    case MCP_CONF_DURATION:
        return mcp_value_duration(text, &out->number);
    case MCP_CONF_SIZE:
        return mcp_value_size(text, &out->number);
    case MCP_CONF_CHOICE:
        return read_choice(d->accepted, text, &out->number);
    case MCP_CONF_TEXT:
        out->text = text;
        return APR_SUCCESS;
    }
    return APR_EINVAL;
}

static int is_in_range(const mcp_conf_directive_t *d, mcp_conf_value_t value)
{
    if (d->kind == MCP_CONF_TEXT || d->kind == MCP_CONF_FLAG || d->kind == MCP_CONF_CHOICE) {
        return 1;
    }
    if (d->kind == MCP_CONF_DURATION_OR_OFF && value.number == 0) {
        return 1;
    }
    return value.number >= d->min && value.number <= d->max;
}

const char *mcp_conf_set(apr_pool_t *p, mcp_conf_t *conf, int id, const char *text)
{
    const mcp_conf_directive_t *d = &conf->table[id];
    mcp_conf_value_t value;

    if (read_value(d, text, &value) != APR_SUCCESS || !is_in_range(d, value)) {
        return apr_psprintf(p, "%s: '%s' is not accepted; it takes %s", d->name, text,
                            d->accepted);
    }
    if (d->kind == MCP_CONF_TEXT) {
        value.text = apr_pstrdup(p, text);
    }
    conf->any = conf->slots[id].set = 1;
    conf->slots[id].value = value;
    return NULL;
}

const char *mcp_conf_set_once(cmd_parms *cmd, mcp_conf_t *conf, int id, const char *text)
{
    conf_slot_t *slot = &conf->slots[id];
    conf_slot_t before = *slot;
    const char *error = mcp_conf_set(cmd->pool, conf, id, text);
    int differs;

    if (error) {
        return error;
    }
    if (before.set) {
        differs = conf->table[id].kind == MCP_CONF_TEXT
            ? strcmp(before.value.text, slot->value.text) != 0
            : before.value.number != slot->value.number;
        if (differs) {
            return apr_psprintf(cmd->pool, "%s is one value for the whole httpd, and %s set "
                                "another one than '%s'", conf->table[id].name, before.where,
                                text);
        }
    }
    slot->where = apr_psprintf(cmd->pool, "%s:%d",
                               cmd->directive->filename ? cmd->directive->filename : "-",
                               cmd->directive->line_num);
    return NULL;
}
