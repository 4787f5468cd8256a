/* SPDX-License-Identifier: Apache-2.0 */
/* The Redis client against a server that says exactly what a test wants it to say. */
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <check.h>
#include <apr_general.h>

#include "mcp_clock.h"
#include "mcp_redis.h"
#include "mcp_store_url.h"
#include "run_suite.h"

#define HELLO \
    "+OK\r\n$62\r\nrun_id:abcdef\r\nserver_time_usec:5000000\r\nuptime_in_seconds:2\r\n\r\n"

/* What the server sends, one step per read; NULL ends the connection, "!" stays silent. */
static const char *const *script;
static int listener, connections, ups, downs;
static char path[100];
static apr_pool_t *pool;
static mcp_store_url_t url;
static mcp_redis_t *redis;
static pthread_t server;
static char heard[100000];

static void serve(int fd)
{
    const char *const *step = script;
    char buf[65536];
    ssize_t n;

    while ((n = recv(fd, buf, sizeof(buf) - 1, 0)) > 0) {
        buf[n] = '\0';
        if (strlen(heard) + (size_t)n < sizeof(heard)) {
            strcat(heard, buf);
        }
        if (!*step) {
            return;
        }
        if (strcmp(*step, "!") != 0) {
            (void)!send(fd, *step, strlen(*step), MSG_NOSIGNAL);
        }
        step++;
    }
}

static void *run_server(void *unused)
{
    int fd;

    while ((fd = accept(listener, NULL, NULL)) >= 0) {
        __atomic_add_fetch(&connections, 1, __ATOMIC_SEQ_CST);
        serve(fd);
        close(fd);
    }
    return NULL;
}

static void changed(void *baton, int up, const char *name, const char *why)
{
    up ? ups++ : downs++;
}

static void setup(void)
{
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    mcp_redis_options_t options = { .changed = changed };

    apr_initialize();
    apr_pool_create(&pool, NULL);
    snprintf(path, sizeof(path), "/tmp/mcp-test-redis.%d", (int)getpid());
    unlink(path);
    strcpy(un.sun_path, path);
    listener = socket(AF_UNIX, SOCK_STREAM, 0);
    ck_assert_int_eq(bind(listener, (struct sockaddr *)&un, sizeof(un)), 0);
    ck_assert_int_eq(listen(listener, 10), 0);
    ck_assert_int_eq(pthread_create(&server, NULL, run_server, NULL), 0);
    url.kind = MCP_STORE_REDIS_UNIX;
    url.path = path;
    url.db = 4;
    url.name = "test";
    redis = mcp_redis_create(&url, &options, pool);
}

static void teardown(void)
{
    unlink(path);
    apr_pool_destroy(pool);
}

static apr_status_t get(const char *key, char *value, size_t size, int expect,
                        mcp_redis_info_t *info)
{
    const char *argv[2] = { "GET", key };
    size_t len[2] = { 3, strlen(key) };
    mcp_redis_command_t c = { .argc = 2, .argv = argv, .argvlen = len, .expect = expect };
    apr_status_t rv;

    memset(info, 0, sizeof(*info));
    rv = mcp_redis_run(redis, &c, 1, mcp_clock_now() + apr_time_from_msec(300), info);
    *value = '\0';
    if (rv == APR_SUCCESS && c.reply->str) {
        snprintf(value, size, "%s", c.reply->str);
    }
    mcp_redis_free_replies(&c, 1);
    return rv;
}

START_TEST(says_hello_once_and_uses_the_connection_again)
{
    static const char *const steps[] = { HELLO, "$1\r\na\r\n", "$1\r\nb\r\n", NULL };
    mcp_redis_info_t info;
    char value[20];

    script = steps;
    ck_assert_int_eq(get("x", value, sizeof(value), REDIS_REPLY_STRING, &info), APR_SUCCESS);
    ck_assert_str_eq(value, "a");
    ck_assert_str_eq(info.run_id, "abcdef");
    ck_assert_int_eq(info.server_start, 4000000);
    ck_assert_int_eq(get("y", value, sizeof(value), REDIS_REPLY_STRING, &info), APR_SUCCESS);
    ck_assert_str_eq(value, "b");
    ck_assert_int_eq(connections, 1);
    ck_assert_ptr_nonnull(strstr(heard, "$6\r\nSELECT\r\n$1\r\n4\r\n"));
}
END_TEST

/* What a first connection answers to GET; the connection must not serve a second question. */
static const struct {
    const char *steps[4];
    apr_status_t rv;
} broken[] = {
    { { HELLO, "!", NULL }, APR_TIMEUP },
    { { HELLO, "$5\r\nab", NULL }, APR_TIMEUP },
    { { HELLO, NULL }, APR_EOF },
    { { HELLO, "nonsense\r\n", NULL }, APR_EGENERAL },
    { { HELLO, ":1\r\n", NULL }, APR_EGENERAL },
    { { HELLO, "$1\r\na\r\n+OK\r\n", NULL }, APR_EGENERAL },
    { { HELLO, "$1\r\na\r\n$", NULL }, APR_EGENERAL },
    { { HELLO, "-READONLY no\r\n", NULL }, APR_EGENERAL },
    { { HELLO, "-LOADING\r\n", NULL }, APR_EGENERAL },
    { { "+OK\r\n-ERR x\r\n", NULL }, APR_EGENERAL },
    { { "-ERR DB index is out of range\r\n$2\r\nab\r\n", NULL }, APR_EGENERAL },
    { { "HTTP/1.1 400 Bad Request\r\n\r\n", NULL }, APR_EGENERAL },
    { { NULL }, APR_EOF },
};

START_TEST(a_connection_that_anything_was_wrong_with_is_never_used_again)
{
    static const char *const good[] = { HELLO, "$1\r\ng\r\n", NULL };
    mcp_redis_info_t info;
    char value[20];
    int tries;

    script = broken[_i].steps;
    ck_assert_int_eq(get("x", value, sizeof(value), REDIS_REPLY_STRING, &info), broken[_i].rv);
    ck_assert(*info.why);
    script = good;
    for (tries = 0; mcp_redis_is_open(redis) && tries < 300; tries++) {
        static const char *const probe[] = { HELLO, "+OK\r\n", "$1\r\ng\r\n", NULL };

        script = probe;
        mcp_redis_maintain(redis, apr_time_from_msec(100));
        usleep(10000);
    }
    ck_assert_int_eq(get("y", value, sizeof(value), REDIS_REPLY_STRING, &info), APR_SUCCESS);
    ck_assert_str_eq(value, "g");
    ck_assert_int_gt(connections, 1);
}
END_TEST

START_TEST(an_idle_connection_that_the_server_closed_or_wrote_to_is_not_used)
{
    static const char *const steps[] = { HELLO, "$1\r\na\r\n", NULL };
    mcp_redis_info_t info;
    char value[20];

    script = steps;
    ck_assert_int_eq(get("x", value, sizeof(value), 0, &info), APR_SUCCESS);
    /* The server reads nothing more: its end closes when its loop meets NULL, after this. */
    ck_assert_int_eq(get("x", value, sizeof(value), 0, &info), APR_EOF);
    ck_assert_int_eq(get("x", value, sizeof(value), 0, &info), APR_SUCCESS);
    ck_assert_int_eq(connections, 2);
}
END_TEST

START_TEST(an_unknown_script_is_sent_whole_in_the_same_connection)
{
    static const char *const steps[] = { HELLO, "-NOSCRIPT No matching script\r\n:7\r\n", ":5\r\n",
                                         NULL };
    mcp_redis_script_t lua;
    const char *argv[2][3] = { { NULL, NULL, "0" }, { "INCR", "n", NULL } };
    size_t len[2][3] = { { 0, 0, 1 }, { 4, 1, 0 } };
    mcp_redis_command_t c[2] = {
        { .argc = 3, .argv = argv[0], .argvlen = len[0], .script = &lua,
          .expect = REDIS_REPLY_INTEGER },
        { .argc = 2, .argv = argv[1], .argvlen = len[1], .expect = REDIS_REPLY_INTEGER } };

    script = steps;
    mcp_redis_script_init(&lua, "return 5");
    ck_assert_str_eq(lua.sha, "4ca238f611c9d0ae4e9a75a5dbac22aedc379801");
    ck_assert_int_eq(mcp_redis_run(redis, c, 2, mcp_clock_now() + APR_USEC_PER_SEC, NULL),
                     APR_SUCCESS);
    ck_assert_int_eq(c[0].reply->integer, 5);
    ck_assert_int_eq(c[1].reply->integer, 7);
    mcp_redis_free_replies(c, 2);
    ck_assert_int_eq(connections, 1);
    ck_assert_ptr_nonnull(strstr(heard, "return 5"));
}
END_TEST

START_TEST(an_error_of_one_command_is_its_own)
{
    static const char *const steps[] = { HELLO, "-WRONGTYPE it\r\n", "$1\r\na\r\n", NULL };
    mcp_redis_info_t info;
    char value[20];

    script = steps;
    ck_assert_int_eq(get("x", value, sizeof(value), REDIS_REPLY_STRING, &info), APR_SUCCESS);
    ck_assert_str_eq(value, "WRONGTYPE it");
    ck_assert_int_eq(get("x", value, sizeof(value), REDIS_REPLY_STRING, &info), APR_SUCCESS);
    ck_assert_int_eq(connections, 1);
}
END_TEST

START_TEST(after_failures_in_a_row_nobody_asks_until_a_probe_succeeds)
{
    static const char *const silent[] = { "!", NULL };
    static const char *const well[] = { HELLO, "+OK\r\n", "$1\r\na\r\n", NULL };
    mcp_redis_info_t info;
    char value[20];
    int i, before;

    script = silent;
    for (i = 0; i < MCP_BREAKER_THRESHOLD; i++) {
        ck_assert(!mcp_redis_is_open(redis));
        ck_assert_int_eq(get("x", value, sizeof(value), 0, &info), APR_TIMEUP);
    }
    ck_assert(mcp_redis_is_open(redis));
    before = connections;
    ck_assert_int_eq(get("x", value, sizeof(value), 0, &info), APR_EBUSY);
    ck_assert_int_eq(connections, before);
    script = well;
    for (i = 0; i < 300 && mcp_redis_is_open(redis); i++) {
        mcp_redis_maintain(redis, apr_time_from_msec(100));
        usleep(10000);
    }
    ck_assert_int_eq(get("x", value, sizeof(value), 0, &info), APR_SUCCESS);
    ck_assert_int_eq(downs, 1);
    ck_assert_int_eq(ups, 1);
}
END_TEST

START_TEST(nobody_listening_opens_the_breaker_at_once)
{
    mcp_redis_info_t info;
    char value[20];

    unlink(path);
    ck_assert_int_ne(get("x", value, sizeof(value), 0, &info), APR_SUCCESS);
    ck_assert(!info.sent);
    ck_assert(mcp_redis_is_open(redis));
    ck_assert_int_eq(downs, 1);
}
END_TEST

/* In place of the system's: a host on the loopback, once its port is set. */
static int port_of_host;

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **res)
{
    static struct sockaddr_in in;
    static struct addrinfo found;

    if (!port_of_host) {
        return EAI_NONAME;
    }
    in.sin_family = AF_INET;
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    found = (struct addrinfo){ .ai_family = AF_INET, .ai_socktype = SOCK_STREAM,
                               .ai_addrlen = sizeof(in), .ai_addr = (struct sockaddr *)&in };
    *res = &found;
    return 0;
}

void freeaddrinfo(struct addrinfo *res)
{
}

START_TEST(a_host_that_was_unknown_or_moved_is_looked_for_while_the_breaker_is_open)
{
    static const char *const well[] = { HELLO, "+OK\r\n", "$1\r\na\r\n", NULL };
    struct sockaddr_in in = { .sin_family = AF_INET };
    socklen_t len = sizeof(in);
    mcp_store_url_t tcp = { .kind = MCP_STORE_REDIS, .host = "redis.example", .name = "tcp" };
    mcp_redis_info_t info;
    char value[20];
    int i;

    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listener = socket(AF_INET, SOCK_STREAM, 0);
    ck_assert_int_eq(bind(listener, (struct sockaddr *)&in, sizeof(in)), 0);
    ck_assert_int_eq(listen(listener, 10), 0);
    ck_assert_int_eq(getsockname(listener, (struct sockaddr *)&in, &len), 0);
    ck_assert_int_eq(pthread_create(&server, NULL, run_server, NULL), 0);
    tcp.port = ntohs(in.sin_port);
    script = well;
    redis = mcp_redis_create(&tcp, NULL, pool);
    ck_assert_int_ne(get("x", value, sizeof(value), 0, &info), APR_SUCCESS);
    ck_assert_str_eq(info.why, "the host is not known");
    ck_assert(mcp_redis_is_open(redis));
    port_of_host = tcp.port;
    for (i = 0; i < 300 && mcp_redis_is_open(redis); i++) {
        mcp_redis_maintain(redis, apr_time_from_msec(100));
        usleep(10000);
    }
    ck_assert_int_eq(get("x", value, sizeof(value), 0, &info), APR_SUCCESS);
    ck_assert_str_eq(value, "a");
}
END_TEST

static const struct {
    const char *text;
    const char *error; /* NULL: fine; else part of the message */
    const char *name;
} urls[] = {
    { "shm", NULL, "shm" },
    { "shm:64K", NULL, "shm" },
    { "redis://127.0.0.1:6379/4", NULL, "redis://127.0.0.1:6379/4" },
    { "redis://h", NULL, "redis://h:6379/0" },
    { "redis://[::1]:7/2", NULL, "redis://[::1]:7/2" },
    { "redis+unix:/run/r.sock?db=4", NULL, "redis+unix:/run/r.sock?db=4" },
    { "redis://u@h/1  password=file:/dev/null", NULL, "redis://h:6379/1" },
    { "", "no store", NULL },
    { "shm:0", "size", NULL },
    { "shmx", "size", NULL },
    { "redis://", "host", NULL },
    { "redis://:6379", "host", NULL },
    { "redis://h:0", "port", NULL },
    { "redis://h:70000", "port", NULL },
    { "redis://h/x", "database", NULL },
    { "redis://h/-1", "database", NULL },
    { "redis://[::1", "brackets", NULL },
    { "redis://u:p@h/1", "password=file:PATH", NULL },
    { "redis://:p@h/1", "password=file:PATH", NULL },
    { "redis://u@h/1", "password=file:PATH", NULL },
    { "redis://h/1 password=secret", "password=file:PATH", NULL },
    { "redis://h/1 password=file:", "path", NULL },
    { "redis://h/1 db=3", "no option", NULL },
    { "redis+unix:x", "absolute", NULL },
    { "redis+unix:/x?database=4", "?db=N", NULL },
    { "shm password=file:/x", "takes no password", NULL },
    { "http://h", "form", NULL },
};

START_TEST(reads_the_address_of_a_store_whole_or_not_at_all)
{
    mcp_store_url_t parsed;
    const char *error = mcp_store_url_parse(urls[_i].text, NULL, &parsed, pool);

    if (urls[_i].error) {
        ck_assert_msg(error && strstr(error, urls[_i].error), "%s: %s", urls[_i].text, error);
        ck_assert(!strstr(error, "secret"));
    }
    else {
        ck_assert_msg(!error, "%s: %s", urls[_i].text, error);
        ck_assert_str_eq(parsed.name, urls[_i].name);
    }
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("redis");
    Suite *suite = suite_create("mcp_redis");

    tcase_set_timeout(tcase, 60);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, says_hello_once_and_uses_the_connection_again);
    tcase_add_loop_test(tcase, a_connection_that_anything_was_wrong_with_is_never_used_again, 0,
                        sizeof(broken) / sizeof(*broken));
    tcase_add_test(tcase, an_idle_connection_that_the_server_closed_or_wrote_to_is_not_used);
    tcase_add_test(tcase, an_unknown_script_is_sent_whole_in_the_same_connection);
    tcase_add_test(tcase, an_error_of_one_command_is_its_own);
    tcase_add_test(tcase, after_failures_in_a_row_nobody_asks_until_a_probe_succeeds);
    tcase_add_test(tcase, nobody_listening_opens_the_breaker_at_once);
    tcase_add_test(tcase, a_host_that_was_unknown_or_moved_is_looked_for_while_the_breaker_is_open);
    tcase_add_loop_test(tcase, reads_the_address_of_a_store_whole_or_not_at_all, 0,
                        sizeof(urls) / sizeof(*urls));
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
