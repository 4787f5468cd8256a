# SPDX-License-Identifier: Apache-2.0
"""Event streams: the backend's bytes, at once, and comments of our own between events only."""
import itertools
import json

import pytest

from harness import tags
from harness.client import ACCEPT, JSON, call
from harness.wait import stays, wait_until

GET = ("GET", "/mcp", [("Accept", "text/event-stream")])
POST = ("POST", "/mcp", [ACCEPT, JSON], call("x"))


def streaming(*steps, end=True):
    """A script: an event stream of these chunks; a threading.Event among them is waited for."""

    def script(peer):
        while True:
            peer.read_request()
            peer.begin_stream()
            for step in steps:
                peer.chunk(step) if isinstance(step, bytes) else peer.wait(step)
            if end:
                peer.end_chunks()
            else:
                peer.wait_gone()

    return script


ODD = {
    "crlf": b"data: a\r\n\r\nid: 1\r\ndata: b\r\n\r\n",
    "cr": b"data: a\r\rdata: b\r\r",
    "mixed": b"data: a\n\r\ndata: b\r\r\nevent: x\n\n",
    "bom": b"\xef\xbb\xbfdata: a\n\n",
    "comments": b": hello\n\n:\n:x\ndata: a\n: inside\ndata: b\n\n",
    "empty": b"\n\n\n\ndata\n\ndata:\n\n",
    "no-last-newline": b"data: a\n\ndata: cut",
    "binary": b"data: \x00\xff\xfe\x80\n\n",
    "retry": b"retry: 5\n\nunknown: field\nid\n\n",
    "nothing": b"",
    "json-across-lines": b'data: {"a":\ndata: 1}\n\n',
    "fake-chunk": b"data: 0\r\n\r\n5\r\nabcde\r\n\r\n",
    "long-lines": b"data: " + b"x" * 200_000 + b"\n\n" + b": " + b"y" * 100_000 + b"\n\n",
}


@pytest.mark.parametrize("request_", [GET, POST], ids=["get", "post"])
@pytest.mark.parametrize("name", ODD)
def test_the_bytes_of_a_stream_are_the_backends(gateway, backend, name, request_):
    def script(peer):
        peer.read_request()
        peer.begin_stream()
        for start in range(0, len(ODD[name]), 7 if len(ODD[name]) < 1000 else 9001):
            peer.chunk(ODD[name][start : start + (7 if len(ODD[name]) < 1000 else 9001)])
        peer.end_chunks()

    answer = gateway(backend(script)).request(*request_)
    assert answer.body == ODD[name]
    assert answer.header("Content-Type") == "text/event-stream"


@pytest.mark.parametrize("request_", [GET, POST], ids=["get", "post"])
def test_an_event_that_comes_byte_by_byte_arrives_whole(gateway, backend, request_):
    data = b'event: message\r\ndata: {"a":1}\r\n\r\n'

    def script(peer):
        peer.read_request()
        peer.send_slowly(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(data), data)
        )

    assert gateway(backend(script)).request(*request_).body == data


@pytest.mark.parametrize("request_", [GET, POST], ids=["get", "post"])
def test_part_of_an_event_is_passed_on_at_once(gateway, backend, event, request_):
    gw = gateway(backend(streaming(b"data: 0\n\ndata: par", event, b"t\n\n")))
    stream = gw.connect().request(*request_)
    assert stream.read_until(b"par") == b"data: 0\n\ndata: par"
    event.set()
    assert stream.finish().body == b"data: 0\n\ndata: part\n\n"


@pytest.mark.parametrize(
    "first",
    [
        b": comment",
        b": comment\n\n",
        b"data: {",
        b"data: [",
        b"id: 1\ndata: {",
        b"event: message\n",
        b"retry: 1000\n\n",
    ],
)
def test_a_beginning_that_is_no_endpoint_is_not_held_back(gateway, backend, event, first):
    stream = gateway(backend(streaming(first, event))).connect().request(*GET)
    stream.wait(lambda: stream.body == first, "the first bytes")
    event.set()


def test_the_head_of_a_stream_does_not_wait_for_an_event(gateway, backend, event):
    stream = gateway(backend(streaming(event))).connect().request(*GET)
    assert stream.status == 200
    event.set()
    assert stream.wait_end() == "complete"


@pytest.mark.parametrize(
    "first",
    [
        b"event: endpoints\ndata: /x\n\n",
        b"event: endpoint",
        b"e",
        b"data: {",
        b"id: 1\nevent: message\n",
        b":",
    ],
)
def test_a_stream_that_only_begins_like_an_endpoint_is_not_changed(gateway, backend, first):
    data = first + b" and more\n\ndata: z\n\n"
    assert (
        gateway(backend(streaming(first, b" and more\n\ndata: z\n\n"))).request(*GET).body == data
    )


def test_stream_headers_pass(gateway, backend):
    def script(peer):
        peer.read_request()
        peer.begin_stream(
            [("X-Accel-Buffering", "no"), ("Cache-Control", "no-cache"), ("Mcp-Session-Id", "s")]
        ).end_chunks()

    answer = gateway(backend(script)).request(*GET)
    assert answer.header("X-Accel-Buffering") == "no"
    assert answer.header("Cache-Control") == "no-cache"
    assert answer.header("Mcp-Session-Id") == "s"


@pytest.mark.parametrize("framing", ["close", "length"])
def test_a_stream_need_not_be_chunked(gateway, backend, framing):
    data = b"data: a\n\ndata: b\n\n"

    def script(peer):
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n")
        peer.send(b"Content-Length: %d\r\n\r\n" % len(data) if framing == "length" else b"\r\n")
        peer.send_slowly(data).close()

    assert gateway(backend(script)).request(*GET).body == data


def test_an_http_1_0_client_gets_a_stream_that_ends_with_the_connection(gateway, backend):
    gw = gateway(backend(streaming(b"data: a\n\n")))
    with gw.connect() as client:
        stream = client.send(b"GET /mcp HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n").response()
        assert stream.header("Transfer-Encoding") is None
        assert stream.finish().body == b"data: a\n\n"


def test_streams_side_by_side_do_not_mix(gateway, backend):
    def script(peer):
        number = peer.read_request().header("X-Number").encode()
        peer.begin_stream()
        for count in range(200):
            peer.chunk(b"data: %s %d\n" % (number, count)).chunk(b"\n")
        peer.end_chunks()

    gw = gateway(backend(script))
    streams = [gw.connect().request(*GET[:2], [*GET[2], ("X-Number", str(n))]) for n in range(12)]
    for number, stream in enumerate(streams):
        assert stream.finish().body == b"".join(
            b"data: %d %d\n\n" % (number, count) for count in range(200)
        )


# The client goes

LEAVE = {"close": lambda c: c.close(), "reset": lambda c: c.reset()}


@pytest.mark.parametrize("request_", [GET, POST], ids=["get", "post"])
@pytest.mark.parametrize("how", LEAVE)
def test_a_client_that_leaves_a_quiet_stream_closes_the_backends_side(
    gateway, backend, how, request_
):
    b = backend(streaming(b"data: a\n\n", end=False))
    stream = gateway(b).connect().request(*request_)
    stream.next_event()
    LEAVE[how](stream.connection)
    b.wait_gone()


@pytest.mark.parametrize("how", LEAVE)
def test_a_client_that_leaves_a_busy_stream_closes_the_backends_side(gateway, backend, how):
    def script(peer):
        peer.read_request()
        peer.begin_stream()
        for number in itertools.count():
            peer.chunk(b"data: %d\n\n" % number)

    b = backend(script)
    stream = gateway(b).connect().request(*GET)
    stream.next_event()
    LEAVE[how](stream.connection)
    wait_until(lambda: b.peers[0].socket.fileno() == -1, "the backend's side to end")


@pytest.mark.parametrize("how", LEAVE)
@pytest.mark.parametrize("request_", [GET, POST], ids=["get", "post"])
def test_a_client_that_leaves_before_the_answer_closes_the_backends_side(
    gateway, backend, how, request_
):
    def script(peer):
        peer.read_request()
        peer.wait_gone()

    b = backend(script)
    client = gateway(b).connect()
    body = json.dumps(request_[3]).encode() if len(request_) > 3 else None
    client.send(client.head(*request_[:3], body) + (body or b""))
    b.wait_requests(1)
    LEAVE[how](client)
    b.wait_gone()


# The backend goes

BREAK = {"close": lambda p: p.close(), "reset": lambda p: p.reset()}


@pytest.mark.parametrize("request_", [GET, POST], ids=["get", "post"])
@pytest.mark.parametrize("how", BREAK)
def test_a_stream_that_the_backend_breaks_off_is_seen_broken(
    gateway, backend, event, how, request_
):
    def script(peer):
        peer.read_request()
        peer.begin_stream().chunk(b"data: a\n\n").wait(event)
        BREAK[how](peer)

    gw = gateway(backend(script))
    gw.expect_log(tags.BACKEND_BROKE, optional=True)
    stream = gw.connect().request(*request_)
    stream.next_event()
    event.set()
    assert stream.wait_end() == "broken"
    assert stream.body == b"data: a\n\n"


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream"])
def test_a_body_shorter_than_its_length_is_seen_broken(gateway, backend, content_type):
    def script(peer):
        peer.read_request()
        peer.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: 90\r\n\r\ndata: a\n\n"
            % content_type.encode()
        ).close()

    gw = gateway(backend(script))
    gw.expect_log(tags.BACKEND_BROKE, optional=True)
    try:
        answer = gw.connect().request(*POST)
    except EOFError:
        return
    assert answer.status >= 500 or answer.wait_end() == "broken"


@pytest.mark.parametrize(
    "garbage",
    [
        b"zz\r\nabc\r\n",
        b"3\r\nabcdef\r\n",
        b"-1\r\n",
        b"\r\n",
        b"ffffffffffffffffff\r\n",
        b"5" + b"0" * 70_000,
        b"3 3\r\nabc\r\n",
        b"0\r\nbad trailer" + b"x" * 70_000,
    ],
    ids=["nohex", "overlong", "negative", "empty", "huge", "endless", "two", "trailer"],
)
def test_broken_chunking_is_seen_broken(gateway, backend, event, garbage):
    def script(peer):
        peer.read_request()
        peer.begin_stream().chunk(b"data: a\n\n").wait(event).send(garbage).wait_gone()

    b = backend(script)
    gw = gateway(b)
    gw.expect_log(tags.BAD_CHUNKS)
    stream = gw.connect().request(*GET)
    stream.next_event()
    event.set()
    assert stream.wait_end() == "broken"
    b.wait_gone()


def test_a_clean_end_is_seen_complete_and_the_backends_connection_is_reused(gateway, backend):
    b = backend(streaming(b"data: a\n\n"))
    gw = gateway(b)
    with gw.connect() as client:
        for _ in range(3):
            assert client.request(*GET).finish().body == b"data: a\n\n"
    assert len(b.peers) == 1


# Threads after all


@pytest.mark.parametrize(
    "options",
    [
        {"server": ["MCPProxyAsync Off"]},
        {
            "modules": ["ratelimit"],
            "location": ["SetOutputFilter RATE_LIMIT", "SetEnv rate-limit 4000"],
        },
    ],
    ids=["async-off", "blocking-filter"],
)
def test_a_stream_that_must_stay_on_its_thread_works(gateway, backend, event, options):
    b = backend(streaming(b"data: a\n\n", event, b"data: b\n\n"))
    stream = gateway(b, **options).connect().request(*GET)
    if "modules" not in options:
        assert stream.next_event() == {"data": "a"}
    event.set()
    assert stream.finish().body == b"data: a\n\ndata: b\n\n"


def test_what_a_client_sends_while_its_stream_runs_is_answered_afterwards(gateway, backend, event):
    def script(peer):
        while True:
            if peer.read_request().target == "/mcp":
                peer.begin_stream().chunk(b"data: a\n\n").wait(event).chunk(
                    b"data: b\n\n"
                ).end_chunks()
            else:
                peer.answer(b"second")

    with gateway(backend(script)).connect() as client:
        stream = client.request(*GET)
        stream.next_event()
        client.send(client.head("GET", "/mcp/2"))
        stays(lambda: not stream.poll().ended, 0.2, "the stream open")
        event.set()
        assert stream.finish().body == b"data: a\n\ndata: b\n\n"
        assert client.response().finish().body == b"second"
