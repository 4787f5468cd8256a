# SPDX-License-Identifier: Apache-2.0
"""MCPProxyRescue: the call whose answer, an event stream, is lost with its server is told so."""
import json

import pytest

from harness.client import call
from harness.mcpserver import chunk, sse
from harness.wait import wait_until

from test_rescue import _gateway, methods, opening, two  # noqa: F401

NOTE = sse({"jsonrpc": "2.0", "method": "notifications/message", "params": {}}, 1)


def answering(server, data):
    """Calls there are answered by a stream that says this and no more; their writers."""
    writers = []

    async def answer(session, message, reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                     b"Transfer-Encoding: chunked\r\n\r\n" + chunk(data))
        writers.append(writer)
        await reader.read(1)
        return False

    server._answer = answer
    return writers


def calling(gateway, server, data=NOTE, ident=9):
    """A call that has had the beginning of its answer."""
    gw, home, other, client = two(gateway, server)
    writers = answering(home, data)
    stream = client.start(call("whoami", ident))
    stream.read_until(data)
    return gw, home, other, client, stream, writers


def break_off(home, writers):
    """Its server lives, and drops the connection of the call."""

    async def abort():
        writers[-1].transport.abort()

    home.run(abort())


def assert_lost(stream, ident=9):
    event = stream.next_event()
    message = json.loads(event["data"])
    assert message["id"] == ident and type(message["id"]) is type(ident)
    assert message["error"]["code"] == -31502 and "id" not in event
    assert stream.wait_end() == "complete"


@pytest.mark.parametrize("ident", [9, "a \"b\""], ids=["number", "text"])
def test_a_call_that_is_lost_with_its_server_gets_an_error(gateway, server, ident):
    gw, home, other, client, stream, _ = calling(gateway, server, ident=ident)
    home.kill()
    assert_lost(stream, ident)
    assert not opening(other)
    assert client.where() == other.name


def test_a_call_that_its_server_has_forgotten_gets_an_error(gateway, server):
    gw, home, other, client, stream, writers = calling(gateway, server)
    home.sessions.clear()
    break_off(home, writers)
    assert_lost(stream)


def test_a_call_that_a_living_server_breaks_off_is_its_clients_to_resume(gateway, server):
    gw, home, other, client, stream, writers = calling(gateway, server)
    break_off(home, writers)
    assert stream.wait_end() == "broken"
    assert stream.body == NOTE
    assert methods(home)[-1] == "ping"
    assert home.requests[-1].header("Mcp-Session-Id") in home.sessions
    assert not opening(other)


def test_a_call_that_breaks_off_within_an_event_is_broken(gateway, server):
    gw, home, other, client, stream, _ = calling(gateway, server, NOTE + b"id: 2\ndata: {")
    home.kill()
    assert stream.wait_end() == "broken"
    assert "ping" not in methods(home)


def test_a_client_that_leaves_meanwhile_is_not_waited_for(gateway, server):
    gw, home, other, client, stream, writers = calling(gateway, server)
    home.holds_everything = True
    really = type(home)._answer

    async def answer(session, message, reader, writer):
        return await really(home, session, message, reader, writer)

    home._answer = answer
    break_off(home, writers)
    home.wait_waiting(1)
    stream.connection.close()
    home.wait_waiting(0)
    wait_until(lambda: any("tools/call" in line for line in gw.access()), "the end of the call")
