/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_HTTPD_CONF_H
#define MCP_HTTPD_CONF_H

#include <httpd.h>
#include <http_config.h>

/*
 * Directives out of one table. A module names each directive once, in its .def file:
 *
 *     MCP_DIRECTIVE(ID, kind, scope, "MCPName", default, min, max, accepted, "help")
 *
 * and includes that file three times: for the enum of ids, for the array of mcp_conf_directive_t
 * and for its command_rec array. Values are 64-bit numbers (microseconds, bytes, counts, choices)
 * or text. Unset is a sentinel; the default lives in the getter; merging touches neither side.
 */

typedef enum {
    MCP_CONF_FLAG,     /* On, Off */
    MCP_CONF_COUNT,    /* a number */
    MCP_CONF_DURATION, /* ms, s, m or mi, h, d; seconds if bare. Microseconds */
    MCP_CONF_DURATION_OR_OFF, /* the same, or Off: 0 */
    MCP_CONF_SIZE,     /* K, M, G; bytes if bare */
    MCP_CONF_CHOICE,   /* one of "accepted", separated by | : its index */
    MCP_CONF_TEXT      /* anything; the module judges it */
} mcp_conf_kind_e;

typedef enum {
    MCP_CONF_SERVER,  /* scope S: one value for the whole httpd, wherever it stands */
    MCP_CONF_LOCATION /* scope L: inherited and overridden as httpd does */
} mcp_conf_scope_e;

typedef struct mcp_conf_directive_t {
    int id;
    mcp_conf_kind_e kind;
    mcp_conf_scope_e scope;
    const char *name;
    apr_int64_t value;    /* the default of a number */
    apr_int64_t min, max;
    const char *accepted; /* said in the error; the choices, if it is one; for text: the default */
} mcp_conf_directive_t;

typedef union mcp_conf_value_t {
    apr_int64_t number;
    const char *text;
} mcp_conf_value_t;

typedef struct mcp_conf_t mcp_conf_t;

/** A set of unset values, from @a p. For create_dir_config, and for the one set of scope S. */
mcp_conf_t *mcp_conf_create(apr_pool_t *p, const mcp_conf_directive_t *table, int count);

/** Both sides stay as they are. */
mcp_conf_t *mcp_conf_merge(apr_pool_t *p, const mcp_conf_t *base, const mcp_conf_t *add);

/** No value is set. */
int mcp_conf_is_empty(const mcp_conf_t *conf);

int mcp_conf_is_set(const mcp_conf_t *conf, int id);
apr_int64_t mcp_conf_number(const mcp_conf_t *conf, int id);
const char *mcp_conf_text(const mcp_conf_t *conf, int id);

/**
 * Set one value from what stands in the configuration.
 * @return NULL, or a message from @a p that names the directive, the value and what is accepted
 */
const char *mcp_conf_set(apr_pool_t *p, mcp_conf_t *conf, int id, const char *value);

/**
 * The same for scope S: a second value that differs from the first is an error that names both
 * places. @a conf is the one set of the configuration pass.
 */
const char *mcp_conf_set_once(cmd_parms *cmd, mcp_conf_t *conf, int id, const char *value);

#endif
