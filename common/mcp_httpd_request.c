/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The record of a request, and its body, read once for all modules. The record is in one of
 * httpd's request notes, whose number the module that is loaded first leaves to the others. A body
 * that has been read is handed to the next handler by an input filter, unless the handler takes it
 * from the record.
 */
#include "mcp_httpd_request.h"

#include <apr_lib.h>
#include <apr_strings.h>
#include <http_connection.h>
#include <http_core.h>
#include <http_protocol.h>
#include <http_request.h>
#include <http_ssl.h>
#include <poll.h>
#include <util_filter.h>

#include "mcp_clock.h"
#include "mcp_httpd_error.h"
#include "mcp_httpd_park.h"

#define NOTE_KEY "mcp.request/4" /* another number for every other reading_t */
#define READ_SIZE (32 * 1024)
/* Many clients send a message right behind its head: within a delayed acknowledgement at most. */
#define BODY_FOLLOWS apr_time_from_msec(50)
#define SMALL_BODY 4096 /* one that is declared and no longer is kept in the pool */
#define MOST_LENGTH APR_INT64_C(1000000000000000)
/* Records without data that are read in a row, and the pause after them. */
#define MOST_RECORDS 16
#define PAUSE apr_time_from_msec(20)

/* A body on its way in. Only the thread that has the request touches it. */
typedef struct reading_t {
    mcp_request_t pub;
    apr_size_t room;
    int on_heap;
    apr_time_t deadline; /* 0: nothing has been waited for */
    apr_bucket_brigade *bb;
    mcp_park_t *park;
    mcp_timer_t timer;
    int replayed;    /* an input filter hands it on */
    int has_raw;     /* bytes wait where no descriptor tells of them */
    apr_size_t sent; /* by the input filter */
} reading_t;

static ap_filter_rec_t *body_filter_handle;
static apr_size_t note_number;

/* ap_parse_strict_length() without strtol(): this is done for every request. */
static apr_off_t length_of(const char *text)
{
    apr_off_t length = 0;
    const char *at;

    for (at = text; apr_isdigit(*at); at++) {
        if (length > MOST_LENGTH / 10) {
            return -1;
        }
        length = 10 * length + (*at - '0');
    }
    return at > text && !*at ? length : -1;
}

/* Whether there is a body, and of what kind. One pass costs less than four look-ups. */
static void read_head(request_rec *r, reading_t *in)
{
    const apr_array_header_t *lines = apr_table_elts(r->headers_in);
    int i, has_length = 0, is_chunked = 0;

    for (i = 0; i < lines->nelts; i++) {
        const apr_table_entry_t *line = &APR_ARRAY_IDX(lines, i, apr_table_entry_t);
        char first = (char)(*line->key | 0x20);

        if (first == 't') {
            is_chunked |= !strcasecmp(line->key, "Transfer-Encoding");
        } else if (first != 'c') {
            continue;
        } else if (!in->pub.type && !strcasecmp(line->key, "Content-Type")) {
            in->pub.type = line->val;
        } else if (!has_length && !strcasecmp(line->key, "Content-Length")) {
            has_length = 1;
            in->pub.declared = length_of(line->val);
        } else if (!in->pub.coding && !strcasecmp(line->key, "Content-Encoding")) {
            in->pub.coding = line->val;
        }
    }
    in->pub.complete = !has_length && !is_chunked;
    in->pub.json = in->pub.type && strncasecmp(in->pub.type, "application/json", 16) == 0
        && (!in->pub.type[16] || in->pub.type[16] == ';' || apr_isspace(in->pub.type[16]));
}

/* Where the record of a request is, once it has been made. Redirects have that of the first. */
static reading_t **note_of(request_rec *r)
{
    while (r->prev) {
        r = r->prev;
    }
    return (reading_t **)ap_get_request_note(r, note_number);
}

static reading_t *reading(request_rec *r)
{
    reading_t **in = note_of(r);

    if (!*in) {
        *in = apr_pcalloc(r->pool, sizeof(**in));
        read_head(r, *in);
    }
    return *in;
}

mcp_request_t *mcp_request_get(request_rec *r)
{
    return &reading(r)->pub;
}

static apr_status_t free_body(void *data)
{
    reading_t *in = data;

    free(in->pub.body);
    in->pub.body = NULL;
    return APR_SUCCESS;
}

/* Room for more bytes and a NUL: from the pool where the length is known and small. */
static int make_room(request_rec *r, reading_t *in, apr_size_t more)
{
    apr_size_t wanted = in->pub.length + more + 1;
    char *grown;

    if (wanted <= in->room) {
        return OK;
    }
    if (!in->pub.body && in->pub.declared >= 0 && in->pub.declared <= SMALL_BODY
        && more <= (apr_size_t)in->pub.declared) {
        in->room = (apr_size_t)in->pub.declared + 1;
        in->pub.body = apr_palloc(r->pool, in->room);
        return OK;
    }
    wanted = wanted < 2 * in->room ? 2 * in->room : wanted;
    wanted = wanted < 4096 ? 4096 : wanted;
    grown = realloc(in->on_heap ? in->pub.body : NULL, wanted);
    if (!grown) {
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    if (!in->on_heap) {
        if (in->pub.length) {
            memcpy(grown, in->pub.body, in->pub.length);
        }
        in->on_heap = 1;
        apr_pool_cleanup_register(r->pool, in, free_body, apr_pool_cleanup_null);
    }
    in->pub.body = grown;
    in->room = wanted;
    return OK;
}

/* Move a brigade into the body. OK also where it ends; in->pub.complete tells. */
static int take_brigade(request_rec *r, reading_t *in, apr_off_t limit)
{
    apr_bucket *b;

    for (b = APR_BRIGADE_FIRST(in->bb); b != APR_BRIGADE_SENTINEL(in->bb); b = APR_BUCKET_NEXT(b)) {
        const char *data;
        apr_size_t len;

        if (APR_BUCKET_IS_EOS(b)) {
            in->pub.complete = 1;
            break;
        }
        if (APR_BUCKET_IS_METADATA(b)) {
            continue;
        }
        if (apr_bucket_read(b, &data, &len, APR_BLOCK_READ) != APR_SUCCESS) {
            return HTTP_BAD_REQUEST;
        }
        if (in->pub.length + len > (apr_size_t)limit) {
            return HTTP_REQUEST_ENTITY_TOO_LARGE;
        }
        if (make_room(r, in, len) != OK) {
            return HTTP_INTERNAL_SERVER_ERROR;
        }
        memcpy(in->pub.body + in->pub.length, data, len);
        in->pub.length += len;
        in->pub.body[in->pub.length] = '\0';
    }
    apr_brigade_cleanup(in->bb);
    return OK;
}

static void go_on(mcp_park_t *park, void *baton)
{
    reading_t *in = baton;

    mcp_park_unwatch_client(park);
    mcp_timer_stop(mcp_park_loop(park), &in->timer);
    mcp_park_work(park, mcp_park_run_fixups, NULL);
}

static void time_is_up(mcp_timer_t *timer)
{
    reading_t *in = timer->baton;

    go_on(in->park, in);
}

static void wait_for_body(mcp_park_t *park, void *baton)
{
    reading_t *in = baton;

    in->timer.fn = time_is_up;
    in->timer.baton = in;
    mcp_timer_start(mcp_park_loop(park), &in->timer,
                    in->has_raw ? mcp_loop_now(mcp_park_loop(park)) + PAUSE : in->deadline);
    mcp_park_on_client_readable(park, go_on, in);
}

/* httpd answers "Expect: 100-continue" in a blocking read only. */
static void tell_to_continue(request_rec *r)
{
    int status = r->status;
    const char *line = r->status_line;

    if (r->expecting_100) {
        r->status = HTTP_CONTINUE;
        r->status_line = NULL;
        ap_send_interim_response(r, 0);
        r->status = status;
        r->status_line = line;
    }
}

static apr_status_t read_some(request_rec *r, reading_t *in, apr_read_type_e block)
{
    apr_socket_t *sock = NULL;
    apr_interval_time_t saved = 0;
    apr_interval_time_t left = in->deadline ? in->deadline - mcp_clock_now() : 0;
    apr_status_t rv;

    if (in->deadline && left <= 0) {
        return APR_TIMEUP;
    }
    if (block == APR_BLOCK_READ && !r->connection->master) {
        sock = ap_get_conn_socket(r->connection);
        apr_socket_timeout_get(sock, &saved);
        apr_socket_timeout_set(sock, left);
    }
    rv = ap_get_brigade(r->input_filters, in->bb, AP_MODE_READBYTES, block, READ_SIZE);
    if (sock) {
        apr_socket_timeout_set(sock, saved);
    }
    if (rv == APR_SUCCESS && APR_BRIGADE_EMPTY(in->bb)) {
        rv = block == APR_BLOCK_READ ? APR_EOF : APR_EAGAIN;
    }
    return rv;
}

/*
 * As read_some(), without waiting. mod_ssl answers EAGAIN also where more records have come, since
 * the one that it met has no data. The next one may lack its end, so that is no reason to wait.
 */
static apr_status_t read_what_is_there(request_rec *r, reading_t *in)
{
    conn_rec *c = r->connection;
    int records = 0;
    apr_status_t rv;

    do {
        rv = read_some(r, in, APR_NONBLOCK_READ);
        in->has_raw = APR_STATUS_IS_EAGAIN(rv) && !c->master && ap_ssl_conn_is_ssl(c)
            && mcp_park_has_raw_input(c, in->bb);
    } while (in->has_raw && ++records < MOST_RECORDS);
    return rv;
}

static int refuse_read(request_rec *r, apr_status_t rv)
{
    if (APR_STATUS_IS_TIMEUP(rv)) {
        return mcp_error_set(r, HTTP_REQUEST_TIME_OUT, 0,
                             "The request body did not come in time", NULL);
    }
    if (rv == AP_FILTER_ERROR) {
        return AP_FILTER_ERROR;
    }
    return mcp_error_set(r, ap_map_http_request_error(rv, HTTP_BAD_REQUEST), 0,
                         "The request body could not be read", NULL);
}

static int too_large(request_rec *r, apr_off_t limit)
{
    return mcp_error_set(r, HTTP_REQUEST_ENTITY_TOO_LARGE, 0,
                         apr_psprintf(r->pool, "The request body is larger than %"
                                      APR_OFF_T_FMT " bytes", limit), NULL);
}

static int start_reading(request_rec *r, reading_t *in, apr_off_t limit)
{
    if (in->pub.declared > limit) {
        return too_large(r, limit);
    }
    in->bb = apr_brigade_create(r->pool, r->connection->bucket_alloc);
    return OK;
}

int mcp_request_read(request_rec *r, apr_off_t limit, apr_interval_time_t timeout, int may_suspend)
{
    reading_t *in = reading(r);
    apr_read_type_e block = APR_NONBLOCK_READ;
    int status = in->bb || in->pub.complete ? OK : start_reading(r, in, limit);

    while (status == OK && !in->pub.complete) {
        apr_status_t rv = block == APR_NONBLOCK_READ ? read_what_is_there(r, in)
                                                     : read_some(r, in, block);

        if (APR_STATUS_IS_EAGAIN(rv) && block == APR_NONBLOCK_READ) {
            /* Nearly always the body has come with the head, and no clock is looked at. */
            in->deadline = in->deadline ? in->deadline : mcp_clock_now() + timeout;
            if (may_suspend) {
                in->park = in->park ? in->park : mcp_park_create(r);
                if (mcp_park_is_async(in->park)) {
                    tell_to_continue(r);
                    return mcp_park_leave(in->park, wait_for_body, in);
                }
            }
            block = APR_BLOCK_READ;
            continue;
        }
        if (rv != APR_SUCCESS) {
            return refuse_read(r, rv);
        }
        status = take_brigade(r, in, limit);
        if (status == HTTP_REQUEST_ENTITY_TOO_LARGE) {
            return too_large(r, limit);
        }
        block = APR_NONBLOCK_READ;
    }
    if (status == OK && in->bb && !in->replayed) {
        in->replayed = 1;
        apr_brigade_cleanup(in->bb);
        ap_add_input_filter_handle(body_filter_handle, in, r, r->connection);
    }
    return status;
}

/* Until there is something more to read, or a little longer: a filter may hold it already. */
static void wait_a_moment(request_rec *r)
{
    struct pollfd client = { .fd = -1, .events = POLLIN };

    if (r->connection->master) {
        apr_sleep(apr_time_from_msec(1));
    }
    else {
        apr_os_sock_get(&client.fd, ap_get_conn_socket(r->connection));
        poll(&client, 1, 5);
    }
}

/* What is not on its way is not there, and no error of the request's. */
int mcp_request_read_ready(request_rec *r, apr_off_t limit)
{
    reading_t *in = reading(r);
    apr_status_t rv = APR_SUCCESS;
    apr_time_t patience = 0;

    if (in->bb || r->expecting_100 || in->pub.declared > limit) {
        return OK;
    }
    in->bb = apr_brigade_create(r->pool, r->connection->bucket_alloc);
    while (rv == APR_SUCCESS && !in->pub.complete) {
        rv = read_some(r, in, APR_NONBLOCK_READ);
        if (APR_STATUS_IS_EAGAIN(rv)) {
            patience = patience ? patience : mcp_clock_now() + BODY_FOLLOWS;
            if (mcp_clock_now() < patience) {
                wait_a_moment(r);
                rv = APR_SUCCESS;
            }
        }
        else if (rv == APR_SUCCESS && take_brigade(r, in, limit) != OK) {
            rv = APR_EGENERAL;
        }
    }
    return rv == AP_FILTER_ERROR ? AP_FILTER_ERROR : OK;
}

/* Hands the body that has been read to whatever handler reads its request the usual way. */
static apr_status_t body_filter(ap_filter_t *f, apr_bucket_brigade *bb, ap_input_mode_t mode,
                                apr_read_type_e block, apr_off_t readbytes)
{
    reading_t *in = f->ctx;
    apr_size_t n = in->pub.length - in->sent;

    if (mode == AP_MODE_INIT || mode == AP_MODE_EATCRLF) {
        return APR_SUCCESS;
    }
    if (n > 0) {
        if (mode != AP_MODE_EXHAUSTIVE && readbytes > 0 && (apr_off_t)n > readbytes) {
            n = (apr_size_t)readbytes;
        }
        APR_BRIGADE_INSERT_TAIL(bb, apr_bucket_immortal_create(in->pub.body + in->sent, n,
                                                               f->c->bucket_alloc));
        if (mode == AP_MODE_SPECULATIVE) {
            return APR_SUCCESS;
        }
        in->sent += n;
    }
    if (in->sent == in->pub.length) {
        APR_BRIGADE_INSERT_TAIL(bb, apr_bucket_eos_create(f->c->bucket_alloc));
    }
    return APR_SUCCESS;
}

/* An internal redirect begins with the filters of the connection: ours is not among them. */
static void hand_on_again(request_rec *r)
{
    reading_t *in = r->prev ? *note_of(r) : NULL;
    ap_filter_t *f;

    if (!in || !in->replayed) {
        return;
    }
    for (f = r->input_filters; f && f->ctx != in; f = f->next) {
    }
    if (!f) {
        ap_add_input_filter_handle(body_filter_handle, in, r, r->connection);
    }
}

/* The same number in every module that has the same record, so that they find each other's. */
static apr_size_t shared_note(apr_pool_t *pconf)
{
    void *known = NULL;

    apr_pool_userdata_get(&known, NOTE_KEY, pconf);
    if (!known) {
        apr_size_t number = ap_register_request_note();

        known = apr_pmemdup(pconf, &number, sizeof(number));
        apr_pool_userdata_set(known, NOTE_KEY, NULL, pconf);
    }
    return *(apr_size_t *)known;
}

void mcp_request_register(apr_pool_t *pconf, const char *filter_name)
{
    note_number = shared_note(pconf);
    body_filter_handle = ap_register_input_filter(filter_name, body_filter, NULL,
                                                  AP_FTYPE_RESOURCE);
    ap_hook_insert_filter(hand_on_again, NULL, NULL, APR_HOOK_MIDDLE);
}

void mcp_request_take(request_rec *r)
{
    reading_t *in = reading(r);

    in->sent = in->pub.length;
}
