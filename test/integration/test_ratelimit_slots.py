# SPDX-License-Identifier: Apache-2.0
"""mod_mcp_ratelimit: slots cannot leak, however a stream or a process ends."""
import os
import signal
import time

import pytest

from harness.limits import (STORE_DOWN, STORE_UP, hang_up, limited, open_stream, post, serve,
                            try_stream)
from harness.wait import PATIENCE, stays, wait_until

LEASES = "mcp_sse:alice:connections"


@pytest.fixture
def in_use(redis):
    """A server, and how many leases alice has in it."""
    server = redis()
    return server, lambda: server.ask("ZCARD", LEASES)


def test_slots_of_a_killed_child_are_free_soon(gateway, backend, store):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitStreams 3", children=2))
    streams = [try_stream(made) for _ in range(3)]
    assert all(streams) and not try_stream(made)
    for pid in made.children():
        os.kill(pid, signal.SIGKILL)
    start = time.monotonic()
    wait_until(lambda: _can_open(made), "a slot", timeout=10 * PATIENCE)
    assert time.monotonic() - start < 5 * PATIENCE


def _can_open(gateway):
    try:
        return try_stream(gateway)
    except (OSError, EOFError):
        return None


@pytest.mark.parametrize("children", [1, 3])
def test_redis_forgets_the_leases_of_a_killed_child(gateway, backend, in_use, children):
    server, count = in_use
    made = gateway(backend(serve), **limited(server.store, "MCPRateLimitStreams 20",
                                             children=children,
                                             server=["MCPRateLimitLease 1h"]))
    streams = [try_stream(made) for _ in range(12)]
    assert all(streams) and count() == 12

    def live():
        return sum(not s.is_closed_by_server() for s in streams)
    for pid in made.children():
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: pid not in made.children(), "the child's end")
        if live() < 12:
            break
    wait_until(lambda: live() < 12 and count() == live(), "the leases to be gone",
               timeout=5 * PATIENCE)


def test_a_killed_gateway_frees_its_slots_after_the_lease(gateway, backend, in_use):
    server, count = in_use
    options = limited(server.store, "MCPRateLimitStreams 3", server=["MCPRateLimitLease 2s"])
    made, other = (gateway(backend(serve), **options) for _ in range(2))
    streams = [try_stream(made) for _ in range(3)]
    assert all(streams) and not try_stream(other)
    # All at once, the parent first, so that nobody is left to tell Redis.
    pids = [made.process.pid, *made.children()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in reversed(pids):
        os.kill(pid, signal.SIGKILL)
    made.process.wait()
    made.process = None
    assert not try_stream(other)
    wait_until(lambda: try_stream(other), "a slot", timeout=10 * PATIENCE)


def test_a_lease_is_renewed_for_as_long_as_its_stream_lives(gateway, backend, in_use):
    server, count = in_use
    made = gateway(backend(serve), **limited(server.store, "MCPRateLimitStreams 1",
                                             server=["MCPRateLimitLease 1s"]))
    assert try_stream(made)
    stays(lambda: count() == 1 and not try_stream(made), 4, "the slot is taken")


def test_a_renewal_never_brings_back_what_was_purged(gateway, backend, in_use):
    """Somebody else took the place of a purged lease: its stream is closed, not both admitted."""
    server, count = in_use
    made = gateway(backend(serve), **limited(server.store, "MCPRateLimitStreams 1",
                                             server=["MCPRateLimitLease 3s"]))
    stream = try_stream(made)
    now = int(server.ask("TIME")[0]) * 1000
    server.ask("DEL", LEASES)
    server.ask("ZADD", LEASES, now + 3_600_000, "somebody-else")
    wait_until(stream.is_closed_by_server, "the stream to be closed")
    assert server.ask("ZRANGE", LEASES, 0, -1) == [b"somebody-else"]


def test_a_stream_whose_lease_was_purged_is_admitted_again_if_there_is_room(gateway, backend,
                                                                             in_use):
    server, count = in_use
    made = gateway(backend(serve), **limited(server.store, "MCPRateLimitStreams 1",
                                             server=["MCPRateLimitLease 3s"]))
    stream = try_stream(made)
    server.ask("DEL", LEASES)
    wait_until(lambda: count() == 1, "the lease")
    assert not stream.is_closed_by_server()


def test_a_graceful_restart_keeps_and_then_frees_slots(gateway, backend, store):
    # The drain ends each stream at a moment of its choice, which frees its slot.
    made = gateway(backend(serve), **limited(store, "MCPRateLimitStreams 2",
                                             "MCPProxyDrainTimeout 1h"))
    first, second = try_stream(made), try_stream(made)
    made.graceful()
    assert second and not try_stream(made)
    first.close()
    wait_until(lambda: try_stream(made), "a slot")


@pytest.mark.parametrize("how", ["graceful", "restart"])
def test_all_slots_are_free_after_restarts(gateway, backend, in_use, how):
    server, count = in_use
    made = gateway(backend(serve), **limited(server.store, "MCPRateLimitStreams 9",
                                             server=["MCPRateLimitLease 1h"]))
    streams = [try_stream(made) for _ in range(5)]
    if how == "graceful":
        made.graceful()
        for stream in streams:
            stream.close()
    else:
        made.restart()
    wait_until(lambda: count() == 0, "all slots to be free")


def test_a_plain_stop_gives_all_slots_back(gateway, backend, in_use):
    server, count = in_use
    made = gateway(backend(serve), **limited(server.store, "MCPRateLimitStreams 9",
                                             server=["MCPRateLimitLease 1h"]))
    assert all([try_stream(made) for _ in range(5)])
    made.finish()
    assert count() == 0


def test_streams_opened_and_reset_leave_nothing(gateway, backend, in_use):
    server, count = in_use
    made = gateway(backend(serve), **limited(server.store, "MCPRateLimitStreams 100000",
                                             server=["MCPRateLimitLease 1h"]))
    for n in range(300):
        client = made.connect()
        client.send(client.head("GET", "/mcp", [("X-User", "alice")]))
        if n % 3:
            client.response()
        client.reset()
    wait_until(lambda: count() == 0, "all slots to be free")


def test_a_backend_that_is_not_there_costs_no_slot(gateway, backend, store):
    gone = backend(serve)
    gone.close()
    made = gateway(gone, **limited(store, "MCPRateLimitStreams 1"))
    made.expect_log("MCP2042|AH0[0-9]*")
    for _ in range(4):
        assert open_stream(made)[1].finish().status in (502, 503)


def test_a_stopped_gateways_streams_end_when_it_goes_on(gateway, backend, in_use):
    server, count = in_use
    options = limited(server.store, "MCPRateLimitStreams 2", server=["MCPRateLimitLease 2s"])
    made, other = (gateway(backend(serve), **options) for _ in range(2))
    streams = [try_stream(made) for _ in range(2)]
    pids = [made.process.pid, *made.children()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    replaced = [wait_until(lambda: try_stream(other), "a slot") for _ in range(2)]
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    for stream in streams:
        wait_until(stream.is_closed_by_server, "the old stream to be closed")
    assert count() == 2 and not any(s.is_closed_by_server() for s in replaced)


def test_closed_means_that_no_stream_outlives_its_lease(gateway, backend, in_use):
    server, _ = in_use
    made = gateway(backend(serve), **limited(
        server.store, "MCPRateLimitStreams 2",
        server=["MCPRateLimitLease 1s", "MCPRateLimitOnError closed"], timeout="100ms"))
    made.expect_log(STORE_DOWN)
    stream = try_stream(made)
    server.kill()
    wait_until(stream.is_closed_by_server, "the stream to be closed")


def test_local_means_that_streams_outlive_an_outage(gateway, backend, in_use):
    server, count = in_use
    made = gateway(backend(serve), **limited(server.store, "MCPRateLimitStreams 2",
                                             server=["MCPRateLimitLease 1s"], timeout="100ms"))
    made.expect_log(STORE_DOWN)
    made.expect_log(STORE_UP)
    stream = try_stream(made)
    server.kill()
    stays(lambda: not stream.is_closed_by_server(), 2.5, "the stream is open")
    post(made)
    server.start()
    wait_until(lambda: count() == 1, "the lease")
    assert not stream.is_closed_by_server()


def test_nothing_is_given_out_twice_after_redis_forgot(gateway, backend, in_use):
    server, count = in_use
    options = limited(server.store, "MCPRateLimitStreams 2", "MCPRateLimitMessages 5/10h",
                      server=["MCPRateLimitLease 5s", "MCPRateLimitOnError closed"])
    made, other = (gateway(backend(serve), **options) for _ in range(2))
    for one in (made, other):
        one.expect_log(STORE_DOWN, optional=True)
        one.expect_log(STORE_UP, optional=True)
    post(other, user="warm")
    assert [post(made).status for _ in range(6)] == [200] * 5 + [429]
    streams = [try_stream(made) for _ in range(2)]
    server.restart()
    live = len(streams)
    for _ in range(20):
        client, response = open_stream(other)
        assert response.status in (429, 503)
        client.close()
    wait_until(lambda: count() == live, "the streams to be known again")
    assert not any(s.is_closed_by_server() for s in streams)
    assert {post(one).status for one in (made, other) for _ in range(3)} <= {429, 503}


def test_mod_proxy_streams_of_a_killed_child_are_free_soon(gateway, backend, in_use):
    server, count = in_use
    made = gateway(backend(serve), **limited(server.store, "MCPRateLimitStreams 3", mcp=False,
                                             server=["MCPRateLimitLease 1h"]))
    assert all([try_stream(made) for _ in range(3)])
    for pid in made.children():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: count() == 0, "the leases to be gone", timeout=5 * PATIENCE)
    hang_up(made)
