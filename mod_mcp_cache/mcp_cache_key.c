/* SPDX-License-Identifier: Apache-2.0 */
/* What makes a key, and its digest. See the header for why it cannot merge two requests. */
#include "mcp_cache_key.h"

#include <string.h>

#include "mcp_cache_json.h"

/* Changes whenever the meaning of a part does: old entries are then never found. */
static const char key_format[] = "mcp-cache-key/1";

static const char capabilities_name[] = "io.modelcontextprotocol/clientCapabilities";

static apr_status_t read_capabilities(mcp_cache_key_t *key, mcp_span_t params, apr_pool_t *p)
{
    mcp_span_t meta, capabilities;
    apr_status_t rv = mcp_cache_json_member(params, "_meta", p, &meta);

    if (rv == APR_SUCCESS) {
        rv = mcp_cache_json_member(meta, capabilities_name, p, &capabilities);
    }
    if (rv == APR_SUCCESS) {
        return mcp_cache_json_canonical(capabilities, NULL, MCP_CACHE_MAX_PARAMS, p,
                                        &key->capabilities);
    }
    return rv == APR_NOTFOUND ? APR_SUCCESS : rv;
}

apr_status_t mcp_cache_key_params(mcp_cache_key_t *key, mcp_span_t params, apr_pool_t *p)
{
    apr_status_t rv;

    memset(&key->params, 0, sizeof(key->params));
    memset(&key->capabilities, 0, sizeof(key->capabilities));
    if (!params.p) {
        return APR_SUCCESS;
    }
    rv = mcp_cache_json_canonical(params, "_meta", MCP_CACHE_MAX_PARAMS, p, &key->params);
    return rv == APR_SUCCESS ? read_capabilities(key, params, p) : rv;
}

/* The length before each part, plus one: zero is a part that is absent, which "" is not. */
static char *put_part(char *at, const char *bytes, apr_size_t len)
{
    apr_uint64_t prefix = bytes ? (apr_uint64_t)len + 1 : 0;
    int i;

    for (i = 0; i < 8; i++) {
        *at++ = (char)(prefix >> (8 * i));
    }
    if (len) {
        memcpy(at, bytes, len);
    }
    return at + len;
}

void mcp_cache_key_digest(const mcp_cache_key_t *key, apr_pool_t *p,
                          unsigned char digest[MCP_CACHE_DIGEST])
{
    const char *texts[] = {key_format, key->where, key->method, key->version,
                           key->audience, key->caller, key->session, key->vary};
    const int count = (int)(sizeof(texts) / sizeof(texts[0]));
    apr_size_t lengths[sizeof(texts) / sizeof(texts[0])];
    apr_size_t total = 8 * (sizeof(texts) / sizeof(texts[0]) + 2);
    char *sequence, *at;
    int i;

    for (i = 0; i < count; i++) {
        lengths[i] = texts[i] ? strlen(texts[i]) : 0;
        total += lengths[i];
    }
    total += key->params.len + key->capabilities.len;
    at = sequence = apr_palloc(p, total);
    for (i = 0; i < count; i++) {
        at = put_part(at, texts[i], lengths[i]);
    }
    at = put_part(at, key->params.p, key->params.len);
    at = put_part(at, key->capabilities.p, key->capabilities.len);
    mcp_sha256(sequence, (apr_size_t)(at - sequence), digest);
}

const char *mcp_cache_hex(const unsigned char *bytes, apr_size_t len, apr_pool_t *p)
{
    static const char digits[] = "0123456789abcdef";
    char *hex = apr_palloc(p, 2 * len + 1);
    apr_size_t i;

    for (i = 0; i < len; i++) {
        hex[2 * i] = digits[bytes[i] >> 4];
        hex[2 * i + 1] = digits[bytes[i] & 15];
    }
    hex[2 * len] = '\0';
    return hex;
}

const char *mcp_cache_key_hex(const char *bytes, apr_size_t len, apr_pool_t *p)
{
    unsigned char digest[MCP_CACHE_DIGEST];

    mcp_sha256(bytes, len, digest);
    return mcp_cache_hex(digest, sizeof(digest), p);
}

static apr_uint64_t mix(apr_uint64_t h)
{
    h ^= h >> 33;
    h *= 0xff51afd7ed558ccdULL;
    h ^= h >> 33;
    h *= 0xc4ceb9fe1a85ec53ULL;
    return h ^ (h >> 33);
}

apr_uint64_t mcp_cache_hash(const void *bytes, apr_size_t len, apr_uint64_t seed)
{
    const unsigned char *at = bytes;
    apr_uint64_t h = mix(seed + len), word;

    for (; len >= 8; at += 8, len -= 8) {
        memcpy(&word, at, 8);
        h = (h ^ mix(word)) * 0x9e3779b97f4a7c15ULL;
        h = (h << 29) | (h >> 35);
    }
    word = 0;
    memcpy(&word, at, len);
    return mix(h ^ mix(word + len));
}
