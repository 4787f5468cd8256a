/* SPDX-License-Identifier: Apache-2.0 */
/* Who sends a request: the user as httpd has authenticated it, and the address of the client. */
#include "mcp_httpd_request.h"

#include <arpa/inet.h>
#include <apr_strings.h>
#include <http_core.h>

#include "mcp_value.h"

const char *mcp_request_identity(request_rec *r)
{
    const char *realm = ap_auth_name(r);
    server_rec *s = r->server;

    if (!r->user) {
        return NULL;
    }
    return apr_psprintf(r->pool, "%s.%d/%s/%s",
                        mcp_value_escape(s->server_hostname ? s->server_hostname : "",
                                         s->server_hostname ? strlen(s->server_hostname) : 0,
                                         r->pool),
                        (int)s->port,
                        mcp_value_escape(realm ? realm : "", realm ? strlen(realm) : 0, r->pool),
                        mcp_value_escape(r->user, strlen(r->user), r->pool));
}

const char *mcp_request_address(request_rec *r)
{
    struct in6_addr a6;
    char text[INET6_ADDRSTRLEN];

    if (inet_pton(AF_INET6, r->useragent_ip, &a6) != 1) {
        return apr_pstrcat(r->pool, "ip:", r->useragent_ip, NULL);
    }
    if (IN6_IS_ADDR_V4MAPPED(&a6)) {
        inet_ntop(AF_INET, &a6.s6_addr[12], text, sizeof(text));
        return apr_pstrcat(r->pool, "ip:", text, NULL);
    }
    memset(&a6.s6_addr[8], 0, 8);
    inet_ntop(AF_INET6, &a6, text, sizeof(text));
    return apr_pstrcat(r->pool, "ip:", text, "/64", NULL);
}
