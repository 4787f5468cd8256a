/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Response heads and body framing of HTTP/1.x. A head is looked at in two passes: the first finds
 * its end and changes nothing, since the caller comes again with more bytes; the second cuts it up
 * and happens once. What two readers could understand differently (a bare CR, NUL, a folded line,
 * white space before the colon, a length said twice) is refused; a line end without CR is not, as
 * httpd's own proxy takes it.
 */
#include "mcp_http.h"

#include <string.h>

#include <apr_cstr.h>

#define MAX_FIELDS 200
#define MAX_CHUNK_LINE (4 * 1024)
#define MAX_TRAILERS (16 * 1024)
#define MAX_LENGTH ((apr_uint64_t)APR_INT64_MAX)

static const char prefix[] = "HTTP/1.";

static apr_status_t refuse(const char **error, const char *why)
{
    *error = why;
    return APR_EGENERAL;
}

static int is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static int is_space(char c)
{
    return c == ' ' || c == '\t';
}

/* A byte that may stand in a value (RFC 9110, section 5.5); bytes above 127 may. */
static int is_value_byte(char c)
{
    return c == '\t' || ((unsigned char)c >= ' ' && c != 0x7f);
}

/* RFC 9110, section 5.6.2 */
static int is_token_byte(char c)
{
    char lower = (char)(c | 0x20);

    return is_digit(c) || (lower >= 'a' && lower <= 'z') || (c && strchr("!#$%&'*+-.^_`|~", c));
}

/* The length of the head, 0 if its end has not come. */
static apr_size_t find_end(const char *buf, apr_size_t len)
{
    const char *end = buf + len, *at = buf;

    while ((at = memchr(at, '\n', end - at)) != NULL) {
        at++;
        if (at < end && *at == '\n') {
            return at + 1 - buf;
        }
        if (end - at >= 2 && at[0] == '\r' && at[1] == '\n') {
            return at + 2 - buf;
        }
    }
    return 0;
}

/*
 * Cut the next line off, without its end and with NUL behind it. NULL if the line holds what no
 * line may: a control character, and so any CR but the one before LF.
 */
static char *cut_line(char **at, char *end, char **line_end)
{
    char *line = *at, *stop = memchr(line, '\n', end - line), *c;

    *at = stop + 1;
    if (stop > line && stop[-1] == '\r') {
        stop--;
    }
    for (c = line; c < stop; c++) {
        if (!is_value_byte(*c)) {
            return NULL;
        }
    }
    *stop = '\0';
    *line_end = stop;
    return line;
}

/* "HTTP/1.x SSS", and, behind a space, the reason (RFC 9112, section 4) */
static int parse_status_line(mcp_http_head_t *head, char *line)
{
    char *at = line + sizeof(prefix) - 1;

    if (strncmp(line, prefix, sizeof(prefix) - 1) || !is_digit(at[0]) || at[1] != ' ') {
        return 0;
    }
    head->minor = at[0] - '0';
    at += 2;
    if (!is_digit(at[0]) || at[0] == '0' || !is_digit(at[1]) || !is_digit(at[2])) {
        return 0;
    }
    head->status = (at[0] - '0') * 100 + (at[1] - '0') * 10 + (at[2] - '0');
    at += 3;
    if (*at && *at != ' ') {
        return 0;
    }
    head->reason = *at ? at + 1 : at;
    return 1;
}

static int parse_field(mcp_http_field_t *field, char *line, char *end)
{
    char *at = line;

    while (is_token_byte(*at)) {
        at++;
    }
    if (at == line || *at != ':') {
        return 0;
    }
    *at++ = '\0';
    while (is_space(*at)) {
        at++;
    }
    while (end > at && is_space(end[-1])) {
        end--;
    }
    *end = '\0';
    field->name = line;
    field->value = at;
    return 1;
}

static apr_status_t parse_fields(mcp_http_head_t *head, char *at, char *end)
{
    char *line, *line_end;

    for (;;) {
        line = cut_line(&at, end, &line_end);
        if (!line) {
            return refuse(&head->error, "control character in a header field");
        }
        if (!*line) {
            return APR_SUCCESS;
        }
        if (is_space(*line)) {
            return refuse(&head->error, "folded header line");
        }
        if (head->fields->nelts == MAX_FIELDS) {
            return refuse(&head->error, "too many header fields");
        }
        if (!parse_field(apr_array_push(head->fields), line, line_end)) {
            return refuse(&head->error, "header field without a proper name");
        }
    }
}

apr_status_t mcp_http_parse_head(mcp_http_head_t *head, char *buf, apr_size_t len,
                                 apr_size_t *used, apr_pool_t *p)
{
    apr_size_t known = len < sizeof(prefix) - 1 ? len : sizeof(prefix) - 1;
    apr_size_t size;
    char *at = buf, *line, *line_end;

    memset(head, 0, sizeof(*head));
    head->reason = "";
    /* Told at once: what speaks no HTTP may well never send an empty line. */
    if (known && memcmp(buf, prefix, known)) {
        return refuse(&head->error, "no HTTP/1 status line");
    }
    size = find_end(buf, len < MCP_HTTP_MAX_HEAD ? len : MCP_HTTP_MAX_HEAD);
    if (!size) {
        return len < MCP_HTTP_MAX_HEAD ? APR_INCOMPLETE
                                       : refuse(&head->error, "response head too large");
    }
    line = cut_line(&at, buf + size, &line_end);
    if (!line || !parse_status_line(head, line)) {
        return refuse(&head->error, "bad status line");
    }
    head->fields = apr_array_make(p, 16, sizeof(mcp_http_field_t));
    *used = size;
    return parse_fields(head, at, buf + size);
}

const char *mcp_http_field(const mcp_http_head_t *head, const char *name)
{
    const mcp_http_field_t *fields;
    int i;

    if (!head->fields) {
        return NULL;
    }
    fields = (const mcp_http_field_t *)head->fields->elts;
    for (i = 0; i < head->fields->nelts; i++) {
        if (!apr_cstr_casecmp(fields[i].name, name)) {
            return fields[i].value;
        }
    }
    return NULL;
}

typedef struct framing_t {
    int has_encoding, is_chunked;
    int has_length;
    apr_uint64_t length;
} framing_t;

/* One number of a Content-Length; @a at is moved behind it and the white space that follows. */
static int parse_length(const char **at, apr_uint64_t *length)
{
    const char *c = *at;

    if (!is_digit(*c)) {
        return 0;
    }
    for (*length = 0; is_digit(*c); c++) {
        apr_uint64_t digit = (apr_uint64_t)(*c - '0');

        if (*length > (MAX_LENGTH - digit) / 10) {
            return 0;
        }
        *length = *length * 10 + digit;
    }
    while (is_space(*c)) {
        c++;
    }
    *at = c;
    return 1;
}

/* Also a list, as long as it says the same each time (RFC 9110, section 8.6). */
static int add_length(framing_t *framing, const char *value)
{
    apr_uint64_t length;

    for (;;) {
        if (!parse_length(&value, &length) || (framing->has_length && framing->length != length)) {
            return 0;
        }
        framing->has_length = 1;
        framing->length = length;
        if (!*value) {
            return 1;
        }
        if (*value++ != ',') {
            return 0;
        }
        while (is_space(*value)) {
            value++;
        }
    }
}

static apr_status_t read_framing(framing_t *framing, const mcp_http_head_t *head,
                                 const char **error)
{
    const mcp_http_field_t *fields = (const mcp_http_field_t *)head->fields->elts;
    int i;

    for (i = 0; i < head->fields->nelts; i++) {
        if (!apr_cstr_casecmp(fields[i].name, "Content-Length")) {
            if (!add_length(framing, fields[i].value)) {
                return refuse(error, "bad or contradictory Content-Length");
            }
        } else if (!apr_cstr_casecmp(fields[i].name, "Transfer-Encoding")) {
            if (framing->has_encoding || apr_cstr_casecmp(fields[i].value, "chunked")) {
                return refuse(error, "Transfer-Encoding other than chunked");
            }
            framing->has_encoding = 1;
        }
    }
    if (framing->has_encoding && framing->has_length) {
        return refuse(error, "Content-Length beside Transfer-Encoding");
    }
    /* RFC 9112, section 6.1: the framing of such a message is faulty. */
    if (framing->has_encoding && head->minor == 0) {
        return refuse(error, "Transfer-Encoding in an HTTP/1.0 response");
    }
    return APR_SUCCESS;
}

/* What a framing byte of a chunked body is (RFC 9112, section 7.1). */
enum {
    SIZE_START,   /* the first digit of a size */
    SIZE,         /* more digits, or what ends them */
    SIZE_SPACE,   /* white space behind a size, as some senders pad it */
    EXTENSION,
    SIZE_LF,      /* LF of the size line */
    DATA,         /* no framing: body->left bytes of payload */
    DATA_END,     /* CR or LF behind a chunk */
    DATA_LF,
    TRAILER_START,
    TRAILER,
    TRAILER_LF,
    LAST_LF
};

static apr_status_t expect_none(mcp_http_body_t *body)
{
    body->kind = MCP_HTTP_BODY_NONE;
    body->done = 1;
    return APR_SUCCESS;
}

apr_status_t mcp_http_body_init(mcp_http_body_t *body, const mcp_http_head_t *head, int is_head)
{
    framing_t framing = { 0 };
    apr_status_t rv;

    memset(body, 0, sizeof(*body));
    if (head->status < 200 || head->status == 204 || head->status == 304) {
        return expect_none(body);
    }
    rv = read_framing(&framing, head, &body->error);
    if (rv != APR_SUCCESS) {
        return rv;
    }
    body->has_length = framing.has_length;
    body->left = framing.length;
    if (is_head) {
        return expect_none(body);
    }
    if (framing.has_encoding) {
        body->kind = MCP_HTTP_BODY_CHUNKED;
        body->state = SIZE_START;
    } else if (framing.has_length) {
        body->kind = MCP_HTTP_BODY_LENGTH;
        body->done = framing.length == 0;
    } else {
        body->kind = MCP_HTTP_BODY_CLOSE;
    }
    return APR_SUCCESS;
}

static int hex_digit(char c)
{
    char lower = (char)(c | 0x20);

    if (is_digit(c)) {
        return c - '0';
    }
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

static apr_status_t end_size_line(mcp_http_body_t *body)
{
    body->line = 0;
    body->state = body->left ? DATA : TRAILER_START;
    return APR_SUCCESS;
}

static apr_status_t take_size_byte(mcp_http_body_t *body, char c)
{
    int digit = hex_digit(c);

    if (++body->line > MAX_CHUNK_LINE) {
        return refuse(&body->error, "chunk line too long");
    }
    if (body->state <= SIZE && digit >= 0) {
        if (body->left > MAX_LENGTH >> 4) {
            return refuse(&body->error, "chunk too large");
        }
        body->left = body->left << 4 | (apr_uint64_t)digit;
        body->state = SIZE;
        return APR_SUCCESS;
    }
    if (body->state == SIZE_START) {
        return refuse(&body->error, "bad chunk size");
    }
    if (c == '\n') {
        return end_size_line(body);
    }
    if (c == '\r' && body->state != SIZE_LF) {
        body->state = SIZE_LF;
    } else if (body->state == EXTENSION && is_value_byte(c)) {
        return APR_SUCCESS;
    } else if (body->state < EXTENSION && c == ';') {
        body->state = EXTENSION;
    } else if (body->state < EXTENSION && is_space(c)) {
        body->state = SIZE_SPACE;
    } else {
        return refuse(&body->error, "bad chunk line");
    }
    return APR_SUCCESS;
}

static apr_status_t take_data_end(mcp_http_body_t *body, char c)
{
    if (c == '\n') {
        body->state = SIZE_START;
    } else if (c == '\r' && body->state == DATA_END) {
        body->state = DATA_LF;
    } else {
        return refuse(&body->error, "no line end behind a chunk");
    }
    return APR_SUCCESS;
}

/* Trailers are read and dropped: nobody has asked for any (RFC 9110, section 6.5.1). */
static apr_status_t take_trailer_byte(mcp_http_body_t *body, char c)
{
    if (++body->line > MAX_TRAILERS) {
        return refuse(&body->error, "trailers too large");
    }
    if (c == '\n') {
        body->done = body->state == TRAILER_START || body->state == LAST_LF;
        body->state = TRAILER_START;
    } else if (c == '\r' && body->state == TRAILER_START) {
        body->state = LAST_LF;
    } else if (c == '\r' && body->state == TRAILER) {
        body->state = TRAILER_LF;
    } else if (body->state <= TRAILER && is_value_byte(c)) {
        body->state = TRAILER;
    } else {
        return refuse(&body->error, "bad trailer");
    }
    return APR_SUCCESS;
}

static apr_status_t take_framing_byte(mcp_http_body_t *body, char c)
{
    if (body->state < DATA) {
        return take_size_byte(body, c);
    }
    if (body->state <= DATA_LF) {
        return take_data_end(body, c);
    }
    return take_trailer_byte(body, c);
}

static void advance(mcp_span_t *in, apr_size_t by)
{
    in->p += by;
    in->len -= by;
}

static apr_size_t take_payload(mcp_http_body_t *body, mcp_span_t *in, mcp_span_t *out)
{
    *out = *in;
    if (body->left < out->len) {
        out->len = (apr_size_t)body->left;
    }
    body->left -= out->len;
    advance(in, out->len);
    return out->len;
}

static apr_status_t next_chunk(mcp_http_body_t *body, mcp_span_t *in, mcp_span_t *out)
{
    while (in->len && !body->done) {
        apr_status_t rv;

        if (body->state == DATA) {
            take_payload(body, in, out);
            if (!body->left) {
                body->state = DATA_END;
            }
            return APR_SUCCESS;
        }
        rv = take_framing_byte(body, *in->p);
        if (rv != APR_SUCCESS) {
            return rv;
        }
        advance(in, 1);
    }
    return APR_SUCCESS;
}

apr_status_t mcp_http_body_next(mcp_http_body_t *body, mcp_span_t *in, mcp_span_t *out)
{
    out->p = in->p;
    out->len = 0;
    if (body->error) {
        return APR_EGENERAL;
    }
    if (body->done) {
        return APR_SUCCESS;
    }
    switch (body->kind) {
    case MCP_HTTP_BODY_CHUNKED:
        return next_chunk(body, in, out);
    case MCP_HTTP_BODY_LENGTH:
        take_payload(body, in, out);
        body->done = body->left == 0;
        return APR_SUCCESS;
    default:
        *out = *in;
        advance(in, in->len);
        return APR_SUCCESS;
    }
}
