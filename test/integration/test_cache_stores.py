# SPDX-License-Identifier: Apache-2.0
"""Redis as the store: what stands there, and what happens when it lies, is slow, or is gone; and
invalidation, which every gateway obeys."""
import json
import re
import signal
import time

import pytest

from harness.caching import AUTH, STATELESS, Tool, as_json, post, status
from harness.client import basic, call, rpc
from harness.wait import wait_until

SLOW = r"MCP4004|MCP4003"


def ask(gateway, message=None, **options):
    options.setdefault("user", "alice")
    return post(gateway, message or call("echo", x=1), **options)


def counting():
    tool = Tool(lambda peer, message: as_json(peer, message, {"n": len(tool.calls)}))
    return tool


def replace(redis, key, value):
    """Overwrite a value, its TTL kept, with these bytes."""
    import subprocess
    subprocess.run(["redis-cli", "-s", str(redis.socket), "-n", "5", "-x", "SET", key],
                   input=value, check=True, capture_output=True)
    redis.command("PEXPIRE", key, "60000")


def stored(redis, count=1):
    """The keys of values, once there are so many: they are written behind the answer's back."""
    return wait_until(lambda: len(redis.keys("mcp:tool:*")) == count and redis.keys("mcp:tool:*"),
                      "%d values in the store" % count)


def dump(redis, key):
    import subprocess
    done = subprocess.run(["redis-cli", "-s", str(redis.socket), "-n", "5", "--raw", "GET", key],
                          capture_output=True, check=True)
    return done.stdout[:-1]


def test_a_result_goes_to_redis_with_a_ttl(caching, backend, cache_redis):
    redis = cache_redis
    gateway = caching(backend(counting()), location=AUTH, store=redis.store)
    assert [status(ask(gateway)) for _ in range(2)] == ["miss", "hit"]
    keys = redis.keys("mcp:tool:*")
    assert len(keys) == 1 and re.match(r"mcp:tool:echo:[0-9a-f]{8}:u[0-9a-f]{16}:[0-9a-f]{64}$",
                                       keys[0])
    assert 50000 < int(redis.command("PTTL", keys[0])) <= 60000
    assert all(int(redis.command("PTTL", key)) > 0 for key in redis.keys())
    assert "alice" not in "".join(redis.keys())


def test_two_gateways_share_it(caching, backend, cache_redis):
    redis = cache_redis
    made = backend(counting())
    tuned = {"location": AUTH, "store": redis.store}
    one, other = caching(made, **tuned), caching(made, start=False, **tuned)
    other.port_of_name = one.port
    other.server.append("ServerName localhost:%d" % one.port)
    other.start()
    assert status(ask(one)) == "miss"
    stored(redis)
    assert status(ask(other)) == "hit"
    assert one.forget("?tool=echo").json() == {"invalidated": True}
    assert status(ask(other)) == "miss"
    wait_until(lambda: status(ask(one)) == "hit", "the other's answer to be stored")


def test_a_far_store_by_tcp_and_with_a_password(caching, backend, cache_redis):
    redis = cache_redis
    secret = redis.directory / "password"
    secret.write_text("s3cret\n", encoding="utf-8")
    secret.chmod(0o600)
    redis.command("CONFIG", "SET", "requirepass", "s3cret")
    gateway = caching(backend(counting()), location=AUTH, store=(
        '"redis://127.0.0.1:%d/5" password=file:%s' % (redis.port, secret)))
    assert [status(ask(gateway)) for _ in range(2)] == ["miss", "hit"]


DAMAGE = {
    "empty": lambda value: b"", "short": lambda value: value[:20], "cut": lambda value: value[:-1],
    "longer": lambda value: value + b"x", "text": lambda value: b"hello",
    "a bit in the payload": lambda value: value[:-12] + bytes([value[-12] ^ 1]) + value[-11:],
    "another version": lambda value: value[:6] + b"\x63" + value[7:],
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_value_is_a_miss(caching, backend, cache_redis, name):
    redis = cache_redis
    gateway = caching(backend(counting()), location=AUTH, store=redis.store)
    ask(gateway)
    key = stored(redis)[0]
    replace(redis, key, DAMAGE[name](dump(redis, key)))
    gateway.expect_log("MCP4010")
    # A miss; or, where the first call has not landed yet, the answer that is kept for who waits.
    assert ask(gateway).message()["result"]["n"] in (1, 2)
    assert status(ask(gateway)) == "hit"


def test_values_swapped_between_keys_are_misses(caching, backend, cache_redis):
    redis = cache_redis
    gateway = caching(backend(counting()), location=AUTH, store=redis.store)
    ask(gateway, user="alice")
    alice = stored(redis)[0]
    ask(gateway, user="bob")
    bob = [key for key in stored(redis, 2) if key != alice][0]
    mine, his = dump(redis, alice), dump(redis, bob)
    replace(redis, alice, his)
    replace(redis, bob, mine)
    gateway.expect_log("MCP4010")
    owns = {"alice": (1, 3, 4), "bob": (2, 3, 4)}
    for user in ("alice", "bob"):
        assert ask(gateway, user=user).message()["result"]["n"] in owns[user]


@pytest.mark.parametrize("pattern", ["mcp:tool:*", "mcp:gen:*"])
def test_keys_of_another_type_are_misses(caching, backend, cache_redis, pattern):
    redis = cache_redis
    gateway = caching(backend(counting()), location=AUTH, store=redis.store)
    ask(gateway)
    stored(redis)
    for key in redis.keys(pattern):
        redis.command("DEL", key)
        redis.command("LPUSH", key, "x")
    assert status(ask(gateway)) == "miss"
    if pattern == "mcp:tool:*":
        assert status(ask(gateway)) == "hit"
    else:  # nothing can be known to be valid, but who asks at the same time may share an answer
        wait_until(lambda: status(ask(gateway)) == "miss", "a miss")


def test_generations_that_redis_lost_can_only_invalidate(caching, backend, cache_redis):
    redis = cache_redis
    gateway = caching(backend(counting()), location=AUTH, store=redis.store)
    ask(gateway)
    stored(redis)
    for key in redis.keys("mcp:gen:*"):
        redis.command("DEL", key)
        assert status(ask(gateway)) == "miss"
        assert status(ask(gateway)) == "hit"


def test_a_store_that_is_gone_is_a_miss_and_comes_back(caching, backend, cache_redis):
    redis = cache_redis
    gateway = caching(backend(counting()), location=AUTH, store=redis.store, timeout="25ms")
    gateway.expect_log(SLOW, optional=True)
    ask(gateway)
    redis.kill()
    answers = [ask(gateway, call("echo", x=n)) for n in range(10, 20)]
    assert {answer.status for answer in answers} == {200}
    assert "hit" not in {status(answer) for answer in answers}
    assert gateway.forget().status == 503
    redis.start()
    gateway.expect_log("MCP4020")
    wait_until(lambda: status(ask(gateway)) == "hit", "the store to be used again")


def test_a_store_that_hangs_costs_little_and_then_nothing(caching, backend, cache_redis):
    redis = cache_redis
    gateway = caching(backend(counting()), location=AUTH, store=redis.store, timeout="25ms")
    gateway.expect_log(SLOW, optional=True)
    ask(gateway)
    redis.signal(signal.SIGSTOP)
    try:
        answers = [ask(gateway) for _ in range(10)]
        assert {answer.status for answer in answers} == {200}
        wait_until(lambda: any(x.tag == "MCP4004" for x in gateway.log()), "the breaker to open")
    finally:
        redis.signal(signal.SIGCONT)
    wait_until(lambda: status(ask(gateway)) == "hit", "the store to be used again")


def test_a_store_that_was_never_there(caching, backend, cache_redis):
    redis = cache_redis
    redis.kill()
    gateway = caching(backend(counting()), location=AUTH, store=redis.store, timeout="25ms")
    gateway.expect_log(SLOW, optional=True)
    assert ask(gateway).status == 200
    redis.start()
    wait_until(lambda: status(ask(gateway)) == "hit", "the store to be used")


def test_a_full_store_is_a_miss(caching, backend, cache_redis):
    redis = cache_redis
    redis.command("CONFIG", "SET", "maxmemory", "1")
    gateway = caching(backend(counting()), location=AUTH, store=redis.store, timeout="25ms")
    gateway.expect_log(SLOW, optional=True)
    assert {ask(gateway).status for _ in range(5)} == {200}


@pytest.fixture(name="filled", params=["shm", "redis"])
def _filled(request, caching, backend, stage):
    """A gateway with two tools of two users in its store."""
    store = stage.cache_redis().store if request.param == "redis" else None
    gateway = caching(backend(counting()), location=AUTH, store=store)
    for tool in ("get_a", "get_b"):
        for user in ("alice", "bob"):
            assert status(ask(gateway, call(tool), user=user)) == "miss"
    return gateway


def left(gateway):
    """Whose entries still hit. Asks each once, so what was dropped is stored again."""
    return {(tool, user) for tool in ("get_a", "get_b") for user in ("alice", "bob")
            if status(ask(gateway, call(tool), user=user)) == "hit"}


EVERYTHING = {("get_a", "alice"), ("get_b", "alice"), ("get_a", "bob"), ("get_b", "bob")}


@pytest.mark.parametrize("query, keeps", [
    ("?tool=get_a", {("get_b", "alice"), ("get_b", "bob")}),
    ("?tool=get_%61&user=", {("get_b", "alice"), ("get_b", "bob")}),
    ("?tool=get_a&user=alice", EVERYTHING - {("get_a", "alice")}),
    ("?user=alice", {("get_a", "bob"), ("get_b", "bob")}),
    ("?tool=get_*&user=bob", {("get_a", "alice"), ("get_b", "alice")}),
    ("?tool=other", EVERYTHING), ("", set()), ("?tool=*", set())])
def test_invalidation(filled, query, keeps):
    assert left(filled) == EVERYTHING
    answer = filled.forget(query)
    assert (answer.status, answer.json()) == (200, {"invalidated": True})
    assert left(filled) == keeps
    assert left(filled) == EVERYTHING


@pytest.mark.parametrize("query", ["?tools=get_a", "?tool=get_a&users=alice"])
def test_what_is_not_understood_drops_nothing(filled, query):
    assert left(filled) == EVERYTHING
    answer = filled.forget(query)
    assert answer.status == 400
    assert "tool and user" in answer.json()["error"]["message"]
    assert left(filled) == EVERYTHING


def test_a_pattern_drops_at_least_what_it_names(filled):
    filled.forget("?tool=*_a")
    assert not left(filled) & {("get_a", "alice"), ("get_a", "bob")}


def test_a_user_is_named_by_his_full_key_too(filled):
    name = "localhost.%d/test/alice" % filled.port
    assert filled.forget("?user=" + name).status == 200
    assert left(filled) == {("get_a", "bob"), ("get_b", "bob")}


def test_what_is_asked_before_an_invalidation_is_not_kept_after_it(caching, server):
    a = server(era="stateless")
    gateway = caching(a, location=AUTH)
    with gateway.connect() as client:
        from harness.client import ACCEPT, JSON
        head = [ACCEPT, JSON, basic("alice", "wonder")]
        client.send(client.head("POST", "/mcp", head, json.dumps(call("hold")).encode())
                    + json.dumps(call("hold")).encode())
        a.wait_waiting(1)
        gateway.forget()
        a.release()
        wait_until(lambda: not a.waiting, "the answer")
        wait_until(lambda: len(gateway.access()) >= 1, "its end")
    assert status(ask(gateway, call("hold"))) == "miss"


def test_only_delete_and_only_by_whom_may(caching, backend):
    gateway = caching(backend(counting()), modules=["remoteip"], server=[
        "RemoteIPHeader X-Client", "RemoteIPInternalProxy 127.0.0.1"])
    assert gateway.request("GET", "/forget").status == 405
    assert gateway.request("POST", "/forget", [], b"").status == 405
    answer = gateway.request("DELETE", "/forget", [("X-Client", "203.0.113.5")])
    assert answer.status == 403
    assert gateway.request("DELETE", "/forget").status == 200


def hinted(gateway, method, **params):
    meta = {"io.modelcontextprotocol/protocolVersion": STATELESS}
    name = [("Mcp-Name", params["uri"])] if "uri" in params else []
    return status(ask(gateway, rpc(method, {**params, "_meta": meta}), headers=[
        ("MCP-Protocol-Version", STATELESS), ("Mcp-Method", method), *name]))


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("notification, drops", [
    (("notifications/tools/list_changed", None), {"tools/list", "tool"}),
    (("notifications/prompts/list_changed", None), {"prompts/list"}),
    (("notifications/resources/updated", {"uri": "file:///a"}), {"file:///a"}),
    (("notifications/resources/list_changed", None), {"resources/list", "file:///a", "file:///b"}),
    (("notifications/message", {}), set())])
def test_a_notification_on_a_stream_drops_what_it_names(caching, backend, stage, far, notification,
                                                        drops):
    import threading
    send = threading.Event()

    def script(peer, message):
        if message.get("method") == "subscriptions/listen":
            text = {"jsonrpc": "2.0", "method": notification[0]}
            text.update({"params": notification[1]} if notification[1] is not None else {})
            peer.begin_stream().wait(send)
            peer.chunk(b"data: " + json.dumps(text).encode() + b"\n\n").wait_gone()
        as_json(peer, message, {"ttlMs": 60000})
    redis = stage.cache_redis() if far else None
    gateway = caching(backend(Tool(script)), location=AUTH, store=redis.store if far else None)

    def look():
        found = {method: hinted(gateway, method) for method in
                 ("tools/list", "prompts/list", "resources/list", "server/discover")}
        found.update({uri: hinted(gateway, "resources/read", uri=uri)
                      for uri in ("file:///a", "file:///b")})
        found["tool"] = status(ask(gateway, call("echo")))
        return {name for name, what in found.items() if what != "hit"}
    look()
    assert look() == set()
    with gateway.connect() as client:
        from harness.client import ACCEPT, JSON
        meta = {"io.modelcontextprotocol/protocolVersion": STATELESS}
        stream = client.request("POST", "/mcp", [
            ACCEPT, JSON, basic("alice", "wonder"), ("MCP-Protocol-Version", STATELESS),
            ("Mcp-Method", "subscriptions/listen")],
            json.dumps(rpc("subscriptions/listen", {"_meta": meta})).encode())
        generations = redis.keys("mcp:gen:*") if far else []
        before = far and redis.command("MGET", *generations)
        send.set()
        stream.next_event()
        if far and drops:
            wait_until(lambda: redis.command("MGET", *generations) != before, "Redis to be told")
        assert look() == drops
