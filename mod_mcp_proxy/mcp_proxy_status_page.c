/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The picture for people. page/page.html is the frame, with {{marks}} that functions here fill in;
 * page.css and page.js stand in it, under a nonce: nothing is fetched from anywhere. All text that
 * a client, a server or an operator may have chosen goes through put_text() or attribute().
 */
#include "mcp_proxy_status.h"

#include <apr_escape.h>
#include <apr_strings.h>
#include <http_protocol.h>
#include <math.h>
#include <openssl/rand.h>

#include "mcp_json.h"
#include "mcp_proxy_page.inc"

#define NONCE_BYTES 16

/* ---- text ---- */

static unsigned code_point(const char *at, apr_size_t len)
{
    const unsigned char *u = (const unsigned char *)at;

    switch (len) {
    case 1:
        return u[0];
    case 2:
        return (u[0] & 0x1fu) << 6 | (u[1] & 0x3fu);
    case 3:
        return (u[0] & 0xfu) << 12 | (u[1] & 0x3fu) << 6 | (u[2] & 0x3fu);
    default:
        return (u[0] & 7u) << 18 | (u[1] & 0x3fu) << 12 | (u[2] & 0x3fu) << 6 | (u[3] & 0x3fu);
    }
}

/* What nobody sees, or what changes the order of what is seen: control and format characters. */
static int is_hidden(unsigned c)
{
    return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0xad || c == 0x61c
        || (c >= 0x200b && c <= 0x200f) || (c >= 0x2028 && c <= 0x202e)
        || (c >= 0x2060 && c <= 0x206f) || c == 0xfeff || (c >= 0xe0000 && c <= 0xe0fff);
}

/* Hidden characters by their number: as markup, or plainly in an attribute. */
static const char *escaped(apr_pool_t *p, const char *text, int in_attribute)
{
    const char *end = text + strlen(text);
    char *out = apr_palloc(p, (apr_size_t)(end - text) * 48 + 1), *to = out;
    apr_size_t len;

    for (; text < end; text += len) {
        len = mcp_json_utf8(text, end);
        if (!len) {
            to = apr_cpystrn(to, "&#xFFFD;", 9);
            len = 1;
        }
        else if (is_hidden(code_point(text, len))) {
            unsigned c = code_point(text, len);

            to += in_attribute ? apr_snprintf(to, 48, "[U+%04X]", c)
                               : apr_snprintf(to, 48, "<span class=\"control\">U+%04X</span>", c);
        }
        else if (strchr("&<>\"'", *text)) {
            to += apr_snprintf(to, 8, "&#%d;", *text);
        }
        else {
            memcpy(to, text, len);
            to += len;
        }
    }
    *to = '\0';
    return out;
}

static void put_text(const mcp_status_t *status, const char *text)
{
    ap_rputs(escaped(status->r->pool, text, 0), status->r);
}

static const char *attribute(const mcp_status_t *status, const char *text)
{
    return escaped(status->r->pool, text, 1);
}

/* ---- numbers ---- */

/* Groups of three, with a narrow space that does not break. */
static const char *whole(const mcp_status_t *status, double number)
{
    const char *digits = apr_psprintf(status->r->pool, "%.0f", number);
    apr_size_t len = strlen(digits), i;
    char *out = apr_palloc(status->r->pool, 2 * len + 1 + len), *to = out;

    for (i = 0; i < len; i++) {
        if (i && (len - i) % 3 == 0 && len > 4) {
            memcpy(to, "\xe2\x80\xaf", 3);
            to += 3;
        }
        *to++ = digits[i];
    }
    *to = '\0';
    return out;
}

static const char *rate(const mcp_status_t *status, double number)
{
    return number < 100 ? apr_psprintf(status->r->pool, "%.1f", number) : whole(status, number);
}

static const char *bytes(const mcp_status_t *status, double number)
{
    static const char *const units[] = { "B", "kB", "MB", "GB", "TB" };
    int unit = 0;

    for (; number >= 999.5 && unit < 4; unit++) {
        number /= 1000;
    }
    return apr_psprintf(status->r->pool, unit && number < 9.95 ? "%.1f %s" : "%.0f %s", number,
                        units[unit]);
}

static const char *duration(const mcp_status_t *status, apr_time_t since)
{
    apr_pool_t *p = status->r->pool;
    long s = since < status->now ? (long)((status->now - since) / APR_USEC_PER_SEC) : 0;

    if (s < 60) {
        return apr_psprintf(p, "%ld s", s);
    }
    if (s < 3600) {
        return apr_psprintf(p, "%ld min %02ld s", s / 60, s % 60);
    }
    if (s < 86400) {
        return apr_psprintf(p, "%ld h %02ld min", s / 3600, s / 60 % 60);
    }
    return apr_psprintf(p, "%ld d %02ld h", s / 86400, s / 3600 % 24);
}

static const char *milliseconds(const mcp_status_t *status, double ms)
{
    return apr_psprintf(status->r->pool, ms < 1 ? "%.2f" : ms < 10 ? "%.1f" : "%.0f", ms);
}

/* ---- tables ---- */

/* name is the column's, for narrow screens where a row is a list. */
static void put_number(const mcp_status_t *status, const char *name, double number,
                       const char *class)
{
    ap_rprintf(status->r, "<td data-name=\"%s\" class=\"%s\">%s</td>", name,
               number > 0 ? class : "none", whole(status, number));
}

static void begin_table(const mcp_status_t *status, const char *const *heads)
{
    int i;

    ap_rputs("<div class=\"scroll\"><table><thead><tr>", status->r);
    for (i = 0; heads[i]; i++) {
        int is_text = *heads[i] == '<';

        ap_rprintf(status->r, "<th scope=\"col\"%s>%s</th>", is_text ? " class=\"text\""
                   : *heads[i] ? "" : " class=\"narrow\"", heads[i] + is_text);
    }
    ap_rputs("</tr></thead><tbody>\n", status->r);
}

static void end_table(const mcp_status_t *status)
{
    ap_rputs("</tbody></table></div>\n", status->r);
}

static void put_state(const mcp_status_t *status, const char *word, const char *class)
{
    ap_rprintf(status->r, "<td data-name=\"State\" class=\"text\">"
               "<span class=\"state %s\">%s</span></td>", class, word);
}

static void put_members(const mcp_status_t *status)
{
    static const char *const heads[] = { "<Member", "<State", "Streams", "In flight", "Sessions",
                                         "Requests", NULL };
    mcp_shared_t *shared = mcp_proxy_shared();
    int i;

    if (!status->members->nelts) {
        ap_rputs("<p class=\"quiet\">No server has been asked yet.</p>", status->r);
        return;
    }
    begin_table(status, heads);
    for (i = 0; i < status->members->nelts; i++) {
        const mcp_member_t *member = &APR_ARRAY_IDX(status->members, i, mcp_member_t);
        const char *word = mcp_status_of_member(member);
        int is_ok = strcmp(word, "ok") == 0;
        int is_bad = strcmp(word, "error") == 0 || strcmp(word, "unhealthy") == 0;

        ap_rprintf(status->r, "<tr><td class=\"name\" title=\"%s\"><bdi>",
                   attribute(status, member->url));
        put_text(status, member->route);
        ap_rputs("</bdi>", status->r);
        if (member->route != member->url) {
            ap_rputs("<small>", status->r);
            put_text(status, member->url);
            ap_rputs("</small>", status->r);
        }
        ap_rputs("</td>", status->r);
        put_state(status, word, is_ok ? "good" : is_bad ? "bad" : "warn");
        put_number(status, "Streams", status->streams[i], "");
        put_number(status, "In flight", mcp_shared_load(shared, member->slot), "");
        if (status->sessions) {
            put_number(status, "Sessions", (double)status->sessions[i], "");
        }
        else {
            ap_rputs("<td data-name=\"Sessions\" class=\"none\">sealed</td>", status->r);
        }
        put_number(status, "Requests", (double)mcp_shared_calls(shared, member->slot), "");
        ap_rputs("</tr>\n", status->r);
    }
    end_table(status);
}

static void begin_section(const mcp_status_t *status, const char *id, const char *title)
{
    ap_rprintf(status->r, "<section id=\"%s\" data-live>\n<h2>%s</h2>\n", id, title);
}

/* A row of noughts stands back. */
static const char *idle_class(const mcp_status_row_t *row)
{
    return row->numbers[0] + row->numbers[1] + row->numbers[2] + row->numbers[3] > 0
        ? "" : " class=\"idle\"";
}

static void put_limits(const mcp_status_t *status)
{
    static const char *const heads[] = { "<Limit", "Allowed", "Refused", "In dry run", NULL };
    double slots = mcp_status_number(status, "mcp_slots_in_use", -1);
    int i;

    if (!status->limits->nelts) {
        return;
    }
    begin_section(status, "limits", "Limits");
    begin_table(status, heads);
    for (i = 0; i < status->limits->nelts; i++) {
        const mcp_status_row_t *row = &APR_ARRAY_IDX(status->limits, i, mcp_status_row_t);

        ap_rprintf(status->r, "<tr%s><td class=\"name\">", idle_class(row));
        put_text(status, row->name);
        if (slots >= 0 && strcmp(row->name, "streams") == 0) {
            ap_rprintf(status->r, "<small>%s in use now</small>", whole(status, slots));
        }
        ap_rputs("</td>", status->r);
        put_number(status, "Allowed", row->numbers[0], "");
        put_number(status, "Refused", row->numbers[1], "warn");
        put_number(status, "In dry run", row->numbers[2], "warn");
        ap_rputs("</tr>\n", status->r);
    }
    end_table(status);
    ap_rputs("</section>\n", status->r);
}

/* Of what could have been a hit. Negative: nothing could. */
static double hit_share(const mcp_status_row_t *row)
{
    double hits = row->numbers[0] + row->numbers[2], all = hits + row->numbers[1];

    return all > 0 ? hits / all : -1;
}

static void put_share(const mcp_status_t *status, double share)
{
    if (share < 0) {
        ap_rputs("<td data-name=\"Share of hits\" class=\"none\">–</td>", status->r);
        return;
    }
    ap_rprintf(status->r, "<td data-name=\"Share of hits\"><span>%.0f %%<svg class=\"bar\" "
               "viewBox=\"0 0 100 8\" preserveAspectRatio=\"none\" aria-hidden=\"true\">"
               "<rect class=\"track\" width=\"100\" height=\"8\" rx=\"4\"/>"
               "<rect width=\"%.1f\" height=\"8\" rx=\"4\"/></svg></span></td>", share * 100,
               share * 100);
}

static void put_cache(const mcp_status_t *status)
{
    static const char *const heads[] = { "<Tool", "Hits", "Misses", "Stale", "Bypassed",
                                         "Share of hits", NULL };
    int i;

    if (!status->tools->nelts) {
        return;
    }
    begin_section(status, "cache", "Cache");
    begin_table(status, heads);
    for (i = 0; i < status->tools->nelts; i++) {
        const mcp_status_row_t *row = &APR_ARRAY_IDX(status->tools, i, mcp_status_row_t);

        ap_rprintf(status->r, "<tr%s><td class=\"name\" title=\"%s\"><bdi><code>",
                   idle_class(row), attribute(status, row->name));
        put_text(status, row->name);
        ap_rputs("</code></bdi></td>", status->r);
        put_number(status, "Hits", row->numbers[0], "");
        put_number(status, "Misses", row->numbers[1], "");
        put_number(status, "Stale", row->numbers[2], "");
        put_number(status, "Bypassed", row->numbers[3], "");
        put_share(status, hit_share(row));
        ap_rputs("</tr>\n", status->r);
    }
    end_table(status);
    ap_rputs("</section>\n", status->r);
}

static void put_stores(const mcp_status_t *status)
{
    static const char *const heads[] = { "<Store of", "<State", "Questions", "Mean time", "Errors",
                                         NULL };
    int i;

    if (!status->stores->nelts) {
        return;
    }
    begin_section(status, "stores", "Stores");
    begin_table(status, heads);
    for (i = 0; i < status->stores->nelts; i++) {
        const mcp_status_store_t *store = &APR_ARRAY_IDX(status->stores, i, mcp_status_store_t);
        double mean = store->questions > 0 ? store->seconds * 1000 / store->questions : -1;

        ap_rputs("<tr><td class=\"name\">", status->r);
        put_text(status, store->module);
        ap_rputs("</td>", status->r);
        put_state(status, store->state < 0 ? "unknown" : store->state ? "answers" : "down",
                  store->state < 0 ? "none" : store->state ? "good" : "bad");
        put_number(status, "Questions", store->questions, "");
        ap_rprintf(status->r, "<td data-name=\"Mean time\" class=\"%s\">%s%s</td>",
                   mean < 0 ? "none" : "", mean < 0 ? "–" : milliseconds(status, mean),
                   mean < 0 ? "" : " ms");
        put_number(status, "Errors", store->errors, "bad");
        ap_rputs("</tr>\n", status->r);
    }
    end_table(status);
    ap_rputs("</section>\n", status->r);
}

/* ---- streams ---- */

static void put_stream(const mcp_status_t *status, const mcp_registry_stream_t *s)
{
    request_rec *r = status->r;
    const char *who = *s->user ? s->user : s->address;

    ap_rprintf(r, "<tr><td class=\"name\" title=\"%s\"><bdi>",
               attribute(status, apr_pstrcat(r->pool, who, " from ", s->address, NULL)));
    put_text(status, who);
    ap_rputs("</bdi></td><td data-name=\"Member\" class=\"text\"><bdi>", r);
    put_text(status, mcp_status_route(status, s->member));
    ap_rputs("</bdi></td><td data-name=\"Opened by\" class=\"text\"><code>", r);
    put_text(status, s->method);
    ap_rprintf(r, "</code></td><td data-name=\"Open for\">%s</td>", duration(status, s->opened));
    ap_rprintf(r, "<td data-name=\"Last event\"%s>%s%s</td>", s->last == s->opened
               ? " class=\"none\"" : "", s->last == s->opened ? "none yet"
               : duration(status, s->last), s->last == s->opened ? "" : " ago");
    ap_rprintf(r, "<td data-name=\"Received\">%s</td>", bytes(status, (double)s->bytes));
    if (status->token && s->is_ended) {
        ap_rputs("<td class=\"do none\">ending</td>", r);
    }
    else if (status->token) {
        ap_rprintf(r, "<td class=\"do\"><button name=\"end\" value=\"%u-%u\" data-who=\"%s\" "
                   "aria-label=\"End the stream of %s\">End</button></td>", s->index, s->serial,
                   attribute(status, who), attribute(status, who));
    }
    ap_rputs("</tr>\n", r);
}

static void put_streams(const mcp_status_t *status)
{
    const char *heads[] = { "<User", "<Member", "<Opened by", "Open for", "Last event", "Received",
                            status->token ? "" : NULL, NULL };
    int i;

    if (!status->longest->nelts) {
        ap_rputs("<p class=\"quiet\">No event stream is open.</p>", status->r);
        return;
    }
    if (status->token) {
        ap_rprintf(status->r, "<form method=\"post\"><input type=\"hidden\" name=\"token\" "
                   "value=\"%s\">\n", status->token);
    }
    begin_table(status, heads);
    for (i = 0; i < status->longest->nelts; i++) {
        put_stream(status, &APR_ARRAY_IDX(status->longest, i, mcp_registry_stream_t));
    }
    end_table(status);
    ap_rputs(status->token ? "</form>\n"
                           : "<p class=\"quiet\">Ending a stream needs an authenticated user, or a "
                             "client on this machine.</p>\n", status->r);
}

/* ---- what stands above ---- */

/* under: HTML. */
static void put_tile(const mcp_status_t *status, const char *title, const char *number,
                     const char *unit, const char *under)
{
    ap_rprintf(status->r, "<div class=\"tile\"><h2>%s</h2><b>%s%s%s%s</b><p>%s</p></div>\n", title,
               number, *unit ? "<small>" : "", unit, *unit ? "</small>" : "", under);
}

static void put_delay_tile(const mcp_status_t *status)
{
    unsigned i = status->step_count;

    while (i && status->steps[i - 1].median_ms < 0) {
        i--;
    }
    if (!i) {
        put_tile(status, "Event delay", "–", "", "no events lately");
        return;
    }
    put_tile(status, "Event delay", milliseconds(status, status->steps[i - 1].median_ms), "ms",
             apr_psprintf(status->r->pool, "99 %% within %s ms",
                          milliseconds(status, status->steps[i - 1].worst_ms)));
}

static void put_sum_tiles(const mcp_status_t *status)
{
    apr_pool_t *p = status->r->pool;
    mcp_status_row_t cache = { .name = "" };
    double refused = 0, decisions = 0, share;
    int i, j;

    for (i = 0; i < status->limits->nelts; i++) {
        const double *numbers = APR_ARRAY_IDX(status->limits, i, mcp_status_row_t).numbers;

        refused += numbers[1];
        decisions += numbers[0] + numbers[1] + numbers[2];
    }
    for (i = 0; i < status->tools->nelts; i++) {
        for (j = 0; j < 4; j++) {
            cache.numbers[j] += APR_ARRAY_IDX(status->tools, i, mcp_status_row_t).numbers[j];
        }
    }
    if (status->limits->nelts) {
        put_tile(status, "Refused", whole(status, refused), "",
                 apr_psprintf(p, "of %s decisions", whole(status, decisions)));
    }
    if (status->tools->nelts) {
        share = hit_share(&cache);
        put_tile(status, "Cache hits", share < 0 ? "–" : apr_psprintf(p, "%.0f", share * 100),
                 share < 0 ? "" : "%",
                 apr_psprintf(p, "%s answers saved",
                              whole(status, cache.numbers[0] + cache.numbers[2])));
    }
}

static void put_tiles(const mcp_status_t *status)
{
    apr_pool_t *p = status->r->pool;
    mcp_shared_t *shared = mcp_proxy_shared();
    double sessions = 0, streams = (double)mcp_shared_get(shared, MCP_SHARED_STREAMS);
    int i;

    for (i = 0; status->sessions && i < status->members->nelts; i++) {
        sessions += (double)status->sessions[i];
    }
    put_tile(status, "Event streams", whole(status, streams > 0 ? streams : 0), "",
             apr_psprintf(p, "%s may be open",
                          whole(status, (double)mcp_proxy_server_conf(MCP_PROXY_MAX_STREAMS))));
    put_tile(status, "Sessions", status->sessions ? whole(status, sessions) : "–", "",
             apr_psprintf(p, "%s requests lost theirs",
                          whole(status, (double)mcp_shared_get(shared, MCP_SHARED_SESSIONS_LOST))));
    put_tile(status, "Requests",
             status->step_count ? rate(status, status->steps[status->step_count - 1].calls) : "–",
             status->step_count ? "/s" : "",
             apr_psprintf(p, "%s in all", whole(status, (double)mcp_shared_all_requests(shared))));
    put_delay_tile(status);
    put_sum_tiles(status);
}

static void put_outcome(const mcp_status_t *status)
{
    const char *args = status->r->args ? status->r->args : "";

    if (strcmp(args, "outcome=ended") == 0) {
        ap_rputs("<p class=\"note\" role=\"status\">The stream has been told to end.</p>",
                 status->r);
    }
    else if (strcmp(args, "outcome=gone") == 0) {
        ap_rputs("<p class=\"note\" role=\"status\">That stream had ended already.</p>", status->r);
    }
}

static void put_time(const mcp_status_t *status)
{
    apr_time_exp_t when;

    apr_time_exp_gmt(&when, status->time);
    ap_rprintf(status->r, "%04d-%02d-%02d %02d:%02d:%02d", when.tm_year + 1900, when.tm_mon + 1,
               when.tm_mday, when.tm_hour, when.tm_min, when.tm_sec);
}

static void put_server(const mcp_status_t *status)
{
    put_text(status, status->r->server->server_hostname ? status->r->server->server_hostname : "");
}

/* Numbers only: time, streams, calls, half, 99 of 100. */
static void put_history(const mcp_status_t *status)
{
    unsigned i;

    ap_rputs("[", status->r);
    for (i = 0; i < status->step_count; i++) {
        const mcp_history_step_t *step = &status->steps[i];

        ap_rprintf(status->r, "%s[%" APR_TIME_T_FMT ",%.0f,%.2f", i ? "," : "", step->when / 1000,
                   step->streams, step->calls);
        if (step->median_ms < 0) {
            ap_rputs(",null,null]", status->r);
        }
        else {
            ap_rprintf(status->r, ",%.3f,%.3f]", step->median_ms, step->worst_ms);
        }
    }
    ap_rputs("]", status->r);
}

static void put_css(const mcp_status_t *status)
{
    ap_rputs(page_css, status->r);
}

static void put_js(const mcp_status_t *status)
{
    ap_rputs(page_js, status->r);
}

/* ---- the frame ---- */

typedef struct mark_t {
    const char *name;
    void (*put)(const mcp_status_t *status);
} mark_t;

static const mark_t marks[] = {
    { "cache", put_cache }, { "css", put_css }, { "history", put_history }, { "js", put_js },
    { "limits", put_limits }, { "members", put_members }, { "outcome", put_outcome },
    { "server", put_server }, { "stores", put_stores }, { "streams", put_streams },
    { "tiles", put_tiles }, { "time", put_time }
};

static void put_mark(const mcp_status_t *status, const char *name, apr_size_t len,
                     const char *nonce)
{
    unsigned i;

    if (len == 5 && strncmp(name, "nonce", 5) == 0) {
        ap_rputs(nonce, status->r);
    }
    for (i = 0; i < sizeof(marks) / sizeof(*marks); i++) {
        if (strlen(marks[i].name) == len && strncmp(marks[i].name, name, len) == 0) {
            marks[i].put(status);
        }
    }
}

static void set_headers(request_rec *r, const char *nonce)
{
    ap_set_content_type(r, "text/html; charset=utf-8");
    apr_table_setn(r->headers_out, "Content-Security-Policy",
                   apr_psprintf(r->pool, "default-src 'none'; style-src 'nonce-%s'; script-src "
                                "'nonce-%s'; connect-src 'self'; img-src data:; "
                                "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
                                nonce, nonce));
    /* Not no-referrer: a form would then say Origin: null. */
    apr_table_setn(r->headers_out, "Referrer-Policy", "same-origin");
}

void mcp_status_write_page(const mcp_status_t *status)
{
    unsigned char bytes_of_nonce[NONCE_BYTES] = { 0 };
    const char *at = page_html, *open, *nonce;

    /* Without chance there is no nonce, and with an empty one nothing runs. */
    nonce = RAND_bytes(bytes_of_nonce, NONCE_BYTES) == 1
        ? apr_pescape_hex(status->r->pool, bytes_of_nonce, NONCE_BYTES, 0) : "";
    set_headers(status->r, nonce);
    while ((open = strstr(at, "{{")) != NULL) {
        apr_size_t len = strcspn(open + 2, "}");

        ap_rwrite(at, (int)(open - at), status->r);
        put_mark(status, open + 2, len, nonce);
        at = open + 2 + len + 2;
    }
    ap_rputs(at, status->r);
}
