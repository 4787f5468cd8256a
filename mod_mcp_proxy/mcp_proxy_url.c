/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The canonical form of an http or https backend URL, for an httpd that has not loaded
 * mod_proxy_http: mod_proxy knows no scheme by itself. Where mod_proxy_http is there it comes
 * first.
 */
#include "mcp_proxy.h"

#include <apr_strings.h>
#include <http_core.h>

/* What is left of a URL behind "http:" or "https:"; NULL for any other scheme. */
static char *behind_scheme(char *url, const char **scheme, apr_port_t *port)
{
    if (strncasecmp(url, "https:", 6) == 0) {
        *scheme = "https";
        *port = DEFAULT_HTTPS_PORT;
        return url + 6;
    }
    if (strncasecmp(url, "http:", 5) == 0) {
        *scheme = "http";
        *port = DEFAULT_HTTP_PORT;
        return url + 5;
    }
    return NULL;
}

/* The path as ProxyPass and its nocanon and noencode want it; *query as it goes with it. */
static const char *canonical_path(request_rec *r, char *path, const char **query)
{
    core_dir_config *core = ap_get_core_module_config(r->per_dir_config);
    int keep_slashes = core->allow_encoded_slashes && !core->decode_encoded_slashes;

    *query = NULL;
    if (apr_table_get(r->notes, "proxy-nocanon")) {
        return path;
    }
    *query = r->args;
    if (apr_table_get(r->notes, "proxy-noencode")) {
        return path;
    }
    return ap_proxy_canonenc_ex(r->pool, path, (int)strlen(path), enc_path,
                                keep_slashes ? PROXY_CANONENC_NOENCODEDSLASHENCODING : 0,
                                r->proxyreq);
}

int mcp_proxy_canon(request_rec *r, char *url)
{
    const char *scheme = NULL, *path, *query, *error;
    apr_port_t port, usual = 0;
    char *rest = behind_scheme(url, &scheme, &usual);
    char *host;

    if (!rest || r->proxyreq != PROXYREQ_REVERSE) {
        return DECLINED;
    }
    port = usual;
    error = ap_proxy_canon_netloc(r->pool, &rest, NULL, NULL, &host, &port);
    if (error) {
        ap_log_rerror(APLOG_MARK, APLOG_ERR, 0, r, MCP_LOGNO(2060) "bad backend URL: %s",
                      error);
        return HTTP_BAD_REQUEST;
    }
    path = canonical_path(r, rest, &query);
    if (!path) {
        return HTTP_BAD_REQUEST;
    }
    if (*ap_scan_vchar_obstext(path) || (query && *ap_scan_vchar_obstext(query))) {
        ap_log_rerror(APLOG_MARK, APLOG_INFO, 0, r, MCP_LOGNO(2061)
                      "the URL has control characters or spaces, which cannot be passed on");
        return HTTP_FORBIDDEN;
    }
    r->filename = apr_pstrcat(r->pool, "proxy:", scheme, "://", strchr(host, ':') ? "[" : "", host,
                              strchr(host, ':') ? "]" : "",
                              port == usual ? "" : ":",
                              port == usual ? "" : apr_itoa(r->pool, port), "/", path,
                              query ? "?" : "", query, NULL);
    return OK;
}
