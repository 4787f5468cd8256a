# SPDX-License-Identifier: Apache-2.0
"""mod_mcp_ratelimit: what Redis lends from small buckets saves questions, and is missed by nobody."""
import os
import signal

import pytest

from harness.limits import STORE_DOWN, STORE_UP, limited, message, post, serve
from harness.wait import wait_until

CHANNEL = "mcp:ratelimit:recall"
KEY = "mcp_msg:alice"
BURST = 50
MESSAGES = "MCPRateLimitMessages 1/10h burst=%d" % BURST
IN_A_ROW = 12  # after so many the gateway holds a loan


@pytest.fixture(name="fleet")
def _fleet(gateway, backend, redis):
    """Makes a Redis server and gateways that listen to it."""
    def make(count, *location, store=lambda server: server.store, listening=True, **more):
        server = redis()
        upstream = backend(serve)
        options = limited(store(server), *(location or [MESSAGES]), **more)
        gateways = [gateway(upstream, **options) for _ in range(count)]
        if listening:
            wait_until(lambda: listeners(server) == count, "the gateways to listen")
        return server, gateways

    return make


def listeners(server):
    return server.ask("PUBSUB", "NUMSUB", CHANNEL)[1]


def lent(server):
    """How many tokens are lent."""
    return int((server.ask("HGET", KEY, "lent") or b"0").split()[0])


def admitted(gateway, most, **more):
    """How many are, one after the other, until one is refused."""
    for count in range(most):
        if post(gateway, **more).status != 200:
            return count
    return most


def busy(server, gateway):
    """Ask so often in a row that the gateway holds a loan."""
    assert admitted(gateway, IN_A_ROW) == IN_A_ROW
    assert lent(server) > 0


def test_a_busy_key_asks_seldom(fleet):
    server, (one,) = fleet(1)
    assert admitted(one, IN_A_ROW) == IN_A_ROW

    def asked():
        return int(server.ask("INFO", "commandstats").split(b"cmdstat_evalsha:calls=")[1]
                   .split(b",")[0])

    before = asked()
    assert admitted(one, 12) == 12
    assert asked() - before <= 4


def test_a_key_that_has_just_come_is_lent_nothing(fleet):
    server, (one,) = fleet(1)
    assert admitted(one, 10) == 10
    assert lent(server) == 0
    assert server.ask("HGET", KEY, "tokens").startswith(b"40.")


@pytest.mark.parametrize("count", [1, 2, 4])
def test_exactly_the_burst_is_admitted_wherever_they_ask(fleet, count):
    server, gateways = fleet(count)
    statuses = [post(gateways[i % count]).status for i in range(BURST + 30)]
    assert statuses.count(200) == BURST
    assert set(statuses[BURST + 5:]) == {429}


def test_what_one_gateway_holds_is_not_missing_at_another(fleet):
    server, (one, two) = fleet(2)
    busy(server, one)
    assert admitted(two, BURST) == BURST - IN_A_ROW
    assert lent(server) == 0
    assert post(one).status == 429


def test_what_a_gateway_holds_itself_is_not_missing_beside_another_limit(fleet):
    server, (one,) = fleet(
        1, MESSAGES, routes={"/mcp": "/mcp", "/more": "/mcp"},
        tuning=["<Location /more>", "MCPRateLimitTool * 1000/1h burst=1000", "</Location>"])
    busy(server, one)
    call = message("tools/call", name="x")
    assert admitted(one, BURST, body=call, target="/more") == BURST - IN_A_ROW


def test_what_remains_falls_by_one_each_time(fleet):
    _, (one,) = fleet(1)
    told = [int(post(one).header("X-RateLimit-Remaining")) for _ in range(BURST)]
    assert told == list(range(BURST - 1, -1, -1))


def test_a_gateway_that_hangs_keeps_what_it_holds_for_seconds_only(fleet):
    server, (one, two) = fleet(2)
    busy(server, one)
    held = lent(server)
    pids = [one.process.pid, *one.children()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    assert admitted(two, BURST) >= BURST - IN_A_ROW - held
    wait = int(post(two).header("Retry-After"))
    assert wait > 5, "the bucket has nothing; in an hour it has"
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def test_when_the_child_that_listens_is_killed_another_does(fleet):
    server, (one, two) = fleet(2, children=2)
    one.expect_log("AH00484", optional=True)
    for pid in one.children():
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda gone=pid: gone not in one.children(), "the child to be gone")
    wait_until(lambda: listeners(server) == 2, "both to listen")
    busy(server, one)
    assert admitted(two, BURST) == BURST - IN_A_ROW


@pytest.mark.skipif(os.environ.get("MPM", "event") != "event", reason="event MPM")
def test_a_graceful_restart_keeps_what_was_lent_and_who_listens(fleet):
    server, (one, two) = fleet(2)
    busy(server, one)
    one.graceful()
    wait_until(lambda: listeners(server) == 2, "both to listen")
    assert admitted(one, 10) == 10
    assert admitted(two, BURST) == BURST - IN_A_ROW - 10


def test_they_listen_again_after_redis_was_restarted(fleet):
    server, (one, two) = fleet(2, MESSAGES.replace("1/10h", "1000/1s"))
    for gw in (one, two):
        gw.expect_log(STORE_DOWN, optional=True)
        gw.expect_log(STORE_UP, optional=True)
    server.restart()
    wait_until(lambda: listeners(server) == 2, "both to listen")
    wait_until(lambda: post(one).status == 200 and lent(server) > 0, "a loan")


@pytest.mark.parametrize("rules", [[], ["&" + CHANNEL, "+publish"], ["&" + CHANNEL, "+subscribe"]],
                         ids=["neither", "publish", "subscribe"])
def test_a_redis_user_without_pubsub_is_served_all_the_same(fleet, tmp_path, rules):
    """Who may not listen is lent nothing; who may not recall does without what others hold."""
    commands = ("evalsha eval set select time hmget hset get pexpire pttl zadd zrem zcard zscore "
                "zrange zremrangebyscore info").split()
    secret = tmp_path / "secret"
    secret.write_text("word\n", encoding="ascii")

    def login(server):
        server.ask("ACL", "SETUSER", "gw", "on", ">word", "~mcp*", "resetchannels",
                   *("+" + c for c in commands), *rules)
        return '"redis://gw@127.0.0.1:%d/4" password=file:%s' % (server.port, secret)

    may_listen = "+subscribe" in rules
    server, (one, two) = fleet(2, store=login, listening=may_listen)
    assert admitted(one, IN_A_ROW) == IN_A_ROW
    if not may_listen:
        assert lent(server) == 0
        assert admitted(two, BURST) == BURST - IN_A_ROW
    else:
        assert lent(server) > 0
        assert admitted(two, BURST) >= BURST - IN_A_ROW - lent(server)
    assert post(two).status == 429


def test_anybody_may_say_anything_on_the_channel(fleet):
    server, (one,) = fleet(1)
    busy(server, one)
    for text in (b"", b" ", b"1 2 3", b"1 2 x alice", b"9" * 400, b"1 36000000000 50 mcp_msg:alice\0x",
                 b"1 36000000000 50 " + b"k" * 100_000, b"\xff\r\n\0"):
        server.ask("PUBLISH", CHANNEL, text)
    server.ask("PUBLISH", CHANNEL, b"1 36000000000 %d %s" % (BURST, KEY.encode()))
    wait_until(lambda: lent(server) == 0, "the loan to be back")
    assert admitted(one, BURST) == BURST - IN_A_ROW
