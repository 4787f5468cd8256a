# SPDX-License-Identifier: Apache-2.0
"""Require mcp-tool and Require mcp-method, alone and among httpd's other rules."""
import json

import pytest

from harness import tags
from harness.client import ACCEPT, JSON, Mcp, assert_rpc_error, basic, call, rpc
from harness.wait import wait_until

LOGIN = ["AuthType Basic", 'AuthName "test"', "AuthUserFile users"]
ALICE, BOB = basic("alice", "wonder"), basic("bob", "builder")
POST = [ACCEPT, JSON]
PLAIN = {"mcp": False}


@pytest.fixture(name="ruled")
def _ruled(gateway, server):
    """ruled(rule, ..., login=True): a gateway with these rules and the stateless server."""

    def make(*rules, login=True, options=None):
        a = server(era="stateless")
        location = (LOGIN if login else []) + list(rules)
        gw = gateway(a, location=location, **(options or {}))
        # httpd reports whom it refuses at level error.
        gw.expect_log("AH01630|AH01631", optional=True)
        return gw, a

    return make


def post(gw, message, *headers):
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return gw.request("POST", "/mcp", [*POST, *headers], body)


def is_served(gw, message, *headers):
    """Whether the server answers; else it is our refusal."""
    answer = post(gw, message, *headers)
    if answer.status == 403:
        assert_rpc_error(answer, 403, message["id"])
    assert answer.status in (200, 202, 403), (answer.status, answer.body)
    return answer.status != 403


# Which tools


@pytest.mark.parametrize("options", [{}, PLAIN], ids=["proxied", "plain"])
def test_tools_that_match_are_served_and_others_are_403(ruled, options):
    gw, a = ruled('Require mcp-tool "search_*" who?mi echo', login=False, options=options)
    for tool, served in (
        ("search_x", True), ("search_", True), ("whoami", True), ("echo", True),
        ("Search_x", False), ("echo2", False), ("xsearch_", False), ("", False),
    ):
        assert is_served(gw, call(tool, 7)) == served, tool
    assert len(a.requests) == 4


def test_the_refusal_names_the_tool_and_keeps_the_id(ruled):
    gw, _ = ruled("Require mcp-tool echo", login=False)
    answer = post(gw, call('de"l\n', "a\u00e9"))
    assert_rpc_error(answer, 403, "a\u00e9")
    assert 'de"l\n' in answer.json()["error"]["message"]


def test_a_refused_notification_gets_no_body(ruled):
    gw, a = ruled("Require mcp-method tools/call", login=False)
    answer = post(gw, rpc("notifications/initialized", ident=None))
    assert (answer.status, answer.body) == (403, b"")
    assert a.requests == []


def test_what_is_no_tool_call_is_granted_by_a_tool_rule(ruled):
    gw, _ = ruled("Require mcp-tool echo", login=False)
    for message in (rpc("tools/list"), rpc("ping"), rpc("notifications/x", ident=None),
                    {"jsonrpc": "2.0", "id": 1, "result": {}}, rpc("prompts/get", {"name": "z"})):
        assert post(gw, message).status in (200, 202), message
    for method in ("GET", "DELETE", "OPTIONS"):
        assert gw.request(method, "/mcp").status != 403, method


def test_a_method_rule_judges_requests_and_notifications(ruled):
    gw, _ = ruled('Require mcp-method "tools/*" ping', login=False)
    for message, served in (
        (rpc("tools/list"), True), (call("echo"), True), (rpc("ping"), True),
        (rpc("resources/list"), False), (rpc("pings"), False),
    ):
        assert is_served(gw, message) == served, message
    assert post(gw, {"jsonrpc": "2.0", "id": 1, "result": {}}).status in (200, 202)
    for method in ("GET", "DELETE", "OPTIONS"):
        assert gw.request(method, "/mcp").status != 403, method


def test_a_call_without_a_tool_fits_no_rule(ruled):
    for rule in ("Require mcp-tool *", "<RequireAll>\nRequire all granted\n"
                 "Require not mcp-tool x\n</RequireAll>"):
        gw, a = ruled(rule, login=False)
        for params in ({}, {"name": 5}, {"name": ["x"]}, None):
            assert not is_served(gw, rpc("tools/call", params)), params
        assert a.requests == []


def test_a_batch_is_judged_message_by_message(ruled):
    gw, a = ruled("Require mcp-tool echo", login=False)
    assert post(gw, [call("echo", 1), rpc("tools/list", ident=2)]).status == 200
    for batch in ([call("echo", 1), call("drop", 2)], [call("drop", 2), call("echo", 1)]):
        assert_rpc_error(post(gw, batch), 403)
    assert len(a.requests) == 1


# What cannot be judged


@pytest.mark.parametrize(
    "body, headers, status, code",
    [
        (b"{", (), 400, -32700),
        (b"", (), 400, -32700),
        (b"name=echo", (), 400, -32700),
        (b"[]", (), 400, -32600),
        (b'{"id":1}', (), 400, -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","name":"drop"}}',
         (), 400, -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","Name":"drop"}}',
         (), 400, -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call","params":{"name":"drop"}}',
         (), 400, -32600),
        (json.dumps(call("echo")).encode(), (("Content-Encoding", "gzip"),), 415, -31415),
        (json.dumps(call("echo")).encode(), (("Content-Type", "application/json; charset=utf-16"),),
         415, -31415),
    ],
)
@pytest.mark.parametrize(
    "rule",
    [
        "Require mcp-tool echo",
        "<RequireAll>\nRequire all granted\n<RequireNone>\nRequire mcp-tool drop\n"
        "</RequireNone>\n</RequireAll>",
    ],
    ids=["positive", "negative"],
)
def test_a_body_that_two_could_read_differently_is_refused(
    ruled, rule, body, headers, status, code
):
    gw, a = ruled(rule, login=False)
    names = {name for name, _ in headers}
    headers = [*headers, *(pair for pair in POST if pair[0] not in names)]
    answer = gw.request("POST", "/mcp", headers, body).finish()
    assert (answer.status, answer.json()["error"]["code"]) == (status, code)
    assert a.requests == []


def test_a_body_that_is_too_large_or_too_slow_is_refused(ruled):
    gw, a = ruled("Require mcp-tool *", "MCPProxyMaxBody 1K", "MCPProxyBodyTimeout 200ms",
                  login=False)
    gw.expect_log(tags.BODY_TOO_LARGE)
    gw.expect_log(tags.BODY_TIMEOUT)
    assert_rpc_error(post(gw, call("echo", x="y" * 2000)), 413)
    with gw.connect() as client:
        client.send(client.head("POST", "/mcp", [*POST, ("Content-Length", "100")]) + b"{")
        assert_rpc_error(client.response(), 408)
    assert a.requests == []


def test_a_body_that_comes_in_pieces_is_judged_when_it_is_whole(ruled):
    gw, _ = ruled("Require mcp-tool echo", login=False)
    for tool, status in (("echo", 200), ("drop", 403)):
        body = json.dumps(call(tool)).encode()
        with gw.connect() as client:
            client.send(client.head("POST", "/mcp", POST, body) + body[:20])
            client.send(body[20:40])
            client.send(body[40:])
            assert client.response().status == status


# Who


def test_nobody_is_asked_to_log_in_and_the_body_is_not_read(ruled):
    gw, a = ruled("Require mcp-tool echo")
    for method in ("POST", "GET", "DELETE"):
        waiting = [*POST, ("Content-Length", "100"), ("Expect", "100-continue")]
        with gw.connect() as client:
            client.send(client.head(method, "/mcp", waiting))
            answer = client.response()
            assert (answer.status, answer.interim) == (401, [])
            assert answer.header("WWW-Authenticate").startswith("Basic")
    assert a.requests == []


def test_a_known_user_is_refused_with_403_and_not_asked_again(ruled):
    gw, _ = ruled("Require mcp-tool echo")
    gw.expect_log("AH01631", "alice")
    gw.expect_log(tags.TOOL_REFUSED, "drop")
    assert is_served(gw, call("echo"), ALICE)
    answer = post(gw, call("drop", 5), ALICE)
    assert_rpc_error(answer, 403, 5)
    assert answer.header("WWW-Authenticate") is None


@pytest.mark.parametrize("forbidden", ["On", "Off"])
def test_what_httpds_own_rules_refuse_stays_as_it_was(ruled, forbidden):
    gw, _ = ruled("AuthzSendForbiddenOnFailure " + forbidden, "<RequireAll>", "Require user alice",
                  "Require mcp-tool echo", "</RequireAll>")
    assert post(gw, call("echo"), BOB).status == (403 if forbidden == "On" else 401)
    assert not is_served(gw, call("drop"), ALICE)
    assert is_served(gw, call("echo"), ALICE)


def test_any_of_a_tool_and_a_user(ruled):
    for rules in (("Require mcp-tool echo", "Require user alice"),
                  ("Require user alice", "Require mcp-tool echo")):
        gw, _ = ruled("<RequireAny>", *rules, "</RequireAny>")
        assert is_served(gw, call("drop"), ALICE)
        assert is_served(gw, call("echo"), BOB)
        assert not is_served(gw, call("drop"), BOB)
        assert post(gw, call("echo")).status == 401


def test_tools_of_each_user(ruled):
    gw, _ = ruled("<RequireAny>", "<RequireAll>", "Require user alice", "Require mcp-tool a*",
                  "</RequireAll>", "<RequireAll>", "Require user bob", "Require mcp-tool b*",
                  "</RequireAll>", "</RequireAny>")
    assert is_served(gw, call("a1"), ALICE) and is_served(gw, call("b1"), BOB)
    assert not is_served(gw, call("b1"), ALICE) and not is_served(gw, call("a1"), BOB)
    assert is_served(gw, rpc("tools/list"), BOB)


NONE = ("<RequireNone>", 'Require mcp-tool "delete_*"', "</RequireNone>")


def test_none_of_some_tools(ruled):
    gw, a = ruled("<RequireAll>", "Require valid-user", *NONE, "</RequireAll>")
    assert is_served(gw, call("echo"), ALICE)
    assert is_served(gw, rpc("tools/list"), ALICE)
    assert gw.request("GET", "/mcp", [ALICE]).status != 403
    assert not is_served(gw, call("delete_all"), ALICE)
    assert_rpc_error(post(gw, [call("echo", 1), call("delete_all", 2)], ALICE), 403)
    assert post(gw, call("delete_all")).status == 401
    assert len(a.requests) == 3


def test_none_of_some_tools_holds_where_nobody_needs_to_log_in(ruled):
    for first in ("Require all granted", "Require ip 127.0.0.1"):
        for login in (True, False):
            gw, _ = ruled("<RequireAll>", first, *NONE, "</RequireAll>", login=login,
                          options={"modules": ["authz_host"]})
            assert is_served(gw, call("echo"))
            assert not is_served(gw, call("delete_all"))


def test_not_says_the_same_as_none(ruled):
    gw, _ = ruled("<RequireAll>", "Require valid-user", "Require not mcp-tool delete_*",
                  "Require not mcp-method resources/*", "</RequireAll>")
    assert is_served(gw, call("echo"), ALICE)
    assert not is_served(gw, call("delete_all"), ALICE)
    assert not is_served(gw, rpc("resources/list"), ALICE)


@pytest.mark.parametrize(
    "rule, said",
    [
        ("Require mcp-tool", "pattern"),
        ("Require mcp-method", "pattern"),
        ("<RequireAll>\nRequire all granted\n<RequireNone>\n<RequireAll>\nRequire all granted\n"
         "Require not mcp-tool x\n</RequireAll>\n</RequireNone>\n</RequireAll>", "once"),
    ],
)
def test_a_rule_that_cannot_work_is_refused(gateway, server, rule, said):
    status, text = gateway(server(), start=False, location=[rule]).check_config()
    assert status != 0
    assert said in text


def test_an_alias_of_a_rule_is_refused(gateway, server):
    line = '<AuthzProviderAlias mcp-tool mine "x">\n</AuthzProviderAlias>'
    status, text = gateway(server(), start=False, server=[line]).check_config()
    assert status != 0
    assert "AuthzProviderAlias" in text


# Clients, logs


def test_a_client_gets_through_its_whole_conversation(gateway, server):
    a = server()
    gw = gateway(a, location=[*LOGIN, "Require mcp-tool whoami"])
    gw.expect_log("AH01631", optional=True)
    client = Mcp(gw, headers=[ALICE]).initialize()
    assert client.post(rpc("notifications/initialized", ident=None)).status == 202
    stream = client.listen()
    assert stream.status == 200
    assert client.where() == "a"
    a.push(client.session, rpc("ping", ident=9))
    assert json.loads(stream.next_event()["data"])["method"] == "ping"
    assert client.post({"jsonrpc": "2.0", "id": 9, "result": {}}).status == 202
    assert_rpc_error(client.post(call("echo")), 403, 1)
    assert client.delete().status in (200, 204)


def test_the_access_log_says_what_was_refused(ruled):
    gw, _ = ruled("Require mcp-tool echo")
    post(gw, call("drop"), ALICE)
    (line,) = wait_until(gw.access, "the access log")
    assert line.startswith("403 ") and "tools/call" in line
