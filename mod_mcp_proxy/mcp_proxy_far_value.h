/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_PROXY_FAR_VALUE_H
#define MCP_PROXY_FAR_VALUE_H

#include "mcp_proxy_session.h"

/*
 * A session as it stands in Redis, for all gateways: under mcp:session:{ID-DIGEST} the text
 * "1 OWNER-DIGEST MEMBER". Digests are in lower-case hexadecimal; MEMBER is what
 * mcp_proxy_member_name() says, which may hold any visible ASCII. Pure functions.
 */

#define MCP_FAR_KEY_SIZE 64     /* with its end */
#define MCP_FAR_MEMBER_SIZE 128
#define MCP_FAR_VALUE_SIZE (2 + 2 * MCP_SESSION_DIGEST + 1 + MCP_FAR_MEMBER_SIZE)

/** What a value begins with, up to the member: whose the session is. */
#define MCP_FAR_OWNER_SIZE (2 + 2 * MCP_SESSION_DIGEST + 1 + 1)

void mcp_far_key(const mcp_session_key_t *session, char key[MCP_FAR_KEY_SIZE]);
void mcp_far_owner(const mcp_session_key_t *session, char owner[MCP_FAR_OWNER_SIZE]);

/** @return 0: the member's name cannot be written */
int mcp_far_value(const mcp_session_key_t *session, const char *member,
                  char value[MCP_FAR_VALUE_SIZE]);

/**
 * Read a value back.
 * @return APR_SUCCESS, with the member; APR_EACCES: it belongs to another identity than
 *         session->owner; APR_NOTFOUND: it is no such value
 */
apr_status_t mcp_far_parse(const mcp_session_key_t *session, const char *value, apr_size_t len,
                           char member[MCP_FAR_MEMBER_SIZE]);

#endif
