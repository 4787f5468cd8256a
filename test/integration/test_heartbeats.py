# SPDX-License-Identifier: Apache-2.0
"""Comments of our own on quiet streams, between events only."""
import re

import pytest

from harness.wait import settles, stays
from test_streams import GET, POST, streaming

COMMENT = re.compile(rb":[^\r\n]*(\r\n|\r|\n)(\r\n|\r|\n)?")


@pytest.mark.parametrize("request_", [GET, POST], ids=["get", "post"])
def test_a_quiet_stream_gets_comments(gateway, backend, event, request_):
    gw = gateway(
        backend(streaming(b"data: a\n\n", event, b"data: b\n\n")),
        location=["MCPProxyHeartbeat 100ms"],
    )
    stream = gw.connect().request(*request_)
    stream.wait(lambda: stream.body.count(b":") >= 4, "three comments")
    event.set()
    assert (
        COMMENT.sub(b"", stream.finish().body.replace(b"data: ", b"data "))
        == b"data a\n\ndata b\n\n"
    )


def test_a_stream_that_has_sent_nothing_gets_comments_too(gateway, backend, event):
    stream = (
        gateway(backend(streaming(event)), location=["MCPProxyHeartbeat 100ms"])
        .connect()
        .request(*GET)
    )
    stream.read_until(b":")
    stream.read_until(b"\n")
    event.set()


INSIDE = [
    b"d",
    b"data: half",
    b"data: a\n",
    b"data: a\r\n",
    b"data: a\r",
    b"event: x\nid: 1\n",
    b"data: a\n\ndata: b",
    b": comment",
    b"data: a\n: comment\n",
]


@pytest.mark.parametrize("part", INSIDE)
def test_no_comment_is_put_inside_an_event(gateway, backend, event, part):
    part = b"data: 0\n\n" + part
    gw = gateway(backend(streaming(part, event, b"x\n\n")), location=["MCPProxyHeartbeat 50ms"])
    stream = gw.connect().request(*GET)
    stream.read_until(part)
    stays(lambda: stream.poll().body == part, 0.4, "the body as it was")
    event.set()
    stream.read_until(b"x\n\n")
    assert stream.body.startswith(part + b"x\n\n")


@pytest.mark.parametrize(
    "whole", [b"data: a\n\n", b"data: a\r\n\r\n", b"data: a\r\r", b": only a comment\n\n"]
)
def test_comments_come_after_any_form_of_a_blank_line(gateway, backend, event, whole):
    gw = gateway(backend(streaming(whole, event)), location=["MCPProxyHeartbeat 50ms"])
    stream = gw.connect().request(*GET)
    stream.read_until(whole)
    assert stream.read_until(b"\n")[:1] == b":"
    event.set()


def test_a_crlf_that_comes_in_two_parts_still_ends_one_event(gateway, backend, event):
    gw = gateway(
        backend(streaming(b"data: a\r\n\r", event, b"\ndata: b\r\n\r\n")),
        location=["MCPProxyHeartbeat 50ms"],
    )
    stream = gw.connect().request(*GET)
    stream.read_until(b"data: a\r\n\r")
    settles(lambda: len(stream.poll().body) > 12, 0.2)
    event.set()
    text = stream.finish().body.decode().replace("\r\n", "\n").replace("\r", "\n")
    assert [e for e in re.sub(r"(?m)^:.*\n", "", text).split("\n\n") if e.strip()] == [
        "data: a",
        "data: b",
    ] or text.count("data:") == 2


def test_heartbeat_off_means_silence(gateway, backend, event):
    gw = gateway(backend(streaming(b"data: a\n\n", event)), location=["MCPProxyHeartbeat Off"])
    stream = gw.connect().request(*GET)
    stream.read_until(b"\n\n")
    stays(lambda: stream.poll().body == b"data: a\n\n", 0.3, "silence")
    event.set()
    assert stream.finish().body == b"data: a\n\n"


def test_json_answers_get_no_comments(gateway, backend, event):
    def script(peer):
        peer.read_request()
        peer.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 6\r\n\r\n"
            b'{"a"'
        ).wait(event).send(b":1")

    answer = gateway(backend(script), location=["MCPProxyHeartbeat 50ms"]).connect().request(*POST)
    stays(lambda: answer.poll().body in (b"", b'{"a"'), 0.3, "the body")
    event.set()
    assert len(answer.finish().body) == 6
