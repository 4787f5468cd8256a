/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The session table as a whole: random operations against a list that is searched from end to
 * end, and processes that share it, some of which die with the lock.
 */
#include "session_fixture.h"

#include <signal.h>
#include <unistd.h>
#include <sys/wait.h>

/* The model: what the table should hold, as plainly as it can be said. */
#define SESSIONS 60
#define OWNERS 7
#define ROOM 24

typedef struct modelled_t {
    int known;
    unsigned owner;
    apr_uint64_t member;
    apr_time_t used, until;
} modelled_t;

static modelled_t model[SESSIONS];
static apr_time_t model_now;

static apr_time_t last_use(const modelled_t *m)
{
    return m->until > m->used ? m->until : m->used;
}

static int is_current(const modelled_t *m)
{
    return m->known && last_use(m) + TTL > model_now;
}

static int is_held(const modelled_t *m)
{
    return m->until > model_now;
}

static void use(modelled_t *m)
{
    if (!is_held(m) && model_now - last_use(m) >= MCP_SESSION_GRAIN) {
        m->used = model_now;
    }
}

/* Whether the table may have evicted @a victim: no identity with an idle session has more. */
static int is_rightful_victim(unsigned victim)
{
    int counts[OWNERS] = { 0 }, has_idle[OWNERS] = { 0 };
    unsigned i;

    for (i = 0; i < SESSIONS; i++) {
        if (model[i].known) {
            counts[model[i].owner]++;
            has_idle[model[i].owner] |= !is_held(&model[i]);
        }
    }
    for (i = 0; i < OWNERS; i++) {
        if (has_idle[i] && counts[i] > counts[model[victim].owner]) {
            return 0;
        }
    }
    for (i = 0; i < SESSIONS; i++) {
        if (model[i].known && model[i].owner == model[victim].owner && !is_held(&model[i])
            && last_use(&model[i]) < last_use(&model[victim])) {
            return 0;
        }
    }
    return !is_held(&model[victim]);
}

static unsigned count_model(int (*is_counted)(const modelled_t *m))
{
    unsigned i, counted = 0;

    for (i = 0; i < SESSIONS; i++) {
        counted += model[i].known && is_counted(&model[i]);
    }
    return counted;
}

static int is_any(const modelled_t *m)
{
    return 1;
}

/* Make room as the table says it did, if that was right. */
static void follow_eviction(unsigned learnt)
{
    unsigned i, out_of_time = 0, evicted = 0, victim = 0;

    for (i = 0; i < SESSIONS; i++) {
        if (model[i].known && i != learnt && !is_there(i)) {
            out_of_time += !is_current(&model[i]);
            evicted += is_current(&model[i]);
            victim = is_current(&model[i]) ? i : victim;
        }
    }
    ck_assert_uint_le(evicted, 1);
    if (evicted) {
        ck_assert_uint_eq(out_of_time, 0);
        ck_assert_uint_eq(count_model(is_any), count_model(is_current));
        ck_assert(is_rightful_victim(victim));
    }
    for (i = 0; i < SESSIONS; i++) {
        if (i != learnt && !is_there(i)) {
            model[i].known = 0;
        }
    }
}

static void learn_both(unsigned session, unsigned owner, apr_uint64_t member)
{
    modelled_t *m = &model[session];
    apr_status_t rv = learn(session, owner, member, model_now);

    if (is_current(m) && m->owner == owner) {
        ck_assert_int_eq(rv, APR_SUCCESS);
        m->member = member;
        use(m);
        return;
    }
    m->known = 0;
    if (count_model(is_any) == ROOM && count_model(is_held) == ROOM) {
        ck_assert_int_eq(rv, APR_ENOSPC);
        return;
    }
    ck_assert_int_eq(rv, APR_SUCCESS);
    if (count_model(is_any) == ROOM) {
        follow_eviction(session);
    }
    *m = (modelled_t){ .known = 1, .owner = owner, .member = member, .used = model_now };
}

static void find_both(unsigned session, unsigned owner)
{
    modelled_t *m = &model[session];
    apr_uint64_t member = 0;
    apr_status_t rv = find(session, owner, model_now, &member);

    if (!is_current(m)) {
        ck_assert_int_eq(rv, APR_NOTFOUND);
        m->known = 0;
    } else if (m->owner != owner) {
        ck_assert_int_eq(rv, APR_EACCES);
    } else {
        ck_assert_int_eq(rv, APR_SUCCESS);
        ck_assert(member == m->member);
        use(m);
    }
}

static void hold_both(unsigned session, unsigned owner)
{
    modelled_t *m = &model[session];
    apr_time_t until = model_now + random() % (40 * SECOND) - 2 * SECOND;

    hold(session, owner, until);
    if (is_current(m) && m->owner == owner && until > m->until && until > model_now) {
        m->until = until;
    }
    m->known = is_current(m);
}

static void sweep_both(void)
{
    unsigned expected = count_model(is_any) - count_model(is_current), i;

    ck_assert_uint_eq(mcp_session_sweep(table, model_now, ROOM), expected);
    for (i = 0; i < SESSIONS; i++) {
        model[i].known = is_current(&model[i]);
    }
}

static void do_both(unsigned session, unsigned owner)
{
    switch (random() % 16) {
    case 0:
        forget(session, owner);
        if (model[session].owner == owner) {
            model[session].known = 0;
        }
        break;
    case 1:
        sweep_both();
        break;
    case 2:
    case 3:
        hold_both(session, owner);
        break;
    case 4:
    case 5:
    case 6:
    case 7:
    case 8:
        find_both(session, owner);
        break;
    default:
        learn_both(session, owner, (apr_uint64_t)random());
    }
}

START_TEST(test_random_operations_agree_with_a_plain_model)
{
    int round;

    make_table(ROOM);
    srandom(17);
    memset(model, 0, sizeof(model));
    model_now = START;
    /* So that hold, which is told no time, has the model's. */
    mcp_session_sweep(table, model_now, 0);
    for (round = 0; round < 100000; round++) {
        unsigned session = (unsigned)random() % SESSIONS;
        /* Mostly its own, and some identities far more often than others. */
        unsigned owner = random() % 8 ? session % OWNERS * (session & 1) : random() % OWNERS;

        do_both(session, owner);
        ck_assert_uint_eq(count(), count_model(is_any));
        if (round % 8 == 0) {
            check_table();
        }
        model_now += random() % 64 ? random() % SECOND : random() % (TTL / 2);
        mcp_session_sweep(table, model_now, 0);
    }
}
END_TEST

static int wait_for(pid_t child)
{
    int status;

    while (waitpid(child, &status, 0) < 0) {
    }
    return status;
}

START_TEST(test_table_is_made_anew_after_its_lock_s_owner_died_amid_a_change)
{
    apr_uint64_t member;
    unsigned i;
    pid_t child;

    make_table(50);
    for (i = 0; i < 50; i++) {
        learn(i, i % 5, i, START + i * SECOND);
    }
    forget(13, 3);
    hold(0, 0, START + TTL);
    hold(5, 0, START + TTL + SECOND);
    child = fork();
    if (!child) {
        mcp_session_wreck(table);
        _exit(0);
    }
    ck_assert_int_eq(wait_for(child), 0);
    ck_assert_int_eq(find(7, 2, START + 50 * SECOND, &member), APR_SUCCESS);
    ck_assert_uint_eq(member, 7);
    check_table();
    ck_assert_uint_eq(count(), 49);
    learn(100, 0, 1, START + 51 * SECOND);
    learn(101, 9, 1, START + 51 * SECOND);
    check_table();
    ck_assert_msg(is_there(0) && is_there(5) && !is_there(10),
                  "holds and the order of use must have survived");
}
END_TEST

static void work_until_killed(unsigned seed)
{
    apr_time_t now = START;
    apr_uint64_t member;

    srandom(seed);
    for (;;) {
        unsigned session = (unsigned)random() % 500, owner = session % 20;

        now += random() % SECOND;
        switch (random() % 5) {
        case 0:
            forget(session, owner);
            break;
        case 1:
            find(session, owner, now, &member);
            break;
        case 2:
            hold(session, owner, now + 2 * SECOND);
            break;
        default:
            learn(session, owner, session * 3, now);
        }
    }
}

/* Every known session must be where it was learnt. */
static void check_members(void)
{
    apr_uint64_t member;
    unsigned i;

    for (i = 0; i < 500; i++) {
        apr_status_t rv = find(i, i % 20, START, &member);

        ck_assert(rv == APR_NOTFOUND || (rv == APR_SUCCESS && member == i * 3));
    }
}

START_TEST(test_table_survives_processes_that_are_killed_at_work)
{
    pid_t children[2];
    unsigned round, i;

    make_table(200);
    srandom(23);
    for (round = 0; round < 200; round++) {
        for (i = 0; i < 2; i++) {
            children[i] = fork();
            if (!children[i]) {
                work_until_killed(round * 2 + i);
            }
        }
        usleep((useconds_t)random() % 3000);
        for (i = 0; i < 2; i++) {
            kill(children[i], SIGKILL);
            wait_for(children[i]);
        }
        mcp_session_sweep(table, START, 0);
        check_table();
        check_members();
    }
    ck_assert_uint_gt(count(), 0);
}
END_TEST

START_TEST(test_processes_that_share_the_table_see_each_other_s_sessions)
{
    pid_t children[4];
    unsigned i, j;

    make_table(4000);
    for (i = 0; i < 4; i++) {
        children[i] = fork();
        if (!children[i]) {
            for (j = 0; j < 1000; j++) {
                learn(i * 1000 + j, j % 10, i * 1000 + j, START);
            }
            _exit(0);
        }
    }
    for (i = 0; i < 4; i++) {
        ck_assert_int_eq(wait_for(children[i]), 0);
    }
    for (j = 0; j < 4000; j++) {
        apr_uint64_t member;

        ck_assert_int_eq(find(j, j % 1000 % 10, START, &member), APR_SUCCESS);
        ck_assert_uint_eq(member, j);
    }
    check_table();
}
END_TEST

static void add_model(TCase *tc)
{
    tcase_add_test(tc, test_random_operations_agree_with_a_plain_model);
}

static void add_processes(TCase *tc)
{
    tcase_add_test(tc, test_table_is_made_anew_after_its_lock_s_owner_died_amid_a_change);
    tcase_add_test(tc, test_table_survives_processes_that_are_killed_at_work);
    tcase_add_test(tc, test_processes_that_share_the_table_see_each_other_s_sessions);
}

int main(void)
{
    Suite *suite = suite_create("mcp_proxy_session_index");

    add_case(suite, "model", add_model);
    add_case(suite, "processes", add_processes);
    return run_suite(suite);
}
