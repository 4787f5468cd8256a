# SPDX-License-Identifier: Apache-2.0
"""MCPProxyRescue and Last-Event-ID: ids of a lost server's events reach no other one."""
import gzip

import pytest

from harness.client import call
from harness.mcpserver import chunk, sse
from harness.wait import wait_until

from test_rescue import _gateway, hear, streaming  # noqa: F401
from test_rescue_far import _fleet  # noqa: F401


def resumed(client, there, ident):
    """The client is back with that id: its stream, and the id that the server got."""
    before = len(there.streams)
    stream = client.listen([("Last-Event-ID", ident)])
    assert stream.status == 200
    wait_until(lambda: len(there.streams) > before, "the stream at server %s" % there.name)
    return stream, there.streams[-1].request.header("Last-Event-ID")


def left(stream, there):
    """The client leaves its stream."""
    stream.connection.close()
    there.wait_streams(0)


def moved(gateway, server, **options):
    """A client that had heard event 1 of a server, which is dead, and whose session was rescued."""
    gw, home, other, client, stream = streaming(gateway, server, **options)
    left(stream, home)
    home.kill()
    assert client.where() == other.name
    return gw, home, other, client


def test_an_event_id_of_a_lost_server_does_not_reach_another(gateway, server):
    gw, home, other, client = moved(gateway, server)
    stream, ident = resumed(client, other, "1")
    assert ident is None
    assert hear(stream, other) != "x"


IDS = ["7", "a b", " 5", "mcp-1", "\u00e4"]


def test_event_ids_of_the_new_server_come_back_to_it_as_they_were(gateway, server):
    gw, home, other, client = moved(gateway, server)
    stream = client.listen()
    for ident in IDS:
        other.wait_streams(1)
        other.push(next(iter(other.sessions)), {}, ident=ident)
        known = stream.next_event()["id"]
        left(stream, other)
        stream, told = resumed(client, other, known.encode().decode("latin-1"))
        assert told == ident.strip().encode().decode("latin-1") or told == ident
    assert client.where() == other.name


@pytest.mark.parametrize("line", [b"id:9", b"id: 9", b"data: 1\r\nid: 9\r\nevent: message"])
def test_an_id_is_found_however_it_is_written_and_split(gateway, server, line):
    gw, home, other, client = moved(gateway, server)
    stream = client.listen()
    other.wait_streams(1)
    for byte in line + b"\ndata: 2\n\n":
        other.push_bytes(next(iter(other.sessions)), bytes([byte]))
    block = stream.read_until(b"2\n\n")
    assert block.count(b"mcp-") == 1
    known = block.split(b"id:")[1].splitlines()[0].strip().decode()
    left(stream, other)
    assert resumed(client, other, known)[1] == "9"


def test_an_id_that_is_none_comes_back_as_none(gateway, server):
    gw, home, other, client = moved(gateway, server)
    stream = client.listen()
    other.wait_streams(1)
    other.push_bytes(next(iter(other.sessions)), b"id: \ndata: 2\n\n")
    known = stream.next_event()["id"]
    left(stream, other)
    assert resumed(client, other, known.strip())[1] is None


def test_an_event_id_is_of_one_rescue_only(gateway, server):
    gw, home, other, client = moved(gateway, server, member="retry=0")
    stream = client.listen()
    known = hear(stream, other)
    left(stream, other)
    home.listen()
    other.kill()
    assert client.where() == home.name
    stream, ident = resumed(client, home, known)
    assert ident is None
    again = hear(stream, home)
    left(stream, home)
    assert resumed(client, home, again)[1] == "x"


def test_a_stream_that_goes_on_elsewhere_has_ids_that_can_be_resumed(gateway, server):
    gw, home, other, client, stream = streaming(gateway, server)
    home.kill()
    known = hear(stream, other)
    left(stream, other)
    assert resumed(client, other, known)[1] == "x"


def test_a_stream_that_was_resumed_ends_with_its_member(gateway, server):
    """It may be the stream of a call: its client knows, and resumes it."""
    gw, home, other, client, stream = streaming(gateway, server)
    left(stream, home)
    stream, ident = resumed(client, home, "1")
    assert ident == "1"
    home.kill()
    assert stream.wait_end() == "broken"
    stream, ident = resumed(client, other, "1")
    assert ident is None
    hear(stream, other)


def answering(server, head, body):
    """Any call there is answered by these."""

    async def answer(session, message, reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%s"
                     b"Transfer-Encoding: chunked\r\n\r\n" % head + chunk(body) + b"0\r\n\r\n")
        return True

    server._answer = answer


def test_the_stream_of_a_call_has_ids_that_can_be_resumed(gateway, server):
    gw, home, other, client = moved(gateway, server)
    answering(other, b"", b"id: 3\nretry: 20\ndata:\n\n")
    answer = client.post(call("whoami"))
    known = answer.body.split(b"id:")[1].splitlines()[0].strip().decode()
    assert resumed(client, other, known)[1] == "3"


def test_a_rescued_session_asks_for_streams_that_can_be_read(gateway, server):
    gw, home, other, client = moved(gateway, server)
    packed = gzip.compress(sse({"jsonrpc": "2.0", "id": 1, "result": {}}, 3))
    answering(other, b"Content-Encoding: gzip\r\n", packed)
    answer = client.post(call("whoami"), [("Accept-Encoding", "gzip")])
    assert other.requests[-1].header("Accept-Encoding") is None
    # What is encoded all the same passes as it is.
    assert answer.finish().body == packed


def test_ids_pass_unchanged_while_nothing_was_rescued(gateway, server):
    gw, home, other, client, stream = streaming(gateway, server)
    home.push(next(iter(home.sessions)), {}, ident="2")
    assert stream.next_event()["id"] == "2"
    left(stream, home)
    assert resumed(client, home, "2")[1] == "2"


def test_any_gateway_knows_whose_an_event_id_is(fleet):
    client, home, other = fleet.opened()
    home.kill()
    assert client.where() == other.name
    stream = client.listen()
    known = hear(stream, other)
    left(stream, other)
    # The second one has not heard of the rescue yet.
    stream, ident = resumed(fleet.at(1, client), other, known)
    assert ident == "x"
    left(stream, other)
    assert resumed(fleet.at(1, client), other, known)[1] == "x"
    for stream in other.open_streams():
        other.end_streams(stream.session)
    other.wait_streams(0)
    assert resumed(fleet.at(1, client), other, "1")[1] is None
