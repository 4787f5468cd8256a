/* SPDX-License-Identifier: Apache-2.0 */
/* Where session ids stand in a URL, and putting others in their place. */
#include "mcp_proxy_ids.h"

#include <string.h>

#include <apr_lib.h>
#include <apr_strings.h>
#include <apr_tables.h>

/* A word is shorter, or has no digit. */
#define ID_LEAST 8

static int hex_value(char c)
{
    return apr_isdigit(c) ? c - '0' : apr_tolower(c) - 'a' + 10;
}

char *mcp_id_decode(apr_pool_t *p, mcp_span_t text)
{
    char *out = apr_palloc(p, text.len + 1), *to = out;
    apr_size_t i;

    for (i = 0; i < text.len; i++) {
        if (text.p[i] == '%' && i + 2 < text.len && apr_isxdigit(text.p[i + 1])
            && apr_isxdigit(text.p[i + 2])) {
            char c = (char)(hex_value(text.p[i + 1]) * 16 + hex_value(text.p[i + 2]));

            *to++ = c ? c : '%';
            i += 2;
        }
        else {
            *to++ = text.p[i];
        }
    }
    *to = '\0';
    return out;
}

char *mcp_id_encode(apr_pool_t *p, const char *id)
{
    static const char digits[] = "0123456789ABCDEF";
    char *out = apr_palloc(p, 3 * strlen(id) + 1), *to = out;

    for (; *id; id++) {
        if (apr_isalnum(*id) || strchr("-._~", *id)) {
            *to++ = *id;
        }
        else {
            *to++ = '%';
            *to++ = digits[(unsigned char)*id >> 4];
            *to++ = digits[(unsigned char)*id & 15];
        }
    }
    *to = '\0';
    return out;
}

static int is_query_name(const char *name)
{
    static const char *const names[] = { "session_id", "sessionid" };
    apr_size_t len = strcspn(name, "[");
    int i;

    for (i = 0; i < 2; i++) {
        if (len == strlen(names[i]) && strncasecmp(name, names[i], len) == 0) {
            return 1;
        }
    }
    return 0;
}

int mcp_id_next_in_query(apr_pool_t *p, const char **query, mcp_id_place_t *place)
{
    while (*query) {
        const char *at = *query;
        apr_size_t len = strcspn(at, "&;#");
        const char *eq = memchr(at, '=', len);

        *query = at[len] && at[len] != '#' ? at + len + 1 : NULL;
        if (eq && eq + 1 < at + len
            && is_query_name(mcp_id_decode(p, (mcp_span_t){ at, (apr_size_t)(eq - at) }))) {
            place->text = (mcp_span_t){ eq + 1, len - (apr_size_t)(eq + 1 - at) };
            place->is_guess = 0;
            return 1;
        }
    }
    return 0;
}

/* The segment that ends there, slashes behind it apart. */
static mcp_span_t segment_before(const char *path, apr_size_t len)
{
    apr_size_t start;

    while (len > 0 && path[len - 1] == '/') {
        len--;
    }
    for (start = len; start > 0 && path[start - 1] != '/'; start--);
    return (mcp_span_t){ path + start, len - start };
}

static int has_messages(apr_pool_t *p, mcp_span_t segment)
{
    const char *params = memchr(segment.p, ';', segment.len);
    const char *name;

    if (params) {
        segment.len = (apr_size_t)(params - segment.p);
    }
    name = mcp_id_decode(p, segment);
    return strcasecmp(name, "message") == 0 || strcasecmp(name, "messages") == 0;
}

int mcp_id_in_path(apr_pool_t *p, const char *path, apr_size_t len, mcp_id_place_t *place)
{
    mcp_span_t last = segment_before(path, len);

    if (last.p == path || !last.len) {
        return 0;
    }
    place->text = last;
    place->is_guess = !has_messages(p, segment_before(path, (apr_size_t)(last.p - path)));
    return 1;
}

int mcp_id_may_move(apr_pool_t *p, const char *url)
{
    apr_size_t len = strcspn(url, "?#"), at;

    for (at = 0; at <= len; at++) {
        apr_size_t size = strcspn(url + at, "/?#");
        const char *name;

        /* %2e%2e */
        if (size > 0 && size <= 6 && strchr(".%", url[at])) {
            name = mcp_id_decode(p, (mcp_span_t){ url + at, size });
            if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
                return 1;
            }
        }
        at += size;
    }
    return 0;
}

int mcp_id_is_likely(const char *segment)
{
    return strlen(segment) >= ID_LEAST && strpbrk(segment, "0123456789") != NULL;
}

typedef struct rewrite_t {
    apr_pool_t *p;
    const char *copied; /* of the URL, up to here */
    apr_array_header_t *parts;
    mcp_id_map_fn *map;
    void *baton;
} rewrite_t;

static int put_place(rewrite_t *w, const mcp_id_place_t *place)
{
    const char *id = mcp_id_decode(w->p, place->text);
    const char *other = w->map(w->baton, id, place->is_guess);

    if (!other) {
        return 0;
    }
    if (other != id) {
        APR_ARRAY_PUSH(w->parts, const char *) =
            apr_pstrmemdup(w->p, w->copied, (apr_size_t)(place->text.p - w->copied));
        APR_ARRAY_PUSH(w->parts, const char *) = mcp_id_encode(w->p, other);
        w->copied = place->text.p + place->text.len;
    }
    return 1;
}

const char *mcp_id_map_url(apr_pool_t *p, const char *url, mcp_id_map_fn *map, void *baton)
{
    rewrite_t w = { p, url, apr_array_make(p, 4, sizeof(const char *)), map, baton };
    apr_size_t len = strcspn(url, "?#");
    const char *query = NULL;
    mcp_id_place_t place;

    if (mcp_id_in_path(p, url, len, &place) && !put_place(&w, &place)) {
        return NULL;
    }
    if (url[len] == '?') {
        query = url + len + 1;
    }
    while (mcp_id_next_in_query(p, &query, &place)) {
        if (!put_place(&w, &place)) {
            return NULL;
        }
    }
    if (w.copied == url) {
        return url;
    }
    APR_ARRAY_PUSH(w.parts, const char *) = w.copied;
    return apr_array_pstrcat(p, w.parts, 0);
}

const char *mcp_id_without(apr_pool_t *p, const char *url)
{
    apr_size_t len = strcspn(url, "?#");
    const char *kept = apr_pstrmemdup(p, url, len), *at = url[len] == '?' ? url + len + 1 : NULL;
    const char *before = "?";

    while (at) {
        const char *one, *query;
        mcp_id_place_t place;

        len = strcspn(at, "&;#");
        one = query = apr_pstrmemdup(p, at, len);
        if (!mcp_id_next_in_query(p, &query, &place)) {
            kept = apr_pstrcat(p, kept, before, one, NULL);
            before = at[len] == ';' ? ";" : "&";
        }
        at = at[len] && at[len] != '#' ? at + len + 1 : NULL;
    }
    return kept;
}
