# SPDX-License-Identifier: Apache-2.0
"""Connections that live on: the client's after anything, the backend's after a whole response."""
import socket

import pytest

from harness import tags
from harness.client import ACCEPT, JSON, Mcp, call
from harness.wait import stays, wait_until

LISTEN = [("Accept", "text/event-stream")]
POST = [ACCEPT, JSON]


def echoing(peer):
    """Answer with the target, as JSON, or as a stream where the target says so."""
    while True:
        request = peer.read_request()
        data = request.target.encode() + b"|" + request.body
        if "stream" in request.target:
            peer.begin_stream().chunk(b"data: " + data + b"\n\n").end_chunks()
        else:
            peer.answer(data)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_client_connection_serves_any_mix_of_requests(gateway, backend, tls):
    b = backend(echoing)
    gw = gateway(b, tls=tls)
    with gw.connect() as client:
        for number in range(12):
            target = "/mcp/%s%d" % ("stream" if number % 3 else "json", number)
            answer = client.request("POST", target, POST, call("x", number)).finish()
            assert target.encode() in answer.body
        assert client.request("GET", "/server-status?auto").finish().status == 200
        assert client.request("GET", "/nowhere").finish().status == 404
        assert client.request("GET", "/mcp/stream").finish().status == 200


def test_calls_one_after_the_other_use_one_backend_connection(gateway, backend):
    b = backend(echoing)
    gw = gateway(b, threads=4)
    for _ in range(8):
        assert gw.request("POST", "/mcp", POST, b"{}").status == 200
    assert len(b.peers) == 1


@pytest.mark.parametrize(
    "name, tail",
    [
        ("leftover", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}extra"),
        (
            "second response",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
            b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        ),
        (
            "chunks",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\nextra",
        ),
        ("close", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"),
        ("old", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
        ("body on 204", b"HTTP/1.1 204 No Content\r\n\r\n{}"),
    ],
)
def test_a_backend_connection_with_a_doubtful_end_is_not_used_again(gateway, backend, name, tail):
    def script(peer):
        peer.read_request()
        peer.send(tail)
        peer.wait_gone()

    b = backend(script)
    gw = gateway(b)
    for number in range(3):
        answer = gw.request("POST", "/mcp", POST, b"{}")
        assert answer.body in (b"{}", b"")
        b.wait_gone(number)
    assert len(b.peers) == 3


def test_a_late_extra_response_is_never_given_to_the_next_client(gateway, backend, event):
    def script(peer):
        peer.read_request()
        peer.answer(b"mine")
        peer.wait(event).answer(b"poison").wait_gone()

    b = backend(script)
    gw = gateway(b)
    assert gw.request("GET", "/mcp").body == b"mine"
    sent = b.peers[0].sent
    event.set()
    wait_until(lambda: b.peers[0].sent != sent, "the poison")
    assert gw.request("GET", "/mcp").body == b"mine"


def test_a_backend_connection_that_was_closed_while_idle_is_not_used(gateway, backend):
    def script(peer):
        peer.read_request()
        peer.answer(b"one").close()

    b = backend(script)
    gw = gateway(b)
    for number in range(5):
        assert gw.request("POST", "/mcp", POST, b"{}").body == b"one"
        wait_until(lambda: b.peers[number].socket.fileno() == -1, "the backend to close")
    assert len(b.peers) == 5


def test_disablereuse_is_honoured(gateway, backend):
    b = backend(echoing)
    gw = gateway(b, member="disablereuse=On")
    for number in range(3):
        assert gw.request("GET", "/mcp").status == 200
        b.wait_gone(number)


def has_ended(sock):
    """Whether the other side has closed; takes nothing."""
    try:
        return sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_a_stream_that_its_client_left_frees_its_backend_connection_for_nobody(
    gateway, backend, event
):
    def script(peer):
        peer.read_request()
        peer.begin_stream().chunk(b"data: a\n\n").wait(event)
        peer.chunk(b"data: late\n\n").end_chunks().wait_gone()

    b = backend(script)
    gw = gateway(b)
    stream = gw.connect().request("GET", "/mcp", LISTEN)
    stream.next_event()
    stream.connection.close()
    wait_until(lambda: has_ended(b.peers[0].socket), "the gateway to close the connection")
    event.set()
    assert gw.request("GET", "/mcp", LISTEN).body == b"data: a\n\ndata: late\n\n"
    assert len(b.peers) == 2


def test_pipelined_requests_are_answered_in_order(gateway, backend):
    b = backend(echoing)
    with gateway(b).connect() as client:
        client.send(
            b"".join(
                client.head("GET", "/mcp/%s%d" % ("stream" if n % 2 else "", n)) for n in range(6)
            )
        )
        for number in range(6):
            assert b"%d|" % number in client.response().finish().body


def test_a_pipelined_request_behind_a_refused_one_is_answered(gateway, backend):
    with gateway(backend(echoing)).connect() as client:
        client.send(
            client.head("GET", "/mcp", [("Origin", "http://evil.example")])
            + client.head("GET", "/mcp/2")
        )
        assert client.response().finish().status == 403
        assert client.response().finish().body == b"/mcp/2|"


def test_an_idle_connection_ends_after_the_keep_alive_timeout(gateway, backend):
    gw = gateway(backend(echoing), tuning=["KeepAliveTimeout 1"])
    for target in ("/mcp", "/mcp/stream"):
        client = gw.connect()
        assert client.request("GET", target).finish().status == 200
        wait_until(client.is_closed_by_server, "the server to close")


def test_connection_close_is_honoured_after_a_stream(gateway, backend):
    client = gateway(backend(echoing)).connect()
    answer = client.request("GET", "/mcp/stream", [("Connection", "close")]).finish()
    assert answer.header("Connection") == "close"
    wait_until(client.is_closed_by_server, "the server to close")


def test_max_keep_alive_requests_counts_suspended_requests(gateway, backend):
    client = gateway(backend(echoing), tuning=["MaxKeepAliveRequests 3"]).connect()
    answers = [client.request("GET", "/mcp/stream").finish() for _ in range(4)]
    # httpd counts those that follow the first.
    assert [answer.header("Connection") for answer in answers] == [None, None, None, "close"]
    wait_until(client.is_closed_by_server, "the server to close")


def test_a_client_may_stay_idle_and_come_back(gateway, backend):
    client = gateway(backend(echoing)).connect()
    assert client.request("GET", "/mcp/stream").finish().status == 200
    stays(lambda: not client.is_closed_by_server(), 1.2, "the connection open")
    assert client.request("GET", "/mcp/stream").finish().status == 200


def test_a_break_ends_the_client_connection_too(gateway, backend):
    def script(peer):
        peer.read_request()
        peer.begin_stream().chunk(b"data: a\n\n").close()

    gw = gateway(backend(script))
    gw.expect_log(tags.BACKEND_BROKE)
    client = gw.connect()
    assert client.request("GET", "/mcp", LISTEN).wait_end() == "broken"
    assert client.eof


def test_a_session_over_one_connection(gateway, server):
    a = server()
    gw = gateway(a)
    client = Mcp(gw).initialize()
    with gw.connect() as connection:
        for ident in range(10):
            answer = connection.request(
                "POST", "/mcp", client.headers(), call("progress" if ident % 2 else "echo", ident)
            )
            assert answer.message()["id"] == ident
        assert connection.request("DELETE", "/mcp", client.headers()).finish().status == 204
