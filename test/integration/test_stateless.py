# SPDX-License-Identifier: Apache-2.0
"""The 2026-07-28 revision: no sessions, and headers that must agree with the body."""
import base64
import json

import pytest

from harness.client import ACCEPT, JSON, assert_rpc_error, call, rpc
from harness.wait import wait_until

VERSION = "2026-07-28"
META = {"io.modelcontextprotocol/protocolVersion": VERSION}


def stateless(method, params=None, ident=1, **headers):
    """(headers, message); headers override, None leaves one out."""
    params = dict(params or {}, _meta=META)
    mine = {"MCP-Protocol-Version": VERSION, "Mcp-Method": method}
    name = params.get("name", params.get("uri"))
    if method in ("tools/call", "prompts/get", "resources/read"):
        mine["Mcp-Name"] = name
    for key, value in headers.items():
        mine[key.replace("_", "-")] = value
    pairs = [(key, value) for key, value in mine.items() if value is not None]
    return [ACCEPT, JSON, *pairs], rpc(method, params, ident)


def send(gw, headers, message):
    return gw.request("POST", "/mcp", headers, json.dumps(message).encode())


TOOL = {"name": "echo", "arguments": {"a": 1}}


@pytest.mark.parametrize(
    "method, params",
    [
        ("server/discover", None),
        ("tools/list", None),
        ("tools/call", TOOL),
        ("prompts/get", {"name": "greet"}),
        ("resources/read", {"uri": "file:///a%20b"}),
        ("ping", None),
        ("completion/complete", {"ref": {"name": "x"}}),
    ],
)
def test_requests_whose_headers_agree_pass(gateway, server, method, params):
    answer = send(gateway(server(era="stateless")), *stateless(method, params, "id-1"))
    assert (answer.status, answer.json()["id"]) == (200, "id-1")


def test_an_event_stream_answers_a_call(gateway, server):
    gw = gateway(server(era="stateless"))
    answer = send(gw, *stateless("tools/call", {"name": "progress", "arguments": {"count": 2}}))
    assert answer.message()["result"] == {"server": "a"}
    assert answer.body.count(b"notifications/progress") == 2


def test_subscriptions_listen_stays_open_and_ends_with_its_client(gateway, server):
    a = server(era="stateless")
    gw = gateway(a)
    stream = gw.connect().request("POST", "/mcp", *stateless("subscriptions/listen"))
    a.wait_streams(1)
    assert "notifications/subscribed" in stream.next_event()["data"]
    a.push(None, {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
    assert "list_changed" in stream.next_event()["data"]
    stream.connection.close()
    a.wait_streams(0)


def test_calls_are_balanced_freely(gateway, server):
    servers = [server(name, "stateless") for name in "ab"]
    gw = gateway(*servers)
    for _ in range(10):
        assert send(gw, *stateless("tools/call", TOOL)).status == 200
    assert all(s.requests for s in servers)


def test_a_closed_call_is_cancelled_at_the_server_at_once(gateway, server):
    a = server(era="stateless")
    gw = gateway(a)
    client = gw.connect()
    headers, message = stateless("tools/call", {"name": "hold", "arguments": {}})
    body = json.dumps(message).encode()
    client.send(client.head("POST", "/mcp", headers, body) + body)
    a.wait_waiting(1)
    client.close()
    wait_until(lambda: not a.connected(), "the backend's connection to close")


DISAGREE = {
    "other-method": stateless("tools/call", TOOL, Mcp_Method="tools/list"),
    "method-case": stateless("tools/call", TOOL, Mcp_Method="Tools/Call"),
    "no-method": stateless("tools/call", TOOL, Mcp_Method=None),
    "no-method-list": stateless("tools/list", Mcp_Method=None),
    "other-name": stateless("tools/call", TOOL, Mcp_Name="other"),
    "no-name": stateless("tools/call", TOOL, Mcp_Name=None),
    "empty-name": stateless("tools/call", TOOL, Mcp_Name=""),
    "name-case": stateless("tools/call", TOOL, Mcp_Name="Echo"),
    "other-prompt": stateless("prompts/get", {"name": "a"}, Mcp_Name="b"),
    "other-uri": stateless("resources/read", {"uri": "file:///a"}, Mcp_Name="file:///b"),
    "no-uri": stateless("resources/read", {"uri": "file:///a"}, Mcp_Name=None),
    "bad-base64": stateless("tools/call", TOOL, Mcp_Name="=?base64?!!!?="),
    "other-base64": stateless("tools/call", TOOL, Mcp_Name="=?base64?b3RoZXI=?="),
    "other-version": stateless("tools/call", TOOL, MCP_Protocol_Version="2026-07-29"),
    "notification": stateless("notifications/cancelled", {}, 1, Mcp_Method="tools/call"),
}


@pytest.mark.parametrize("name", DISAGREE)
def test_headers_that_disagree_with_the_body_are_refused(gateway, server, name):
    a = server(era="stateless")
    assert_rpc_error(send(gateway(a), *DISAGREE[name]), 400, 1, -32020)
    assert a.requests == []


def test_a_notification_that_disagrees_is_refused_without_a_body(gateway, server):
    a = server(era="stateless")
    answer = send(gateway(a), *stateless("notifications/cancelled", {}, None, Mcp_Method="ping"))
    assert (answer.status, answer.body, a.requests) == (400, b"", [])


def test_a_body_of_another_version_is_refused(gateway, server):
    headers, message = stateless("tools/call", TOOL)
    message["params"]["_meta"] = {"io.modelcontextprotocol/protocolVersion": "2025-11-25"}
    assert_rpc_error(send(gateway(server(era="stateless")), headers, message), 400, 1, -32020)


def test_check_headers_off_lets_them_pass(gateway, server):
    gw = gateway(server(era="stateless"), location=["MCPProxyCheckHeaders Off"])
    assert send(gw, *DISAGREE["other-name"]).status == 200


@pytest.mark.parametrize("name", ["echo", "caf\u00e9", "a b", "=?base64?", "\u65e5\u672c"])
def test_a_name_may_be_written_in_base64(gateway, server, name):
    coded = "=?base64?%s?=" % base64.b64encode(name.encode()).decode()
    a = server(era="stateless")
    params = {"name": name, "arguments": {}}
    answer = send(gateway(a), *stateless("tools/call", params, Mcp_Name=coded))
    assert answer.status == 200, answer.body
    assert a.requests[0].header("Mcp-Name") == coded


@pytest.mark.parametrize("version", ["2025-03-26", "2025-06-18", "2025-11-25", None])
def test_for_older_revisions_the_headers_mean_nothing(gateway, server, version):
    headers = [ACCEPT, JSON, ("Mcp-Method", "tools/list"), ("Mcp-Name", "nonsense")]
    headers += [("MCP-Protocol-Version", version)] if version else []
    assert send(gateway(server(era="stateless")), headers, call("echo")).status == 200


def test_param_headers_are_forwarded_as_they_are(gateway, server):
    a = server(era="stateless")
    headers, message = stateless("tools/call", TOOL)
    assert (
        send(gateway(a), [*headers, ("Mcp-Param-Region", "=?base64?eA==?=")], message).status == 200
    )
    assert a.requests[0].header("Mcp-Param-Region") == "=?base64?eA==?="


AMBIGUOUS = {
    "method-twice": '"method":"tools/call","method":"tools/list","params":{%s}',
    "method-case": '"method":"tools/call","Method":"tools/list","params":{%s}',
    "params-twice": '"method":"tools/call","params":{"name":"x"},"params":{%s}',
    "name-twice": '"method":"tools/call","params":{"name":"x",%s}',
    "name-case": '"method":"tools/call","params":{"NAME":"x",%s}',
    "id-twice": '"id":1,"method":"tools/call","params":{%s}',
    "escaped": '"method":"tools/call","meth\\u006fd":"x","params":{%s}',
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_a_message_that_two_readers_could_read_differently_is_refused(gateway, server, name):
    inner = '"name":"echo","_meta":%s' % json.dumps(META)
    body = '{"jsonrpc":"2.0","id":1,%s}' % (AMBIGUOUS[name] % inner)
    a = server(era="stateless")
    answer = gateway(a).request("POST", "/mcp", stateless("tools/call", TOOL)[0], body.encode())
    assert answer.status == 400, answer.body
    assert json.loads(answer.body)["error"]["code"] == -32600
    assert a.requests == []


@pytest.mark.parametrize(
    "header", [("Content-Encoding", "gzip"), ("Content-Type", "application/json; charset=utf-16")]
)
def test_a_body_that_cannot_be_read_is_415(gateway, server, header):
    headers, message = stateless("tools/call", TOOL)
    headers = [pair for pair in headers if pair[0] != header[0]] + [header]
    answer = send(gateway(server(era="stateless")), headers, message)
    assert answer.status == 415
    assert json.loads(answer.body)["error"]["code"] == -31415


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"",
        b"nonsense",
        b'{"jsonrpc":"2.0","id":1,"method":"x"',
        b"\xff\xfe",
        b"[" * 5000,
        b'{"a":1}}',
        b"\x00",
    ],
)
def test_what_is_not_json_is_a_parse_error(gateway, server, body):
    a = server(era="stateless")
    answer = gateway(a).request("POST", "/mcp", stateless("tools/list")[0], body)
    assert_rpc_error(answer, 400, None, -32700)
    assert a.requests == []
