/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a rescue sends, and what comes back: its own messages and their answers, which the client
 * does not see, and the client's request where its session is now.
 */
#include "mcp_proxy_rescue_steps.h"

#include <apr_strings.h>
#include <http_log.h>

#include "mcp_clock.h"
#include "mcp_proxy_ids.h"

/* ---- the gateway's own messages ---- */

static int is_at(const mcp_exchange_t *x, mcp_rescue_step_e step)
{
    return x->rescue && x->rescue->step == step;
}

int mcp_rescue_is_own(const mcp_exchange_t *x)
{
    return is_at(x, MCP_RESCUE_INITIALIZE) || is_at(x, MCP_RESCUE_INITIALIZED)
        || is_at(x, MCP_RESCUE_ASK);
}

const char *mcp_rescue_url(const mcp_exchange_t *x)
{
    return is_at(x, MCP_RESCUE_INITIALIZE) ? mcp_id_without(x->r->pool, x->url) : x->url;
}

static const char *const not_for_it[] = {
    "Mcp-Session-Id", "Last-Event-ID", "Accept-Encoding", "Content-Encoding", "Transfer-Encoding",
    "Expect", "Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since",
    "If-Range", "MCP-Protocol-Version", "Mcp-Method", "Mcp-Name", NULL
};

void mcp_rescue_dress(mcp_exchange_t *x, mcp_span_t *body)
{
    mcp_rescue_t *rescue = x->rescue;
    request_rec *r = x->r;
    const char *session, *version;
    int i;

    if (!mcp_rescue_is_own(x)) {
        r->headers_in = mcp_rescue_event_fields(r, x->q, r->headers_in);
        return;
    }
    session = apr_table_get(r->headers_in, "Mcp-Session-Id");
    version = apr_table_get(r->headers_in, "MCP-Protocol-Version");
    r->method = "POST";
    r->headers_in = apr_table_copy(r->pool, r->headers_in);
    for (i = 0; not_for_it[i]; i++) {
        apr_table_unset(r->headers_in, not_for_it[i]);
    }
    if (rescue->step == MCP_RESCUE_INITIALIZE) {
        *body = mcp_opening_initialize(rescue->id, rescue->claim.params, r->pool);
        session = version = NULL;
    }
    else if (rescue->step == MCP_RESCUE_INITIALIZED) {
        *body = mcp_opening_initialized();
        session = rescue->session;
        version = rescue->version;
    }
    else {
        *body = mcp_opening_ping(); /* where the client's own message went, and how */
    }
    if (session) {
        apr_table_setn(r->headers_in, "Mcp-Session-Id", session);
    }
    if (version) {
        apr_table_setn(r->headers_in, "MCP-Protocol-Version", version);
    }
    apr_table_setn(r->headers_in, "Content-Type", "application/json");
    apr_table_setn(r->headers_in, "Accept", "application/json, text/event-stream");
    apr_table_setn(r->headers_in, "Content-Length", "0"); /* there is one: the builder knows it */
}

/* ---- answers ---- */

/* The same stream goes on for the client: nothing that it has not begun with. */
static void take_stream_up(mcp_exchange_t *x)
{
    const char *type = mcp_http_field(&x->head, "Content-Type");

    if (x->head.status != HTTP_OK || !is_at(x, MCP_RESCUE_REPLAY) || !mcp_answer_is_stream(type)
        || mcp_http_field(&x->head, "Content-Encoding")) {
        ap_log_rerror(APLOG_MARK, APLOG_DEBUG, 0, x->r, "the stream cannot go on: %s, %d",
                      is_at(x, MCP_RESCUE_REPLAY) ? "rescued" : "the session is alive",
                      x->head.status);
        x->broken = 1;
        x->state = MCP_X_END;
        return;
    }
    memset(&x->sse, 0, sizeof(x->sse));
    mcp_rescue_mark_events(x);
    mcp_streams_move(x);
    x->rescue = NULL;
    x->last_in = mcp_clock_now();
    x->state = MCP_X_BODY;
}

int mcp_rescue_takes_head(mcp_exchange_t *x)
{
    mcp_rescue_t *rescue = x->rescue;

    if (mcp_rescue_is_own(x)) {
        x->last_in = mcp_clock_now();
        rescue->answer.is_stream = mcp_answer_is_stream(mcp_http_field(&x->head, "Content-Type"));
        x->state = is_at(x, MCP_RESCUE_INITIALIZE) && x->head.status < 300 ? MCP_X_BODY : MCP_X_END;
        return 1;
    }
    if (x->head.status == HTTP_NOT_FOUND && mcp_rescue_is_possible(x)
        && !(rescue && rescue->is_done)) {
        x->session_gone = 1;
        x->state = MCP_X_END;
        return 1;
    }
    if (rescue && rescue->resumes) {
        take_stream_up(x);
        return 1;
    }
    if (is_at(x, MCP_RESCUE_REPLAY) && x->head.status == HTTP_OK) {
        x->rescue = NULL;
    }
    return 0;
}

apr_status_t mcp_rescue_take_data(mcp_exchange_t *x, const char *buf, apr_size_t len)
{
    mcp_rescue_t *rescue = x->rescue;

    return mcp_opening_take(&rescue->answer, buf, len, rescue->id, x->r->pool) == MCP_OPENING_MORE
        ? APR_SUCCESS : APR_EOF;
}
