# SPDX-License-Identifier: Apache-2.0
"""mod_mcp_ratelimit and what nobody should do to it: clocks that jump, crowds, odd names, floods.

MCP_FULL=1 runs the sizes of the promise.
"""
import base64
import shlex
import threading
import time

import pytest

from harness.limits import (COMPLAINT, hang_up, limited, message, open_stream, post, serve,
                            try_stream)
from harness.turnclock import TurnableRedis
from harness.wait import FULL, PATIENCE, wait_until

LEASES = "mcp_sse:alice:connections"
HOUR = 3600


@pytest.fixture
def turnable(keep):
    return keep(TurnableRedis())


def admitted(gateway, tries, **options):
    return [post(gateway, **options).status for _ in range(tries)].count(200)


def test_a_redis_clock_that_jumps_gives_no_bucket_more_than_it_holds(gateway, backend, turnable):
    made = gateway(backend(serve), **limited(turnable.store, "MCPRateLimitMessages 5/1h burst=5"))
    assert admitted(made, 7) == 5
    turnable.turn(-2 * HOUR)
    assert admitted(made, 3, user="fresh") == 3
    assert admitted(made, 3) == 0
    turnable.turn(24 * HOUR)
    # For this machine the hour is not over: it does not ask.
    assert admitted(made, 3) == 0
    other = gateway(backend(serve), **limited(turnable.store, "MCPRateLimitMessages 5/1h burst=5"))
    assert admitted(other, 9) == 5
    assert all(turnable.ask("PTTL", key) > 0 for key in turnable.keys())


@pytest.mark.parametrize("limit", [
    "MCPRateLimitMessages 2/1s", "MCPRateLimitWindow 2/1s", "MCPRateLimitWindow 2/1s block=1s",
    "MCPRateLimitWindow 2/1s type=sliding", "MCPRateLimitWindow 2/2s type=sliding block=3s"])
def test_a_redis_clock_that_went_back_locks_nobody_out(gateway, backend, turnable, limit):
    made = gateway(backend(serve), **limited(turnable.store, limit))
    assert admitted(made, 3) == 2
    turnable.turn(-24 * HOUR)
    wait_until(lambda: admitted(made, 1), "the user to be admitted again", timeout=8 * PATIENCE)
    turnable.turn(0)
    wait_until(lambda: admitted(made, 1), "the user to be admitted again", timeout=8 * PATIENCE)


def test_a_dead_gateways_leases_end_although_the_clock_went_back(gateway, backend, turnable):
    made = gateway(backend(serve), **limited(turnable.store, "MCPRateLimitStreams 1"))
    now = turnable.time() * 1000
    turnable.ask("ZADD", LEASES, now + 30000, "somebody-dead")
    assert not try_stream(made)
    turnable.turn(-48 * HOUR)

    def ends_soon():
        assert not try_stream(made)
        end = float(turnable.ask("ZSCORE", LEASES, "somebody-dead"))
        return end <= turnable.time() * 1000 + 31000
    wait_until(ends_soon, "the lease to be cut")


def test_streams_outlive_jumps_of_the_redis_clock_and_stay_counted(gateway, backend, turnable):
    made = gateway(backend(serve), **limited(turnable.store, "MCPRateLimitStreams 2",
                                             server=["MCPRateLimitLease 5s"]))
    streams = [try_stream(made) for _ in range(2)]
    for jump in (HOUR, -HOUR, 0):
        turnable.turn(jump)
        assert not try_stream(made)
        wait_until(lambda: turnable.ask("ZCARD", LEASES) == 2, "both leases")
        assert not any(s.is_closed_by_server() for s in streams)
    for stream in streams:
        stream.close()
    wait_until(lambda: try_stream(made), "a slot")


def test_a_surplus_after_a_jump_is_closed_within_seconds(gateway, backend, turnable):
    """A heartbeat misses the leases that Redis's clock has ended: long before the next renewal."""
    options = limited(turnable.store, "MCPRateLimitStreams 1", server=["MCPRateLimitLease 1h"])
    made, other = (gateway(backend(serve), **options) for _ in range(2))
    old = try_stream(made)
    assert not try_stream(other)
    turnable.turn(2 * HOUR)
    new = try_stream(other)
    # One of the two has the slot in the end, whoever was first.
    wait_until(lambda: turnable.ask("ZCARD", LEASES) == 1, "one lease")
    if new:
        wait_until(old.is_closed_by_server, "the old stream to be closed")
    assert not (new or old).is_closed_by_server()


def test_leases_that_were_flushed_are_back_within_seconds(gateway, backend, redis):
    server = redis()
    made = gateway(backend(serve), **limited(server.store, "MCPRateLimitStreams 3",
                                             server=["MCPRateLimitLease 1h"]))
    streams = [try_stream(made) for _ in range(3)]
    server.ask("FLUSHALL")
    wait_until(lambda: server.ask("ZCARD", LEASES) == 3, "the leases")
    assert not any(s.is_closed_by_server() for s in streams)


def in_background(work, count):
    """work(number) over and over in so many threads, until the function that is returned runs."""
    ended, failures = threading.Event(), []

    def loop(number):
        try:
            while not ended.is_set():
                work(number)
        except BaseException as error:  # told to the test
            failures.append(error)
    threads = [threading.Thread(target=loop, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()

    def end():
        ended.set()
        for thread in threads:
            thread.join()
        assert not failures, failures
    return end


def test_flushes_under_load_are_no_outage(gateway, backend, redis):
    server = redis()
    made = gateway(backend(serve), **limited(
        server.store, "MCPRateLimitMessages 100000/1h burst=100", "MCPRateLimitWindow 100000/1h",
        "MCPRateLimitStreams 3", server=["MCPRateLimitOnError closed"], threads=12))
    seen = set()
    streams = [try_stream(made) for _ in range(3)]

    def load(number):
        seen.add(post(made, user="u%d" % number).status)
        seen.add(open_stream(made)[1].status)
    end = in_background(load, 4)
    for n in range(300 if FULL else 40):
        server.ask("SCRIPT", "FLUSH")
        server.ask("FLUSHALL" if n % 8 == 0 else "PING")
        time.sleep(0.02)
    end()
    assert seen <= {200, 429} and 200 in seen
    assert sum(not s.is_closed_by_server() for s in streams) == 3
    wait_until(lambda: server.ask("ZCARD", LEASES) == 3, "the leases")


@pytest.mark.parametrize("policy, expected", [("closed", 503), ("local", 200)])
@pytest.mark.parametrize("key, location", [
    (LEASES, "MCPRateLimitStreams 2"), ("mcp-rl:alice", "MCPRateLimitWindow 2/1h"),
    ("mcp-rls:alice", "MCPRateLimitWindow 2/1h type=sliding")], ids=["slots", "fixed", "sliding"])
def test_a_key_of_another_type_is_left_alone(gateway, backend, redis, policy, expected, key,
                                             location):
    server = redis()
    made = gateway(backend(serve), **limited(server.store, location,
                                             server=["MCPRateLimitOnError " + policy]))
    made.expect_log(COMPLAINT, "WRONGTYPE")
    server.ask("LPUSH", key, "foreign")
    answers = [open_stream(made)[1].status for _ in range(3)]
    assert answers == ([503] * 3 if policy == "closed" else [200, 200, 429])
    assert open_stream(made, user="bob")[1].status == 200
    assert server.ask("LRANGE", key, 0, -1) == [b"foreign"]


ODD = [b"\n", b"a\nb", b"a\r\nSET x 1\r\n", b"{}", b"{a}", b"}{", b"%7Ba%7D", b"\x7f", b"\xff\xfe",
       b"ip:127.0.0.1", b"127.0.0.1", b"a:connections", b"h:" + b"0" * 64, b"*", b"x" * 45000,
       b"x" * 44999 + b"y"]


def test_names_of_any_bytes_are_safe_and_never_meet(gateway, backend, store):
    """In base64, since a header cannot carry them."""
    options = limited(store, "MCPRateLimitMessages 1/10h", "MCPRateLimitStreams 1")
    options["server"].append("LimitRequestFieldSize 70000")
    options["location"][0] = 'MCPRateLimitKey "%{unbase64:%{HTTP:X-Name}}"'
    made = gateway(backend(serve), **options)
    for name in ODD:
        headers = [("X-Name", base64.b64encode(name).decode())]
        assert [post(made, headers=headers).status for _ in range(2)] == [200, 429], name[:20]
        stream = try_stream(made, headers=headers)
        assert stream and not try_stream(made, headers=headers)


def test_a_name_of_64_kb_is_a_name(gateway, backend, redis):
    server = redis()
    options = limited(server.store, "MCPRateLimitMessages 1/10h")
    options["server"].append("LimitRequestFieldSize 100000")
    made = gateway(backend(serve), **options)
    for last in "ab":
        name = "u" * 65535 + last
        assert [post(made, user=name).status for _ in range(2)] == [200, 429]
    assert all(len(key) < 200 for key in server.keys())


def test_a_name_with_nul_is_what_httpd_makes_of_it(gateway, backend, store):
    """Its strings end there; nothing behind it can be reached, and nothing is confused."""
    options = limited(store, "MCPRateLimitMessages 1/10h")
    options["location"][0] = 'MCPRateLimitKey "%{unbase64:%{HTTP:X-Name}}"'
    made = gateway(backend(serve), **options)
    headers = [("X-Name", base64.b64encode(b"a\0b").decode())]
    assert [post(made, headers=headers).status for _ in range(2)] == [200, 429]
    headers = [("X-Name", base64.b64encode(b"b").decode())]
    assert post(made, headers=headers).status == 200


def test_streams_opened_and_closed_by_many_leave_no_slot(gateway, backend, redis):
    server = redis()
    made = gateway(backend(serve), **limited(server.store, "MCPRateLimitStreams 1000", threads=24,
                                             server=["MCPRateLimitLease 1h"]))
    wanted, opened, lock = 100000 if FULL else 2000, [0], threading.Lock()

    def one(number):
        client, response = open_stream(made)
        assert response.status == 200
        (client.reset if number % 2 else client.close)()
        with lock:
            opened[0] += 1
    end = in_background(one, 8)
    wait_until(lambda: opened[0] >= wanted, "the streams", timeout=1200 if FULL else 120)
    end()
    wait_until(lambda: server.ask("ZCARD", LEASES) == 0, "all slots to be free")
    assert server.ask("EXISTS", LEASES) == 0


def asked(server, gateway):
    """The command with which a gateway asks about one message, as MONITOR shows it."""
    watcher = server.client()
    assert watcher("MONITOR") == "OK"
    assert post(gateway, user="somebody").status == 200
    while True:
        words = shlex.split(watcher._reply().split("] ", 1)[1])
        if words[0].upper() == "EVALSHA":
            watcher.close()
            return words


def test_a_crowd_takes_little_memory_in_redis(gateway, backend, redis):
    """The gateway's own question, with other names in it."""
    server = redis()
    made = gateway(backend(serve), **limited(server.store, "MCPRateLimitMessages 9/9h burst=50"))
    post(made)
    words = asked(server, made)
    count, client = 1000000 if FULL else 20000, server.client()
    before = memory(client)
    for start in range(0, count, 1000):
        for number in range(start, start + 1000):
            words[3] = "mcp_msg:user%d@example.com" % number
            client.send(*words)
        for _ in range(1000):
            assert client._reply()[0] == 1
    assert client("DBSIZE") >= count
    assert (memory(client) - before) / count < 300
    client.close()
    assert post(made, user="one-more").status == 200


def memory(client):
    return int(client("INFO", "memory").decode().split("used_memory:")[1].split()[0])


def test_a_crowd_in_shared_memory_frees_nobody_who_is_refused(gateway, backend):
    made = gateway(backend(serve), **limited("shm:1024", "MCPRateLimitMessages 5/10h"))
    made.expect_log(COMPLAINT, "full", optional=True)
    assert admitted(made, 7) == 5
    assert admitted(made, 4, user="nearly") == 4
    with made.connect() as client:
        for number in range(50000 if FULL else 5000):
            head = [("Content-Type", "application/json"), ("X-User", "u%d" % number)]
            assert client.request("POST", "/mcp", head, message()).finish().status in (200, 503)
    assert admitted(made, 2) == 0
    assert admitted(made, 3, user="nearly") <= 1


def test_a_batch_that_never_passes_is_not_told_to_wait(gateway, backend, store):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitMessages 10/10h"))
    answer = post(made, [message(id_=n) for n in range(1000)])
    assert answer.status == 429
    assert answer.header("Retry-After") is None
    error = answer.json()["error"]
    assert error["data"] == {"error": "too_many_requests", "limit": "messages", "retryAfter": None}
    assert "a batch of 1000 never passes a limit of 10" in error["message"]
    passing = [message(id_=n) for n in range(10)]
    assert [post(made, passing).status for _ in range(2)] == [200, 429]


def test_a_batch_that_has_to_wait_is_told_how_long(gateway, backend, store):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitMessages 4/2s"))
    batch = [message(id_=n) for n in range(3)]
    assert post(made, batch).status == 200
    answer = post(made, batch)
    assert answer.status == 429
    time.sleep(int(answer.header("Retry-After")))
    assert post(made, batch).status == 200


MANY = b"[" + b",".join([b'{"jsonrpc":"2.0","id":1,"method":"ping"}'] * 20) + b"]"


@pytest.mark.parametrize("kind", ["application/json", "APPLICATION/JSON", "application/json-rpc",
                                  "text/plain; application/json", "application/json;x=y", None])
@pytest.mark.parametrize("body", [
    MANY, b"\n\t " + MANY, b"\xef\xbb\xbf" + MANY, MANY.decode().encode("utf-16"),
    MANY.decode().encode("utf-16-be"), MANY.decode().encode("utf-32"), MANY + b"x", MANY[:-1] + b",]",
    b"[" + b"{}," * 12000 + b"{}]"],
    ids=["plain", "spaces", "bom", "utf16", "utf16be", "utf32", "garbage", "comma", "endless"])
def test_no_batch_passes_as_one_message(gateway, backend, body, kind):
    """There are servers that read each of these as a batch."""
    made = gateway(backend(serve), **limited("shm", "MCPRateLimitMessages 10/10h", mcp=False))
    head = [("X-User", "alice")] + ([("Content-Type", kind)] if kind else [])
    assert made.request("POST", "/mcp", head, body).status in (400, 415, 429)
    assert sum(len(peer.requests) for peer in made.backends[0].peers) == 0


LISTEN = b'{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{}}'


@pytest.mark.parametrize("kind", ["application/json", "application/json-rpc",
                                  "text/plain; application/json", None])
@pytest.mark.parametrize("body", [
    LISTEN, b"\xef\xbb\xbf" + LISTEN, LISTEN.decode().encode("utf-16"), LISTEN + b"}",
    LISTEN.replace(b"listen", b"\\u006cisten"), b"[" + LISTEN + b"]",
    LISTEN.replace(b'{"json', b'{"method":"ping","json', 1)],
    ids=["plain", "bom", "utf16", "garbage", "escape", "batch", "twice"])
def test_no_stream_passes_without_a_slot(gateway, backend, body, kind):
    made = gateway(backend(serve), **limited("shm", "MCPRateLimitStreams 1", mcp=False))
    assert try_stream(made)
    head = [("X-User", "alice")] + ([("Content-Type", kind)] if kind else [])
    assert made.connect().request("POST", "/mcp", head, body).status in (400, 415, 429)
    hang_up(made)


@pytest.mark.parametrize("kind, body", [
    ("application/x-www-form-urlencoded", b"grant_type=client_credentials"),
    ("application/octet-stream", b"[\x00\x01"), ("text/plain", b"[x"), (None, b"\x80\x00garbage"),
    ("application/json", b'{"redirect_uris":["https://x"]}'), ("application/json", b'"text"'),
    ("application/json", b"")])
def test_what_is_no_message_passes_and_costs_one(gateway, backend, kind, body):
    made = gateway(backend(serve), **limited("shm", "MCPRateLimitMessages 2/10h",
                                             "MCPRateLimitStreams 1", mcp=False))
    head = [("X-User", "alice")] + ([("Content-Type", kind)] if kind else [])
    answers = [made.request("POST", "/mcp", head, body).status for _ in range(3)]
    assert answers == [200, 200, 429]
    assert all(request.body == body for peer in made.backends[0].peers
               for request in peer.requests)


def test_an_sse_client_that_accepts_anything_is_counted(gateway, backend, store):
    made = gateway(backend(serve), routes={"/mcp": "/sse"},
                   **limited(store, "MCPRateLimitStreams 1"))
    headers = [("Accept", "*/*"), ("X-User", "alice")]
    assert made.connect().request("GET", "/mcp", headers).status == 200
    assert made.connect().request("GET", "/mcp", headers).status == 429


def test_a_refused_client_is_told_the_truth_by_every_kind_of_limit(gateway, backend, store):
    made = gateway(backend(serve), **limited(
        store, "MCPRateLimitMessages 100/1s", "MCPRateLimitWindow 1/1s type=sliding",
        'MCPRateLimitTool "t" 1/2s'))
    call = message("tools/call", name="t")
    for _ in range(2):
        assert wait_until(lambda: post(made, call).status == 200, "to be admitted")
        answer = post(made, call)
        assert answer.status == 429
        time.sleep(int(answer.header("Retry-After")))
        assert post(made, call).status == 200
        time.sleep(2)


def test_the_store_is_not_asked_by_what_is_no_message(gateway, backend, redis):
    server = redis()
    made = gateway(backend(serve), **limited(server.store, "MCPRateLimitMessages 9/1h"))
    before = server.calls()
    assert made.request("OPTIONS", "/mcp", [("X-User", "a")]).status == 200
    assert server.calls() == before
