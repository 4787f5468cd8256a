# SPDX-License-Identifier: Apache-2.0
"""Every configuration that ships, started and used."""
import base64
import hashlib
import hmac
import json
import time

import pytest

from harness.client import ACCEPT, JSON, Mcp, call, rpc
from harness.gateway import load_lines
from harness.shipped import CONF, Shipped, examples
from harness.wait import wait_until

POST = [ACCEPT, JSON]
LISTEN = [("Accept", "text/event-stream")]


@pytest.fixture(name="shipped")
def _shipped(stage):
    """shipped(file, backend, ..., here={}): httpd with that file of conf/."""
    return lambda file, *backends, **options: stage.gateway(
        *backends, kind=Shipped, file=file, **options)


def post(gw, path, message, *headers):
    return gw.request("POST", path, [*POST, *headers], json.dumps(message).encode())


def access_log(gw):
    return [x for x in gw._text("logs/access.log").splitlines() if "/server-status" not in x]


def test_each_example_has_a_test_here():
    text = open(__file__, encoding="utf-8").read()
    assert len(examples()) > 5
    for name in examples():
        assert '"examples/%s"' % name in text, name


def test_the_reference(shipped, server):
    gw = shipped("mcp.conf", *(server(name) for name in "abc"))
    assert {Mcp(gw).initialize().where() for _ in range(6)} == set("abc")


def test_the_reference_with_each_line_in_use(shipped, server, session_key):
    gw = shipped("mcp.conf", *(server(name) for name in "abc"), here={
        '    #<RequireAny>\n    #    Require user alice\n    #    Require mcp-tool "search_*" '
        '"get_*"\n    #</RequireAny>': '    Require mcp-tool whoami "get_*"',
        '#MCPCacheKey "%{REMOTE_USER}"': '#MCPCacheKey "%{REMOTE_ADDR}"',
        "/etc/apache2/mcp-session.key": session_key,
        "#MCP": "MCP",
    })
    client = Mcp(gw).initialize()
    assert client.where() in "abc"
    assert client.post(call("get_product")).header("Cache-Status").startswith("mcp; fwd=miss")
    assert client.post(call("get_product")).header("Cache-Status").startswith("mcp; hit")
    gw.expect_log("AH01630")
    assert client.post(call("echo")).status == 403


def test_one_server(shipped, server):
    gw = shipped("examples/one-server.conf", server("a"))
    assert Mcp(gw).initialize().where() == "a"


def test_three_servers_with_limits_and_cache(shipped, server):
    gw = shipped("examples/three-servers.conf", *(server(name) for name in "abc"))
    clients = [Mcp(gw).initialize() for _ in range(6)]
    assert {client.where() for client in clients} == set("abc")
    first, second = (clients[0].post(call("get_product")) for _ in range(2))
    assert first.header("Cache-Status") == "mcp; fwd=miss; stored"
    assert second.header("Cache-Status").startswith("mcp; hit")
    assert second.header("X-RateLimit-Limit") == "50"
    statuses = [clients[1].post(call("search_x", number=i)).status for i in range(6)]
    assert statuses == [200] * 5 + [429]


@pytest.fixture(name="session_key")
def _session_key(stage):
    """A file as MCPProxySessionKey wants it."""
    key = stage.directory / "session.key"
    key.write_bytes(base64.b64encode(bytes(range(32))) + b"\n")
    key.chmod(0o600)
    return key


TABLE = {"MCPProxyAffinity   sealed": "", "#MCPProxyAffinity     table": "MCPProxyAffinity table",
         "#MCPProxySessionStore": "MCPProxySessionStore"}


@pytest.mark.parametrize("sessions", [{}, TABLE], ids=["sealed", "table"])
def test_several_gateways(shipped, server, redis, session_key, sessions):
    servers, store = [server(name) for name in "abc"], redis()
    gateways = [shipped("examples/several-gateways.conf", *servers, name="mcp.example.com", here={
        "127.0.0.1:6379": "127.0.0.1:%d" % store.port, "/etc/apache2/mcp-session.key": session_key,
        **sessions,
    }) for _ in range(2)]
    clients = [Mcp(gateways[number % 2]).initialize() for number in range(6)]
    homes = [client.where() for client in clients]
    assert set(homes) == set("abc")
    for client in clients:
        client.gateway = gateways[1 - gateways.index(client.gateway)]
    assert [client.where() for client in clients] == homes
    first = clients[0].post(call("get_product"))
    # It is written in the background.
    wait_until(lambda: any(key.startswith("mcp:tool:") for key in store.keys(db=5)), "the result")
    second = clients[1].post(call("get_product"))
    assert first.header("Cache-Status") == "mcp; fwd=miss; stored"
    assert second.header("Cache-Status").startswith("mcp; hit")
    # One address, six messages here and six there, and those two.
    assert int(second.header("X-RateLimit-Remaining")) < 50 - 12


@pytest.mark.parametrize("path, endpoint", [("/sse", "/message"), ("/tools/sse", "/tools/message")])
def test_servers_of_the_first_generation(shipped, server, path, endpoint):
    gw = shipped("examples/http-sse.conf", *(server(name, "sse") for name in "abcd"))
    stream = gw.connect().request("GET", path, LISTEN)
    target = stream.next_event()["data"]
    assert target.startswith(endpoint + "?")
    assert post(gw, target, call("whoami", 5)).status == 202
    assert json.loads(stream.next_event()["data"])["id"] == 5


def test_health_is_passed_on_and_not_logged(shipped, backend):
    def script(peer):
        while True:
            peer.answer(peer.read_request().target.encode())

    gw = shipped("examples/health.conf", backend(script), backend(script))
    assert gw.request("GET", "/health").finish().body == b"/health"
    assert post(gw, "/mcp", rpc("ping")).status == 200
    (line,) = wait_until(lambda: access_log(gw), "the access log")
    assert "/mcp" in line
    # Only that line, also when the log is written to its end.
    gw.leave()
    assert len(access_log(gw)) == 1


@pytest.mark.parametrize("endpoint", ["/messages?sessionId={id}", "/messages/{id}",
                                      "/messages/?session_id={id}"])
def test_no_session_id_stands_in_the_log(shipped, server, endpoint):
    a = server("a", "sse", endpoint=endpoint)
    gw = shipped("examples/log.conf", a)
    stream = gw.connect().request("GET", "/sse", LISTEN)
    target = stream.next_event()["data"]
    (session,) = a.sessions
    assert session in target
    assert post(gw, target, call("whoami", 5)).status == 202
    json.loads(stream.next_event()["data"])
    stream.connection.close()
    lines = wait_until(lambda: len(access_log(gw)) == 2 and access_log(gw), "both lines")
    assert any(' "POST /messages' in line and "tools/call whoami" in line for line in lines)
    assert session not in "\n".join(lines) + gw._text("error.log")


def test_tls_on_both_sides(shipped, server, backend):
    def script(peer):
        while True:
            peer.answer(json.dumps({"target": peer.read_request().target}).encode())

    partner = backend(script, tls=True)
    gw = shipped("examples/tls.conf", server("a"), tls=True,
                 here={"partner.example.net": "localhost:%d" % partner.port,
                       "ServerName mcp.example.com": "ServerName localhost"})
    assert Mcp(gw).initialize().where() == "a"
    assert post(gw, "/partner", rpc("ping")).json() == {"target": "/mcp"}


def token(**claims):
    """A signed JWT (HS256)."""
    def part(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    claims = {"sub": "ada", "iat": int(time.time()), "exp": int(time.time()) + 600,
              "aud": "https://mcp.example.com/mcp", **claims}
    head = part(b'{"alg":"HS256","typ":"JWT"}') + b"." + part(json.dumps(claims).encode())
    seal = hmac.new(b"0123456789abcdef0123456789abcdef", head, hashlib.sha256).digest()
    return ("Authorization", "Bearer " + (head + b"." + part(seal)).decode())


@pytest.mark.skipif(not load_lines(["auth_openidc"]),
                    reason="libapache2-mod-auth-openidc is not installed")
def test_bearer_tokens(shipped, server):
    a = server("a")
    metadata = CONF / "examples" / "oauth-protected-resource.json"
    gw = shipped("examples/bearer.conf", a, modules=["auth_openidc"], here={
        'OIDCOAuthVerifyJwksUri   "https://login.example.com/keys"':
            'OIDCOAuthVerifySharedKeys "plain##0123456789abcdef0123456789abcdef"',
        "/etc/apache2/mcp/oauth-protected-resource.json": metadata,
    })
    gw.expect_log(".*", "oidc_", optional=True)
    gw.expect_log("AH01629|AH01631", optional=True)
    refused = post(gw, "/mcp", rpc("ping"))
    assert refused.status == 401
    where = "https://mcp.example.com/.well-known/oauth-protected-resource/mcp"
    challenges = refused.header_all("WWW-Authenticate")
    assert challenges[0] == 'Bearer resource_metadata="%s"' % where
    assert challenges[1].startswith("Bearer error=")
    found = gw.request("GET", "/.well-known/oauth-protected-resource/mcp")
    assert found.json()["resource"] == "https://mcp.example.com/mcp"
    client = Mcp(gw, headers=[token(scope="mcp other")]).initialize()
    assert client.where() == "a"
    assert client.post(call("delete_all")).status == 403
    writer = Mcp(gw, headers=[token(scope="mcp mcp:write")]).initialize()
    assert writer.post(call("delete_all")).status == 200
    for bad in (token(scope="mcpx"), token(scope="mcp", aud="https://else.example"),
                token(scope="mcp", exp=1), ("Authorization", "Bearer x")):
        assert post(gw, "/mcp", rpc("ping"), bad).status in (401, 403)
    assert not any(seen.header("Authorization") for seen in a.requests)
