# SPDX-License-Identifier: Apache-2.0
"""mod_mcp_ratelimit while Redis is away, slow, full, foreign, or somebody else."""
import time

import pytest

from harness.limits import (COMPLAINT, DRY_RUN, STORE_DOWN, STORE_UP, limited, message, post,
                            serve, try_stream)
from harness.metrics import PLACES, scrape
from harness.redisd import NONSENSE, FakeServer, RedisError, answering
from harness.wait import PATIENCE, wait_until

BUCKET = "MCPRateLimitMessages 5/10h"
NOWHERE = "redis+unix:/nonexistent/redis.sock?db=4"


def lines(gateway, tag):
    return [line for line in gateway.log() if line.tag == tag]


def break_store(gateway, count=8):
    return [post(gateway, user="u%d" % n).status for n in range(count)]


@pytest.mark.parametrize("policy, expected", [
    ("open", [200] * 9), ("local", [200] * 5 + [429] * 4), ("closed", [503] * 9)])
@pytest.mark.parametrize("how", ["kill", "pause"])
def test_the_policy_decides_while_redis_is_away(gateway, backend, redis, policy, expected, how):
    server = redis()
    made = gateway(backend(serve), **limited(server.store, BUCKET, timeout="25ms",
                                             server=["MCPRateLimitOnError " + policy]))
    made.expect_log(STORE_DOWN)
    made.expect_log(STORE_UP, optional=True)
    getattr(server, how)()
    break_store(made)
    wait_until(lambda: lines(made, STORE_DOWN), "the breaker")
    answers = [post(made) for _ in range(9)]
    assert [a.status for a in answers] == expected
    assert len(lines(made, STORE_DOWN)) == 1
    if policy == "closed":
        assert answers[0].header("Retry-After") == "1"
        assert answers[0].json()["error"]["data"]["limit"] == "store"
        assert answers[0].json()["error"]["code"] == -31503


@pytest.mark.parametrize("location", [
    ["MCPRateLimitMessages 5/10h", "MCPRateLimitStreams 1"],
    ["MCPRateLimitAddress 5/10h", "AuthType Basic", "AuthName x", "AuthUserFile users",
     "Require all granted", "MCPRateLimitWindow 5/10h"]], ids=["behind", "before"])
def test_a_dry_run_tells_what_an_outage_would_refuse(gateway, backend, location):
    made = gateway(backend(serve), **limited(
        NOWHERE, *location, "MCPRateLimitDryRun On", "MCPRateLimitOnError closed",
        server=[*PLACES, 'LogFormat "%{MCP_LIMIT}e %{MCP_LIMIT_DRYRUN}e" limit',
                "CustomLog limit.log limit env=MCP_LIMIT"]))
    made.expect_log(STORE_DOWN)
    made.expect_log(DRY_RUN, "store")
    assert [post(made).status for _ in range(2)] == [200, 200]
    assert sum(line.tag == DRY_RUN for line in made.log()) == 2
    counts = scrape(made).of("mcp_limit_decisions_total").items()
    assert [(dict(labels), count) for labels, count in counts if count] == [
        ({"limit": "store", "decision": "dry_run"}, 2)]
    made.leave()
    made.stop()
    assert (made.directory / "limit.log").read_text().splitlines() == ["allowed store"] * 2


def test_no_request_is_delayed_while_the_breaker_is_open(gateway, backend, redis):
    server = redis()
    made = gateway(backend(serve), **limited(server.store, "MCPRateLimitMessages 500/1h",
                                             timeout="2s"))
    made.expect_log(STORE_DOWN)
    made.expect_log(STORE_UP)
    server.pause()
    start = time.monotonic()
    wait_until(lambda: post(made).status and lines(made, STORE_DOWN), "the breaker",
               timeout=30 * PATIENCE)
    assert time.monotonic() - start > 5  # so a request that waits takes long
    start = time.monotonic()
    for _ in range(50):
        assert post(made).status == 200
    assert time.monotonic() - start < 2
    server.resume()
    wait_until(lambda: lines(made, STORE_UP), "the recovery")
    assert (len(lines(made, STORE_DOWN)), len(lines(made, STORE_UP))) == (1, 1)


def test_redis_decides_again_when_it_is_back(gateway, backend, redis):
    server = redis()
    made = gateway(backend(serve), **limited(server.store, BUCKET, children=2))
    made.expect_log(STORE_DOWN)
    made.expect_log(STORE_UP)
    server.kill()
    break_store(made)
    server.start()
    wait_until(lambda: lines(made, STORE_UP), "the recovery")
    post(made, user="zoe")
    assert "mcp_msg:zoe" in server.keys()


def test_local_slots_hold_on_this_machine(gateway, backend, redis):
    server = redis()
    made = gateway(backend(serve), **limited(server.store, "MCPRateLimitStreams 3"))
    made.expect_log(STORE_DOWN)
    made.expect_log(STORE_UP)
    streams = [try_stream(made) for _ in range(2)]
    server.kill()
    streams += [try_stream(made) for _ in range(3)]
    assert [bool(s) for s in streams] == [True, True, True, False, False]
    server.start()
    wait_until(lambda: server.ask("ZCARD", "mcp_sse:alice:connections") == 3,
               "the streams to be known again")
    assert not try_stream(made)


@pytest.mark.parametrize("reply", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_for_answers_is_an_outage(gateway, backend, keep, reply):
    fake = keep(FakeServer(answering(reply)))
    made = gateway(backend(serve), **limited(fake.store, BUCKET, timeout="50ms"))
    made.expect_log(STORE_DOWN)
    assert break_store(made) == [200] * 8
    wait_until(lambda: lines(made, STORE_DOWN), "the breaker")
    assert [post(made).status for _ in range(7)] == [200] * 5 + [429] * 2


@pytest.mark.parametrize("error", [
    "NOAUTH Authentication required.", "LOADING Redis is loading", "MOVED 1234 127.0.0.1:7000",
    "READONLY You can't write", "ERR max number of clients reached"])
def test_a_server_that_cannot_serve_is_an_outage(gateway, backend, keep, error):
    fake = keep(FakeServer(lambda sock: [sock.sendall(b"-%s\r\n" % error.encode() * 3)
                                         for _ in iter(lambda: sock.recv(65536), b"")]))
    made = gateway(backend(serve), **limited(fake.store, BUCKET))
    made.expect_log(STORE_DOWN)
    assert [post(made).status for _ in range(7)] == [200] * 5 + [429] * 2
    assert len(lines(made, STORE_DOWN)) == 1


def test_a_late_reply_is_never_taken_for_another_answer(gateway, backend, redis):
    """Redis stops now and then, so replies come late: no user may get another user's verdict."""
    server = redis()
    made = gateway(backend(serve), **limited(
        server.store, "MCPRateLimitMessages 1000/1h", timeout="30ms",
        server=["MCPRateLimitOnError open"]))
    made.expect_log(STORE_DOWN, optional=True)
    made.expect_log(STORE_UP, optional=True)
    post(made, user="poor")
    server.ask("HSET", "mcp_msg:poor", "tokens", "0")
    for n in range(30):
        server.pause()
        post(made, user="poor")
        server.resume()
        rich = post(made, user="rich%d" % n)
        assert rich.status == 200
        if rich.header("X-RateLimit-Remaining"):
            assert rich.header("X-RateLimit-Remaining") == "999"


def test_a_wrong_password_is_an_outage_and_the_right_one_works(gateway, backend, redis, stage):
    server = redis("--requirepass", "wonder land")
    secret = stage.directory / "secret"
    secret.write_text("wrong\n")
    made = gateway(backend(serve), **limited(
        '%s password=file:%s' % (server.store, secret), BUCKET))
    made.expect_log(STORE_DOWN, "WRONGPASS")
    assert post(made).status == 200
    assert len(lines(made, STORE_DOWN)) == 1
    secret.write_text("wonder land\n")
    other = gateway(backend(serve), **limited(
        '%s password=file:%s' % (server.store, secret), BUCKET))
    assert [post(other).status for _ in range(6)] == [200] * 5 + [429]


def test_a_user_with_the_least_rights_is_enough(gateway, backend, redis, stage):
    server = redis()
    rights = ("on >pw ~mcp* -@all +evalsha +eval +set +select +time +hmget +hset +get +pexpire "
              "+pttl +zadd +zrem +zcard +zscore +zrange +zremrangebyscore")
    server.ask("ACL", "SETUSER", "mcp", *rights.split())
    secret = stage.directory / "secret"
    secret.write_text("pw")
    made = gateway(backend(serve), **limited(
        '"redis://mcp@127.0.0.1:%d/4" password=file:%s' % (server.port, secret), BUCKET,
        "MCPRateLimitStreams 1", "MCPRateLimitWindow 100/1h type=sliding",
        "MCPRateLimitAddress 100/1h", "MCPRateLimitTool search_* 1/10h",
        server=["MCPRateLimitOnError closed"]))
    assert [post(made).status for _ in range(6)] == [200] * 5 + [429]
    assert try_stream(made) and not try_stream(made)
    assert server.keys() == {"mcp_msg:alice", "mcp-rls:alice", "mcp-ip-rl:127.0.0.1",
                             "mcp_sse:alice:connections"}
    for name in ("a", "b" * 100, "c" * 128, "d" * 200): # as plain text, and as digests
        assert [post(made, message("tools/call", name="search_x"), user=name).status
                for _ in range(2)] == [200, 429]


def test_a_full_server_is_an_outage_with_one_line(gateway, backend, redis):
    server = redis("--maxmemory-policy", "noeviction")
    made = gateway(backend(serve), **limited(server.store, BUCKET))
    made.expect_log(STORE_DOWN, "OOM")
    made.expect_log(STORE_UP)
    server.ask("CONFIG", "SET", "maxmemory", "1")
    assert [post(made).status for _ in range(7)] == [200] * 5 + [429] * 2
    time.sleep(1.5)  # some probes: a server that answers PING but takes no write stays out
    assert not lines(made, STORE_UP)
    server.ask("CONFIG", "SET", "maxmemory", "0")
    wait_until(lambda: lines(made, STORE_UP), "the recovery")
    assert len(lines(made, STORE_DOWN)) == 1


@pytest.mark.parametrize("policy, expected", [("local", [200] * 5 + [429]), ("closed", [503] * 6)])
def test_somebody_elses_key_concerns_its_user_only(gateway, backend, redis, policy, expected):
    server = redis()
    made = gateway(backend(serve), **limited(server.store, BUCKET,
                                             server=["MCPRateLimitOnError " + policy]))
    made.expect_log(COMPLAINT, "WRONGTYPE")
    server.ask("SET", "mcp_msg:alice", "foreign")
    assert [post(made).status for _ in range(6)] == expected
    assert [post(made, user="bob").status for _ in range(6)] == [200] * 5 + [429]
    assert len(lines(made, COMPLAINT)) == 1
    assert server.ask("GET", "mcp_msg:alice") == b"foreign"


@pytest.mark.parametrize("fields", [
    {"tokens": "nan"}, {"tokens": "inf"}, {"tokens": "-1e308"}, {"tokens": "1e308"},
    {"tokens": "3", "last_refill": "x"}, {"last_refill": "4102444800.0"},
    {"tokens": "2", "last_refill": "99999999999.5"}, {"tokens": "", "last_refill": ""}])
def test_any_content_of_a_bucket_is_survived(gateway, backend, redis, fields):
    server = redis()
    made = gateway(backend(serve), **limited(server.store, "MCPRateLimitMessages 5/1h"))
    server.ask("HSET", "mcp_msg:alice", *[w for pair in fields.items() for w in pair])
    answers = [post(made).status for _ in range(7)]
    assert answers.count(200) <= 5
    assert server.ask("PTTL", "mcp_msg:alice") != -2
    assert post(made, user="bob").status == 200


def test_scripts_and_data_may_be_flushed_under_load(gateway, backend, redis):
    server = redis()
    made = gateway(backend(serve), **limited(server.store, "MCPRateLimitMessages 100000/1h",
                                             "MCPRateLimitStreams 2",
                                             server=["MCPRateLimitOnError closed"]))
    for n in range(60):
        server.ask("SCRIPT", "FLUSH")
        if n % 10 == 0:
            server.ask("FLUSHALL")
        assert post(made).status == 200
    assert try_stream(made) and try_stream(made) and not try_stream(made)
    server.ask("FLUSHALL")
    assert not try_stream(made)


def test_a_refused_user_does_not_ask_redis_again(gateway, backend, redis):
    server = redis()
    made = gateway(backend(serve), **limited(server.store, "MCPRateLimitMessages 1/1h",
                                             children=2))
    assert [post(made).status for _ in range(2)] == [200, 429]
    before = server.calls()
    assert [post(made).status for _ in range(50)] == [429] * 50
    assert server.calls() - before == 0


def test_one_round_trip_decides_everything(gateway, backend, redis):
    server = redis()
    made = gateway(backend(serve), **limited(
        server.store, "MCPRateLimitMessages 100/1h", "MCPRateLimitWindow 100/1h",
        "MCPRateLimitAddress 100/1h", 'MCPRateLimitTool "*" 100/1h', "MCPRateLimitStreams 9"))
    call = message("tools/call", name="x", arguments={})
    post(made, call)
    before = server.calls()
    for _ in range(10):
        assert post(made, call).status == 200
    assert server.calls() - before == 10


def test_every_key_ends_by_itself(gateway, backend, redis):
    server = redis()
    made = gateway(backend(serve), **limited(
        server.store, "MCPRateLimitMessages 9/1h", "MCPRateLimitWindow 9/1h type=sliding",
        "MCPRateLimitAddress 9/1h block=1h", 'MCPRateLimitTool "*" 9/1h', "MCPRateLimitStreams 9"))
    assert try_stream(made)
    for _ in range(12):
        post(made, message("tools/call", name="x"))
    keys = server.keys()
    assert len(keys) == 5
    assert all(server.ask("PTTL", key) > 0 for key in keys)


def test_an_idle_user_takes_little_memory(gateway, backend, redis):
    server = redis()
    made = gateway(backend(serve), **limited(server.store, "MCPRateLimitMessages 200/60s burst=50",
                                             "MCPRateLimitStreams 5"))
    post(made, user="somebody@example.com")
    usage = sum(server.ask("MEMORY", "USAGE", key) for key in server.keys())
    assert usage < 300, usage


def test_redis_tcp_and_database(gateway, backend, redis):
    server = redis()
    made = gateway(backend(serve), **limited(server.tcp_store, BUCKET))
    assert post(made).status == 200
    assert server.keys(4) == {"mcp_msg:alice"} and server.keys(0) == set()
    with pytest.raises(RedisError):
        server.ask("INCR", "mcp_msg:alice")
