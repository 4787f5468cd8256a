# SPDX-License-Identifier: Apache-2.0
"""A child that is to go: how what it holds ends, and what a client can tell from that."""
import json
import signal

import pytest

from harness.client import ACCEPT, JSON, Mcp, assert_rpc_error, call
from harness.wait import FULL, wait_until

VERSION = "2026-07-28"
LISTEN = [
    ACCEPT,
    JSON,
    ("MCP-Protocol-Version", VERSION),
    ("Mcp-Method", "subscriptions/listen"),
]
GET = [("Accept", "text/event-stream")]
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
SOON = ["MCPProxyDrainTimeout 1s"]
HINTS = [b"data: a\n\n", b"id: 7\r\ndata: b\r\n\r\n", b": quiet\n\n"]


def subscribe(ident):
    """The bytes of a subscriptions/listen request; ident is JSON text."""
    return (
        b'{"jsonrpc":"2.0","id":%s,"method":"subscriptions/listen","params":{"_meta":'
        b'{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}' % ident.encode()
    )


def streaming(*chunks, headers=()):
    def script(peer):
        peer.read_request()
        peer.begin_stream(headers)
        for chunk in chunks:
            peer.chunk(chunk)
        peer.wait_gone()

    return script


def restart(gw):
    """A graceful restart; returns the children of the old generation."""
    old = gw.children()
    gw.graceful()
    return old


def wait_gone(gw, old, timeout=None):
    wait_until(lambda: not set(old) & set(gw.children()), "the old children to go", timeout)


# Streams


@pytest.mark.parametrize("ident", ["1", '"a\\"b\\u00e9"', "9007199254740993", "-1.5e3", "0"])
def test_a_subscription_ends_with_the_response_to_its_request(gateway, backend, ident):
    b = backend(streaming(b"data: a\n\n"))
    gw = gateway(b, server=SOON)
    stream = gw.connect().request("POST", "/mcp", LISTEN, subscribe(ident))
    stream.next_event()
    restart(gw)
    end = stream.finish().body.removeprefix(b"data: a\n\n")
    event, data, *rest = end.split(b"\n")
    assert (event, rest) == (b"event: message", [b"", b""])
    assert data.removeprefix(b"data: ").count(ident.encode()) >= 2, "the id as it was written"
    message = json.loads(data.removeprefix(b"data: "))
    assert message == {
        "jsonrpc": "2.0",
        "id": json.loads(ident),
        "result": {"resultType": "complete", "_meta": {SUBSCRIPTION: json.loads(ident)}},
    }
    b.wait_gone()


def test_a_subscription_that_keeps_its_thread_ends_with_its_response_too(gateway, backend):
    gw = gateway(backend(streaming(b"data: {}\n\n")), server=[*SOON, "MCPProxyAsync Off"])
    stream = gw.connect().request("POST", "/mcp", LISTEN, subscribe("5"))
    stream.next_event()
    restart(gw)
    assert stream.message()["result"]["_meta"] == {SUBSCRIPTION: 5}


@pytest.mark.parametrize(
    "chunk, headers",
    [(b"data: a\n", []), (b"\x1f\x8b", [("Content-Encoding", "gzip")])],
    ids=["within an event", "encoded"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_where_no_event_ends_in_time_a_stream_breaks_off(gateway, backend, chunk, headers, method):
    gw = gateway(backend(streaming(chunk, headers=headers)), server=SOON)
    request = (method, "/mcp", *((LISTEN, subscribe("1")) if method == "POST" else (GET,)))
    stream = gw.connect().request(*request)
    stream.wait(lambda: stream.body == chunk, "what the server sent")
    restart(gw)
    assert stream.wait_end() == "broken"
    assert stream.body == chunk


@pytest.mark.parametrize("events", [[], HINTS[:1], HINTS], ids=["none", "one", "some"])
def test_a_standing_get_ends_cleanly_with_nothing_added(gateway, backend, events):
    gw = gateway(backend(streaming(*events)), server=SOON)
    stream = gw.connect().request("GET", "/mcp", GET)
    stream.wait(lambda: stream.body == b"".join(events), "the events")
    restart(gw)
    assert stream.finish().body == b"".join(events)


def test_a_stream_in_the_middle_of_an_event_ends_behind_it(gateway, backend, event):
    def script(peer):
        peer.read_request()
        peer.begin_stream().chunk(b"data: a\n").wait(event).chunk(b"data: b\n\n").wait_gone()

    gw = gateway(backend(script), server=["MCPProxyDrainTimeout 3s"])
    stream = gw.connect().request("POST", "/mcp", LISTEN, subscribe("1"))
    stream.read_until(b"data: a\n")
    restart(gw)
    event.set()
    assert stream.read_until(b"\n\n") == b"data: b\n\n"
    assert json.loads(stream.next_event()["data"])["id"] == 1
    stream.finish()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_stream_that_has_not_begun_is_sent_away_for_a_moment(gateway, backend, method):
    b = backend(lambda peer: (peer.read_request(), peer.wait_gone()))
    gw = gateway(b, server=SOON)
    client, body = gw.connect(), subscribe("3") if method == "POST" else None
    head = client.head(method, "/mcp", LISTEN if body else GET, body)
    client.send(head + (body or b""))
    b.wait_requests(1)
    old = restart(gw)
    answer = client.response()
    assert_rpc_error(answer, 503, 3 if body else None)
    assert int(answer.header("Retry-After")) >= 1
    wait_gone(gw, old)


# Connections


def test_an_idle_connection_is_closed_soon(gateway, server):
    gw = gateway(server(), server=["KeepAliveTimeout 60"])
    idle = gw.connect()
    Mcp(gw).initialize().start(call("whoami"), idle).finish()
    old = restart(gw)
    wait_until(idle.is_closed_by_server, "the idle connection to be closed")
    wait_gone(gw, old)


def test_a_connection_in_use_answers_once_more_and_says_that_it_closes(gateway, server):
    gw = gateway(server(), server=["KeepAliveTimeout 60"])
    client, mcp = gw.connect(), Mcp(gw).initialize()
    for _ in range(20 if FULL else 5):
        mcp.start(call("whoami"), client).finish()
        gw.process.send_signal(signal.SIGUSR1)
        # The signal and this request are on their way at once; whoever is first, it is answered.
        answer = mcp.start(call("whoami"), client).finish()
        assert answer.status == 200
        while answer.header("Connection") != "close":
            answer = mcp.start(call("whoami"), client).finish()
        wait_until(client.is_closed_by_server, "the end of the connection")
        client = gw.connect()
        wait_until(gw._answers, "the new generation")


def test_the_connection_of_a_drained_stream_ends_with_it(gateway, backend):
    """Else a client that sends its next call there would find it closed a moment later."""
    gw = gateway(backend(streaming(b"data: a\n\n")), server=SOON)
    with gw.connect() as client:
        stream = client.request("GET", "/mcp", GET)
        stream.next_event()
        restart(gw)
        stream.finish()
        with pytest.raises((EOFError, OSError)):
            client.request("GET", "/server-status?auto")
