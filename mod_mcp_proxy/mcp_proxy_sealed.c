/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MCPProxyAffinity sealed: the keys of this httpd, and whose ids they seal. The parent reads the
 * keys at each start and restart; its children have what it had when they were made.
 */
#include "mcp_proxy.h"

#include "mcp_httpd_request.h"
#include "mcp_proxy_record.h"
#include "mcp_proxy_seal.h"

/* NULL: not sealed. Belongs to the configuration's pool. */
static mcp_seal_t *seal;
/* Of the same keys, for what is kept of sessions that can be rescued. */
static mcp_record_keys_t record_keys;

static apr_status_t add_record_keys(const mcp_keys_t *keys)
{
    apr_status_t rv = APR_SUCCESS;
    int i;

    for (i = 0; rv == APR_SUCCESS && i < keys->count && i < MCP_RECORD_KEYS - 1; i++) {
        rv = mcp_record_add_key(&record_keys, keys->keys[i], MCP_KEY_BYTES);
    }
    return rv;
}

mcp_record_keys_t *mcp_sealed_record_keys(void)
{
    return &record_keys;
}

static int make_seal(apr_pool_t *pconf, server_rec *s, const mcp_keys_t *keys)
{
    apr_status_t rv = mcp_seal_create(&seal, keys, pconf);

    if (rv != APR_SUCCESS) {
        ap_log_error(APLOG_MARK, APLOG_EMERG, rv, s, MCP_LOGNO(2083)
                     "OpenSSL cannot do what MCPProxyAffinity sealed needs: HKDF, HMAC-SHA-256 and "
                     "AES-256-CTR");
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    return OK;
}

int mcp_sealed_read_keys(apr_pool_t *pconf, server_rec *s)
{
    const char *path = mcp_proxy_session_key(pconf), *error;
    mcp_keys_t *keys;
    int status = OK;

    seal = NULL;
    record_keys.count = 0;
    if (!path && mcp_proxy_is_sealed()) {
        ap_log_error(APLOG_MARK, APLOG_EMERG, 0, s, MCP_LOGNO(2081)
                     "MCPProxyAffinity sealed needs MCPProxySessionKey file:PATH; \"(umask 077; "
                     "openssl rand -base64 32 > PATH)\" makes such a file");
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    if (!path && mcp_proxy_server_conf(MCP_PROXY_RESCUE)
        && mcp_proxy_session_store()->kind != MCP_STORE_SHM) {
        ap_log_error(APLOG_MARK, APLOG_EMERG, 0, s, MCP_LOGNO(2153)
                     "MCPProxyRescue On needs MCPProxySessionKey file:PATH where "
                     "MCPProxySessionStore is Redis: what is kept there is encrypted; \"(umask "
                     "077; openssl rand -base64 32 > PATH)\" makes such a file");
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    if (!path) {
        return OK;
    }
    error = mcp_keys_read(path, &keys, pconf);
    if (error) {
        ap_log_error(APLOG_MARK, APLOG_EMERG, 0, s, MCP_LOGNO(2082)
                     "MCPProxySessionKey file:%s cannot be used: %s", path, error);
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    if (mcp_proxy_is_sealed()) {
        status = make_seal(pconf, s, keys);
    }
    if (add_record_keys(keys) != APR_SUCCESS) {
        status = HTTP_INTERNAL_SERVER_ERROR;
    }
    mcp_keys_wipe(keys);
    return status;
}

apr_status_t mcp_sealed_open(request_rec *r, const char *scope, const char *text,
                             const char **member, const char **id)
{
    return mcp_seal_open(seal, scope, mcp_request_identity(r), text, member, id, r->pool);
}

const char *mcp_sealed_text(request_rec *r, const char *scope, const proxy_worker *worker,
                            const char *id)
{
    const char *text = mcp_seal_id(seal, scope, mcp_request_identity(r),
                                   mcp_proxy_member_name(r->pool, worker), id, r->pool);

    if (!text) {
        ap_log_rerror(APLOG_MARK, APLOG_ERR, 0, r, MCP_LOGNO(2025)
                      "a session id of %s could not be sealed", worker->s->name_ex);
    }
    return text;
}
