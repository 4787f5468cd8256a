/* SPDX-License-Identifier: Apache-2.0 */
/* Digests for each request: libcrypto's, without what its short forms do each time. */
#include "mcp_sha256.h"

#include <openssl/evp.h>
#include <sys/random.h>

static EVP_MD *prepared;

static apr_status_t forget(void *data)
{
    prepared = NULL;
    EVP_MD_free(data);
    return APR_SUCCESS;
}

void mcp_sha256_prepare(apr_pool_t *p)
{
    if (!prepared) {
        prepared = EVP_MD_fetch(NULL, "SHA256", NULL);
        apr_pool_cleanup_register(p, prepared, forget, apr_pool_cleanup_null);
    }
}

void mcp_sha256(const void *bytes, apr_size_t len, unsigned char digest[MCP_SHA256])
{
    if (!EVP_Digest(bytes, len, digest, NULL, prepared ? prepared : EVP_sha256(), NULL)) {
        while (getrandom(digest, MCP_SHA256, 0) != MCP_SHA256) {
        }
    }
}
