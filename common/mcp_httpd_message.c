/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The message of a request whose body has been read: what it is, whether all readers read it alike,
 * and whether the headers say the same. Nothing is read from the client here, and nothing sent.
 */
#include "mcp_httpd_request.h"

#include <apr_base64.h>
#include <apr_lib.h>
#include <apr_strings.h>

#include "mcp_httpd_error.h"

#define STATELESS_SINCE "2026-07-28"
#define VERSION_LENGTH 10

/* What revision 2026-07-28 answers where headers and body do not say the same. */
#define CODE_HEADER_MISMATCH (-32020)

const mcp_rpc_t *mcp_request_rpc(request_rec *r)
{
    mcp_request_t *in = mcp_request_get(r);

    if (!in->rpc) {
        in->rpc = mcp_rpc_parse(in->body ? in->body : "", in->length, r->pool);
    }
    return in->rpc;
}

static int has_foreign_charset(const char *type)
{
    const char *parameters = type ? strchr(type, ';') : NULL;
    const char *charset = parameters ? ap_strcasestr(parameters, "charset=") : NULL;

    if (!charset) {
        return 0;
    }
    charset += strlen("charset=");
    charset += *charset == '"';
    return strncasecmp(charset, "utf-8", 5) != 0 || apr_isalnum(charset[5]) || charset[5] == '-';
}

static int judge_message(request_rec *r, const mcp_rpc_t *rpc)
{
    int i;

    if (rpc->kind == MCP_RPC_INVALID) {
        return mcp_error_set(r, HTTP_BAD_REQUEST, rpc->error,
                             rpc->detail ? rpc->detail : "Not a JSON-RPC message", NULL);
    }
    if (rpc->ambiguous) {
        return mcp_error_set(r, HTTP_BAD_REQUEST, MCP_RPC_EINVALID,
                             "A member that decides stands twice, or in another case", NULL);
    }
    for (i = 0; rpc->kind == MCP_RPC_BATCH && i < rpc->batch->nelts; i++) {
        int status = judge_message(r, APR_ARRAY_IDX(rpc->batch, i, const mcp_rpc_t *));

        if (status != OK) {
            return status;
        }
    }
    return OK;
}

int mcp_request_decidable(request_rec *r)
{
    const mcp_request_t *in = mcp_request_get(r);

    if (in->coding && strcasecmp(in->coding, "identity") != 0) {
        return mcp_error_set(r, HTTP_UNSUPPORTED_MEDIA_TYPE, 0,
                             "A Content-Encoding is not accepted here", NULL);
    }
    if (has_foreign_charset(in->type)) {
        return mcp_error_set(r, HTTP_UNSUPPORTED_MEDIA_TYPE, 0,
                             "A charset other than utf-8 is not accepted here", NULL);
    }
    return judge_message(r, mcp_request_rpc(r));
}

static int is_stateless_version(const char *version)
{
    return version && strlen(version) == VERSION_LENGTH && apr_isdigit(version[0])
        && strcmp(version, STATELESS_SINCE) >= 0;
}

int mcp_request_is_stateless(request_rec *r)
{
    return is_stateless_version(apr_table_get(r->headers_in, "MCP-Protocol-Version"));
}

static int mismatch(request_rec *r, const char *header, const char *what)
{
    return mcp_error_set(r, HTTP_BAD_REQUEST, CODE_HEADER_MISMATCH,
                         apr_pstrcat(r->pool, "Header mismatch: ", header, " ", what, NULL), NULL);
}

/* Mcp-Name may be =?base64?...?= (2026-07-28, Streamable HTTP, value encoding). NULL: malformed. */
static const char *decode_name(request_rec *r, const char *value)
{
    static const char prefix[] = "=?base64?";
    apr_size_t len = strlen(value);
    char *coded, *plain;
    int n;

    if (strncmp(value, prefix, sizeof(prefix) - 1) != 0 || len < sizeof(prefix) + 1
        || strcmp(value + len - 2, "?=") != 0) {
        return value;
    }
    coded = apr_pstrmemdup(r->pool, value + sizeof(prefix) - 1, len - 2 - (sizeof(prefix) - 1));
    len = strlen(coded);
    if (len % 4 != 0
        || strspn(coded, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                         "0123456789+/=") != len) {
        return NULL;
    }
    plain = apr_palloc(r->pool, (apr_size_t)apr_base64_decode_len(coded) + 1);
    n = apr_base64_decode(plain, coded);
    plain[n] = '\0';
    return memchr(plain, '\0', (apr_size_t)n) ? NULL : plain;
}

static int check_name(request_rec *r, const mcp_rpc_t *rpc)
{
    const char *header = apr_table_get(r->headers_in, "Mcp-Name");
    const char *wanted;

    if (strcmp(rpc->method, "tools/call") == 0 || strcmp(rpc->method, "prompts/get") == 0) {
        wanted = rpc->name;
    }
    else if (strcmp(rpc->method, "resources/read") == 0) {
        wanted = rpc->uri;
    }
    else {
        return OK;
    }
    if (!header) {
        return mismatch(r, "Mcp-Name", "is missing");
    }
    header = decode_name(r, header);
    if (!header || !wanted || strcmp(header, wanted) != 0) {
        return mismatch(r, "Mcp-Name", "does not match the body");
    }
    return OK;
}

int mcp_request_check_headers(request_rec *r)
{
    const mcp_rpc_t *rpc = mcp_request_rpc(r);
    const char *version = apr_table_get(r->headers_in, "MCP-Protocol-Version");
    const char *method;
    int status;

    if (!is_stateless_version(version) && !is_stateless_version(rpc->version)) {
        return OK;
    }
    status = mcp_request_decidable(r);
    if (status != OK) {
        return status;
    }
    if (rpc->kind == MCP_RPC_BATCH) {
        return mcp_error_set(r, HTTP_BAD_REQUEST, MCP_RPC_EINVALID,
                             "This revision of MCP has no batches", NULL);
    }
    if (!rpc->method) {
        return OK;
    }
    if (!version) {
        return mismatch(r, "MCP-Protocol-Version", "is missing");
    }
    /* A body that names no revision is the server's to refuse: it has another code for that. */
    if (rpc->version && strcmp(version, rpc->version) != 0) {
        return mismatch(r, "MCP-Protocol-Version", "does not match the body");
    }
    method = apr_table_get(r->headers_in, "Mcp-Method");
    if (!method) {
        return rpc->kind == MCP_RPC_REQUEST ? mismatch(r, "Mcp-Method", "is missing") : OK;
    }
    if (strcmp(method, rpc->method) != 0) {
        return mismatch(r, "Mcp-Method", "does not match the body");
    }
    return check_name(r, rpc);
}
