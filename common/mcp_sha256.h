/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_SHA256_H
#define MCP_SHA256_H

#include <apr_pools.h>

#define MCP_SHA256 32 /* bytes of a digest */

/**
 * Look the algorithm up once, until @a p goes; without that each digest looks it up, under locks
 * that all threads share, and takes four times as long. For post_config.
 */
void mcp_sha256_prepare(apr_pool_t *p);

/**
 * SHA-256 (FIPS 180-4) of @a len bytes. Any thread. Where it cannot be had, as without memory, the
 * digest is random: it is like no other, so that whatever is looked up by it is not found.
 */
void mcp_sha256(const void *bytes, apr_size_t len, unsigned char digest[MCP_SHA256]);

#endif
