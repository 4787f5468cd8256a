# SPDX-License-Identifier: Apache-2.0
"""mod_mcp_ratelimit beside others: its metrics, HTTP/2, mod_mcp_cache, prefork's restarts."""
import os
import shutil
import signal

import pytest

from harness.client import ACCEPT
from harness.h2 import Curl
from harness.limits import (COMPLAINT, DRY_RUN, LOAD, STORE_DOWN, hang_up, limited, message, post,
                            serve, try_stream)
from harness.metrics import PLACES, scrape
from harness.wait import wait_until

LEASES = "mcp_sse:alice:connections"


def decisions(gateway):
    """{(limit, decision): count}, those that are not 0."""
    found = {}
    for labels, count in scrape(gateway).of("mcp_limit_decisions_total").items():
        if count:
            found[tuple(sorted(dict(labels).values()))] = count
    return found


def counted(decision, limit):
    return tuple(sorted((decision, limit)))


def test_every_decision_is_counted_by_its_limit(gateway, backend, store):
    made = gateway(backend(serve), **limited(
        store, "MCPRateLimitMessages 3/10h", 'MCPRateLimitTool "t" 1/10h', "MCPRateLimitStreams 1",
        server=PLACES))
    call = message("tools/call", name="t")
    assert [post(made, body).status for body in (call, call, message(), message(), message())] == [
        200, 429, 200, 200, 429]
    assert try_stream(made) and not try_stream(made)
    assert decisions(made) == {
        counted("allowed", "messages"): 3, counted("refused", "messages"): 1,
        counted("allowed", "tool"): 1, counted("refused", "tool"): 1,
        counted("allowed", "streams"): 1, counted("refused", "streams"): 1}


def test_windows_addresses_and_dry_runs_are_counted(gateway, backend, store):
    made = gateway(backend(serve), **limited(
        store, "MCPRateLimitWindow 1/10h", "MCPRateLimitAddress 100/1h", "MCPRateLimitDryRun On",
        server=PLACES))
    made.expect_log(DRY_RUN, "window")
    assert [post(made).status for _ in range(2)] == [200, 200]
    assert decisions(made) == {counted("allowed", "window"): 1, counted("dry_run", "window"): 1,
                               counted("allowed", "address"): 1}


def test_what_the_policy_refuses_is_counted_for_the_store(gateway, backend, redis):
    server = redis()
    made = gateway(backend(serve), **limited(
        server.store, "MCPRateLimitMessages 9/1h",
        server=[*PLACES, "MCPRateLimitOnError closed"]))
    made.expect_log(STORE_DOWN)
    assert post(made).status == 200
    server.kill()
    assert {post(made).status for _ in range(3)} == {503}
    got = scrape(made)
    assert decisions(made)[counted("refused", "store")] == 3
    assert got("mcp_store_errors_total", module="ratelimit") >= 1


def test_the_time_of_the_store_is_measured(gateway, backend, redis):
    made = gateway(backend(serve), **limited(redis().store, "MCPRateLimitMessages 90/1h",
                                             server=PLACES))
    for _ in range(7):
        assert post(made).status == 200
    got = scrape(made)
    assert got("mcp_store_seconds_count", module="ratelimit") == 7
    assert got("mcp_store_seconds_bucket", module="ratelimit", le="+Inf") == 7
    assert 0 < got("mcp_store_seconds_sum", module="ratelimit") < 7
    assert got("mcp_store_errors_total", module="ratelimit") == 0


def test_a_key_of_somebody_else_is_an_error_of_the_store(gateway, backend, redis):
    server = redis()
    made = gateway(backend(serve), **limited(server.store, "MCPRateLimitMessages 90/1h",
                                             server=PLACES))
    made.expect_log(COMPLAINT, "WRONGTYPE")
    server.ask("SET", "mcp_msg:alice", "x")
    assert [post(made).status for _ in range(2)] == [200, 200]
    assert scrape(made)("mcp_store_errors_total", module="ratelimit") == 2


def test_metrics_are_right_after_the_death_of_children(gateway, backend, store):
    """Counters do not fall, slots of the dead are none."""
    made = gateway(backend(serve), **limited(store, "MCPRateLimitStreams 9",
                                             "MCPRateLimitMessages 900/1h", children=2,
                                             server=PLACES))
    made.expect_log("AH0.*", optional=True)
    streams = [try_stream(made) for _ in range(5)]
    assert all(post(made).status == 200 for _ in range(6))
    assert scrape(made)("mcp_slots_in_use") == 5
    before = decisions(made)
    for pid in made.children():
        os.kill(pid, signal.SIGKILL)

    def live():
        return sum(not s.is_closed_by_server() for s in streams)

    def settled():
        try:
            return live() == 0 and scrape(made)("mcp_slots_in_use") == 0
        except (OSError, EOFError):
            return False
    wait_until(settled, "the slots to be free")
    after = decisions(made)
    assert all(after.get(key, 0) >= count for key, count in before.items())
    assert post(made).status == 200
    assert decisions(made)[counted("allowed", "messages")] == 7


def test_a_refusal_has_the_id_of_what_another_module_has_read(gateway, backend, store):
    """mod_mcp_ratelimit reads no text/plain, but mod_mcp_proxy has."""
    made = gateway(backend(serve), **limited(store, "MCPRateLimitMessages 1/10h"))
    client = made.connect()
    body = b'{"jsonrpc":"2.0","id":"seen","method":"ping"}'

    def ask():
        return client.request("POST", "/mcp", [ACCEPT, ("Content-Type", "text/plain"),
                                               ("X-User", "alice")], body)
    assert [ask().status, ask().json()["id"]] == [200, "seen"]


@pytest.fixture(params=[False, True], ids=["h2c", "h2"])
def two(request, gateway, backend, keep):
    """A gateway with slots that speaks HTTP/2, and a stream opened over it."""
    if os.environ.get("MPM") == "prefork":
        pytest.skip("mod_http2 does not work with prefork")
    assert shutil.which("curl"), "curl is needed"

    def make(store, *location, **options):
        options = limited(store, *location, modules=["http2"], tls=request.param, threads=32,
                          **options)
        options["server"].insert(0, "Protocols h2 h2c http/1.1")
        made = gateway(backend(serve), **options)
        return made, lambda **more: keep(Curl(made, "/mcp", headers=["X-User: alice"], **more))
    return make


def test_slots_of_http2_streams_are_taken_and_given_back(two, redis):
    server = redis()
    _, ask = two(server.store, "MCPRateLimitStreams 2")
    streams = [ask() for _ in range(2)]
    for stream in streams:
        stream.wait_body(b"data: hello")
    assert server.ask("ZCARD", LEASES) == 2
    assert ask().finish()[1] == "2 429"
    streams[0].close()
    wait_until(lambda: server.ask("ZCARD", LEASES) == 1, "a slot")
    again = ask()
    again.wait_body(b"data: hello")
    for stream in (streams[1], again):
        stream.close()
    wait_until(lambda: server.ask("ZCARD", LEASES) == 0, "all slots to be free")


def test_messages_over_http2_are_counted(two, store):
    _, ask = two(store, "MCPRateLimitMessages 2/10h")
    assert [ask(body=message()).finish()[1] for _ in range(3)] == ["2 200", "2 200", "2 429"]


def test_a_refused_request_is_not_served_from_the_cache(caching, backend, store):
    def script(peer):
        while True:
            peer.read_request()
            peer.answer(b'{"jsonrpc":"2.0","id":1,"result":{"content":[]}}')
    options = limited(store, "MCPRateLimitMessages 3/10h")
    made = caching(backend(script), alone=True, location=options["location"],
                   server=options["server"], cache=("MCPCacheTool * 60s scope=shared",))
    call = message("tools/call", name="x", arguments={})
    answers = [post(made, call) for _ in range(5)]
    assert [a.status for a in answers] == [200, 200, 200, 429, 429]
    assert "hit" in answers[1].header("Cache-Status") and "hit" in answers[2].header("Cache-Status")
    assert "hit" not in (answers[3].header("Cache-Status") or "")
    assert answers[3].json()["error"]["code"] == -31429
    assert post(made, call, user="bob").status == 200


@pytest.mark.parametrize("mcp", [True, False], ids=["mcp_proxy", "mod_proxy"])
@pytest.mark.parametrize("how", [signal.SIGHUP, signal.SIGUSR1], ids=["restart", "graceful"])
def test_prefork_frees_its_slots_in_restarts(gateway, backend, redis, mcp, how):
    server = redis()
    made = gateway(backend(serve), mpm="prefork", **limited(
        server.store, "MCPRateLimitStreams 4", mcp=mcp, server=["MCPRateLimitLease 1h"]))
    made.expect_log("AH0.*", optional=True)
    streams = [try_stream(made) for _ in range(3)]
    assert all(streams) and server.ask("ZCARD", LEASES) == 3
    old = set(made.children())
    made.process.send_signal(how)
    if how == signal.SIGUSR1:
        for stream in streams:
            stream.close()
    wait_until(lambda: server.ask("ZCARD", LEASES) == 0, "the slots to be free")
    assert try_stream(made)
    # mod_proxy_http notices that its client has left when the backend says something.
    hang_up(made)
    wait_until(lambda: not old & set(made.children()), "the old children to be gone")


def test_the_module_and_its_metrics_survive_a_graceful_restart(gateway, backend, store):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitMessages 3/10h", server=PLACES))
    assert LOAD in made.server
    assert [post(made).status for _ in range(4)] == [200, 200, 200, 429]
    made.graceful()
    assert post(made).status == 429
    assert decisions(made) == {counted("allowed", "messages"): 3,
                               counted("refused", "messages"): 2}


def test_an_ipv6_client_counts_by_its_64_bits_and_a_mapped_one_as_ipv4(gateway, backend, redis):
    """mod_remoteip says where they come from."""
    server = redis()
    options = limited(server.store, "MCPRateLimitAddress 2/10h", "MCPRateLimitMessages 99/1h",
                      modules=["remoteip"])
    options["location"].pop(0)
    options["server"] += ["RemoteIPHeader X-Real", "RemoteIPInternalProxy 127.0.0.1"]
    made = gateway(backend(serve), **options)

    def statuses(*addresses):
        return [post(made, headers=[("X-Real", a)]).status for a in addresses]
    assert statuses("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:db8:1:2:3:4:5:6") == [
        200, 200, 429]
    assert statuses("2001:db8:1:3::1") == [200]
    assert statuses("10.1.2.3", "::ffff:10.1.2.3", "10.1.2.3") == [200, 200, 429]
    assert {"mcp-ip-rl:2001:db8:1:2::/64", "mcp-ip-rl:10.1.2.3"} <= server.keys()
