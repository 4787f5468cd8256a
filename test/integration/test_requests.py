# SPDX-License-Identifier: Apache-2.0
"""Bad input: refused with the right answer, or passed on harmlessly; and the gateway lives on."""
import json

import pytest

from harness import tags
from harness.client import ACCEPT, JSON, Mcp, assert_rpc_error, call, rpc
from harness.wait import stays, wait_until

POST = [ACCEPT, JSON]
BODY = json.dumps(call("x", 1)).encode()


def still_works(gw):
    assert gw.request("OPTIONS", "/mcp").status == 200


def stateless_gateway(gateway, server, **options):
    """A gateway and the stateless server behind it."""
    a = server(era="stateless")
    return gateway(a, **options), a


# Size


def sized(size):
    """A request of exactly that many bytes."""
    empty = json.dumps(call("echo", 1, x="")).encode()
    return json.dumps(call("echo", 1, x="y" * (size - len(empty)))).encode()


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_body_at_the_limit_passes_and_one_over_it_is_413(gateway, server, chunked):
    gw, a = stateless_gateway(gateway, server, location=["MCPProxyMaxBody 10K"])
    gw.expect_log(tags.BODY_TOO_LARGE)
    for size, status in ((10240, 200), (10241, 413)):
        body = sized(size)
        headers = POST + ([("Transfer-Encoding", "chunked")] if chunked else [])
        data = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body
        answer = gw.connect().request("POST", "/mcp", headers, data).finish()
        assert answer.status == status
    assert json.loads(answer.body)["error"]["code"] == -31413
    assert len(a.requests) == 1


def test_the_default_limit_is_4_megabytes(gateway, server):
    gw, _ = stateless_gateway(gateway, server)
    assert gw.request("POST", "/mcp", POST, sized(4 * 1024 * 1024)).status == 200
    with gw.connect() as client:
        client.send(
            client.head("POST", "/mcp", [*POST, ("Content-Length", str(4 * 1024 * 1024 + 1))])
        )
        assert_rpc_error(client.response(), 413)


def test_a_length_over_the_limit_is_refused_before_the_body_comes(gateway, server):
    gw, _ = stateless_gateway(gateway, server, location=["MCPProxyMaxBody 1K"])
    with gw.connect() as client:
        client.send(client.head("POST", "/mcp", [*POST, ("Content-Length", "999999999999")]))
        assert_rpc_error(client.response(), 413)


def test_endless_chunks_are_stopped_at_the_limit(gateway, server):
    gw, _ = stateless_gateway(gateway, server, location=["MCPProxyMaxBody 100K"])
    client = gw.connect()
    client.send(client.head("POST", "/mcp", [*POST, ("Transfer-Encoding", "chunked")]))
    piece = b"1000\r\n%s\r\n" % (b"x" * 4096)
    try:
        for _ in range(5000):
            client.send(piece)
    except OSError:
        return
    assert client.response().status == 413


# Origin


def origin_answer(gw, origin, **headers):
    pairs = [("Origin", origin)] + list(headers.items())
    return gw.request("POST", "/mcp", [*POST, *pairs], BODY)


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://localhost",
        "null",
        "",
        "https://localhost:{port}",
        "http://localhost:{port}.evil.example",
        "http://evil.example:{port}",
        "http://localhost:{port}@evil.example",
        "http://localhost:{port}/",
        "localhost:{port}",
        "http://",
        "http://xlocalhost:{port}",
        "http://localhost:{port}, http://evil.example",
        "http://[::1",
        "file://localhost:{port}",
        "*",
    ],
)
def test_a_foreign_origin_is_403(gateway, server, origin):
    gw, a = stateless_gateway(gateway, server)
    answer = origin_answer(gw, origin.format(port=gw.port))
    assert_rpc_error(answer, 403, 1)
    assert a.requests == []


def test_the_servers_own_origin_passes(gateway, server):
    gw, _ = stateless_gateway(gateway, server)
    assert origin_answer(gw, gw.origin).status == 200
    assert origin_answer(gw, gw.origin.upper().replace("HTTP", "http")).status == 200


def test_a_server_alias_is_the_same_origin(gateway, server):
    gw, _ = stateless_gateway(gateway, server, start=False)
    host = [
        "<VirtualHost *:%d>" % gw.port,
        "ServerName localhost",
        "ServerAlias mcp.example",
        "</VirtualHost>",
    ]
    gw.server += host
    gw.start()
    assert origin_answer(gw, "http://mcp.example:%d" % gw.port).status == 200
    assert origin_answer(gw, "http://other.example:%d" % gw.port).status == 403


def test_a_forged_host_does_not_make_an_origin_the_same(gateway, server):
    gw, a = stateless_gateway(gateway, server)
    evil = "evil.example:%d" % gw.port
    assert_rpc_error(origin_answer(gw, "http://" + evil, Host=evil), 403, 1)
    assert_rpc_error(origin_answer(gw, "http://evil.example", Host="evil.example"), 403, 1)
    with gw.connect() as client:
        client.send(
            client.head(
                "POST",
                "http://%s/mcp" % evil,
                [("Host", evil), ("Origin", "http://" + evil), *POST],
                BODY,
            )
            + BODY
        )
        assert client.response().status == 403
    assert a.requests == []


def test_two_origins_are_403(gateway, server):
    gw, _ = stateless_gateway(gateway, server)
    for pair in ((gw.origin, "http://evil.example"), ("http://evil.example", gw.origin)):
        answer = gw.request("POST", "/mcp", [*POST, *(("Origin", o) for o in pair)], BODY)
        assert answer.status == 403


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_origin_counts_for_every_method(gateway, server, method):
    gw, a = stateless_gateway(gateway, server)
    assert gw.request(method, "/mcp", [("Origin", "http://evil.example")]).status == 403
    assert a.requests == []


def test_allowed_origins_pass_and_others_do_not(gateway, server):
    gw, _ = stateless_gateway(
        gateway, server, location=["MCPProxyAllowOrigin https://a.example http://b.example:8080"]
    )
    for origin, status in (
        ("https://a.example", 200),
        ("http://b.example:8080", 200),
        ("http://a.example", 403),
        ("https://a.example:444", 403),
        ("https://a.example.evil", 403),
    ):
        assert origin_answer(gw, origin).status == status, origin


def test_a_star_allows_any_origin(gateway, server):
    gw, _ = stateless_gateway(gateway, server, location=["MCPProxyAllowOrigin *"])
    assert origin_answer(gw, "http://evil.example").status == 200
    assert origin_answer(gw, "null").status == 200


# Framing of requests


@pytest.mark.parametrize(
    "head, body",
    [
        ("Content-Length: 4\r\nContent-Length: 5\r\n", b"abcde"),
        ("Content-Length: 4, 5\r\n", b"abcde"),
        ("Content-Length: -1\r\n", b""),
        ("Content-Length: 1e3\r\n", b""),
        ("Transfer-Encoding: gzip\r\n", b"x"),
        ("Transfer-Encoding: chunked\r\n", b"zz\r\nabc\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", b"3\r\nabcdef\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", b"ffffffffffffffffffff\r\nabc"),
        ("Bad Header: x\r\n", b""),
        ("Mcp-Session-Id: a\x00b\r\n", b""),
        ("Mcp-Session-Id: a\x07b\r\n", b""),
        ("X: " + "y" * 9000 + "\r\n", b""),
        ("X: y\r\n" * 200, b""),
    ],
)
def test_a_request_that_is_not_http_is_refused(gateway, server, head, body):
    gw, a = stateless_gateway(gateway, server)
    with gw.connect() as client:
        client.send(
            b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            + head.encode("latin-1")
            + b"\r\n"
            + body
        )
        assert client.response().status in (400, 413, 501)
    assert a.requests == []
    still_works(gw)


def test_length_beside_chunked_smuggles_nothing(gateway, server):
    gw, a = stateless_gateway(gateway, server)
    with gw.connect() as client:
        chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
        client.send(
            b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked
        )
        assert client.response().finish().status in (200, 400)
    assert [r.body for r in a.requests] in ([], [BODY])


@pytest.mark.parametrize("how", ["close", "reset", "half"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_truncated_upload_reaches_no_backend(gateway, server, how, framing):
    gw, a = stateless_gateway(gateway, server)
    client = gw.connect()
    if framing == "length":
        client.send(client.head("POST", "/mcp", [*POST, ("Content-Length", "100")]) + BODY[:20])
    else:
        client.send(
            client.head("POST", "/mcp", [*POST, ("Transfer-Encoding", "chunked")])
            + b"40\r\n"
            + BODY[:20]
        )
    {"close": client.close, "reset": client.reset, "half": client.shutdown_write}[how]()
    still_works(gw)
    wait_until(lambda: len(gw.access()) >= 2 or how != "close", "the log")
    assert [r for r in a.requests if r.method == "POST"] == []


def test_requests_that_stop_in_their_head_disturb_nobody(gateway, server):
    gw, _ = stateless_gateway(gateway, server)
    for data in (
        b"",
        b"P",
        b"POST /mcp HTTP/1.1\r\n",
        b"POST /mcp HTTP/1.1\r\nHost: x\r\nA",
        b"\x00" * 100,
        b"\r\n" * 50,
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ):
        client = gw.connect().send(data)
        client.close()
    still_works(gw)


# Oddities that pass


def test_a_get_without_accept_passes(gateway, server):
    client = Mcp(gateway(server())).initialize()
    stream = client.gateway.connect().request("GET", "/mcp", [("Mcp-Session-Id", client.session)])
    assert stream.status == 200
    stream.connection.close()


def test_a_client_response_without_a_method_passes(gateway, server):
    client = Mcp(gateway(server())).initialize()
    assert client.post({"jsonrpc": "2.0", "id": "x", "result": {}}).status == 202
    assert (
        client.post({"jsonrpc": "2.0", "id": "x", "error": {"code": 1, "message": "m"}}).status
        == 202
    )


DEEP = b'{"jsonrpc":"2.0","id":1,"method":"x","params":' + b"[" * 400 + b"]" * 400 + b"}"
TOO_DEEP = (
    b'{"jsonrpc":"2.0","id":1,"method":"x","params":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
)


@pytest.mark.parametrize(
    "body",
    [
        DEEP,
        TOO_DEEP,
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b'{"jsonrpc":"2.0"}',
        b"\x00\xff",
        b'{"method":"\\ud800"}',
        b'{"jsonrpc":"2.0","id":{},"method":"x"}',
        b"[1,2,[3]]",
        b'{"jsonrpc":"2.0","id":1,"method":' + b'"' + b"m" * 100_000 + b'"}',
    ],
    ids=[
        "deep",
        "too-deep",
        "empty",
        "null",
        "array",
        "string",
        "object",
        "bare",
        "binary",
        "surrogate",
        "id-object",
        "numbers",
        "long-method",
    ],
)
def test_odd_bodies_crash_nothing(gateway, backend, body):
    def script(peer):
        while True:
            peer.read_request()
            peer.answer()

    b = backend(script)
    gw = gateway(b)
    answer = gw.request("POST", "/mcp", POST, body)
    assert answer.status in (200, 400)
    if answer.status == 200:
        assert b.requests[0].body == body
    still_works(gw)


@pytest.mark.parametrize(
    "session",
    [
        "x" * 8000,
        "\u00e4\u00f6".encode().decode("latin-1"),
        "a b\tc",
        "%00%0a",
        "../../etc/passwd",
        "a,b",
        '"quoted"',
        "'; drop",
        "*",
        "\x7f" * 3,
    ],
)
def test_odd_session_ids_are_the_backends_to_judge_or_refused(gateway, server, session):
    a = server()
    gw = gateway(a)
    answer = gw.request("POST", "/mcp", [*POST, ("Mcp-Session-Id", session)], BODY)
    assert answer.status in (400, 404)
    assert all(r.header("Mcp-Session-Id") == session for r in a.requests)
    still_works(gw)


@pytest.mark.parametrize(
    "query",
    [
        "session_id=",
        "session_id",
        "sessionId=%",
        "sessionId=%zz",
        "session_id=%00",
        "session_id=a%0d%0aX: b",
        "sessionId=a&sessionId=b",
        "session_id=" + "x" * 7000,
        "&&&=&session_id",
        "sessionId=%ff%fe",
    ],
)
def test_odd_session_queries_go_out_as_they_came(gateway, server, query):
    a = server()
    gw = gateway(a)
    with gw.connect() as client:
        client.send(
            b"POST /mcp?%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % (query.replace(" ", "%20").encode(), len(BODY)) + BODY
        )
        assert client.response().finish().status in (400, 404)
    assert all(r.target == "/mcp?" + query.replace(" ", "%20") for r in a.requests)
    still_works(gw)


def test_a_session_id_of_8_kb_works_when_a_backend_issues_it(gateway, server):
    a, b = server("a"), server("b")
    ids = iter("s%d" % n + "x" * 8000 for n in range(9))
    a.make_id = b.make_id = lambda: next(ids)
    gw = gateway(a, b, server=["LimitRequestFieldSize 16380"])
    for _ in range(4):
        client = Mcp(gw).initialize()
        assert client.where() == ("a" if client.session in a.sessions else "b")


def test_two_session_headers_crash_nothing(gateway, server):
    gw = gateway(server())
    client = Mcp(gw).initialize()
    answer = gw.request(
        "POST",
        "/mcp",
        [*POST, ("Mcp-Session-Id", client.session), ("Mcp-Session-Id", "other")],
        BODY,
    )
    assert answer.status in (400, 404)
    still_works(gw)


def test_trace_and_connect_go_nowhere(gateway, server):
    gw, a = stateless_gateway(gateway, server)
    for method, target in (("TRACE", "/mcp"), ("CONNECT", "127.0.0.1:1")):
        assert gw.request(method, target).status >= 400 or method == "TRACE"
    still_works(gw)
    assert [r.method for r in a.requests] in (["OPTIONS"], ["TRACE", "OPTIONS"])


def test_an_http_1_0_request_works(gateway, server):
    gw, _ = stateless_gateway(gateway, server)
    with gw.connect() as client:
        client.send(
            b"POST /mcp HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            % len(BODY)
            + BODY
        )
        answer = client.response().finish()
        assert (answer.status, answer.json()["id"]) == (200, 1)
        wait_until(client.is_closed_by_server, "the server to close")


def test_an_upload_byte_by_byte_works(gateway, server):
    gw, _ = stateless_gateway(gateway, server, threads=2)
    client = gw.connect()
    client.send(client.head("POST", "/mcp", [*POST, ("Content-Length", str(len(BODY)))]))
    for number in range(len(BODY)):
        client.send(BODY[number : number + 1])
        stays(lambda: True, 0.002)
    assert client.response().json()["id"] == 1


def test_a_json_message_with_the_wrong_content_type_passes_untouched(gateway, server):
    gw, a = stateless_gateway(gateway, server)
    assert gw.request("POST", "/mcp", [ACCEPT, ("Content-Type", "text/plain")], BODY).status == 200
    assert a.requests[0].body == BODY


def test_an_unknown_notification_is_forwarded(gateway, server):
    gw, a = stateless_gateway(gateway, server)
    body = json.dumps(rpc("notifications/odd", {}, None)).encode()
    assert gw.request("POST", "/mcp", POST, body).status == 202
