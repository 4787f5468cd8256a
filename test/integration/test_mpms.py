# SPDX-License-Identifier: Apache-2.0
"""The same behaviour where every request keeps its thread or process: worker and prefork."""
import json

import pytest

from harness import tags
from harness.backend import Nobody
from harness.client import ACCEPT, JSON, Mcp, assert_rpc_error, call, rpc

LISTEN = [("Accept", "text/event-stream")]


@pytest.fixture(params=["worker", "prefork"], name="mpm")
def _mpm(request):
    return request.param


def test_a_session_works(gateway, server, mpm):
    a, b = server("a"), server("b")
    gw = gateway(a, b, mpm=mpm)
    for _ in range(4):
        client = Mcp(gw).initialize()
        home = client.where()
        assert [client.where() for _ in range(4)] == [home] * 4
        assert client.post(call("progress")).message()["result"]["server"] == home
        assert client.delete().status == 204
        assert client.post(rpc("ping")).status == 404


def test_events_arrive_at_once_and_the_connection_lives_on(gateway, backend, event, mpm):
    def script(peer):
        while True:
            peer.read_request()
            peer.begin_stream().chunk(b"data: a\n\n").wait(event).chunk(b"data: b\n\n").end_chunks()

    with gateway(backend(script), mpm=mpm).connect() as client:
        stream = client.request("GET", "/mcp", LISTEN)
        assert stream.next_event() == {"data": "a"}
        event.set()
        assert stream.finish().body == b"data: a\n\ndata: b\n\n"
        assert client.request("GET", "/mcp", LISTEN).finish().status == 200


def test_a_quiet_stream_gets_comments(gateway, backend, event, mpm):
    def script(peer):
        peer.read_request()
        peer.begin_stream().chunk(b"data: a\n\n").wait(event).end_chunks()

    stream = (
        gateway(backend(script), mpm=mpm, location=["MCPProxyHeartbeat 100ms"])
        .connect()
        .request("GET", "/mcp", LISTEN)
    )
    stream.read_until(b"data: a\n\n")
    stream.read_until(b":")
    event.set()
    assert stream.wait_end() == "complete"


@pytest.mark.parametrize("front", [False, True], ids=["plain", "tls"])
def test_a_client_that_leaves_a_quiet_stream_is_told_to_the_backend(gateway, backend, mpm, front):
    def script(peer):
        peer.read_request()
        peer.begin_stream().chunk(b"data: a\n\n").wait_gone()

    b = backend(script)
    stream = gateway(b, mpm=mpm, tls=front).connect().request("GET", "/mcp", LISTEN)
    stream.next_event()
    stream.connection.close()
    b.wait_gone()


def test_a_client_that_leaves_before_the_answer_is_told_to_the_backend(gateway, backend, mpm):
    def script(peer):
        peer.read_request()
        peer.wait_gone()

    b = backend(script)
    client = gateway(b, mpm=mpm).connect()
    body = json.dumps(call("x")).encode()
    client.send(client.head("POST", "/mcp", [ACCEPT, JSON], body) + body)
    b.wait_requests(1)
    client.close()
    b.wait_gone()


def test_a_stream_that_the_backend_breaks_off_is_seen_broken(gateway, backend, event, mpm):
    def script(peer):
        peer.read_request()
        peer.begin_stream().chunk(b"data: a\n\n").wait(event).close()

    gw = gateway(backend(script), mpm=mpm)
    gw.expect_log(tags.BACKEND_BROKE)
    stream = gw.connect().request("GET", "/mcp", LISTEN)
    stream.next_event()
    event.set()
    assert stream.wait_end() == "broken"


def test_what_was_never_sent_is_retried(gateway, server, keep, mpm):
    gw = gateway(keep(Nobody()), server(era="stateless"), mpm=mpm)
    gw.expect_log(tags.CONNECT_FAILED)
    gw.expect_log(tags.MEMBER_ERROR, optional=True)
    for _ in range(4):
        assert (
            gw.request("POST", "/mcp", [ACCEPT, JSON], json.dumps(call("x")).encode()).status == 200
        )


def test_timeouts_work(gateway, backend, mpm):
    def script(peer):
        peer.read_request()
        peer.wait_gone()

    gw = gateway(backend(script), mpm=mpm, location=["MCPProxyResponseTimeout 300ms"])
    gw.expect_log(tags.TIMEOUT, "MCPProxyResponseTimeout")
    gw.expect_log(tags.MEMBER_ERROR, optional=True)
    body = json.dumps(call("x", 4)).encode()
    assert_rpc_error(gw.request("POST", "/mcp", [ACCEPT, JSON], body), 504, 4)


def test_a_body_that_is_not_finished_in_time_is_408(gateway, server, mpm):
    gw = gateway(server(), mpm=mpm, location=["MCPProxyBodyTimeout 400ms"])
    gw.expect_log(tags.BODY_TIMEOUT)
    with gw.connect() as client:
        client.send(client.head("POST", "/mcp", [ACCEPT, JSON, ("Content-Length", "9")]) + b"{")
        assert_rpc_error(client.response(), 408)


def test_a_client_that_takes_nothing_is_dropped(gateway, backend, mpm):
    def script(peer):
        peer.read_request()
        peer.begin_stream()
        while True:
            peer.chunk(b"data: " + b"x" * 50_000 + b"\n\n")

    b = backend(script, send_buffer=65536)
    gw = gateway(b, mpm=mpm, location=["MCPProxyWriteTimeout 500ms"])
    client = gw.connect(receive_buffer=65536)
    client.send(client.head("GET", "/mcp", LISTEN))
    gw.wait_log(tags.WRITE_TIMEOUT)


def test_a_client_that_is_gone_without_a_word_is_dropped(gateway, backend, mpm):
    def script(peer):
        peer.read_request()
        peer.begin_stream().chunk(b"data: a\n\n").wait_gone()

    b = backend(script)
    gw = gateway(b, mpm=mpm, location=["MCPProxyWriteTimeout 500ms", "MCPProxyHeartbeat 100ms"])
    stream = gw.connect().request("GET", "/mcp", LISTEN)
    stream.read_until(b"data: a\n\n")
    stream.connection.fall_silent()
    gw.wait_log(tags.WRITE_TIMEOUT)
    b.wait_gone()


def test_http_sse_works(gateway, server, mpm):
    gw = gateway(
        server("a", "sse"),
        server("b", "sse"),
        mpm=mpm,
        routes={"/sse": "/sse", "/message": "/message"},
    )
    for _ in range(4):
        stream = gw.connect().request("GET", "/sse", LISTEN)
        url = stream.next_event()["data"]
        body = json.dumps(call("x", 8)).encode()
        assert gw.request("POST", url, [ACCEPT, JSON], body).status == 202
        assert json.loads(stream.next_event()["data"])["id"] == 8


def test_a_graceful_restart_ends_standing_streams_and_finishes_calls(gateway, server, mpm):
    a = server()
    gw = gateway(a, mpm=mpm, server=["MCPProxyDrainTimeout 1s"])
    gw.expect_log("AH00288", optional=True)  # the old child has its place until it has drained
    mcp, client = Mcp(gw).initialize(), gw.connect()
    stream = mcp.listen()
    body = json.dumps(call("hold", 9)).encode()
    client.send(client.head("POST", "/mcp", mcp.headers(), body) + body)
    a.wait_waiting(1)
    gw.graceful()
    assert stream.wait_end() == "complete"
    a.release()
    assert client.response().json()["id"] == 9
    assert mcp.where() == "a"
