/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_PROXY_SEAL_H
#define MCP_PROXY_SEAL_H

#include <apr_pools.h>

#include "mcp_proxy_keys.h"

/*
 * Session ids that carry their member, encrypted and authenticated, so that no gateway has to
 * remember anything.
 *
 * A sealed id is the text of base64url, without padding, of
 *
 *     key id (4 bytes) | IV (16) | AES-256-CTR of: the member's name, a zero byte, the backend's id
 *
 * The IV is the beginning of the HMAC-SHA-256 of these strings, with a zero byte between them:
 * "mcp-session/1"; the scope, which is the name of the balancer or worker; "user " and the
 * identity, or "nobody"; the member's name; the id. None of them has a zero byte in it.
 * HKDF-SHA-256 of a key of the operator's gives the keys of the cipher and the HMAC, 32 bytes each,
 * and the key id.
 *
 * The same id must give the same text on every gateway and each time, since servers repeat the id
 * with every answer; so there can be no nonce. An IV that is a keyed digest of everything does
 * that, and authenticates it: of two texts it tells whether they are the same, and nothing else.
 * This is the construction SIV of Rogaway and Shrimpton (Deterministic Authenticated-Encryption,
 * 2006). The best known instance of it, AES-SIV of RFC 5297, would do as well; but it takes OpenSSL
 * 3.0 more than 3 microseconds for so short a text, which cost 8 % of the calls a second, against 1
 * for this.
 *
 * Read-only once made: any thread, any child.
 */

typedef struct mcp_seal_t mcp_seal_t;

/**
 * Make a seal of the operator's keys: the first seals, all open. Belongs to @a p, and is wiped with
 * it; keeps nothing of @a keys.
 * @return APR_EGENERAL: OpenSSL failed
 */
apr_status_t mcp_seal_create(mcp_seal_t **seal, const mcp_keys_t *keys, apr_pool_t *p);

/**
 * The text for a session.
 * @param identity NULL: nobody
 * @return from @a p; NULL: OpenSSL failed, or @a id is empty or far too long
 */
const char *mcp_seal_id(const mcp_seal_t *seal, const char *scope, const char *identity,
                        const char *member, const char *id, apr_pool_t *p);

/**
 * Open a text. What was not sealed by one of the keys for just this scope and identity, down to the
 * last bit, does not open.
 * @param member @a id the member's name and the backend's id, from @a p; set on success only
 * @return APR_SUCCESS or APR_NOTFOUND
 */
apr_status_t mcp_seal_open(const mcp_seal_t *seal, const char *scope, const char *identity,
                           const char *text, const char **member, const char **id,
                           apr_pool_t *p);

#endif
