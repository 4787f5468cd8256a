/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reader is strict because a gateway that decides on a message must read it as every backend
 * behind it does: what two readers could take differently is refused or at least noticed.
 * Containers are walked with a small array of open ones, never by recursion, so that nesting costs
 * no stack. The names of open objects are kept on one array; an object looks for doubles when it
 * closes. Plain text costs no allocation. No locks: a mcp_json_t belongs to one thread.
 */
#include "mcp_json.h"

#include <apr_strings.h>
#include <endian.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* An array for more levels would push what is read and written all the time out of the caches. */
#define USUAL_DEPTH 16

/* Up to here pairs are compared; above, names are sorted, so that no object costs n * n. */
#define FEW_NAMES 16

/* What is rare stays out of the way of what is not. */
#define RARE __attribute__((cold, noinline))

#define EVERY_BYTE(b) (UINT64_C(0x0101010101010101) * (b))

static apr_status_t fail(mcp_json_t *json, const char *error)
{
    if (!json->error) {
        json->error = error;
    }
    return APR_EGENERAL;
}

void mcp_json_init(mcp_json_t *json, const char *buf, apr_size_t len, apr_pool_t *p)
{
    json->at = buf;
    json->end = buf + len;
    json->error = NULL;
    json->duplicates = 0;
    json->odd_names = 0;
    json->depth = 0;
    json->pool = p;
    json->scratch = NULL;
    json->names = json->first_names;
    json->used = 0;
    json->size = MCP_JSON_NAMES;
}

void mcp_json_done(mcp_json_t *json)
{
    if (json->scratch) {
        apr_pool_destroy(json->scratch);
        json->scratch = NULL;
    }
}

static apr_pool_t *scratch_pool(mcp_json_t *json)
{
    if (!json->scratch) {
        apr_pool_create(&json->scratch, json->pool);
        apr_pool_tag(json->scratch, "mcp_json");
    }
    return json->scratch;
}

int mcp_json_peek_far(mcp_json_t *json)
{
    const char *at = json->at;

    while (at < json->end && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t')) {
        at++;
    }
    json->at = at;
    return at < json->end ? (unsigned char)*at : -1;
}

/* Skip bytes that need no look, many at a time: printable ASCII but quote and backslash. */
static inline const char *skip_plain(const char *at, const char *end)
{
#ifdef __SSE2__
    while (end - at >= 16) {
        __m128i x = _mm_loadu_si128((const __m128i *)(const void *)at);
        /* As signed bytes what is not ASCII is below 0x20, too. */
        __m128i odd = _mm_or_si128(_mm_cmplt_epi8(x, _mm_set1_epi8(0x20)),
                                   _mm_or_si128(_mm_cmpeq_epi8(x, _mm_set1_epi8('"')),
                                                _mm_cmpeq_epi8(x, _mm_set1_epi8('\\'))));
        int found = _mm_movemask_epi8(odd);

        if (found) {
            return at + __builtin_ctz((unsigned)found);
        }
        at += 16;
    }
#endif
    while (end - at >= 8) {
        uint64_t x, quote, backslash, found;

        memcpy(&x, at, 8);
        x = le64toh(x);
        quote = x ^ EVERY_BYTE('"');
        backslash = x ^ EVERY_BYTE('\\');
        /*
         * A top bit shows: not ASCII, a borrow from below 0x20, or a borrow from an equal byte.
         * Borrows only go up, so the lowest one is where the first such byte stands.
         */
        found = (x | (x - EVERY_BYTE(0x20)) | (quote - EVERY_BYTE(1)) | (backslash - EVERY_BYTE(1)))
            & EVERY_BYTE(0x80);
        if (found) {
            return at + __builtin_ctzll(found) / 8;
        }
        at += 8;
    }
    while (at < end && (unsigned char)*at >= 0x20 && (unsigned char)*at < 0x80 && *at != '"'
           && *at != '\\') {
        at++;
    }
    return at;
}

/* The value of four hexadecimal digits, or -1. */
static int32_t hex4(const char *at, const char *end)
{
    int32_t value = 0;
    int i;

    if (end - at < 4) {
        return -1;
    }
    for (i = 0; i < 4; i++) {
        unsigned char c = (unsigned char)at[i];

        if (c >= '0' && c <= '9') {
            value = value * 16 + (c - '0');
        }
        else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') {
            value = value * 16 + ((c | 0x20) - 'a' + 10);
        }
        else {
            return -1;
        }
    }
    return value;
}

static int is_high_surrogate(int32_t unit)
{
    return unit >= 0xd800 && unit <= 0xdbff;
}

static int is_low_surrogate(int32_t unit)
{
    return unit >= 0xdc00 && unit <= 0xdfff;
}

/* The character of the \u escape at *at, both halves of a pair at once; -1: no such escape. */
static int32_t read_unicode(const char **at, const char *end)
{
    int32_t unit, low;

    unit = hex4(*at + 2, end);
    if (unit < 0) {
        return -1;
    }
    *at += 6;
    if (is_high_surrogate(unit) && end - *at >= 6 && (*at)[0] == '\\' && (*at)[1] == 'u') {
        low = hex4(*at + 2, end);
        if (is_low_surrogate(low)) {
            *at += 6;
            return 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
        }
    }
    return unit;
}

/* Check the escape at json->at and step over it. */
static apr_status_t skip_escape(mcp_json_t *json, mcp_json_string_t *string)
{
    int32_t c;

    string->has_escape = 1;
    if (json->end - json->at < 2) {
        return fail(json, "the text ends within a string");
    }
    if (json->at[1] == 'u') {
        c = read_unicode(&json->at, json->end);
        if (c < 0) {
            return fail(json, "an unknown escape in a string");
        }
        string->has_nul |= c == 0;
        string->has_lone_surrogate |= is_high_surrogate(c) || is_low_surrogate(c);
        return APR_SUCCESS;
    }
    if (!json->at[1] || !strchr("\"\\/bfnrt", json->at[1])) {
        return fail(json, "an unknown escape in a string");
    }
    json->at += 2;
    return APR_SUCCESS;
}

/* The rest of a string that starts at @a start, from the first byte that needs a look. */
static apr_status_t read_odd_string(mcp_json_t *json, const char *start, mcp_json_string_t *string)
{
    apr_size_t len;

    for (;; json->at = skip_plain(json->at, json->end)) {
        if (json->at >= json->end) {
            return fail(json, "the text ends within a string");
        }
        if (*json->at == '"') {
            string->raw.p = start;
            string->raw.len = (apr_size_t)(json->at++ - start);
            return APR_SUCCESS;
        }
        if (*json->at == '\\') {
            if (skip_escape(json, string) != APR_SUCCESS) {
                return APR_EGENERAL;
            }
            continue;
        }
        if ((unsigned char)*json->at < 0x20) {
            return fail(json, "a control character in a string");
        }
        while (json->at < json->end && (unsigned char)*json->at >= 0x80) {
            len = mcp_json_utf8(json->at, json->end);
            if (!len) {
                return fail(json, "a string that is not UTF-8");
            }
            json->at += len;
        }
    }
}

/* Most strings are plain to their end, and short: they are read without a call. */
static inline apr_status_t read_string(mcp_json_t *json, mcp_json_string_t *string)
{
    const char *start = json->at + 1, *at = skip_plain(start, json->end);

    string->has_escape = string->has_nul = string->has_lone_surrogate = 0;
    if (at < json->end && *at == '"') {
        string->raw.p = start;
        string->raw.len = (apr_size_t)(at - start);
        json->at = at + 1;
        return APR_SUCCESS;
    }
    json->at = at;
    return read_odd_string(json, start, string);
}

apr_status_t mcp_json_string(mcp_json_t *json, mcp_json_string_t *string)
{
    if (mcp_json_peek(json) != '"') {
        return fail(json, "a string is missing");
    }
    return read_string(json, string);
}

static char *put_utf8(char *out, int32_t c)
{
    if (is_high_surrogate(c) || is_low_surrogate(c)) {
        c = 0xfffd;
    }
    if (c < 0x80) {
        *out++ = (char)c;
        return out;
    }
    if (c < 0x800) {
        *out++ = (char)(0xc0 | c >> 6);
    }
    else {
        if (c < 0x10000) {
            *out++ = (char)(0xe0 | c >> 12);
        }
        else {
            *out++ = (char)(0xf0 | c >> 18);
            *out++ = (char)(0x80 | (c >> 12 & 0x3f));
        }
        *out++ = (char)(0x80 | (c >> 6 & 0x3f));
    }
    *out++ = (char)(0x80 | (c & 0x3f));
    return out;
}

/* The short escapes; the text has been checked. */
static char short_escape(char letter)
{
    switch (letter) {
    case 'b': return '\b';
    case 'f': return '\f';
    case 'n': return '\n';
    case 'r': return '\r';
    case 't': return '\t';
    default: return letter;
    }
}

const char *mcp_json_decode(const mcp_json_string_t *string, apr_pool_t *p, apr_size_t *len)
{
    const char *at = string->raw.p, *end = at + string->raw.len;
    char *text, *out;

    if (!string->has_escape) {
        if (len) {
            *len = string->raw.len;
        }
        return apr_pstrmemdup(p, at, string->raw.len);
    }
    /* No escape is shorter than what it stands for. */
    text = out = apr_palloc(p, string->raw.len + 1);
    while (at < end) {
        const char *escape = memchr(at, '\\', (apr_size_t)(end - at));
        apr_size_t plain = (apr_size_t)((escape ? escape : end) - at);

        memcpy(out, at, plain);
        out += plain;
        at += plain;
        if (escape && at[1] == 'u') {
            out = put_utf8(out, read_unicode(&at, end));
        }
        else if (escape) {
            *out++ = short_escape(at[1]);
            at += 2;
        }
    }
    *out = '\0';
    if (len) {
        *len = (apr_size_t)(out - text);
    }
    return text;
}

static const char *skip_digits(const char *at, const char *end)
{
    while (at < end && *at >= '0' && *at <= '9') {
        at++;
    }
    return at;
}

static apr_status_t skip_number(mcp_json_t *json)
{
    const char *at = json->at, *end = json->end, *digits;

    at += *at == '-';
    digits = at;
    at = skip_digits(at, end);
    if (at == digits || (*digits == '0' && at - digits > 1)) {
        return fail(json, "a number that is none");
    }
    if (at < end && *at == '.') {
        digits = ++at;
        at = skip_digits(at, end);
        if (at == digits) {
            return fail(json, "a number without digits behind its point");
        }
    }
    if (at < end && (*at == 'e' || *at == 'E')) {
        at++;
        at += at < end && (*at == '+' || *at == '-');
        digits = at;
        at = skip_digits(at, end);
        if (at == digits) {
            return fail(json, "a number without an exponent behind its E");
        }
    }
    json->at = at;
    return APR_SUCCESS;
}

static apr_status_t skip_word(mcp_json_t *json, const char *word, apr_size_t len)
{
    if ((apr_size_t)(json->end - json->at) < len || memcmp(json->at, word, len)) {
        return fail(json, "a word that is not true, false or null");
    }
    json->at += len;
    return APR_SUCCESS;
}

/* @a c is its first byte, as mcp_json_peek() tells it. */
static apr_status_t skip_scalar(mcp_json_t *json, int c)
{
    mcp_json_string_t string;

    switch (c) {
    case -1:
        return fail(json, "the text ends where a value should be");
    case '"':
        return read_string(json, &string);
    case 't':
        return skip_word(json, "true", 4);
    case 'f':
        return skip_word(json, "false", 5);
    case 'n':
        return skip_word(json, "null", 4);
    default:
        if (c == '-' || (c >= '0' && c <= '9')) {
            return skip_number(json);
        }
        return fail(json, "a byte that starts no value");
    }
}

/* By length first: most names differ in it, and any order will do. */
static int compare_names(const void *left, const void *right)
{
    const mcp_span_t *a = left, *b = right;

    if (a->len != b->len) {
        return a->len < b->len ? -1 : 1;
    }
    return memcmp(a->p, b->p, a->len);
}

static int has_double(mcp_span_t *names, unsigned count)
{
    unsigned i, j;

    if (count > FEW_NAMES) {
        qsort(names, count, sizeof(*names), compare_names);
        for (i = 1; i < count; i++) {
            if (!compare_names(&names[i - 1], &names[i])) {
                return 1;
            }
        }
        return 0;
    }
    for (i = 1; i < count; i++) {
        for (j = 0; j < i; j++) {
            if (names[i].len == names[j].len
                && !memcmp(names[i].p, names[j].p, names[i].len)) {
                return 1;
            }
        }
    }
    return 0;
}

static void keep_name(mcp_json_t *json, const mcp_span_t *name)
{
    if (json->used == json->size) {
        mcp_span_t *larger = apr_palloc(scratch_pool(json), 2 * sizeof(*larger) * json->size);

        memcpy(larger, json->names, sizeof(*larger) * json->used);
        json->names = larger;
        json->size *= 2;
    }
    json->names[json->used++] = *name;
}

static apr_status_t close_nest(mcp_json_t *json, mcp_json_nest_t *nest)
{
    json->at++;
    json->depth--;
    if (nest->is_object) {
        if (!json->duplicates) {
            json->duplicates = has_double(json->names + nest->names, json->used - nest->names);
        }
        json->used = nest->names;
    }
    return APR_EOF;
}

static apr_status_t read_name(mcp_json_t *json, mcp_span_t *name)
{
    mcp_json_string_t string;

    if (mcp_json_peek(json) != '"') {
        return fail(json, "a member without a name");
    }
    if (read_string(json, &string) != APR_SUCCESS) {
        return APR_EGENERAL;
    }
    *name = string.raw;
    if (string.has_escape) {
        json->odd_names |= string.has_nul || string.has_lone_surrogate;
        name->p = mcp_json_decode(&string, scratch_pool(json), &name->len);
    }
    if (!json->duplicates) {
        keep_name(json, name);
    }
    if (mcp_json_peek(json) != ':') {
        return fail(json, "a name without a colon behind it");
    }
    json->at++;
    return APR_SUCCESS;
}

apr_status_t mcp_json_open(mcp_json_t *json, mcp_json_nest_t *nest)
{
    int c = mcp_json_peek(json);

    if (c != '{' && c != '[') {
        return fail(json, "an object or an array is missing");
    }
    if (json->depth == MCP_JSON_MAX_DEPTH) {
        return fail(json, "nested too deeply");
    }
    json->depth++;
    json->at++;
    nest->is_object = c == '{';
    nest->has_started = 0;
    nest->names = json->used;
    return APR_SUCCESS;
}

/* In a function of its own: what it calls would cost mcp_json_next() its registers. */
static __attribute__((noinline)) apr_status_t read_next(mcp_json_t *json, mcp_json_nest_t *nest,
                                                        mcp_span_t *name)
{
    int c = mcp_json_peek(json);

    if (c == (nest->is_object ? '}' : ']')) {
        return close_nest(json, nest);
    }
    if (nest->has_started) {
        if (c != ',') {
            return fail(json, c < 0 ? "the text ends within an object or an array"
                                    : "a comma is missing");
        }
        json->at++;
    }
    nest->has_started = 1;
    return nest->is_object ? read_name(json, name) : APR_SUCCESS;
}

/* What as good as all members look like is read here. Nothing is touched before that is certain. */
apr_status_t mcp_json_next(mcp_json_t *json, mcp_json_nest_t *nest, mcp_span_t *name)
{
    const char *at = json->at, *end = json->end, *start;
    mcp_span_t *kept;
    apr_size_t len;

    if (!nest->is_object || at == end || (nest->has_started && *at++ != ',')) {
        return read_next(json, nest, name);
    }
    at += at < end && *at == ' ';
    if (at == end || *at++ != '"') {
        return read_next(json, nest, name);
    }
    start = at;
    at = skip_plain(at, end);
    if (end - at < 2 || at[0] != '"' || at[1] != ':' || json->duplicates
        || json->used == json->size) {
        return read_next(json, nest, name);
    }
    /* Not *kept = *name: reading back at once what was just written waits for the writing. */
    len = (apr_size_t)(at - start);
    kept = &json->names[json->used++];
    kept->p = name->p = start;
    kept->len = name->len = len;
    json->at = at + 2;
    nest->has_started = 1;
    return APR_SUCCESS;
}

static RARE apr_status_t skip_deep(mcp_json_t *json);

/* @a open has room for so many objects and arrays within each other; more are skip_deep()'s. */
static inline apr_status_t skip_value(mcp_json_t *json, mcp_json_nest_t *open, unsigned room)
{
    mcp_span_t name;
    unsigned count = 0;
    apr_status_t rv;
    int c = mcp_json_peek(json);

    do {
        rv = c != '{' && c != '[' ? skip_scalar(json, c)
            : count == room ? skip_deep(json)
            : mcp_json_open(json, &open[count++]);
        if (rv != APR_SUCCESS) {
            return rv;
        }
        while (count && (rv = mcp_json_next(json, &open[count - 1], &name)) == APR_EOF) {
            count--;
        }
        if (rv == APR_EGENERAL) {
            return rv;
        }
        c = count ? mcp_json_peek(json) : -1;
    } while (count);
    return APR_SUCCESS;
}

/* As deep as anything may be nested; nobody else needs as much of the stack. */
static apr_status_t skip_deep(mcp_json_t *json)
{
    mcp_json_nest_t open[MCP_JSON_MAX_DEPTH];

    return skip_value(json, open, MCP_JSON_MAX_DEPTH);
}

apr_status_t mcp_json_skip(mcp_json_t *json, mcp_span_t *raw)
{
    mcp_json_nest_t open[USUAL_DEPTH];
    apr_status_t rv;

    mcp_json_peek(json);
    raw->p = json->at;
    rv = skip_value(json, open, USUAL_DEPTH);
    raw->len = (apr_size_t)(json->at - raw->p);
    return rv;
}

apr_status_t mcp_json_end(mcp_json_t *json)
{
    return mcp_json_peek(json) < 0 ? APR_SUCCESS : fail(json, "bytes behind the value");
}
