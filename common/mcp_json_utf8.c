/* SPDX-License-Identifier: Apache-2.0 */
/* Which bytes are a character: JSON between systems is UTF-8, and nothing else (RFC 8259, 8.1). */
#include "mcp_json.h"

apr_size_t mcp_json_utf8(const char *at, const char *end)
{
    const unsigned char *s = (const unsigned char *)at;
    apr_size_t left = (apr_size_t)(end - at), len, i;
    unsigned char low = 0x80, high = 0xbf; /* of the second byte */

    if (!left || (s[0] >= 0x80 && s[0] < 0xc2) || s[0] > 0xf4) {
        return 0;
    }
    if (s[0] < 0x80) {
        return 1;
    }
    len = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    if (left < len) {
        return 0;
    }
    /* No form that is longer than needed, no surrogate, nothing above U+10FFFF. */
    switch (s[0]) {
    case 0xe0: low = 0xa0; break;
    case 0xed: high = 0x9f; break;
    case 0xf0: low = 0x90; break;
    case 0xf4: high = 0x8f; break;
    }
    if (s[1] < low || s[1] > high) {
        return 0;
    }
    for (i = 2; i < len; i++) {
        if ((s[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    return len;
}
