# SPDX-License-Identifier: Apache-2.0
"""Which answers are stored, and which never are. Each is asked for twice: a second call of the
backend means that nothing was stored."""
import gzip
import json

import pytest

from harness.caching import AUTH, STATELESS, Tool, as_json, as_stream, post, status
from harness.client import ACCEPT, call, rpc

PROGRESS = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}}


def answer_of(value):
    return lambda peer, message: as_json(peer, message, value)


def raw(text, **options):
    return lambda peer, message: peer.answer(text.encode(), **options)


def stream(*before, after=()):
    def script(peer, message):
        as_stream(peer, *before, {"jsonrpc": "2.0", "id": message["id"], "result": {"n": 1}}, *after)
    return script


def cut(peer, message):
    """A body shorter than its Content-Length, but valid JSON as far as it goes."""
    body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {}}).encode()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
              % (len(body) + 10, body)).close()


def cut_stream(peer, message):
    """A whole answer, and then no last chunk."""
    data = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {}}).encode()
    peer.begin_stream().chunk(b"data: " + data + b"\n\n").close()


def ask(gateway, message=None, **options):
    options.setdefault("user", "alice")
    return post(gateway, message or call("echo", x=1), **options)


def assert_stored(gateway, tool, stored):
    first, second = ask(gateway), ask(gateway)
    assert (status(second) == "hit") == stored
    assert len(tool.calls) == (1 if stored else 2)
    return first, second


@pytest.mark.parametrize("answer", [
    answer_of({"content": []}), answer_of({"isError": False}), answer_of({}),
    answer_of({"resultType": "complete", "x": "\u00e9"}), stream(), stream(PROGRESS, PROGRESS),
    stream({"jsonrpc": "2.0", "method": "notifications/message", "params": {}}),
    stream(after=[PROGRESS])])
def test_a_whole_result_is_stored(caching, backend, answer):
    tool = Tool(answer)
    first, second = assert_stored(caching(backend(tool), location=AUTH), tool, True)
    assert json.dumps(second.message()["result"])[1:-1] in json.dumps(
        first.body.decode()).replace("\\", "").replace("u00e9", "\\u00e9")


PROGRAM = r"""#!/bin/sh
cat >/dev/null
printf 'Content-Type: %s\r\n\r\n'
%s
"""
RESULT = r"""'{"jsonrpc":"2.0","id":1,"result":{"pid":%d}}' $$"""


@pytest.mark.parametrize("kind, script", [
    ("application/json", "sleep 0.2; printf " + RESULT),
    ("application/json", "printf ' %200000s' ' '; sleep 0.2; printf " + RESULT),
    ("text/event-stream", r"printf 'data: %s\n\n'; sleep 0.2; printf 'data: '; printf %s; "
                          r"printf '\n\n'" % (json.dumps(PROGRESS), RESULT))],
    ids=["small", "large", "stream"])
def test_the_answer_of_a_program_is_stored(caching, stage, kind, script):
    """One that is still writing when its answer goes through the filters."""
    program = stage.directory / "tool"
    program.write_text(PROGRAM % (kind, script), encoding="utf-8")
    program.chmod(0o755)
    gateway = caching(alone=True, modules=["alias", "cgid"], server=[
        "ScriptSock cgid.sock", "CGIDScriptTimeout 30", 'ScriptAlias /tool "%s"' % program,
        "<Location /tool>", "Require all granted", "MCPCacheTool echo 60s", "</Location>"])
    token = [("Authorization", "Bearer t")]
    first, second = (post(gateway, call("echo"), headers=token, path="/tool") for _ in range(2))
    assert (status(first), status(second)) == ("miss", "hit")
    pid = second.message()["result"]["pid"]
    assert pid and str(pid).encode() in first.body


@pytest.mark.parametrize("proxy", ["mod_mcp_proxy", "mod_proxy_http"])
def test_a_backend_that_would_compress_is_asked_not_to(caching, backend, proxy):
    def script(peer, message):
        wants = peer.requests[-1].header("Accept-Encoding")
        as_json(peer, message, {"text": "x" * 2000},  # httpd leaves very small ones as they are
                headers=[("Content-Encoding", "gzip")] if "gzip" in wants else [])

    gateway = caching(backend(Tool(script)), alone=proxy == "mod_proxy_http", modules=["deflate"],
                      location=[*AUTH, "SetOutputFilter DEFLATE"])
    first, second = (ask(gateway, headers=[("Accept-Encoding", "gzip")]) for _ in range(2))
    for answer, outcome in ((first, "miss"), (second, "hit")):
        assert (status(answer), answer.header("Content-Encoding")) == (outcome, "gzip")
        assert json.loads(gzip.decompress(answer.body))["result"] is not None
    other = ask(gateway, rpc("ping"), headers=[("Accept-Encoding", "gzip")])
    assert (status(other), other.header("Content-Encoding")) == ("bypass", "gzip")
    assert other.body[:1] == b"{", "what the backend calls gzip, as it came"


NEVER = {
    "a tool's error": answer_of({"isError": True, "content": []}),
    "a JSON-RPC error": raw('{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"m"}}'),
    "input_required": answer_of({"resultType": "input_required"}),
    "an unknown result type": answer_of({"resultType": "later"}),
    "a task": answer_of({"task": {"taskId": "1"}}),
    "no object": answer_of([1]),
    "another id": raw('{"jsonrpc":"2.0","id":2,"result":{}}'),
    "an id of another type": raw('{"jsonrpc":"2.0","id":"1","result":{}}'),
    "no id": raw('{"jsonrpc":"2.0","result":{}}'),
    "a batch": raw('[{"jsonrpc":"2.0","id":1,"result":{}}]'),
    "a result and an error": raw('{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1}}'),
    "no JSON": raw('{"jsonrpc":"2.0","id":1,"result":{}'),
    "two messages": raw('{"jsonrpc":"2.0","id":1,"result":{}}{"jsonrpc":"2.0","id":1}'),
    "another content type": raw('{"jsonrpc":"2.0","id":1,"result":{}}', content_type="text/plain"),
    "another status": raw('{"jsonrpc":"2.0","id":1,"result":{}}', status="203 Other"),
    "accepted": raw("", status="202 Accepted", content_type=None),
    "a cookie": raw('{"jsonrpc":"2.0","id":1,"result":{}}', headers=[("Set-Cookie", "a=b")]),
    "no-store": raw('{"jsonrpc":"2.0","id":1,"result":{}}',
                    headers=[("Cache-Control", "max-age=5, no-store")]),
    "an encoding": raw("x", headers=[("Content-Encoding", "br")]),
    "varies by what is not in the key": raw('{"jsonrpc":"2.0","id":1,"result":{}}',
                                            headers=[("Vary", "Accept, User-Agent")]),
    "a session that is not ours": raw('{"jsonrpc":"2.0","id":1,"result":{}}',
                                      headers=[("Mcp-Session-Id", "new")]),
    "a request to the client": stream({"jsonrpc": "2.0", "id": 5, "method": "sampling/createMessage"}),
    "a notification that counts": stream({"jsonrpc": "2.0", "method": "notifications/other"}),
    "two answers": stream(after=[{"jsonrpc": "2.0", "id": 1, "result": {"n": 2}}]),
    "an answer to another": stream({"jsonrpc": "2.0", "id": 2, "result": {}}),
}


@pytest.mark.parametrize("name", NEVER)
def test_never_stored(caching, backend, name):
    tool = Tool(NEVER[name])
    assert_stored(caching(backend(tool), location=AUTH), tool, False)


@pytest.mark.parametrize("script", [cut, cut_stream])
@pytest.mark.parametrize("alone", [True, False])
def test_a_truncated_answer_is_never_stored(caching, backend, script, alone):
    tool = Tool(script)
    gateway = caching(backend(tool), location=AUTH, alone=alone)
    gateway.expect_log(r"MCP2046|AH01110|AH02609|AH01102|AH00898", optional=True)
    for _ in range(2):
        with gateway.connect() as client:
            from harness.client import JSON, basic
            answer = client.request("POST", "/mcp", [ACCEPT, JSON, basic("alice", "wonder")],
                                    json.dumps(call("echo", x=1)).encode())
            answer.wait_end()
    assert len(tool.calls) == 2


@pytest.mark.parametrize("params", [
    {"inputResponses": {}}, {"requestState": "s"}, {"task": {"ttl": 1}}])
def test_a_request_that_continues_something_is_not_for_the_cache(caching, backend, params):
    tool = Tool(answer_of({}))
    gateway = caching(backend(tool), location=AUTH)
    message = rpc("tools/call", {"name": "echo", "arguments": {}, **params})
    assert [status(ask(gateway, message)) for _ in range(2)] == ["bypass", "bypass"]
    assert len(tool.calls) == 2


@pytest.mark.parametrize("ident", ["null", '{"a":1}', "true", "[1]"])
def test_an_id_that_is_none_is_not_for_the_cache(caching, backend, ident):
    gateway = caching(backend(Tool(answer_of({}))), location=AUTH)
    body = '{"jsonrpc":"2.0","id":%s,"method":"tools/call","params":{"name":"echo"}}' % ident
    for _ in range(2):
        assert status(ask(gateway, body.encode())) in ("bypass", "")


@pytest.mark.parametrize("ident", [
    '"a\\"b\\\\"', "0", "-5", "9007199254740993", "1" * 400, '"' + "x" * 5000 + '"', '"\\u00e9"'])
def test_a_hit_has_the_very_id_of_its_request(caching, backend, ident):
    gateway = caching(backend(Tool(answer_of({"n": 1}))), location=AUTH)
    body = '{"jsonrpc":"2.0","id":%s,"method":"tools/call","params":{"name":"echo"}}'
    ask(gateway, (body % 1).encode())
    answer = ask(gateway, (body % ident).encode())
    assert status(answer) == "hit"
    assert b'"id":' + ident.encode() + b"," in answer.body


def test_batches_pass(caching, backend):
    def script(peer, messages):
        peer.answer(json.dumps([{"jsonrpc": "2.0", "id": m["id"], "result": {}} for m in messages])
                    .encode())
    tool = Tool(script)
    gateway = caching(backend(tool), location=AUTH)
    batch = json.dumps([call("echo", ident=1), call("echo", ident=2)]).encode()
    assert [status(ask(gateway, batch)) for _ in range(2)] == ["bypass", "bypass"]


def test_only_named_tools_are_cached_and_the_first_rule_counts(caching, backend):
    tool = Tool(answer_of({}))
    gateway = caching(backend(tool), location=AUTH, cache=(
        "MCPCacheTool get_secret 0", 'MCPCacheTool "get_*" 60s', "MCPCacheTool g* 0"))
    for name, expected in [("get_a", "hit"), ("get_secret", "bypass"), ("go", "bypass"),
                           ("other", "bypass"), ("GET_a", "bypass")]:
        ask(gateway, call(name))
        assert status(ask(gateway, call(name))) == expected, name


def test_other_methods_pass(caching, backend):
    gateway = caching(backend(Tool(answer_of({"tools": []}))), location=AUTH)
    assert [status(ask(gateway, rpc("tools/list"))) for _ in range(2)] == ["bypass", "bypass"]


def test_a_larger_result_passes_whole_and_is_not_stored(caching, backend):
    for size, expected in ((1000, "hit"), (5000, "miss")):
        tool = Tool(answer_of({"x": "y" * size}))
        gateway = caching(backend(tool), location=AUTH, server=["MCPCacheMaxEntry 4K"])
        first, second = ask(gateway), ask(gateway)
        assert first.message() == second.message()
        assert len(tool.calls) == (1 if expected == "hit" else 2)


def test_a_result_goes_when_its_time_is_up(caching, backend):
    from harness.wait import wait_until
    tool = Tool(answer_of({}))
    gateway = caching(backend(tool), location=AUTH, cache=("MCPCacheTool * 300ms",))
    assert status(ask(gateway)) == "miss"
    wait_until(lambda: status(ask(gateway)) == "miss", "the entry to expire")


def test_the_client_can_ask_for_a_new_answer(caching, backend):
    tool = Tool(lambda peer, message: as_json(peer, message, {"n": len(tool.calls)}))
    gateway = caching(backend(tool), location=AUTH)
    ask(gateway)
    answer = ask(gateway, headers=[("Cache-Control", "no-cache")])
    assert (status(answer), answer.message()["result"]) == ("miss", {"n": 2})
    assert status(ask(gateway, headers=[("Cache-Control", "no-store")])) == "bypass"


def hinted(method="tools/list", ident=1, **params):
    meta = {"io.modelcontextprotocol/protocolVersion": STATELESS}
    return rpc(method, {**params, "_meta": meta}, ident)


def ask_hinted(gateway, message, **options):
    name = message["params"].get("uri")
    headers = [("MCP-Protocol-Version", STATELESS), ("Mcp-Method", message["method"])]
    headers += [("Mcp-Name", name)] if name else []
    return ask(gateway, message, headers=headers + options.pop("headers", []), **options)


@pytest.mark.parametrize("method", ["tools/list", "prompts/list", "resources/list",
                                    "resources/templates/list", "server/discover"])
def test_a_list_lives_as_long_as_its_server_says(caching, backend, method):
    tool = Tool(answer_of({"ttlMs": 60000, "cacheScope": "private", "x": []}))
    gateway = caching(backend(tool), location=AUTH)
    assert status(ask_hinted(gateway, hinted(method))) == "miss"
    answer = ask_hinted(gateway, hinted(method, ident=2))
    assert status(answer) == "hit"
    assert 0 < answer.message()["result"]["ttlMs"] <= 60000
    assert status(ask_hinted(gateway, hinted(method), user="bob")) == "miss"


@pytest.mark.parametrize("hints", [
    {}, {"ttlMs": 0}, {"ttlMs": -5}, {"ttlMs": "60000"}, {"ttlMs": 1.5}, {"cacheScope": "public"}])
def test_without_a_proper_ttl_a_list_is_not_stored(caching, backend, hints):
    tool = Tool(answer_of({"tools": [], **hints}))
    gateway = caching(backend(tool), location=AUTH)
    for _ in range(2):
        ask_hinted(gateway, hinted())
    assert len(tool.calls) == 2


@pytest.mark.parametrize("trust, scope, shared", [
    ("Off", "public", False), ("On", "public", True), ("On", "private", False), ("On", "", False)])
def test_public_is_believed_only_where_the_operator_says_so(caching, backend, trust, scope, shared):
    tool = Tool(answer_of({"ttlMs": 60000, "cacheScope": scope}))
    gateway = caching(backend(tool), location=AUTH, cache=("MCPCacheTrustPublic " + trust,))
    assert status(ask_hinted(gateway, hinted())) == "miss"
    assert status(ask_hinted(gateway, hinted())) == "hit"
    assert status(ask_hinted(gateway, hinted(), user="bob")) == ("hit" if shared else "miss")


def test_a_resource_is_stored_by_its_uri(caching, backend):
    gateway = caching(backend(Tool(answer_of({"ttlMs": 60000, "contents": []}))), location=AUTH)
    assert status(ask_hinted(gateway, hinted("resources/read", uri="file:///a"))) == "miss"
    assert status(ask_hinted(gateway, hinted("resources/read", uri="file:///b"))) == "miss"
    assert status(ask_hinted(gateway, hinted("resources/read", uri="file:///a"))) == "hit"


def test_hints_count_wherever_mod_mcp_proxy_is_on(caching, backend):
    gateway = caching(backend(Tool(answer_of({"ttlMs": 60000}))), location=AUTH, cache=())
    assert [status(ask_hinted(gateway, hinted())) for _ in range(2)] == ["miss", "hit"]


def test_hints_can_be_switched_off(caching, backend):
    gateway = caching(backend(Tool(answer_of({"ttlMs": 60000}))), location=AUTH,
                      cache=("MCPCacheHints Off",))
    assert [status(ask_hinted(gateway, hinted())) for _ in range(2)] == ["bypass", "bypass"]


def test_a_header_that_does_not_match_the_body_is_refused_not_served(caching, backend):
    gateway = caching(backend(Tool(answer_of({"ttlMs": 60000}))), location=AUTH, alone=True)
    ask_hinted(gateway, hinted())
    answer = ask(gateway, hinted(), headers=[("MCP-Protocol-Version", STATELESS),
                                             ("Mcp-Method", "tools/call")])
    assert answer.status == 400
    assert answer.message()["error"]["code"] == -32020
