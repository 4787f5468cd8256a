# SPDX-License-Identifier: Apache-2.0
"""TLS to the client, TLS to the backend, and both."""
import json
import ssl

import pytest

from harness import certs, tags
from harness.client import ACCEPT, JSON, Mcp, assert_rpc_error, call
from harness.wait import stays, wait_until

LISTEN = [("Accept", "text/event-stream")]
POST = [ACCEPT, JSON]


def proxy_tls(*lines):
    """What an operator writes for https members."""
    return {
        "modules": ["ssl"],
        "server": [
            "SSLProxyEngine On",
            'SSLProxyCACertificateFile "%s"' % certs.files()[0],
            "SSLProxyVerify require",
            *lines,
        ],
    }


def answering(peer):
    while True:
        request = peer.read_request()
        if request.method == "GET":
            peer.begin_stream().chunk(b"data: a\n\n").end_chunks()
        else:
            peer.answer(b'{"jsonrpc":"2.0","id":1,"result":{}}')


def streaming(peer):
    peer.read_request()
    peer.begin_stream().chunk(b"data: a\n\n").wait_gone()


@pytest.mark.parametrize("front", [False, True], ids=["plain-client", "tls-client"])
@pytest.mark.parametrize("back", [False, True], ids=["plain-backend", "tls-backend"])
def test_calls_and_streams_work(gateway, backend, front, back):
    b = backend(answering, tls=back)
    gw = gateway(b, tls=front, **(proxy_tls() if back else {}))
    with gw.connect() as client:
        for _ in range(3):
            assert client.request("POST", "/mcp", POST, call("x")).json()["id"] == 1
            assert client.request("GET", "/mcp", LISTEN).finish().body == b"data: a\n\n"
    assert len(b.peers) == 1


@pytest.mark.parametrize("front", [False, True], ids=["plain-client", "tls-client"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_leaves_a_quiet_stream_is_told_to_a_tls_backend(gateway, backend, front, how):
    b = backend(streaming, tls=True)
    stream = gateway(b, tls=front, **proxy_tls()).connect().request("GET", "/mcp", LISTEN)
    stream.next_event()
    getattr(stream.connection, how)()
    b.wait_gone()


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_tls_client_that_leaves_a_quiet_stream_is_told_to_the_backend(gateway, backend, how):
    b = backend(streaming)
    stream = gateway(b, tls=True).connect().request("GET", "/mcp", LISTEN)
    stream.next_event()
    getattr(stream.connection, how)()
    b.wait_gone()


def test_a_tls_client_that_says_goodbye_ends_its_stream(gateway, backend):
    """close_notify, but the TCP connection stays open for a while."""
    b = backend(streaming)
    client = gateway(b, tls=True).connect()
    client.request("GET", "/mcp", LISTEN).next_event()
    client.socket.settimeout(5)
    try:
        client.socket.unwrap()
    except (OSError, ssl.SSLError):
        pass
    b.wait_gone()


@pytest.mark.parametrize("notify", [False, True], ids=["truncated", "close-notify"])
def test_a_tls_backend_that_goes_mid_stream_is_seen_broken(gateway, backend, event, notify):
    def script(peer):
        peer.read_request()
        peer.begin_stream().chunk(b"data: a\n\n").wait(event)
        peer.close() if notify else peer.reset()

    gw = gateway(backend(script, tls=True), **proxy_tls())
    gw.expect_log(tags.BACKEND_BROKE, optional=True)
    stream = gw.connect().request("GET", "/mcp", LISTEN)
    stream.next_event()
    event.set()
    assert stream.wait_end() == "broken"


def test_a_body_may_end_with_the_tls_connection(gateway, backend, event):
    def script(peer):
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: a\n\n")
        peer.wait(event)
        peer.close()

    stream = (
        gateway(backend(script, tls=True), **proxy_tls()).connect().request("GET", "/mcp", LISTEN)
    )
    stream.next_event()
    event.set()
    assert stream.wait_end() == "complete"


def test_large_bodies_pass_through_tls_on_both_sides(gateway, backend):
    answer = bytes(range(256)) * 20_000

    def script(peer):
        peer.read_request()
        peer.answer(answer).wait_gone()

    b = backend(script, tls=True)
    gw = gateway(b, tls=True, **proxy_tls())
    body = json.dumps(call("x", blob="z" * 3_000_000)).encode()
    assert gw.request("POST", "/mcp", POST, body).body == answer
    assert b.requests[0].body == body


def test_a_slow_tls_reader_gets_every_byte(gateway, backend):
    size = 8_000_000

    def script(peer):
        peer.read_request()
        peer.begin_stream()
        for _ in range(size // 10_000):
            peer.chunk(b"x" * 10_000)
        peer.end_chunks()

    gw = gateway(backend(script), tls=True, location=["MCPProxyWriteTimeout 60s"])
    stream = gw.connect(receive_buffer=8192).request("GET", "/mcp", LISTEN)
    stays(lambda: True, 0.5)
    assert len(stream.finish().body) == size


def test_a_backend_whose_certificate_is_not_trusted_is_refused(gateway, backend):
    b = backend(answering, tls=True)
    gw = gateway(
        b,
        modules=["ssl"],
        server=[
            "SSLProxyEngine On",
            "SSLProxyVerify require",
            "SSLProxyCACertificateFile /etc/ssl/certs/ca-certificates.crt",
        ],
    )
    gw.expect_log(tags.TLS_FAILED)
    assert_rpc_error(gw.request("POST", "/mcp", POST, json.dumps(call("x")).encode()), 503, 1)
    assert b.requests == []


@pytest.mark.parametrize("name", ["verify", "name"])
def test_ssl_proxy_checks_are_honoured(gateway, backend, name):
    b = backend(answering, tls=True)
    lines = proxy_tls("SSLProxyCheckPeerName off" if name == "name" else "")
    assert gateway(b, **lines).request("POST", "/mcp", POST, b"{}").status == 200


def test_a_connection_to_an_https_member_is_closed_once(gateway, backend):
    b = backend(lambda peer: peer.read_request() and peer.answer(headers=[("Connection", "close")]),
                tls=True)
    gw = gateway(b, preloaded=["closedtwice"], **proxy_tls())
    for _ in range(3):
        assert gw.request("POST", "/mcp", POST, json.dumps(call("x")).encode()).status == 200


def test_https_members_without_ssl_proxy_engine_are_refused(gateway, backend):
    gw = gateway(backend(answering, tls=True), modules=["ssl"])
    for tag in ("AH01961", "AH00961", tags.TLS_FAILED):
        gw.expect_log(tag)
    assert gw.request("POST", "/mcp", POST, json.dumps(call("x")).encode()).status >= 500


def test_a_backend_that_speaks_plain_where_tls_is_expected_is_refused(gateway, backend):
    # A real one answers a client hello as the bad request that it is, and does not wait for more.
    b = backend(lambda peer: peer.answer(status="400 Bad Request"))
    b.scheme = "https"
    gw = gateway(b, **proxy_tls())
    gw.expect_log(tags.TLS_FAILED)
    assert_rpc_error(gw.request("POST", "/mcp", POST, json.dumps(call("x")).encode()), 503, 1)


def test_a_tls_handshake_that_hangs_holds_no_thread_and_times_out(gateway, backend, event):
    def hanging(peer):
        peer.wait(event)

    b = backend(hanging)
    b.scheme = "https"
    gw = gateway(b, threads=4, location=["MCPProxyConnectTimeout 2s"], **proxy_tls())
    gw.expect_log(tags.TIMEOUT)
    gw.expect_log("AH00484", optional=True)  # twelve clients connect to four threads at once
    body = json.dumps(call("x")).encode()
    clients = [gw.connect() for _ in range(12)]
    for client in clients:
        client.send(client.head("POST", "/mcp", POST, body) + body)
    wait_until(lambda: len(b.peers) >= 12, "all to connect")
    assert gw.request("GET", "/server-status?auto").status == 200
    for client in clients:
        assert client.response().finish().status in (503, 504)


def test_a_session_over_tls(gateway, server):
    gw = gateway(server("a"), server("b"), tls=True)
    for _ in range(3):
        client = Mcp(gw).initialize()
        home = client.where()
        assert client.where() == home
        assert client.delete().status == 204
