# SPDX-License-Identifier: Apache-2.0
"""Restarts under load: open streams come back, no call and no session is lost."""
import json
import signal

import pytest

from harness.client import ACCEPT, JSON, Mcp, call
from harness.fleet import Fleet
from harness.wait import DEADLINE, FULL, settles, wait_until

STREAMS = 1000
DRAIN = ["MCPProxyDrainTimeout 3s"]


@pytest.fixture
def fleet(keep):
    return lambda gw, **options: keep(Fleet(gw, **options))


def wait_gone(gw, old, timeout=None):
    wait_until(lambda: not set(old) & set(gw.children()), "the old children to go", timeout)


def assert_nothing_lost(ships):
    assert not ships.lost and not ships.wrong, (ships.lost[:3], ships.wrong[:3])
    assert not ships.broken and not ships.refused, (ships.broken[:3], ships.refused[:3])


def test_a_graceful_restart_with_1000_streams_loses_no_call_and_no_session(gateway, server, fleet):
    servers = [server("a"), server("b")]
    gw = gateway(*servers, server=DRAIN, streams=4 * STREAMS, children=2, spare=6, threads=8)
    ships = fleet(gw)
    ships.listen(STREAMS)
    ships.call(8, pause=0.005)
    ships.call(24, pause=0.1)
    sessions = [set(s.sessions) for s in servers]
    for restart in range(1, 6 if FULL else 2):
        old = gw.children()
        gw.graceful()
        wait_gone(gw, old)
        ships.go_on()
        wait_until(lambda count=restart * STREAMS: ships.ended >= count, "every stream to end")
        ships.wait_listening(STREAMS)
    assert_nothing_lost(ships)
    assert [set(s.sessions) for s in servers] == sessions, "nobody began anew"
    ships.close()
    for s in servers:
        s.wait_streams(0)


def test_restarts_that_overtake_each_other_lose_nothing(gateway, server, fleet):
    gw = gateway(server(), server=DRAIN, spare=12)
    gw.expect_log("AH00484", optional=True)  # three generations at once
    ships = fleet(gw)
    ships.listen(50)
    ships.call(4)
    old = gw.children()
    for _ in range(3):
        gw.graceful()
    wait_gone(gw, old)
    ships.go_on()
    ships.wait_listening(50)
    assert_nothing_lost(ships)
    ships.close()


def test_a_child_that_has_served_its_number_loses_nothing(gateway, server, fleet):
    lines = ["MCPProxyDrainTimeout 1s", "MaxConnectionsPerChild 150"]
    gw = gateway(server(), server=lines, children=2, spare=12)
    gw.expect_log("AH00484", optional=True)
    ships, old = fleet(gw), gw.children()
    ships.listen(60)
    ships.call(4)
    wait_until(lambda: gw.status() and set(old) - set(gw.children()), "a child to go")
    ships.go_on()
    assert ships.ended, "no stream was on a child that went"
    assert_nothing_lost(ships)
    ships.close()


def test_a_graceful_stop_finishes_what_is_in_flight(gateway, server):
    a = server()
    gw = gateway(a, server=["MCPProxyDrainTimeout 1s", "GracefulShutDownTimeout 60"])
    mcp, client = Mcp(gw).initialize(), gw.connect()
    streams = [mcp.listen() for _ in range(20)]
    body = json.dumps(call("hold", 9)).encode()
    client.send(client.head("POST", "/mcp", mcp.headers(), body) + body)
    a.wait_waiting(1)
    gw.process.send_signal(signal.SIGWINCH)
    assert [stream.wait_end() for stream in streams] == ["complete"] * 20
    a.release()
    answer = client.response()
    assert answer.json()["id"] == 9
    gw.process.wait(DEADLINE)


def test_calls_are_answered_while_everybody_comes_back_at_once(gateway, server, fleet):
    """A restart breaks all streams; their clients begin anew in the same moment."""
    storm = 5000 if FULL else 500
    servers = [server("a"), server("b")]
    gw = gateway(*servers, server=["ListenBackLog 4096"], streams=3 * storm, children=2)
    for tag in ("AH00484", "AH00045", "AH00046"):
        gw.expect_log(tag, optional=True)
    crowd, callers = fleet(gw, back_after=0, anew=True), fleet(gw)
    crowd.listen(storm)
    callers.call(8)
    gw.process.send_signal(signal.SIGHUP)
    wait_until(lambda: len(crowd.broken) + crowd.ended >= storm // 2, "the streams to break")
    before, lost = callers.answered, len(callers.lost)
    crowd.wait_listening(storm)
    assert callers.answered > before, "nobody else was served"
    callers.go_on()
    assert lost <= 8 and len(callers.lost) <= 8, "one that was under way for each: %s" % callers.lost
    assert not callers.wrong and not crowd.wrong and not crowd.refused
    crowd.close()
    callers.close()


# How long an old child lives


def test_an_answer_that_goes_on_and_on_holds_an_old_child_for_the_response_timeout(
    gateway, backend, event
):
    def script(peer):
        peer.read_request()
        peer.begin_stream()
        while not event.wait(0.02):
            peer.chunk(b"data: a\n\n")

    lines = ["MCPProxyDrainTimeout 1s", "MCPProxyResponseTimeout 2s"]
    gw = gateway(backend(script), server=lines)
    stream = gw.connect().request("POST", "/mcp", [ACCEPT, JSON], call("x"))
    stream.next_event()
    old = gw.children()
    gw.graceful()
    count = len(stream.body)
    stream.wait(lambda: len(stream.body) > count, "more of it after the restart")
    assert stream.wait_end() == "broken"
    wait_gone(gw, old)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_client_that_takes_nothing_does_not_hold_an_old_child(gateway, backend, event, method):
    def script(peer):
        peer.read_request()
        peer.begin_stream()
        while not event.is_set():
            peer.chunk(b"data: " + b"x" * 60_000 + b"\n\n")

    b = backend(script)
    lines = ["MCPProxyDrainTimeout 1s", "MCPProxyResponseTimeout 1s", "MCPProxyWriteTimeout 10mi"]
    gw = gateway(b, server=[*lines, "Timeout 600"])
    body = call("x") if method == "POST" else None
    gw.connect(receive_buffer=4096).request(method, "/mcp", [ACCEPT, JSON], body)
    settles(lambda: b.peers[0].sent)
    old = gw.children()
    gw.graceful()
    wait_gone(gw, old)
