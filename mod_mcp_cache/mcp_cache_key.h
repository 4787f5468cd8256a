/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_CACHE_KEY_H
#define MCP_CACHE_KEY_H

#include <apr_errno.h>
#include <apr_pools.h>

#include "mcp_sha256.h"
#include "mcp_span.h"

/*
 * The key of a result. Two requests have the same one only if everything below is the same; the
 * digest is taken over a sequence in which each part stands behind its length, so that no two
 * sequences read alike, whatever bytes the parts hold.
 */

#define MCP_CACHE_DIGEST MCP_SHA256
#define MCP_CACHE_MAX_PARAMS (256 * 1024) /* bytes of canonical params */

typedef struct mcp_cache_key_t {
    const char *where;       /* vhost, URL and backend or balancer */
    const char *method;
    const char *version;     /* protocol revision, as the request says it; NULL if it does not */
    const char *audience;    /* who may read it: see mcp_cache_config.h; never NULL */
    const char *caller;      /* who asks; NULL where everybody of that audience may read it */
    const char *session;     /* NULL where it does not count */
    const char *vary;        /* request headers that a backend may answer by; NULL: none */
    mcp_span_t params;       /* canonical, without _meta; absent: no params */
    mcp_span_t capabilities; /* canonical client capabilities; absent: none declared */
} mcp_cache_key_t;

/**
 * Fill in params and capabilities.
 * @param params raw, maybe absent
 * @param p where the canonical texts live
 * @return an error of mcp_cache_json_canonical(): the request has no key and is not cached
 */
apr_status_t mcp_cache_key_params(mcp_cache_key_t *key, mcp_span_t params, apr_pool_t *p);

/** SHA-256 over all of it. @a p is scratch. */
void mcp_cache_key_digest(const mcp_cache_key_t *key, apr_pool_t *p,
                          unsigned char digest[MCP_CACHE_DIGEST]);

/** SHA-256 of some bytes in lower-case hex, from @a p. */
const char *mcp_cache_key_hex(const char *bytes, apr_size_t len, apr_pool_t *p);

/** Lower-case hex of some bytes, from @a p. */
const char *mcp_cache_hex(const unsigned char *bytes, apr_size_t len, apr_pool_t *p);

/** A 64-bit hash that spreads well. Not against an adversary: never the only proof of anything. */
apr_uint64_t mcp_cache_hash(const void *bytes, apr_size_t len, apr_uint64_t seed);

#endif
