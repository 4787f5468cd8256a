# SPDX-License-Identifier: Apache-2.0
"""HTTP+SSE (2024-11-05): the session stands in the endpoint event, and its POSTs follow it."""
import json
import re

import pytest

from harness import tags
from harness.client import ACCEPT, JSON, assert_rpc_error, call, open_sse, post_sse

ROUTES = {"/sse": "/sse", "/message": "/message"}
LISTEN = [("Accept", "text/event-stream")]


def sse_servers(server, **options):
    return [server(name, "sse", **options) for name in "abc"]


@pytest.mark.parametrize(
    "endpoint",
    [
        "/message?sessionId={id}",
        "/message?session_id={id}",
        "/message/{id}",
        "/message?x=1&sessionId={id}",
        "/message/{id}?x=1",
    ],
)
def test_the_posts_of_a_stream_reach_its_backend(gateway, server, endpoint):
    servers = sse_servers(server, endpoint=endpoint)
    gw = gateway(*servers, routes=ROUTES)
    streams = [open_sse(gw) for _ in range(7)]
    for number, (stream, url) in enumerate(streams):
        assert re.fullmatch(re.escape(endpoint).replace(r"\{id\}", r"\w+"), url)
        for ident in (number, "x%d" % number):
            assert post_sse(gw, url, ident).status == 202
            assert json.loads(stream.next_event()["data"])["id"] == ident


def test_the_session_is_known_before_its_client_can_use_it(gateway, server):
    gw = gateway(*sse_servers(server), routes=ROUTES, children=2, threads=4)
    for _ in range(30):
        stream, url = open_sse(gw)
        assert post_sse(gw, url).status == 202
        stream.connection.close()


def test_an_absolute_url_is_mapped_to_the_gateways(gateway, server):
    servers = sse_servers(server, endpoint="http://127.0.0.1:{port}/message?sessionId={id}")
    gw = gateway(*servers, routes=ROUTES)
    for _ in range(5):
        stream, url = open_sse(gw)
        assert url.startswith(gw.origin + "/message?sessionId=") or url.startswith("/message?")
        assert post_sse(gw, url).status == 202
        assert json.loads(stream.next_event()["data"])["id"] == 1


@pytest.mark.parametrize(
    "endpoint",
    [
        "/app/message?sessionId={id}",
        "/app/message/{id}",
        "http://127.0.0.1:{port}/app/message?sessionId={id}",
    ],
)
@pytest.mark.parametrize("reverse", [True, False], ids=["with-reverse", "without"])
def test_a_path_prefix_is_mapped_back(gateway, server, endpoint, reverse):
    servers = sse_servers(server, endpoint=endpoint, prefix="")
    lines = ["ProxyPassReverse /message balancer://mcp/app/message"] if reverse else []
    gw = gateway(*servers, routes={"/sse": "/app/sse", "/message": "/app/message"}, server=lines)
    for _ in range(5):
        stream, url = open_sse(gw)
        assert re.sub(r"^http://[^/]+", "", url).startswith("/message"), url
        assert post_sse(gw, url).status == 202
        assert json.loads(stream.next_event()["data"])["id"] == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://evil.example/message?sessionId=1",
        "//evil.example/message?sessionId=1",
        "https://127.0.0.1:1/message?sessionId=1",
        "javascript:alert(1)",
        "http://127.0.0.1:1@evil.example/message",
    ],
)
def test_an_endpoint_elsewhere_is_502(gateway, server, url):
    gw = gateway(server(era="sse", endpoint=url), routes=ROUTES)
    gw.expect_log(tags.ENDPOINT_FOREIGN)
    assert_rpc_error(gw.connect().request("GET", "/sse", LISTEN), 502)


def sse_script(*parts, event=None):
    def script(peer):
        peer.read_request()
        peer.begin_stream()
        for part in parts:
            peer.send_slowly(b"%x\r\n%s\r\n" % (len(part), part))
        if event:
            peer.wait(event)
        peer.end_chunks()

    return script


FORMS = {
    "lf": (
        b"event: endpoint\ndata: /app/m?sessionId=1\n\n",
        b"event: endpoint\ndata: /m?sessionId=1\n\n",
    ),
    "crlf": (
        b"event: endpoint\r\ndata: /app/m?sessionId=1\r\n\r\n",
        b"event: endpoint\r\ndata: /m?sessionId=1\r\n\r\n",
    ),
    "no-space": (
        b"event:endpoint\ndata:/app/m?sessionId=1\n\n",
        b"event:endpoint\ndata:/m?sessionId=1\n\n",
    ),
    "comment": (
        b": hi\n\nevent: endpoint\ndata: /app/m?sessionId=1\n\n",
        b": hi\n\nevent: endpoint\ndata: /m?sessionId=1\n\n",
    ),
    "two-comments": (
        b": hi\n:\r\n\r\nevent: endpoint\ndata: /app/m?sessionId=1\n\n",
        b": hi\n:\r\n\r\nevent: endpoint\ndata: /m?sessionId=1\n\n",
    ),
    "bom": (
        b"\xef\xbb\xbfevent: endpoint\ndata: /app/m?sessionId=1\n\n",
        b"\xef\xbb\xbfevent: endpoint\ndata: /m?sessionId=1\n\n",
    ),
}

# Only a stream that opens with the event line is held back for it.
PASSED_ON = {
    "data-first": b"data: /app/m?sessionId=1\nevent: endpoint\n\n",
    "id-first": b"id: 0\nevent: endpoint\ndata: /app/m?sessionId=1\n\n",
}


@pytest.mark.parametrize("name", PASSED_ON)
def test_a_stream_that_opens_otherwise_passes_as_it_is(gateway, backend, name):
    gw = gateway(
        backend(sse_script(PASSED_ON[name])),
        single=True,
        routes={"/sse": "/app/sse", "/m": "/app/m"},
    )
    assert gw.request("GET", "/sse", LISTEN).body == PASSED_ON[name]


@pytest.mark.parametrize("name", FORMS)
def test_only_the_data_of_the_endpoint_event_changes(gateway, backend, name):
    before, after = FORMS[name]
    rest = b"event: endpoint\ndata: /app/m?sessionId=2\n\ndata: /app/m\n\n"
    gw = gateway(
        backend(sse_script(before, rest)), single=True, routes={"/sse": "/app/sse", "/m": "/app/m"}
    )
    answer = gw.request("GET", "/sse", LISTEN)
    assert answer.body == after + rest


def test_an_endpoint_that_needs_no_mapping_is_not_changed(gateway, backend):
    data = b"event: endpoint\r\ndata:   /sse-message?sessionId=1&b=%20\r\n\r\ndata: x\n\n"
    gw = gateway(backend(sse_script(data)), routes={"/sse": "/sse"})
    assert gw.request("GET", "/sse", LISTEN).body == data


def test_events_in_the_same_packet_as_the_endpoint_follow_at_once(gateway, backend, event):
    data = b"event: endpoint\ndata: /sse?sessionId=1\n\ndata: {}\n\n"

    def script(peer):
        peer.read_request()
        peer.begin_stream().chunk(data).wait(event).end_chunks()

    stream = (
        gateway(backend(script), routes={"/sse": "/sse"}).connect().request("GET", "/sse", LISTEN)
    )
    stream.wait(lambda: stream.body == data, "both events")
    event.set()


def test_an_endpoint_event_that_never_ends_passes_in_bounded_memory(gateway, backend):
    def script(peer):
        peer.read_request()
        peer.begin_stream().chunk(b"event: endpoint\ndata: /message?sessionId=")
        for _ in range(2000):
            peer.chunk(b"x" * 10_000)
        peer.end_chunks()

    b = backend(script)
    gw = gateway(b, routes={"/sse": "/sse"})
    gw.request("OPTIONS", "/sse-warm-up")
    before, passed = gw.pss_kib(), 0
    stream = gw.connect().request("GET", "/sse", LISTEN)
    while not stream.ended:
        stream.connection.fill()
        stream._decode()
        passed, stream.body = passed + len(stream.body), b""
    assert passed == 41 + 20_000_000
    assert gw.pss_kib() - before < 8_000


def test_a_post_for_a_stream_of_a_dead_backend_is_404(gateway, server):
    servers = sse_servers(server)
    gw = gateway(*servers, routes=ROUTES)
    gw.expect_log(tags.BACKEND_BROKE, optional=True)
    gw.expect_log(tags.CONNECT_FAILED)
    stream, url = open_sse(gw)
    home = next(s for s in servers if s.open_streams())
    home.kill()
    assert stream.wait_end() == "broken"
    assert_rpc_error(post_sse(gw, url, 9), 404, 9)


def test_a_client_that_leaves_is_told_to_the_backend(gateway, server):
    a = server(era="sse")
    stream, _ = open_sse(gateway(a, routes=ROUTES))
    a.wait_streams(1)
    stream.connection.close()
    a.wait_streams(0)


def test_two_streams_of_one_client_stay_apart(gateway, server):
    servers = sse_servers(server)
    gw = gateway(*servers, routes=ROUTES)
    with gw.connect() as poster:
        streams = [open_sse(gw) for _ in range(4)]
        for number, (_, url) in enumerate(streams):
            answer = poster.request("POST", url, [ACCEPT, JSON], call("whoami", number))
            assert answer.finish().status == 202
        for number, (stream, _) in enumerate(streams):
            assert json.loads(stream.next_event()["data"])["id"] == number
