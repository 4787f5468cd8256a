# SPDX-License-Identifier: Apache-2.0
"""A client that reads slowly slows its own backend, in bounded memory, and nobody else."""
import pytest

from harness import tags
from harness.wait import FULL, settles, stays, wait_until
from test_streams import GET, streaming


def flood(size, piece=b"data: " + b"x" * 993 + b"\n"):
    """A script: an event stream of size bytes without a blank line."""

    def script(peer):
        peer.read_request()
        peer.begin_stream()
        for _ in range(size // len(piece)):
            peer.chunk(piece)
        peer.end_chunks()

    return script


def test_a_slow_reader_slows_its_own_backend_and_nobody_else(gateway, backend):
    size = 100_000_000
    slow, quick = backend(flood(size), send_buffer=65536), backend(streaming(b"data: b\n\n"))
    gw = gateway(
        slow,
        member="disablereuse=Off",
        location=["MCPProxyWriteTimeout 60s"],
        server=[
            '<Location "/quick">',
            '  ProxyPass "%s/mcp"' % quick.url,
            "  MCPProxy On",
            "</Location>",
        ],
    )
    stream = gw.connect(receive_buffer=65536).request(*GET)
    taken = settles(lambda: slow.peers[0].sent)
    assert taken < size / 4
    for _ in range(10):
        assert gw.request("GET", "/quick").body == b"data: b\n\n"
    assert slow.peers[0].sent < size / 4
    stream.connection.close()


def test_a_slow_reader_gets_every_byte_in_the_end(gateway, backend):
    size = 20_000_000
    b = backend(flood(size), send_buffer=65536)
    stream = (
        gateway(b, location=["MCPProxyWriteTimeout 60s"])
        .connect(receive_buffer=16384)
        .request(*GET)
    )
    settles(lambda: b.peers[0].sent, 0.3)
    assert len(stream.finish().body) == size
    assert stream.body.count(b"data: " + b"x" * 993 + b"\n") == size // 1000


@pytest.mark.parametrize("content_type", ["text/event-stream", "application/json"])
def test_a_client_that_takes_nothing_is_dropped_after_the_write_timeout(
    gateway, backend, content_type
):
    def script(peer):
        peer.read_request()
        peer.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: 99000000\r\n\r\n"
            % content_type.encode()
        )
        for _ in range(990):
            peer.send(b"data: " + b"x" * 99_992 + b"\n\n")

    b = backend(script, send_buffer=65536)
    gw = gateway(b, location=["MCPProxyWriteTimeout 500ms"])
    client = gw.connect(receive_buffer=65536)
    client.send(client.head(*GET))
    gw.wait_log(tags.WRITE_TIMEOUT)
    wait_until(lambda: b.peers[0].socket.fileno() == -1, "the backend's side to end")


def test_a_client_that_is_gone_without_a_word_is_dropped_after_the_write_timeout(
    gateway, backend
):
    """What is written to it finds room in its socket for hours."""
    b = backend(streaming(b"data: a\n\n", end=False))
    gw = gateway(b, location=["MCPProxyWriteTimeout 500ms", "MCPProxyHeartbeat 100ms"])
    stream = gw.connect().request(*GET)
    stream.read_until(b"data: a\n\n")
    stream.connection.fall_silent()
    gw.wait_log(tags.WRITE_TIMEOUT)
    b.wait_gone()


def test_the_write_timeout_of_a_stream_ends_with_it(gateway, backend):
    """The next answer on its connection may be one that has more time."""
    size = 8_000_000

    def reply(peer):
        peer.read_request()
        peer.answer(b"x" * size)

    slow = backend(reply)
    gw = gateway(
        backend(streaming(b"data: a\n\n")),
        location=["MCPProxyWriteTimeout 200ms"],
        server=['<Location "/slow">', '  ProxyPass "%s/mcp"' % slow.url, "  MCPProxy On",
                "</Location>"],
    )
    with gw.connect(receive_buffer=8192) as client:
        assert client.request(*GET).finish().body == b"data: a\n\n"
        answer = client.request("GET", "/slow")
        stays(lambda: True, 1.5)
        assert len(answer.finish().body) == size


def test_a_client_that_keeps_taking_a_little_is_not_dropped(gateway, backend):
    size = 4_000_000
    b = backend(flood(size), send_buffer=65536)
    gw = gateway(b, location=["MCPProxyWriteTimeout 1s"])
    stream = gw.connect(receive_buffer=8192).request(*GET)
    for _ in range(8):
        before = len(stream.body)
        stream.wait(lambda: len(stream.body) > before, "a few more bytes")
        stays(lambda: True, 0.3)
    assert len(stream.finish().body) == size


def test_a_quiet_stream_is_no_slow_reader(gateway, backend, event):
    gw = gateway(
        backend(streaming(b"data: a\n\n", event, b"data: b\n\n")),
        location=["MCPProxyWriteTimeout 200ms"],
    )
    stream = gw.connect().request(*GET)
    stays(lambda: not stream.poll().ended, 0.8, "the stream open")
    event.set()
    assert stream.finish().body == b"data: a\n\ndata: b\n\n"


def test_a_line_without_an_end_passes_in_bounded_memory(gateway, backend):
    size = 100_000_000 if FULL else 20_000_000
    gw = gateway(backend(flood(size, b"x" * 10_000)))
    gw.request("GET", "/mcp/warm-up")
    before = gw.pss_kib()
    stream = gw.connect().request(*GET)
    peak, seen = 0, 0
    while not stream.ended:
        stream.connection.fill()
        stream._decode()
        seen += len(stream.body)
        stream.body = b""
        peak = max(peak, gw.pss_kib() - before) if seen % 7 == 0 else peak
    assert (seen, stream.ended) == (size, "complete")
    assert max(peak, gw.pss_kib() - before) < 8_000
