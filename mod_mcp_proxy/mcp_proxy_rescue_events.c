/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ids of events, which a client comes back with in Last-Event-ID. They are its server's: another
 * one answers 400 to them, opens a stream on which nothing comes, or takes them for its own. So
 * once a session has been rescued, a mark goes before each id that its client gets. It tells the
 * session at the member that the event is of, and is made of what the route says: no state, and any
 * gateway that knows the route knows the mark. What comes back with another mark, or with none, is
 * of a server that is lost, and goes no further.
 */
#include "mcp_proxy_rescue.h"

#include <apr_escape.h>
#include <apr_lib.h>
#include <apr_strings.h>
#include <http_log.h>

#include "mcp_sha256.h"

/* "mcp-", digits, "." */
#define FRONT "mcp-"
#define FRONT_LEN (sizeof(FRONT) - 1)
#define DIGEST 6
#define DIGITS (2 * DIGEST)
#define MARK_LEN (FRONT_LEN + DIGITS + 1)

/* NULL: the session is where it always was, and its ids are the server's. */
static const char *mark_of(apr_pool_t *p, const mcp_proxy_request_t *q)
{
    unsigned char digest[MCP_SHA256];
    const char *text;

    if (!mcp_proxy_rescues() || !q->session_known || !q->generation) {
        return NULL;
    }
    text = apr_psprintf(p, "%u %s", q->generation, q->backend_session);
    mcp_sha256(text, strlen(text), digest);
    return apr_pstrcat(p, FRONT, apr_pescape_hex(p, digest, DIGEST, 0), ".", NULL);
}

static int is_marked(const char *id)
{
    apr_size_t i;

    if (strncmp(id, FRONT, FRONT_LEN) != 0) {
        return 0;
    }
    for (i = FRONT_LEN; i < FRONT_LEN + DIGITS; i++) {
        if (!apr_isxdigit(id[i])) {
            return 0;
        }
    }
    return id[i] == '.';
}

/*
 * The member's own id; NULL: it is not this one's. The mark was put right behind the colon, so the
 * one space that means nothing there has come behind it.
 */
static const char *own_id(apr_pool_t *p, const mcp_proxy_request_t *q, const char *id)
{
    const char *mark = mark_of(p, q);

    if (!mark) {
        return is_marked(id) ? NULL : id;
    }
    if (strncmp(id, mark, MARK_LEN) != 0) {
        return NULL;
    }
    id += MARK_LEN;
    id += *id == ' ';
    return *id ? id : NULL;
}

apr_table_t *mcp_rescue_event_fields(request_rec *r, const mcp_proxy_request_t *q,
                                     apr_table_t *headers)
{
    const char *id = apr_table_get(headers, "Last-Event-ID"), *own;

    if (!mcp_proxy_rescues() || !q->session_known || (!id && !q->generation)) {
        return headers;
    }
    headers = apr_table_copy(r->pool, headers);
    own = id ? own_id(r->pool, q, id) : NULL;
    if (own) {
        apr_table_setn(headers, "Last-Event-ID", own);
    }
    else {
        apr_table_unset(headers, "Last-Event-ID");
    }
    if (id && !own) {
        ap_log_rerror(APLOG_MARK, APLOG_DEBUG, 0, r,
                      "Last-Event-ID is of a server that the session has been lost with");
    }
    if (q->generation) {
        apr_table_unset(headers, "Accept-Encoding"); /* ids have to be read */
    }
    return headers;
}

void mcp_rescue_mark_events(mcp_exchange_t *x)
{
    x->ids = (mcp_sse_ids_t){ 0 };
    x->event_mark = mcp_http_field(&x->head, "Content-Encoding") ? NULL
                                                                 : mark_of(x->r->pool, x->q);
}
