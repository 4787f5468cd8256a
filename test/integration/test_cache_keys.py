# SPDX-License-Identifier: Apache-2.0
"""Whose answer it is, and which requests are the same."""
import json

import pytest

from harness.caching import AUTH, post, status
from harness.client import call, rpc

USER = [("X-User", "u")]
BY_HEADER = ("MCPCacheTool * 60s", "MCPCacheKey %{HTTP:X-User}")


def ask(gateway, text, headers=USER):
    """POST a tools/call whose arguments are this very text."""
    body = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":%s}}'
    return post(gateway, (body % text).encode(), headers=headers)


@pytest.fixture(name="one")
def _one(caching, server):
    """A gateway that caches every tool, by the X-User header."""
    return caching(server(era="stateless"), cache=BY_HEADER)


@pytest.mark.parametrize("other", [
    '{ "b" : [1, 2.50] ,\n"a":"x/y" }', r'{"a":"x\/y","b":[1,2.50]}', r'{"\u0061":"x\u002fy","b":[1,2.50]}'])
def test_order_white_space_and_escapes_do_not_count(one, other):
    assert status(ask(one, '{"a":"x/y","b":[1,2.50]}')) == "miss"
    assert status(ask(one, other)) == "hit"


@pytest.mark.parametrize("first, second", [
    ("1", "1.0"), ("1", '"1"'), ("9007199254740992", "9007199254740993"), ("0", "-0"),
    ("1e2", "100"), ("null", "{}"), ("[1,2]", "[2,1]"), ('"\u00e9"', '"e\u0301"')])
def test_values_that_differ_are_not_the_same(one, first, second):
    assert status(ask(one, '{"x":%s}' % first)) == "miss"
    answer = ask(one, '{"x":%s}' % second)
    assert status(answer) == "miss"
    assert answer.message()["result"]["echo"] == json.loads('{"x":%s}' % second)


def test_absent_arguments_are_not_empty_ones(one):
    assert status(post(one, rpc("tools/call", {"name": "echo"}), headers=USER)) == "miss"
    assert status(ask(one, "{}")) == "miss"


def test_the_id_and_meta_do_not_count(one):
    first = call("echo", ident=1, x=1)
    second = call("echo", ident="other", x=1)
    second["params"]["_meta"] = {"progressToken": 5, "traceparent": "00-1"}
    assert status(post(one, first, headers=USER)) == "miss"
    answer = post(one, second, headers=USER)
    assert status(answer) == "hit"
    assert answer.message()["id"] == "other"


@pytest.mark.parametrize("arguments", [
    '{"x":1,"x":1}', '{"o":{"k":1,"\\u006b":2}}', '{"x":"\\ud800"}', '{"x":"\\u0000"}',
    '{"x":' + "[" * 100 + "]" * 100 + "}", '{"x":"' + "y" * 300000 + '"}'], ids=[
        "a name twice", "twice within", "a lone surrogate", "NUL", "deep", "long"])
def test_arguments_that_may_be_read_in_two_ways_are_not_cached(one, arguments):
    assert status(ask(one, arguments)) == "bypass"
    assert status(ask(one, arguments)) == "bypass"


def test_another_tool_of_the_same_arguments_is_not_the_same(one):
    assert status(post(one, call("echo", x=1), headers=USER)) == "miss"
    assert status(post(one, call("whoami", x=1), headers=USER)) == "miss"


@pytest.mark.parametrize("tool", ["*", "a/b", "a:b", "%2A", "mcp:tool:echo", "..", "\u00e4", '"'])
def test_any_tool_name_is_only_a_name(one, tool):
    assert status(post(one, call(tool, x=1), headers=USER)) == "miss"
    assert status(post(one, call(tool, x=1), headers=USER)) == "hit"
    assert status(post(one, call("echo", x=1), headers=USER)) == "miss"


def test_the_protocol_revision_is_part_of_the_key(one):
    old = USER + [("MCP-Protocol-Version", "2025-06-18")]
    new = USER + [("MCP-Protocol-Version", "2025-11-25")]
    assert status(post(one, call("echo", x=1), headers=old)) == "miss"
    assert status(post(one, call("echo", x=1), headers=new)) == "miss"
    assert status(post(one, call("echo", x=1), headers=old)) == "hit"


def test_two_locations_with_the_same_tool_have_their_own_answers(caching, server):
    a = server("a", era="stateless")
    b = server("b", era="stateless")
    more = ['<Location "/b">', '  ProxyPass "%s/mcp"' % b.url, "  MCPProxy On", *BY_HEADER,
            "</Location>"]
    gateway = caching(a, cache=BY_HEADER, tuning=more)
    for path, name in [("/mcp", "a"), ("/b", "b")] * 2:
        answer = post(gateway, call("echo", x=1), headers=USER, path=path)
        assert answer.message()["result"]["server"] == name


def test_each_httpd_user_has_his_own(caching, server):
    gateway = caching(server(era="stateless"), location=AUTH)
    assert status(post(gateway, call("echo", x=1), user="alice")) == "miss"
    assert status(post(gateway, call("echo", x=1), user="alice")) == "hit"
    assert status(post(gateway, call("echo", x=1), user="bob")) == "miss"


def test_a_hit_needs_the_same_right_as_a_miss(caching, server):
    gateway = caching(server(era="stateless"), location=AUTH)
    assert status(post(gateway, call("echo", x=1), user="alice")) == "miss"
    assert post(gateway, call("echo", x=1)).status == 401


def test_without_a_user_the_authorization_header_tells(caching, server):
    gateway = caching(server(era="stateless"))
    one, other = [("Authorization", "Bearer one")], [("Authorization", "Bearer other")]
    assert status(post(gateway, call("echo", x=1), headers=one)) == "miss"
    assert status(post(gateway, call("echo", x=1), headers=one)) == "hit"
    assert status(post(gateway, call("echo", x=1), headers=other)) == "miss"


def test_a_caller_nobody_knows_gets_nothing_from_the_cache(caching, server):
    gateway = caching(server(era="stateless"))
    assert status(post(gateway, call("echo", x=1))) == "bypass"
    assert status(post(gateway, call("echo", x=1))) == "bypass"


def test_an_empty_key_expression_means_not_cached(one):
    assert status(post(one, call("echo", x=1))) == "bypass"
    assert status(post(one, call("echo", x=1))) == "bypass"


@pytest.mark.parametrize("other", ["u ", "u:", "u\tx", "U", "uu", "user:u", "u%00"])
def test_a_user_named_nearly_like_another_is_another(one, other):
    assert status(post(one, call("echo", x=1), headers=USER)) == "miss"
    answer = post(one, call("echo", x=1), headers=[("X-User", other)])
    assert status(answer) == ("hit" if other.strip() == "u" else "miss")


def test_kinds_of_identity_cannot_be_mistaken_for_each_other(caching, server):
    gateway = caching(server(era="stateless"), cache=(
        "MCPCacheTool echo 60s", "MCPCacheTool whoami 60s key=%{HTTP:X-User}"))
    bearer = [("Authorization", "Bearer x")]
    assert status(post(gateway, call("echo", x=1), headers=bearer)) == "miss"
    assert status(post(gateway, call("whoami", x=1), headers=bearer)) == "bypass"
    assert status(post(gateway, call("whoami", x=1), headers=USER)) == "miss"
    assert status(post(gateway, call("whoami", x=1), headers=USER + bearer)) == "hit"


def test_a_shared_answer_fetched_by_a_user_goes_to_users_only(caching, server):
    gateway = caching(server(era="stateless"), location=AUTH,
                      cache=("MCPCacheTool * 60s scope=shared",))
    assert status(post(gateway, call("echo", x=1), user="alice")) == "miss"
    assert status(post(gateway, call("echo", x=1), user="bob")) == "hit"


def test_a_shared_answer_fetched_with_an_unchecked_credential_is_not_given_on(caching, server):
    gateway = caching(server(era="stateless"), cache=("MCPCacheTool * 60s scope=shared",))
    bearer = [("Authorization", "Bearer x")]
    assert status(post(gateway, call("echo", x=1), headers=bearer)) == "miss"
    assert status(post(gateway, call("echo", x=1), headers=bearer)) == "miss"
    assert status(post(gateway, call("echo", x=1))) == "miss"
    assert status(post(gateway, call("echo", x=1))) == "hit"
    assert status(post(gateway, call("echo", x=1), headers=bearer)) == "hit"


def test_a_shared_answer_without_credentials_is_everybodys(caching, server):
    gateway = caching(server(era="stateless"), cache=("MCPCacheTool * 60s scope=shared",))
    assert status(post(gateway, call("echo", x=1))) == "miss"
    assert status(post(gateway, call("echo", x=1), headers=USER)) == "hit"


def test_session_scope_keeps_sessions_apart(caching, server):
    gateway = caching(server(era="stateless"), location=AUTH,
                      cache=("MCPCacheTool echo 60s scope=session", "MCPCacheTool whoami 60s"))
    one, other = [("Mcp-Session-Id", "1")], [("Mcp-Session-Id", "2")]

    def ask_as(session, tool):
        return status(post(gateway, call(tool, x=1), user="alice", headers=session))

    assert ask_as(one, "echo") == "miss"
    assert ask_as(one, "echo") == "hit"
    assert ask_as(other, "echo") == "miss"
    assert ask_as(one, "whoami") == "miss"
    assert ask_as(other, "whoami") == "hit"
