/* SPDX-License-Identifier: Apache-2.0 */
/* Keys and values of sessions in Redis. Whatever is not exactly one of ours is nobody's session. */
#include "mcp_proxy_far_value.h"

#include <string.h>

#define PREFIX "mcp:session:{"
#define VERSION "1 "
#define HEX (2 * MCP_SESSION_DIGEST)
#define MEMBER_AT (sizeof(VERSION) - 1 + HEX + 1)

static char *put_hex(char *to, const unsigned char *bytes)
{
    static const char digits[] = "0123456789abcdef";
    int i;

    for (i = 0; i < MCP_SESSION_DIGEST; i++) {
        *to++ = digits[bytes[i] >> 4];
        *to++ = digits[bytes[i] & 15];
    }
    return to;
}

void mcp_far_key(const mcp_session_key_t *session, char key[MCP_FAR_KEY_SIZE])
{
    char *end;

    memcpy(key, PREFIX, sizeof(PREFIX));
    end = put_hex(key + sizeof(PREFIX) - 1, session->id);
    *end++ = '}';
    *end = '\0';
}

void mcp_far_owner(const mcp_session_key_t *session, char owner[MCP_FAR_OWNER_SIZE])
{
    char *end;

    memcpy(owner, VERSION, sizeof(VERSION));
    end = put_hex(owner + sizeof(VERSION) - 1, session->owner);
    *end++ = ' ';
    *end = '\0';
}

static int is_name(const char *text, apr_size_t len)
{
    apr_size_t i;

    for (i = 0; i < len; i++) {
        if (text[i] <= ' ' || text[i] >= 0x7f) {
            return 0;
        }
    }
    return len > 0 && len < MCP_FAR_MEMBER_SIZE;
}

int mcp_far_value(const mcp_session_key_t *session, const char *member,
                  char value[MCP_FAR_VALUE_SIZE])
{
    apr_size_t len = strlen(member);

    if (!is_name(member, len)) {
        return 0;
    }
    mcp_far_owner(session, value);
    memcpy(value + MEMBER_AT, member, len + 1);
    return 1;
}

apr_status_t mcp_far_parse(const mcp_session_key_t *session, const char *value, apr_size_t len,
                           char member[MCP_FAR_MEMBER_SIZE])
{
    char owner[MCP_FAR_OWNER_SIZE];
    apr_size_t at = sizeof(VERSION) - 1;

    if (len <= MEMBER_AT || memcmp(value, VERSION, at) != 0 || value[MEMBER_AT - 1] != ' '
        || !is_name(value + MEMBER_AT, len - MEMBER_AT)) {
        return APR_NOTFOUND;
    }
    for (; at < MEMBER_AT - 1; at++) {
        if (!strchr("0123456789abcdef", value[at]) || !value[at]) {
            return APR_NOTFOUND;
        }
    }
    mcp_far_owner(session, owner);
    if (memcmp(value, owner, MEMBER_AT) != 0) {
        return APR_EACCES;
    }
    memcpy(member, value + MEMBER_AT, len - MEMBER_AT);
    member[len - MEMBER_AT] = '\0';
    return APR_SUCCESS;
}
