# SPDX-License-Identifier: Apache-2.0
"""MCPProxySessionStreams: what becomes of a second standing GET on one session."""
import os
import signal

import pytest

from harness.client import Mcp, assert_rpc_error
from harness.wait import stays, wait_until

pytestmark = pytest.mark.skipif(os.environ.get("MPM", "event") != "event", reason="event MPM")
MESSAGE = {"jsonrpc": "2.0", "method": "notifications/message", "params": {}}


def one_session(gateway, server, mode, location=(), **options):
    """(gateway, server, client): three children, so that streams are mostly on different ones."""
    a = server()
    a.one_stream = True
    lines = ["MCPProxySessionStreams " + mode] if mode else []
    gw = gateway(a, location=[*lines, *location], children=3, threads=4, **options)
    return gw, a, Mcp(gw).initialize()


def is_alive(stream):
    stream.poll()
    return not stream.ended


def test_by_default_both_live(gateway, server):
    _, a, mcp = one_session(gateway, server, None)
    a.one_stream = False
    streams = [mcp.listen() for _ in range(3)]
    a.wait_streams(3)
    a.push(mcp.session, MESSAGE)
    assert ["message" in stream.next_event()["data"] for stream in streams] == [True] * 3


def test_newest_ends_the_older_one_before_the_server_hears_of_the_new_one(gateway, server):
    _, a, mcp = one_session(gateway, server, "newest")
    streams = [mcp.listen()]
    for _ in range(6):
        streams.append(mcp.listen())
        assert streams[-1].status == 200
        assert streams[-2].wait_end() == "complete"
    a.wait_streams(1)
    a.push(mcp.session, MESSAGE)
    assert "message" in streams[-1].next_event()["data"]


def test_newest_breaks_an_older_one_off_that_is_amid_an_event(gateway, server):
    _, a, mcp = one_session(gateway, server, "newest")
    old = mcp.listen()
    a.wait_streams(1)
    a.push_bytes(mcp.session, b"data: a\n")
    old.read_until(b"data: a\n")
    assert mcp.listen().status == 200
    assert old.wait_end() == "broken"


def test_other_sessions_keep_their_streams(gateway, server):
    gw, a, mcp = one_session(gateway, server, "newest")
    others = [Mcp(gw).initialize().listen() for _ in range(4)]
    mcp.listen()
    assert mcp.listen().status == 200
    a.wait_streams(5)
    stays(lambda: all(map(is_alive, others)), 0.3, "the others' streams open")


def test_reject_refuses_the_second_and_spares_the_first(gateway, server):
    _, a, mcp = one_session(gateway, server, "reject")
    first = mcp.listen()
    a.wait_streams(1)
    for _ in range(6):
        assert_rpc_error(mcp.listen(), 409)
    a.push(mcp.session, MESSAGE)
    assert "message" in first.next_event()["data"]
    # Longer than it takes to find out that a client is gone.
    stays(lambda: is_alive(first), 3.5, "the first stream open")
    assert len(a.streams) == 1, "the server has not heard of the others"


def test_reject_lets_the_next_one_in_when_the_first_has_ended(gateway, server):
    _, a, mcp = one_session(gateway, server, "reject")
    mcp.listen().connection.close()
    a.wait_streams(0)
    wait_until(lambda: mcp.listen().status == 200, "a stream")


@pytest.mark.parametrize("mpm", ["event", "worker"])
def test_reject_finds_out_that_the_first_ones_client_is_gone_without_a_word(gateway, server, mpm):
    _, a, mcp = one_session(gateway, server, "reject", ["MCPProxyHeartbeat Off"], mpm=mpm)
    first = mcp.listen()
    a.wait_streams(1)
    stays(lambda: is_alive(first), 0.1)  # what came is acknowledged, and not after it fell silent
    first.connection.fall_silent()

    def is_let_in():
        answer = mcp.listen()
        if answer.status == 409:
            answer.connection.close()  # an idle one holds a thread of the worker MPM
        return answer.status == 200

    assert not is_let_in()
    wait_until(is_let_in, "the silent client to be dropped")
    a.wait_streams(1)


def test_reject_forgets_the_stream_of_a_killed_child(gateway, server):
    gw, a, mcp = one_session(gateway, server, "reject")
    stream = mcp.listen()
    a.wait_streams(1)
    for pid in gw.children():
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda gone=pid: gone not in gw.children(), "the child's end")
        if not is_alive(stream):
            break
        assert mcp.listen().status == 409
    a.wait_streams(0)
    wait_until(lambda: mcp.listen().status == 200, "a stream after the kill")


@pytest.mark.parametrize("mode", ["newest", "reject"])
def test_a_head_request_is_no_second_stream(gateway, server, mode):
    gw, a, mcp = one_session(gateway, server, mode)
    first = mcp.listen()
    a.wait_streams(1)
    assert gw.request("HEAD", "/mcp", [*mcp.headers(), ("Accept", "text/event-stream")]).status \
        not in (409, 503)
    a.push(mcp.session, MESSAGE)
    assert "message" in first.next_event()["data"]
    assert is_alive(first)


@pytest.mark.parametrize("mode", ["newest", "reject"])
def test_of_streams_that_begin_at_once_one_stays(gateway, server, mode):
    gw, a, mcp = one_session(gateway, server, mode)
    a.one_stream = False
    clients = [gw.connect() for _ in range(8)]
    headers = [("Accept", "text/event-stream"), ("Mcp-Session-Id", mcp.session)]
    for client in clients:
        client.send(client.head("GET", "/mcp", headers))
    answers = [client.response() for client in clients]
    wait_until(lambda: sum(a.status == 200 and is_alive(a) for a in answers) == 1, "one stream")
    a.wait_streams(1)
    assert {answer.status for answer in answers} <= ({200} if mode == "newest" else {200, 409})
