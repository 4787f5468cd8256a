/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_PROXY_RECORD_H
#define MCP_PROXY_RECORD_H

#include <apr_errno.h>
#include <apr_pools.h>
#include <apr_time.h>

#include "mcp_proxy_session.h"
#include "mcp_span.h"

/*
 * What is kept of a session so that it can be rescued, as bytes for a store: the parameters that
 * its client gave with initialize, and, once it has been rescued, where it is now. Both are
 * encrypted (AES-256-GCM) and bound to the session, its owner and what they are: none can be put in
 * another one's place. Knows no store and no httpd.
 */

#define MCP_RECORD_KEY 32
#define MCP_RECORD_KEYS 16
#define MCP_RECORD_NAME 32 /* bytes of a record's name in a store */

/** Parameters longer than this are not kept: such a session cannot be rescued. */
#define MCP_RECORD_MAX_PARAMS (32 * 1024)

/** The first key encrypts, all of them decrypt. Read-only once it has been set. */
typedef struct mcp_record_keys_t {
    int count;
    unsigned char key[MCP_RECORD_KEYS][MCP_RECORD_KEY];
} mcp_record_keys_t;

typedef enum {
    MCP_RECORD_PARAMS = 'p',
    MCP_RECORD_ROUTE = 'r',
    MCP_RECORD_CLAIM = 'c'  /* who rescues: in the clear, a random text */
} mcp_record_kind_e;

/** Where a rescued session is. */
typedef struct mcp_record_route_t {
    apr_uint32_t generation; /* how often it was rescued; 0: never */
    const char *member;      /* portable name of the member that has it */
    const char *session;     /* its id there */
    apr_time_t since;        /* apr_time_now() of the first rescue of the last minute or so */
    apr_uint32_t recent;     /* rescues from then on */
} mcp_record_route_t;

/** Add a key, derived from @a secret (any length): what it encrypts is of no use elsewhere. */
apr_status_t mcp_record_add_key(mcp_record_keys_t *keys, const void *secret, apr_size_t len);

/** The name of a session's record in a store: nothing can be read from it. */
void mcp_record_name(const mcp_session_key_t *session, mcp_record_kind_e kind,
                     unsigned char name[MCP_RECORD_NAME]);

/** Encrypt; the result is from @a p. APR_EGENERAL: the library refused. */
apr_status_t mcp_record_encrypt(const mcp_record_keys_t *keys, const mcp_session_key_t *session,
                                mcp_record_kind_e kind, mcp_span_t plain, apr_pool_t *p,
                                mcp_span_t *sealed);

/** The reverse; a NUL stands behind it. APR_EACCES: not by these keys, not this one, or changed. */
apr_status_t mcp_record_decrypt(const mcp_record_keys_t *keys, const mcp_session_key_t *session,
                                mcp_record_kind_e kind, mcp_span_t sealed, apr_pool_t *p,
                                mcp_span_t *plain);

/** A route as bytes, not encrypted yet, from @a p. */
mcp_span_t mcp_record_write_route(const mcp_record_route_t *route, apr_pool_t *p);

/** @param bytes stay with the result. APR_EGENERAL: these are not a route. */
apr_status_t mcp_record_read_route(mcp_span_t bytes, mcp_record_route_t *route);

/**
 * Count one more rescue at @a now, in route->recent and since.
 * @return 0: it would be one too many in a minute
 */
int mcp_record_may_rescue(mcp_record_route_t *route, apr_time_t now);

#endif
