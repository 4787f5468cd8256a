/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bytes of a stored value, little-endian: magic, version, tags, digest, times, generations,
 * flags, lengths, headers, payload, and at the end a sum over all before it.
 */
#include "mcp_cache_entry.h"

#include <string.h>

#define MAGIC 0x4543504dU /* "MPCE" */
#define VERSION 1U
#define FIXED (4 + 4 + MCP_CACHE_DIGEST + 8 + 8 + 8 * MCP_CACHE_TAGS + 5 * 4)
#define SUM 8

static void put32(unsigned char **at, apr_uint32_t value)
{
    int i;

    for (i = 0; i < 4; i++) {
        *(*at)++ = (unsigned char)(value >> (8 * i));
    }
}

static void put64(unsigned char **at, apr_uint64_t value)
{
    put32(at, (apr_uint32_t)value);
    put32(at, (apr_uint32_t)(value >> 32));
}

static apr_uint32_t get32(const unsigned char **at)
{
    const unsigned char *b = *at;

    *at += 4;
    return b[0] | (apr_uint32_t)b[1] << 8 | (apr_uint32_t)b[2] << 16 | (apr_uint32_t)b[3] << 24;
}

static apr_uint64_t get64(const unsigned char **at)
{
    apr_uint64_t low = get32(at);

    return low | (apr_uint64_t)get32(at) << 32;
}

mcp_span_t mcp_cache_entry_write(const mcp_cache_entry_t *entry, apr_pool_t *p)
{
    apr_size_t body = FIXED + entry->headers.len + entry->payload.len;
    unsigned char *bytes = apr_palloc(p, body + SUM), *at = bytes;
    mcp_span_t value = {(char *)bytes, body + SUM};
    int i;

    put32(&at, MAGIC);
    put32(&at, VERSION << 16 | MCP_CACHE_TAGS);
    memcpy(at, entry->digest, MCP_CACHE_DIGEST);
    at += MCP_CACHE_DIGEST;
    put64(&at, (apr_uint64_t)apr_time_as_msec(entry->ttl));
    put64(&at, (apr_uint64_t)apr_time_as_msec(entry->stale));
    for (i = 0; i < MCP_CACHE_TAGS; i++) {
        put64(&at, entry->generation[i]);
    }
    put32(&at, entry->flags);
    put32(&at, entry->hint_at);
    put32(&at, entry->hint_len);
    put32(&at, (apr_uint32_t)entry->headers.len);
    put32(&at, (apr_uint32_t)entry->payload.len);
    if (entry->headers.len) {
        memcpy(at, entry->headers.p, entry->headers.len);
        at += entry->headers.len;
    }
    memcpy(at, entry->payload.p, entry->payload.len);
    at += entry->payload.len;
    put64(&at, mcp_cache_hash(bytes, body, MAGIC));
    return value;
}

/* The milliseconds of a duration, which must fit one. */
static int get_interval(const unsigned char **at, apr_interval_time_t *out)
{
    apr_uint64_t ms = get64(at);

    *out = (apr_interval_time_t)ms * 1000;
    return ms <= (apr_uint64_t)APR_INT64_MAX / 4000;
}

static apr_status_t read_lengths(mcp_cache_entry_t *entry, const unsigned char *at,
                                 apr_size_t left)
{
    apr_uint32_t headers = get32(&at), payload = get32(&at);

    left -= 8;
    if ((apr_uint64_t)headers + payload + SUM != left
        || (apr_uint64_t)entry->hint_at + entry->hint_len > payload) {
        return APR_EINVAL;
    }
    entry->headers.p = (const char *)at;
    entry->headers.len = headers;
    entry->payload.p = (const char *)at + headers;
    entry->payload.len = payload;
    return APR_SUCCESS;
}

apr_status_t mcp_cache_entry_read(mcp_cache_entry_t *entry, mcp_span_t value,
                                  const unsigned char digest[MCP_CACHE_DIGEST])
{
    const unsigned char *bytes = (const unsigned char *)value.p, *at = bytes, *sum;
    int i;

    if (!bytes || value.len < FIXED + SUM || get32(&at) != MAGIC
        || get32(&at) != (VERSION << 16 | MCP_CACHE_TAGS) || memcmp(at, digest, MCP_CACHE_DIGEST)) {
        return APR_EINVAL;
    }
    sum = bytes + value.len - SUM;
    if (get64(&sum) != mcp_cache_hash(bytes, value.len - SUM, MAGIC)) {
        return APR_EINVAL;
    }
    memcpy(entry->digest, at, MCP_CACHE_DIGEST);
    at += MCP_CACHE_DIGEST;
    if (!get_interval(&at, &entry->ttl) || !get_interval(&at, &entry->stale)) {
        return APR_EINVAL;
    }
    for (i = 0; i < MCP_CACHE_TAGS; i++) {
        entry->generation[i] = get64(&at);
    }
    entry->flags = get32(&at);
    entry->hint_at = get32(&at);
    entry->hint_len = get32(&at);
    return read_lengths(entry, at, value.len - (apr_size_t)(at - bytes));
}

int mcp_cache_entry_is_current(const mcp_cache_entry_t *entry, const mcp_cache_generations_t *now,
                               int personal)
{
    int i;

    for (i = 0; i < MCP_CACHE_TAGS; i++) {
        if (!personal && i >= MCP_CACHE_TAG_CALLER && i <= MCP_CACHE_TAG_TOOL_USER) {
            continue;
        }
        if (now->tag[i] && (!now->value[i] || now->value[i] != entry->generation[i])) {
            return 0;
        }
    }
    return 1;
}
