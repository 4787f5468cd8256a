/* SPDX-License-Identifier: Apache-2.0 */
/* Looking for directives in the tree that httpd has read its configuration into. */
#include "mcp_httpd_advice.h"

#include <apr_strings.h>
#include <http_core.h>

int mcp_advice_is_wanted(void)
{
    return ap_state_query(AP_SQ_RUN_MODE) == AP_SQ_RM_CONFIG_TEST;
}

const ap_directive_t *mcp_advice_find(const ap_directive_t *tree, const char *name)
{
    const ap_directive_t *found = NULL;

    for (; tree && !found; tree = tree->next) {
        found = strcasecmp(tree->directive, name) == 0 ? tree
            : mcp_advice_find(tree->first_child, name);
    }
    return found;
}

static int is_one_of(const char *name, const char *const *names)
{
    while (*names && strcasecmp(name, *names) != 0) {
        names++;
    }
    return *names != NULL;
}

static int is_command(const char *name, const command_rec *commands)
{
    while (commands->name && strcasecmp(name, commands->name) != 0) {
        commands++;
    }
    return commands->name != NULL;
}

const ap_directive_t *mcp_advice_find_other(const ap_directive_t *tree, const command_rec *commands,
                                            const char *const *others)
{
    const ap_directive_t *found = NULL;

    for (; tree && !found; tree = tree->next) {
        if (is_command(tree->directive, commands) && !is_one_of(tree->directive, others)) {
            return tree;
        }
        found = mcp_advice_find_other(tree->first_child, commands, others);
    }
    return found;
}

const char *mcp_advice_place(const ap_directive_t *at, apr_pool_t *p)
{
    return apr_psprintf(p, "%s (%s:%d)", at->directive, at->filename ? at->filename : "-",
                        at->line_num);
}
