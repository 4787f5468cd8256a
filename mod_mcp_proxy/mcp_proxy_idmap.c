/* SPDX-License-Identifier: Apache-2.0 */
/* The client's session id and the member's, where they differ: one for the other. */
#include "mcp_proxy_idmap.h"

#include <apr_strings.h>

#include "mcp_httpd_request.h"
#include "mcp_proxy_ids.h"

#define FIELD "Mcp-Session-Id"

/* Who asks whom. */
typedef struct parties_t {
    request_rec *r;
    const mcp_proxy_request_t *q;
    const proxy_worker *worker;
} parties_t;

static int goes_by_two_ids(const mcp_proxy_request_t *q)
{
    return q->session && strcmp(q->session, q->backend_session) != 0;
}

static int maps_ids(const mcp_proxy_request_t *q)
{
    return mcp_proxy_is_sealed() || goes_by_two_ids(q);
}

/* ---- towards the member ---- */

/* An id that is not the session's own: it must be this identity's too, and of the same member. */
static const char *open_other(const parties_t *of, const char *text, int is_guess)
{
    const char *member, *id;

    if (mcp_sealed_open(of->r, of->q->scope, text, &member, &id) != APR_SUCCESS) {
        return is_guess ? text : NULL;
    }
    return mcp_proxy_member_has_name(of->worker, member) ? id : NULL;
}

static const char *to_member(void *baton, const char *id, int is_guess)
{
    const parties_t *of = baton;

    if (of->q->session && strcmp(id, of->q->session) == 0) {
        return of->q->backend_session;
    }
    return mcp_proxy_is_sealed() ? open_other(of, id, is_guess) : id;
}

const char *mcp_idmap_request_url(request_rec *r, const proxy_worker *worker, const char *url)
{
    parties_t of = { r, mcp_proxy_request(r), worker };

    if (mcp_proxy_is_sealed() && mcp_id_may_move(r->pool, url)) {
        return NULL;
    }
    return maps_ids(of.q) ? mcp_id_map_url(r->pool, url, to_member, &of) : url;
}

apr_table_t *mcp_idmap_request_fields(request_rec *r, const proxy_worker *worker)
{
    parties_t of = { r, mcp_proxy_request(r), worker };
    apr_table_t *fields;
    const char *id;

    if (!maps_ids(of.q)) {
        return r->headers_in;
    }
    id = apr_table_get(r->headers_in, FIELD);
    fields = apr_table_copy(r->pool, r->headers_in);
    if (!of.q->session && r->method_number == M_GET) {
        apr_table_unset(fields, "Accept-Encoding");
    }
    if (id && *id && !mcp_request_is_stateless(r)) {
        id = to_member(&of, id, 0);
        if (!id) {
            return NULL;
        }
        apr_table_setn(fields, FIELD, id);
    }
    else if (mcp_proxy_is_sealed()) {
        /* There is none, or the protocol's version has none. */
        apr_table_unset(fields, FIELD);
    }
    return fields;
}

/* ---- towards the client ---- */

static const char *own_to_client(void *baton, const char *id, int is_guess)
{
    const parties_t *of = baton;

    return of->q->session && strcmp(id, of->q->backend_session) == 0 ? of->q->session : id;
}

static const char *any_to_client(void *baton, const char *id, int is_guess)
{
    const parties_t *of = baton;
    const char *own = own_to_client(baton, id, is_guess);

    if (own != id || is_guess || !mcp_proxy_is_sealed()) {
        return own;
    }
    return mcp_sealed_text(of->r, of->q->scope, of->worker, id);
}

const char *mcp_idmap_answer_field(request_rec *r, const proxy_worker *worker, const char *id)
{
    parties_t of = { r, mcp_proxy_request(r), worker };

    return maps_ids(of.q) && *id ? any_to_client(&of, id, 0) : id;
}

const char *mcp_idmap_answer_url(request_rec *r, const char *url)
{
    parties_t of = { r, mcp_proxy_request(r), NULL };

    return maps_ids(of.q) ? mcp_id_map_url(r->pool, url, own_to_client, &of) : url;
}

const char *mcp_idmap_endpoint(request_rec *r, const proxy_worker *worker, const char *url)
{
    parties_t of = { r, mcp_proxy_request(r), worker };

    return maps_ids(of.q) ? mcp_id_map_url(r->pool, url, any_to_client, &of) : url;
}
