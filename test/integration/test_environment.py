# SPDX-License-Identifier: Apache-2.0
"""What the message is, in the hands of httpd's other modules: LogFormat, <If>, Header, and so on."""
import json

import pytest

from harness.client import ACCEPT, JSON, basic, call, rpc
from harness.gateway import load_lines
from harness.wait import wait_until

POST = [ACCEPT, JSON]
LOGIN = ["AuthType Basic", 'AuthName "test"', "AuthUserFile users", "Require valid-user"]


def post(gw, message, *headers):
    return gw.request("POST", "/mcp", [*POST, *headers], json.dumps(message).encode()).finish()


@pytest.fixture(name="through")
def _through(gateway, server):
    """through(line, ..., modules=()): a gateway with these lines in its location."""

    def make(*location, modules=(), **options):
        return gateway(server(era="stateless"), location=location, modules=modules, **options)

    return make


def test_the_access_log_has_all_of_it(through):
    gw = through(*LOGIN, server=[
        'CustomLog mcp.log "%{MCP_METHOD}e %{MCP_NAME}e %{MCP_ROUTE}e %{MCP_USER}e %{MCP_SESSION}e"'
    ])
    post(gw, call("echo"), basic("alice", "wonder"), ("Mcp-Session-Id", "secret"))
    line = wait_until(lambda: [x for x in gw._text("mcp.log").splitlines() if "tools/" in x],
                      "the line")[0]
    method, name, route, user, session = line.split()
    assert (method, name, route) == ("tools/call", "echo", "a")
    assert user.endswith("/test/alice")
    assert len(session) == 12 and session != "secret"


def test_a_server_without_a_route_is_called_by_its_url(through):
    gw = through(single=True, server=['CustomLog mcp.log "%{MCP_ROUTE}e" env=MCP_ROUTE'])
    post(gw, call("echo"))
    lines = wait_until(lambda: gw._text("mcp.log").splitlines(), "the line")
    assert lines == [gw.backends[0].url + "/mcp"]


def test_the_revision_is_known_of_every_request(through):
    gw = through("MCPProxyCheckHeaders Off",
                 server=['CustomLog mcp.log "%m %{MCP_VERSION}e" env=MCP_VERSION'])
    older, newest = "2025-06-18", "2026-07-28"
    meta = {"_meta": {"io.modelcontextprotocol/protocolVersion": newest}}
    post(gw, rpc("ping", meta))
    for method in ("POST", "GET", "DELETE"):
        body = json.dumps(rpc("ping")).encode() if method == "POST" else None
        gw.request(method, "/mcp", [*POST, ("MCP-Protocol-Version", older)], body).finish()
    wanted = ["DELETE " + older, "GET " + older, "POST " + older, "POST " + newest]
    lines = wait_until(lambda: len(gw._text("mcp.log").splitlines()) > 3
                       and gw._text("mcp.log").splitlines(), "the lines")
    assert sorted(lines) == wanted, "two children may write in another order"


def test_header_knows_the_tool(through):
    gw = through('Header always set X-Tool "%{MCP_NAME}e"',
                 "Header always set X-Slow yes \"expr=reqenv('MCP_NAME') =~ /^slow_/\"",
                 'RequestHeader set X-Mcp-Tool "%{MCP_NAME}e"', modules=["headers"])
    answer = post(gw, call("slow_one"))
    assert (answer.header("X-Tool"), answer.header("X-Slow")) == ("slow_one", "yes")
    assert post(gw, call("echo")).header("X-Slow") is None


def test_if_knows_the_tool(through):
    gw = through("<If \"reqenv('MCP_NAME') == 'echo'\">", "Header always add X-If echo",
                 "</If>", "<ElseIf \"reqenv('MCP_METHOD') == 'tools/call'\">",
                 "Header always add X-If other", "</ElseIf>", "<Else>",
                 "Header always add X-If none", "</Else>", modules=["headers"])
    for message, said in ((call("echo"), "echo"), (call("x"), "other"), (rpc("ping"), "none")):
        assert post(gw, message).header_all("X-If") == [said], message


def test_if_gives_a_tool_its_own_settings(through):
    gw = through("<If \"reqenv('MCP_NAME') == 'echo'\">", "MCPProxyAllowOrigin *", "</If>")
    foreign = ("Origin", "http://elsewhere.example")
    assert post(gw, call("echo"), foreign).status == 200
    assert post(gw, call("whoami"), foreign).status == 403


def test_if_holds_for_a_body_that_is_slow(through):
    gw = through("<If \"reqenv('MCP_NAME') == 'echo'\">", "Header always add X-If echo", "</If>",
                 modules=["headers"])
    body = json.dumps(call("echo")).encode()
    with gw.connect() as client:
        client.send(client.head("POST", "/mcp", POST, body) + body[:20])
        wait_until(lambda: gw.status().get("BusyWorkers") == "1", "the request to be parked")
        client.send(body[20:])
        assert client.response().header_all("X-If") == ["echo"]


def test_rewrite_rules_know_the_tool(through):
    gw = through("RewriteEngine On", "RewriteCond %{ENV:MCP_NAME} ^delete_",
                 "RewriteRule ^ - [F]", modules=["rewrite"])
    assert post(gw, call("echo")).status == 200
    assert post(gw, call("delete_all")).status == 403


def has(module):
    return bool(load_lines([module]))


@pytest.mark.skipif(not has("security2"), reason="libapache2-mod-security2 is not installed")
def test_mod_security_knows_the_tool(through):
    gw = through(modules=["unique_id", "security2"], server=[
        "SecRuleEngine On", "SecRequestBodyAccess On", "SecAuditEngine Off",
        "SecDebugLogLevel 0",
        'SecRule ENV:MCP_NAME "@beginsWith delete_" "id:1,phase:2,deny,status:403,nolog"',
    ])
    gw.expect_log(".*", "ModSecurity", optional=True)
    assert post(gw, call("echo")).status == 200
    answer = post(gw, call("echo", text="x" * 100000))
    assert answer.status == 200 and b"x" * 100000 in answer.body
    assert post(gw, call("delete_all")).status == 403
