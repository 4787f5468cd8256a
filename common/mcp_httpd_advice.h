/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_HTTPD_ADVICE_H
#define MCP_HTTPD_ADVICE_H

#include <httpd.h>
#include <http_config.h>

/*
 * Warnings about a configuration that can be run, but has directives that do nothing. Whoever asks
 * for them with httpd -t gets them; a start says only what will go wrong. All of this is for the
 * check_config hook.
 */

/** Whether this is httpd -t. */
int mcp_advice_is_wanted(void);

/** The first directive of that name in a tree (ap_conftree), or NULL. Case does not count. */
const ap_directive_t *mcp_advice_find(const ap_directive_t *tree, const char *name);

/** The first that is one of @a commands and none of @a others (which ends with NULL), or NULL. */
const ap_directive_t *mcp_advice_find_other(const ap_directive_t *tree, const command_rec *commands,
                                            const char *const *others);

/** "Name (FILE:LINE)", from @a p. */
const char *mcp_advice_place(const ap_directive_t *at, apr_pool_t *p);

#endif
