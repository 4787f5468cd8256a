/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections to backends, and those that are idle. The lock guards the lists and is never held
 * over I/O. Plain connections are malloc'ed; one with TLS has a pool of its own, with
 * its own allocator, so that it can change threads.
 */
#include "mcp_proxy.h"
#include "mcp_proxy_backend.h"

#include <apr_portable.h>
#include <apr_strings.h>
#include <apr_thread_mutex.h>
#include <errno.h>
#include <http_connection.h>
#include <http_core.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <util_filter.h>

#include "mcp_clock.h"
#include "mcp_httpd_park.h"

#define IDLE_LISTS 64
#define IDLE_PER_LIST 256
#define SWEEP_EVERY apr_time_from_sec(1)
#define IDLE_DEFAULT apr_time_from_sec(55)
#define TLS_WRITE (16 * 1024)
/* Records without data that are read in a row. */
#define TLS_RECORDS 16
/* What a later minor version of httpd may append to proxy_conn_rec. */
#define CONN_REC_SPARE 512

struct mcp_backend_t {
    mcp_backend_t *next;
    proxy_worker *worker;
    int fd;
    int is_ssl;
    int is_reused;
    apr_time_t idle_until;
    socklen_t peer_len;
    struct sockaddr_storage peer;
    char *ssl_hostname;       /* malloc'ed */
    apr_pool_t *pool;         /* TLS only, as all below */
    proxy_conn_rec *conn;
    apr_bucket_brigade *in, *out;
};

static struct {
    apr_thread_mutex_t *lock;
    mcp_backend_t *idle[IDLE_LISTS];
    int count[IDLE_LISTS];
    apr_time_t swept[IDLE_LISTS]; /* looked through to the end */
    int handshakes[IDLE_LISTS]; /* under way, by member */
    int most_handshakes;
} env;

void mcp_backend_init(apr_pool_t *p, int threads)
{
    apr_thread_mutex_create(&env.lock, APR_THREAD_MUTEX_DEFAULT, p);
    env.most_handshakes = threads > 8 ? threads / 8 : 1;
}

proxy_conn_rec *mcp_backend_conn_rec(apr_pool_t *p, proxy_worker *worker, int is_ssl)
{
    proxy_conn_rec *conn = apr_pcalloc(p, sizeof(*conn) + CONN_REC_SPARE);

    conn->pool = p;
    conn->scpool = p;
    conn->worker = worker;
    conn->is_ssl = is_ssl;
    return conn;
}

/* ---- idle connections ---- */

static unsigned list_of(const proxy_worker *worker)
{
    return (worker->s->hash.def ^ worker->s->hash.fnv) % IDLE_LISTS;
}

static int is_for(const mcp_backend_t *b, const mcp_target_t *target)
{
    const char *name = target->resolved->is_ssl ? target->resolved->ssl_hostname : NULL;
    apr_sockaddr_t *a;

    if (b->worker != target->worker || b->is_ssl != target->resolved->is_ssl
        || (name ? strcmp(name, b->ssl_hostname ? b->ssl_hostname : "") != 0
                 : b->ssl_hostname != NULL)) {
        return 0;
    }
    for (a = target->address; a; a = a->next) {
        if (b->peer_len == (socklen_t)a->salen && memcmp(&b->peer, &a->sa, a->salen) == 0) {
            return 1;
        }
    }
    return 0;
}

/* Open, and nothing to read: a byte or an end between two responses means that it is spent. */
static int is_quiet(const mcp_backend_t *b)
{
    char c;

    return recv(b->fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) < 0
        && (errno == EAGAIN || errno == EWOULDBLOCK);
}

/*
 * The first one in the list for this target; those whose time is over go to @a spent. The oldest
 * are at the end, which a busy member would never reach: it is looked for them once in a while.
 */
static mcp_backend_t *take_idle(const mcp_target_t *target, mcp_backend_t **spent)
{
    unsigned list = list_of(target->worker);
    apr_time_t now = mcp_clock_now();
    mcp_backend_t **link, *found = NULL, *b;
    int is_sweep;

    apr_thread_mutex_lock(env.lock);
    is_sweep = now - env.swept[list] >= SWEEP_EVERY;
    if (is_sweep) {
        env.swept[list] = now;
    }
    link = &env.idle[list];
    while ((is_sweep || !found) && (b = *link)) {
        int is_spent = b->idle_until <= now;

        if (!is_spent && (found || !is_for(b, target))) {
            link = &b->next;
            continue;
        }
        *link = b->next;
        env.count[list]--;
        if (is_spent) {
            b->next = *spent;
            *spent = b;
        }
        else {
            found = b;
        }
    }
    apr_thread_mutex_unlock(env.lock);
    return found;
}

mcp_backend_t *mcp_backend_reuse(const mcp_target_t *target)
{
    mcp_backend_t *found, *spent = NULL, *b;

    while ((found = take_idle(target, &spent)) && !is_quiet(found)) {
        mcp_backend_close(found);
    }
    while ((b = spent)) {
        spent = b->next;
        mcp_backend_close(b);
    }
    if (found) {
        found->is_reused = 1;
        if (found->conn) {
            ap_proxy_connection_create_ex("MCP", found->conn, target->r);
        }
    }
    return found;
}

void mcp_backend_release(mcp_backend_t *b, apr_interval_time_t keep)
{
    unsigned list = list_of(b->worker);
    apr_interval_time_t ttl = b->worker->s->ttl > 0 ? b->worker->s->ttl : IDLE_DEFAULT;
    int kept = 0;

    if (b->worker->s->disablereuse || mcp_park_is_draining()) {
        mcp_backend_close(b);
        return;
    }
    b->idle_until = mcp_clock_now() + (keep > 0 && keep < ttl ? keep : ttl);
    apr_thread_mutex_lock(env.lock);
    if (env.count[list] < IDLE_PER_LIST) {
        b->next = env.idle[list];
        env.idle[list] = b;
        env.count[list]++;
        kept = 1;
    }
    apr_thread_mutex_unlock(env.lock);
    if (!kept) {
        mcp_backend_close(b);
    }
}

void mcp_backend_close(mcp_backend_t *b)
{
    if (b->pool) {
        if (b->conn && b->conn->connection) {
            b->conn->connection->aborted = 1;
        }
        apr_pool_destroy(b->pool);
    }
    close(b->fd);
    free(b->ssl_hostname);
    free(b);
}

/* ---- connecting ---- */

static void set_options(int fd, const mcp_target_t *target)
{
    int on = 1;
    int size = (int)target->worker->s->recv_buffer_size;

    if (target->address->family != APR_UNIX) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        if (target->worker->s->keepalive) {
            setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
        }
        if (target->conf->source_address_set) {
            apr_sockaddr_t *from = target->conf->source_address;

            if (bind(fd, (struct sockaddr *)&from->sa, from->salen) != 0) {
                ap_log_rerror(APLOG_MARK, APLOG_ERR, errno, target->r, MCP_LOGNO(2030)
                              "could not bind to ProxySourceAddress");
            }
        }
    }
    if (size > 0) {
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    }
}

apr_status_t mcp_backend_connect(const mcp_target_t *target, mcp_backend_t **out)
{
    apr_sockaddr_t *a = target->address;
    mcp_backend_t *b;
    int fd = socket(a->family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0) {
        return errno;
    }
    set_options(fd, target);
    if (connect(fd, (struct sockaddr *)&a->sa, a->salen) != 0 && errno != EINPROGRESS) {
        apr_status_t rv = errno;

        close(fd);
        return rv;
    }
    b = calloc(1, sizeof(*b));
    if (!b) {
        close(fd);
        return APR_ENOMEM;
    }
    b->fd = fd;
    b->worker = target->worker;
    b->is_ssl = target->resolved->is_ssl;
    b->peer_len = (socklen_t)a->salen;
    memcpy(&b->peer, &a->sa, a->salen);
    if (b->is_ssl && target->resolved->ssl_hostname) {
        b->ssl_hostname = strdup(target->resolved->ssl_hostname);
    }
    *out = b;
    return APR_SUCCESS;
}

apr_status_t mcp_backend_connected(mcp_backend_t *b)
{
    struct pollfd pfd = { .fd = b->fd, .events = POLLOUT };
    socklen_t len = sizeof(int);
    int error = 0;

    if (poll(&pfd, 1, 0) == 0) {
        return APR_EINPROGRESS;
    }
    getsockopt(b->fd, SOL_SOCKET, SO_ERROR, &error, &len);
    return error;
}

/* ---- TLS ---- */

int mcp_backend_needs_handshake(const mcp_backend_t *b)
{
    return b->is_ssl && !b->conn;
}

static apr_status_t make_conn(mcp_backend_t *b, request_rec *r)
{
    struct sockaddr_storage local;
    socklen_t len = sizeof(local);
    apr_os_sock_info_t info = { 0 };
    apr_allocator_t *allocator;
    apr_status_t rv = apr_allocator_create(&allocator);

    if (rv != APR_SUCCESS) {
        return rv;
    }
    rv = apr_pool_create_unmanaged_ex(&b->pool, NULL, allocator);
    if (rv != APR_SUCCESS) {
        apr_allocator_destroy(allocator);
        return rv;
    }
    apr_allocator_owner_set(allocator, b->pool);
    apr_pool_tag(b->pool, "mcp_backend");
    b->conn = mcp_backend_conn_rec(b->pool, b->worker, 1);
    b->conn->hostname = apr_pstrdup(b->pool, b->worker->s->hostname_ex);
    b->conn->port = b->worker->s->port;
    b->conn->ssl_hostname = apr_pstrdup(b->pool, b->ssl_hostname);
    getsockname(b->fd, (struct sockaddr *)&local, &len);
    info.os_sock = &b->fd;
    info.local = (struct sockaddr *)&local;
    info.remote = (struct sockaddr *)&b->peer;
    info.family = b->peer.ss_family;
    info.type = SOCK_STREAM;
    rv = apr_os_sock_make(&b->conn->sock, &info, b->pool);
    if (rv != APR_SUCCESS) {
        return rv;
    }
    apr_socket_addr_get(&b->conn->addr, APR_REMOTE, b->conn->sock);
    if (ap_proxy_connection_create_ex("MCP", b->conn, r) != OK) {
        return APR_EGENERAL;
    }
    b->in = apr_brigade_create(b->pool, b->conn->connection->bucket_alloc);
    b->out = apr_brigade_create(b->pool, b->conn->connection->bucket_alloc);
    return APR_SUCCESS;
}

apr_status_t mcp_backend_handshake(mcp_backend_t *b, request_rec *r, apr_interval_time_t timeout)
{
    int *under_way = &env.handshakes[list_of(b->worker)];
    apr_status_t rv = APR_EAGAIN;
    const char *outcome;
    conn_rec *c;

    if (timeout <= 0) {
        return APR_TIMEUP;
    }
    if (__atomic_add_fetch(under_way, 1, __ATOMIC_RELAXED) <= env.most_handshakes) {
        rv = make_conn(b, r);
        if (rv == APR_SUCCESS) {
            c = b->conn->connection;
            apr_socket_timeout_set(b->conn->sock, timeout);
            APR_BRIGADE_INSERT_TAIL(b->out, apr_bucket_flush_create(c->bucket_alloc));
            rv = ap_pass_brigade(c->output_filters, b->out);
            apr_brigade_cleanup(b->out);
            outcome = apr_table_get(c->notes, "SSL_connect_rv");
            if (rv == APR_SUCCESS && (c->aborted || !outcome || strcmp(outcome, "err") == 0)) {
                rv = APR_EGENERAL;
            }
        }
    }
    __atomic_sub_fetch(under_way, 1, __ATOMIC_RELAXED);
    return rv;
}

/* ---- data ---- */

int mcp_backend_fd(const mcp_backend_t *b)
{
    return b->fd;
}

int mcp_backend_is_tls(const mcp_backend_t *b)
{
    return b->is_ssl;
}

int mcp_backend_is_reused(const mcp_backend_t *b)
{
    return b->is_reused;
}

int mcp_backend_has_unsent(mcp_backend_t *b)
{
    if (!b->conn || !b->conn->connection->data_in_output_filters) {
        return 0;
    }
    mcp_park_write_kept(b->conn->connection);
    return b->conn->connection->data_in_output_filters;
}

static apr_status_t send_tls(mcp_backend_t *b, const struct iovec *iov, apr_size_t *sent)
{
    conn_rec *c = b->conn->connection;
    apr_size_t len = iov->iov_len < TLS_WRITE ? iov->iov_len : TLS_WRITE;
    apr_status_t rv;

    if (mcp_backend_has_unsent(b)) {
        return c->aborted ? APR_ECONNRESET : APR_EAGAIN;
    }
    APR_BRIGADE_INSERT_TAIL(b->out, apr_bucket_transient_create(iov->iov_base, len,
                                                                c->bucket_alloc));
    APR_BRIGADE_INSERT_TAIL(b->out, mcp_park_nudge(c->bucket_alloc));
    rv = ap_pass_brigade(c->output_filters, b->out);
    apr_brigade_cleanup(b->out);
    if (rv == APR_SUCCESS) {
        rv = mcp_park_write_kept(c);
    }
    *sent = len;
    return c->aborted ? APR_ECONNRESET : rv;
}

apr_status_t mcp_backend_send(mcp_backend_t *b, const struct iovec *iov, int n, apr_size_t *sent)
{
    struct msghdr msg = { .msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)n };
    ssize_t rc;

    *sent = 0;
    if (b->conn) {
        return send_tls(b, iov->iov_len || n == 1 ? iov : iov + 1, sent);
    }
    do {
        rc = sendmsg(b->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (rc < 0 && errno == EINTR);
    if (rc < 0) {
        return errno;
    }
    *sent = (apr_size_t)rc;
    return APR_SUCCESS;
}

static apr_status_t recv_tls(mcp_backend_t *b, char *buf, apr_size_t size, apr_size_t *len)
{
    conn_rec *c = b->conn->connection;
    apr_status_t rv;
    int is_empty, records = 0;

    do {
        rv = ap_get_brigade(c->input_filters, b->in, AP_MODE_READBYTES, APR_NONBLOCK_READ,
                            (apr_off_t)size);
        is_empty = APR_STATUS_IS_EAGAIN(rv) || (rv == APR_SUCCESS && APR_BRIGADE_EMPTY(b->in));
    } while (is_empty && ++records < TLS_RECORDS && mcp_park_has_raw_input(c, b->in));
    *len = size;
    if (rv == APR_SUCCESS) {
        rv = APR_BRIGADE_EMPTY(b->in) ? APR_EAGAIN : apr_brigade_flatten(b->in, buf, len);
        if (rv == APR_SUCCESS && *len == 0) {
            rv = APR_EOF;
        }
    }
    apr_brigade_cleanup(b->in);
    return rv;
}

apr_status_t mcp_backend_recv(mcp_backend_t *b, char *buf, apr_size_t size, apr_size_t *len)
{
    ssize_t rc;

    if (b->conn) {
        return recv_tls(b, buf, size, len);
    }
    do {
        rc = recv(b->fd, buf, size, MSG_DONTWAIT);
    } while (rc < 0 && errno == EINTR);
    *len = rc > 0 ? (apr_size_t)rc : 0;
    return rc > 0 ? APR_SUCCESS : rc == 0 ? APR_EOF : errno;
}
