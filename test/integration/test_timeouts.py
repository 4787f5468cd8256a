# SPDX-License-Identifier: Apache-2.0
"""Each timeout of the contract, its answer, and the log line that says which one it was."""
import json

import pytest

from harness import tags
from harness.backend import BlackHole
from harness.client import ACCEPT, JSON, assert_rpc_error, call
from harness.wait import stays

LISTEN = [("Accept", "text/event-stream")]
BODY = json.dumps(call("x", 7)).encode()


def silent(peer):
    peer.read_request()
    peer.wait_gone()


def post(gw, target="/mcp"):
    return gw.request("POST", target, [ACCEPT, JSON], BODY)


def announce(gw, which, tag=tags.TIMEOUT):
    gw.expect_log(tag, which)
    gw.expect_log(tags.MEMBER_ERROR, optional=True)


def test_a_connection_that_is_not_made_in_time(gateway, keep):
    gw = gateway(keep(BlackHole()), location=["MCPProxyConnectTimeout 300ms"])
    announce(gw, "MCPProxyConnectTimeout")
    assert_rpc_error(post(gw), 503, 7)


def test_connectiontimeout_of_the_member_wins(gateway, keep):
    gw = gateway(
        keep(BlackHole()), member="connectiontimeout=300ms", location=["MCPProxyConnectTimeout 1h"]
    )
    announce(gw, "connectiontimeout")
    assert_rpc_error(post(gw), 503, 7)


def test_an_answer_that_does_not_begin_in_time(gateway, backend):
    b = backend(silent)
    gw = gateway(b, location=["MCPProxyResponseTimeout 300ms"])
    announce(gw, "MCPProxyResponseTimeout")
    assert_rpc_error(post(gw), 504, 7)
    b.wait_gone()


def test_a_head_that_does_not_end_in_time(gateway, backend):
    def script(peer):
        peer.read_request()
        peer.send_slowly(b"HTTP/1.1 200 OK\r\n").wait_gone()

    gw = gateway(backend(script), location=["MCPProxyResponseTimeout 500ms"])
    announce(gw, "MCPProxyResponseTimeout")
    assert_rpc_error(post(gw), 504, 7)


def test_interim_responses_do_not_stretch_the_response_timeout(gateway, backend, event):
    def script(peer):
        peer.read_request()
        while not event.wait(0.05):
            peer.send(b"HTTP/1.1 102 Processing\r\n\r\n")

    gw = gateway(backend(script), location=["MCPProxyResponseTimeout 500ms"])
    gw.expect_log(tags.TIMEOUT, "MCPProxyResponseTimeout", optional=True)
    gw.expect_log(tags.BAD_HEAD, optional=True)
    gw.expect_log(tags.MEMBER_ERROR, optional=True)
    assert post(gw).status in (502, 504)


def test_timeout_of_the_member_wins(gateway, backend):
    gw = gateway(backend(silent), member="timeout=1", location=["MCPProxyResponseTimeout 1h"])
    announce(gw, "timeout")
    assert_rpc_error(post(gw), 504, 7)


def test_an_answer_within_the_time_is_no_timeout(gateway, backend, event):
    def script(peer):
        peer.read_request()
        peer.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{"
        )
        peer.wait(event).send(b"}")

    gw = gateway(backend(script), location=["MCPProxyResponseTimeout 300ms"])
    answer = gw.connect().request("POST", "/mcp", [ACCEPT, JSON], BODY)
    event.set()
    assert answer.finish().body == b"{}"


def test_a_get_that_accepts_event_streams_waits_as_long_as_a_stream(gateway, backend, event):
    def script(peer):
        peer.read_request()
        peer.wait(event).begin_stream().chunk(b"data: late\n\n").end_chunks()

    gw = gateway(backend(script), location=["MCPProxyResponseTimeout 200ms"])
    client = gw.connect()
    client.send(client.head("GET", "/mcp", LISTEN))
    stays(lambda: not client.is_closed_by_server() and not client.buffer, 0.7, "no answer")
    event.set()
    assert client.response().finish().body == b"data: late\n\n"


def test_a_get_that_accepts_only_json_does_not(gateway, backend):
    gw = gateway(backend(silent), location=["MCPProxyResponseTimeout 300ms"])
    announce(gw, "MCPProxyResponseTimeout")
    assert_rpc_error(gw.request("GET", "/mcp", [("Accept", "application/json")]), 504)


def test_a_get_whose_stream_does_not_begin_ends_with_the_stream_timeout(gateway, backend):
    gw = gateway(backend(silent), location=["MCPProxyStreamTimeout 300ms"])
    announce(gw, "MCPProxyStreamTimeout")
    assert_rpc_error(gw.request("GET", "/mcp", LISTEN), 504)


@pytest.mark.parametrize("heartbeat", ["Off", "50ms"])
def test_a_stream_on_which_the_backend_is_silent_is_broken_off(gateway, backend, heartbeat):
    def script(peer):
        peer.read_request()
        peer.begin_stream().chunk(b"data: a\n\n").wait_gone()

    b = backend(script)
    gw = gateway(b, location=["MCPProxyStreamTimeout 500ms", "MCPProxyHeartbeat " + heartbeat])
    announce(gw, "MCPProxyStreamTimeout")
    stream = gw.connect().request("GET", "/mcp", LISTEN)
    assert stream.wait_end() == "broken"
    assert stream.body.startswith(b"data: a\n\n")
    b.wait_gone()


@pytest.mark.parametrize("piece", [b"data: a\n\n", b": backend's own heartbeat\n\n", b"x"])
def test_anything_from_the_backend_keeps_a_stream(gateway, backend, event, piece):
    def script(peer):
        peer.read_request()
        peer.begin_stream()
        while not event.wait(0.1):
            peer.chunk(piece)
        peer.end_chunks()

    gw = gateway(backend(script), location=["MCPProxyStreamTimeout 600ms"])
    stream = gw.connect().request("GET", "/mcp", LISTEN)
    stays(lambda: not stream.poll().ended, 1.5, "the stream open")
    event.set()
    assert stream.wait_end() == "complete"


def test_a_json_body_on_which_the_backend_is_silent_is_broken_off(gateway, backend):
    def script(peer):
        peer.read_request()
        peer.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n" b"{"
        ).wait_gone()

    gw = gateway(
        backend(script), location=["MCPProxyResponseTimeout 500ms", "MCPProxyStreamTimeout 500ms"]
    )
    announce(gw, "Timeout")
    client = gw.connect()
    client.send(client.head("POST", "/mcp", [ACCEPT, JSON], BODY) + BODY)
    try:
        answer = client.response()
    except EOFError:
        return
    assert answer.status == 504 or answer.wait_end() == "broken"


@pytest.mark.parametrize("sent", [0, 5, len(BODY) - 1])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_that_is_not_finished_in_time_is_408(gateway, backend, sent, framing):
    b = backend(silent)
    gw = gateway(b, location=["MCPProxyBodyTimeout 400ms"])
    announce(gw, "MCPProxyBodyTimeout", tags.BODY_TIMEOUT)
    with gw.connect() as client:
        header = (
            ("Content-Length", str(len(BODY)))
            if framing == "length"
            else ("Transfer-Encoding", "chunked")
        )
        part = BODY[:sent] if framing == "length" else b"%x\r\n%s" % (len(BODY), BODY[:sent])
        client.send(client.head("POST", "/mcp", [ACCEPT, JSON, header]) + part)
        assert_rpc_error(client.response(), 408)
        assert client.is_closed_by_server() or client.fill() is False
    assert b.peers == []


def test_a_body_that_trickles_is_408_all_the_same(gateway, backend):
    """The timeout is for the whole body, not for each part of it."""
    gw = gateway(backend(silent), location=["MCPProxyBodyTimeout 600ms"])
    announce(gw, "MCPProxyBodyTimeout", tags.BODY_TIMEOUT)
    with gw.connect() as client:
        client.send(client.head("POST", "/mcp", [ACCEPT, JSON, ("Content-Length", "100000")]))

        def trickle():
            try:
                client.send(b" ")
            except OSError:
                pass
            return not client.is_closed_by_server() and not client.buffer

        with pytest.raises(AssertionError):
            stays(trickle, 10)
        assert b"408" in client.buffer


def test_thousands_of_interim_responses_end_with_the_response_timeout(gateway, backend):
    def script(peer):
        peer.read_request()
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000).wait_gone()

    gw = gateway(backend(script), location=["MCPProxyResponseTimeout 500ms"])
    gw.expect_log(tags.TIMEOUT, "MCPProxyResponseTimeout", optional=True)
    gw.expect_log(tags.BAD_HEAD, optional=True)
    gw.expect_log(tags.MEMBER_ERROR, optional=True)
    assert post(gw).status in (502, 504)
