/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_PROXY_LABEL_H
#define MCP_PROXY_LABEL_H

/*
 * The closed sets of values that the labels of mcp_requests_total take, as small numbers to count
 * by. What a client sends can add nothing to them.
 */

#define MCP_LABEL_METHODS 39
#define MCP_LABEL_STATUSES 63

/**
 * The number of a method that a schema of the specification has (2024-11-05 to 2026-07-28);
 * anything else, and NULL, is "other".
 */
int mcp_label_of_method(const char *method);

/** The number of what has no method: "GET", "DELETE", "batch", "response" or "other". */
int mcp_label_of_word(const char *word);

/** Static text. @a label is below MCP_LABEL_METHODS. */
const char *mcp_label_method(int label);

/** The number of an HTTP status; of an unusual one, that of its class (x00). */
int mcp_label_of_status(int status);

/** @a label is below MCP_LABEL_STATUSES. */
int mcp_label_status(int label);

#endif
