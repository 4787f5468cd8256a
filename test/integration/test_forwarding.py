# SPDX-License-Identifier: Apache-2.0
"""What goes through unchanged, and the request head that mod_proxy makes."""
import json

import pytest

from harness.client import ACCEPT, JSON, Mcp, call, rpc
from harness.metrics import PLACES, scrape
from harness.wait import wait_until

POST = [ACCEPT, JSON]
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def answering(body=b'{"jsonrpc":"2.0","id":1,"result":{}}', **options):
    """A script that answers every request on the connection alike."""

    def script(peer):
        while True:
            peer.read_request()
            peer.answer(body, **options)

    return script


def exact(data, then_close=False):
    """A script that answers every request with these bytes."""

    def script(peer):
        while True:
            peer.read_request()
            peer.send(data)
            if then_close:
                peer.close()

    return script


def test_a_json_answer_passes(gateway, server):
    client = Mcp(gateway(server())).initialize()
    assert client.call("echo", text="hi")["echo"] == {"text": "hi"}


def test_every_session_method_works(gateway, server):
    a = server()
    client = Mcp(gateway(a)).initialize()
    stream = client.listen()
    a.wait_streams(1)
    a.push(client.session, {"jsonrpc": "2.0", "method": "notifications/message"}, ident=7)
    event = stream.next_event()
    assert (event["id"], json.loads(event["data"])["method"]) == ("7", "notifications/message")
    assert client.post(rpc("notifications/initialized", ident=None)).status == 202
    assert client.delete().status == 204
    assert client.post(rpc("tools/list")).status == 404


def test_progress_arrives_before_the_answer_on_the_calls_stream(gateway, server):
    client = Mcp(gateway(server())).initialize()
    answer = client.post(call("progress", count=5)).finish()
    data = [json.loads(line[6:]) for line in answer.body.splitlines() if line.startswith(b"data: ")]
    assert [m["params"]["progress"] for m in data[:-1]] == list(range(5))
    assert data[-1]["id"] == 1


def test_an_event_of_a_running_call_is_not_held_back(gateway, backend):
    def script(peer):
        peer.read_request()
        peer.begin_stream().chunk(b"data: first\n\n").wait_gone()

    stream = gateway(backend(script)).connect().request("POST", "/mcp", POST, call("x"))
    assert stream.next_event() == {"data": "first"}
    stream.connection.close()


def test_the_server_asks_the_client_and_gets_its_answer(gateway, server):
    client = Mcp(gateway(server())).initialize()
    stream = client.start(call("ask"))
    assert json.loads(stream.next_event()["data"])["method"] == "sampling/createMessage"
    assert client.post({"jsonrpc": "2.0", "id": "ask-1", "result": {"text": "yes"}}).status == 202
    assert json.loads(stream.next_event()["data"])["result"] == {"answered": {"text": "yes"}}
    assert stream.wait_end() == "complete"
    stream.connection.close()


def test_last_event_id_reaches_the_server(gateway, server):
    a = server()
    client = Mcp(gateway(a)).initialize()
    stream = client.listen([("Last-Event-ID", "42")])
    a.wait_streams(1)
    assert a.open_streams()[0].request.header("Last-Event-ID") == "42"
    stream.connection.close()


def request_seen(gateway, backend, request, **options):
    """The request as the backend sees it; request: arguments of Connection.request."""
    b = backend(answering())
    gw = gateway(b, **options)
    answer = gw.request(*request)
    assert answer.status == 200, answer.body
    return gw, b, b.requests[0]


def test_forwarding_headers_are_mod_proxys(gateway, backend):
    gw, b, seen = request_seen(gateway, backend, ("GET", "/mcp", [ACCEPT]))
    assert seen.header("X-Forwarded-For") == "127.0.0.1"
    assert seen.header("X-Forwarded-Host") == "localhost:%d" % gw.port
    assert seen.header("X-Forwarded-Server") == "localhost"
    assert seen.header("Host") == "127.0.0.1:%d" % b.port


def test_proxy_preserve_host_is_honoured(gateway, backend):
    gw, _, seen = request_seen(gateway, backend, ("GET", "/mcp"), server=["ProxyPreserveHost On"])
    assert seen.header("Host") == "localhost:%d" % gw.port


def test_proxy_add_headers_off_is_honoured(gateway, backend):
    _, _, seen = request_seen(gateway, backend, ("GET", "/mcp"), server=["ProxyAddHeaders Off"])
    assert not [name for name, _ in seen.headers if name.lower().startswith("x-forwarded")]


def test_request_header_directives_work(gateway, backend):
    _, _, seen = request_seen(
        gateway,
        backend,
        ("GET", "/mcp", [("X-Old", "1")]),
        location=["RequestHeader set X-Added yes", "RequestHeader unset X-Old"],
    )
    assert seen.header("X-Added") == "yes"
    assert seen.header("X-Old") is None


def test_hop_by_hop_request_headers_stop_here(gateway, backend):
    _, _, seen = request_seen(
        gateway,
        backend,
        (
            "GET",
            "/mcp",
            [
                ("Connection", "close, X-Hop"),
                ("X-Hop", "1"),
                ("Keep-Alive", "timeout=9"),
                ("TE", "trailers"),
                ("Upgrade", "websocket"),
                ("X-End", "2"),
            ],
        ),
    )
    for name in ("X-Hop", "Keep-Alive", "TE", "Upgrade"):
        assert seen.header(name) is None, name
    assert seen.header("X-End") == "2"


def test_mcp_and_unknown_request_headers_pass(gateway, backend):
    sent = [
        ("Mcp-Session-Id", "abc"),
        ("MCP-Protocol-Version", "2025-06-18"),
        ("X-Any", "thing"),
        ("Authorization", "Bearer tok"),
        ("Last-Event-ID", "9"),
        ("Mcp-Param-Region", "eu"),
    ]
    _, _, seen = request_seen(gateway, backend, ("GET", "/mcp", sent))
    assert [seen.header(name) for name, _ in sent] == [value for _, value in sent]


@pytest.mark.parametrize(
    "headers, body",
    [
        ([], b'{"jsonrpc":"2.0","id":1,"method":"ping"}'),
        (
            [("Transfer-Encoding", "chunked")],
            b'5\r\n{"jso\r\n24;x=y\r\nnrpc":"2.0","id":1,"method":"ping"} \r\n0\r\nX-T: 1\r\n\r\n',
        ),
    ],
    ids=["length", "chunked"],
)
def test_a_body_goes_out_with_one_content_length(gateway, backend, headers, body):
    _, _, seen = request_seen(gateway, backend, ("POST", "/mcp", POST + headers, body))
    assert seen.header_all("Transfer-Encoding") == []
    assert seen.header("Content-Length") == str(len(seen.body))
    assert json.loads(seen.body)["method"] == "ping"


def test_a_post_without_a_body_says_so(gateway, backend):
    _, _, seen = request_seen(gateway, backend, ("POST", "/mcp", [("Content-Length", "0")]))
    assert seen.header("Content-Length") == "0"
    assert seen.body == b""


@pytest.mark.parametrize(
    "target", ["/mcp?a=b&c=%20d", "/mcp/x%20y?q=%3F", "/mcp/sub/path", "/mcp?"]
)
def test_path_and_query_go_out_as_they_came(gateway, backend, target):
    _, _, seen = request_seen(gateway, backend, ("GET", target))
    assert seen.target == target


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS", "PUT", "PATCH"])
def test_any_method_passes(gateway, backend, method):
    body = (
        b'{"jsonrpc":"2.0","id":1,"method":"ping"}' if method in ("POST", "PUT", "PATCH") else None
    )
    _, _, seen = request_seen(gateway, backend, (method, "/mcp", POST, body))
    assert (seen.method, seen.body) == (method, body or b"")


def test_head_has_no_body_and_keeps_the_connection(gateway, backend):
    def script(peer):
        while True:
            request = peer.read_request()
            peer.send(
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
                + (b"" if request.method == "HEAD" else b"hello")
            )

    with gateway(backend(script)).connect() as client:
        assert client.request("HEAD", "/mcp").finish().header("Content-Length") in ("5", None)
        assert client.request("GET", "/mcp").finish().body == b"hello"


@pytest.mark.parametrize("lengths", [b"5\r\nContent-Length: 5", b"5, 5", b"5"])
def test_a_length_that_stands_twice_is_said_once_in_a_head_alone(gateway, backend, lengths):
    b = backend(exact(b"HTTP/1.1 200 OK\r\nContent-Length: " + lengths + b"\r\n\r\n"))
    assert gateway(b).request("HEAD", "/mcp").header("Content-Length") == "5"


def test_who_asks_for_the_head_of_a_stream_holds_up_nobody(gateway, backend):
    """Servers that take HEAD for GET go on to serve the stream: they read nothing behind it."""

    def script(peer):
        while peer.read_request().method != "HEAD":
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                  b"Transfer-Encoding: chunked\r\n\r\n")
        peer.wait_gone()

    b = backend(script)
    gw = gateway(b, server=PLACES)
    with gw.connect() as client:
        headers = [("Accept", "text/event-stream")]
        assert client.request("HEAD", "/mcp", headers).finish().status == 200
        wait_until(lambda: b.peers[0].closed_at, "the server to be told")
        assert client.request("GET", "/mcp").finish().body == b"hello"
    assert scrape(gw)("mcp_router_sse_connections_total") == 0, "no stream was opened"


@pytest.mark.parametrize(
    "status",
    [
        "200 OK",
        "202 Accepted",
        "400 Bad Request",
        "401 Unauthorized",
        "404 Not Found",
        "405 Method Not Allowed",
        "409 Conflict",
        "429 Too Many Requests",
        "500 Internal Server Error",
        "503 Service Unavailable",
        "299 Odd",
    ],
)
def test_the_backends_own_answers_pass_whatever_their_status(gateway, backend, status):
    body = b'{"jsonrpc":"2.0","id":"backend","error":{"code":-1,"message":"mine"}}'
    answer = gateway(backend(answering(body, status=status))).request(
        "POST", "/mcp", POST, call("x")
    )
    assert (answer.status, answer.body) == (int(status[:3]), body)


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_a_response_without_a_body_ends_with_its_head(gateway, backend, status):
    b = backend(exact(b"HTTP/1.1 %s\r\nX-A: b\r\n\r\n" % status.encode()))
    with gateway(b).connect() as client:
        for _ in range(2):
            answer = client.request("GET", "/mcp").finish()
            assert (answer.status, answer.header("X-A")) == (int(status[:3]), "b")
    assert len(b.peers) == 1


def test_response_headers_that_matter_pass(gateway, backend):
    sent = [
        ("X-Accel-Buffering", "no"),
        ("Cache-Control", "no-cache, no-transform"),
        ("WWW-Authenticate", 'Bearer resource_metadata="https://a.example/x"'),
        ("Retry-After", "17"),
        ("Mcp-Session-Id", "s-1"),
        ("X-Other", "v"),
        ("Content-Language", "de"),
    ]
    answer = gateway(backend(answering(headers=sent, status="401 Unauthorized"))).request(
        "GET", "/mcp"
    )
    assert [answer.header(name) for name, _ in sent] == [value for _, value in sent]
    assert answer.header("Content-Type") == "application/json"


def test_headers_that_stand_twice_pass_twice(gateway, backend):
    b = backend(answering(headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]))
    assert gateway(b).request("GET", "/mcp").header_all("Set-Cookie") == ["a=1", "b=2"]


def test_hop_by_hop_response_headers_stop_here(gateway, backend):
    b = backend(
        answering(
            headers=[
                ("Connection", "X-Hop"),
                ("X-Hop", "1"),
                ("Keep-Alive", "timeout=3"),
                ("Proxy-Authenticate", "Basic"),
                ("X-End", "2"),
            ]
        )
    )
    answer = gateway(b).request("GET", "/mcp")
    assert answer.header("X-Hop") is None
    assert "timeout=3" not in answer.header("Keep-Alive", "")
    assert answer.header("X-End") == "2"


def test_proxy_pass_reverse_maps_a_location(gateway, backend):
    b = backend(
        answering(b"", status="307 Temporary Redirect", headers=[("Location", "/elsewhere")])
    )
    gw = gateway(b, single=True, start=False)
    gw.location.append('ProxyPassReverse "%s/elsewhere"' % b.url)
    b.script = answering(
        b"", status="307 Temporary Redirect", headers=[("Location", b.url + "/elsewhere/x")]
    )
    assert gw.start().request("GET", "/mcp").header("Location") == gw.origin + "/mcp/x"


@pytest.mark.parametrize("size", [0, 1, 65535, 5_000_000])
def test_json_answers_of_any_size_are_byte_identical(gateway, backend, size):
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    answer = gateway(backend(answering(body))).request("GET", "/mcp")
    assert answer.body == body
    assert answer.header("Content-Length") in (str(size), None)


def test_a_large_request_is_byte_identical(gateway, backend):
    body = json.dumps(call("x", blob="\u00e4\\u0000" * 200_000)).encode()
    _, _, seen = request_seen(gateway, backend, ("POST", "/mcp", POST, body))
    assert seen.body == body


def test_bodies_that_are_not_json_pass_untouched(gateway, backend):
    form = b"grant_type=client_credentials&scope=%7Bmcp%7D"
    _, _, seen = request_seen(
        gateway,
        backend,
        ("POST", "/mcp", [("Content-Type", "application/x-www-form-urlencoded")], form),
    )
    assert seen.body == form


@pytest.mark.parametrize(
    "data",
    [
        CHUNKED + b'3\r\nabc\r\n2;x="y"\r\nde\r\n0\r\n\r\n',
        CHUNKED + b"0005\r\nabcde\r\n000\r\nX-T: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding:Chunked\r\n\r\n5 \r\nabcde\r\n0\r\n\r\n",
        b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nabcde",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nabcde",
    ],
    ids=["chunked", "trailer", "odd-case", "no-reason", "same-length-twice"],
)
def test_any_lawful_framing_of_a_response_works(gateway, backend, data):
    assert gateway(backend(exact(data))).request("GET", "/mcp").body == b"abcde"


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n",
    ],
)
def test_a_body_may_end_with_the_connection(gateway, backend, head):
    with gateway(backend(exact(head + b"abcde", then_close=True))).connect() as client:
        for _ in range(2):
            assert client.request("GET", "/mcp").finish().body == b"abcde"


@pytest.mark.parametrize(
    "interim",
    [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 3],
    ids=["continue", "hints"],
)
def test_interim_responses_do_not_disturb_the_final_one(gateway, backend, interim):
    data = interim + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde"
    assert gateway(backend(exact(data))).request("POST", "/mcp", POST, call("x")).body == b"abcde"


def test_a_client_that_expects_100_continue_gets_it(gateway, backend):
    b = backend(answering())
    body = json.dumps(call("x")).encode()
    with gateway(b).connect() as client:
        client.send(
            client.head(
                "POST",
                "/mcp",
                [*POST, ("Expect", "100-continue"), ("Content-Length", str(len(body)))],
            )
        )
        client.fill_until(lambda: b"\r\n\r\n" in client.buffer)
        assert client.buffer.startswith(b"HTTP/1.1 100")
        answer = client.send(body).response()
        assert (answer.status, answer.interim) == (200, [100])
    assert b.requests[0].body == body


def test_a_backend_may_answer_before_it_has_read_the_request(gateway, backend):
    def script(peer):
        peer.read_head()
        peer.answer(b"early", status="413 Too Large", headers=[("Connection", "close")])
        peer.wait_gone()

    answer = gateway(backend(script)).request("POST", "/mcp", POST, call("x", blob="y" * 3_000_000))
    assert (answer.status, answer.body) == (413, b"early")


def test_a_member_behind_a_unix_socket_works(gateway, backend):
    assert gateway(backend(answering(b"abcde"), unix=True)).request("GET", "/mcp").body == b"abcde"


def test_proxy_pass_without_a_balancer_works(gateway, server):
    client = Mcp(gateway(server(), single=True)).initialize()
    assert client.call("echo", n=1)["echo"] == {"n": 1}


@pytest.mark.parametrize(
    "modules, lines",
    [
        (["filter", "deflate"], ["SetOutputFilter DEFLATE"]),
        (
            ["filter", "deflate"],
            ["AddOutputFilterByType DEFLATE text/event-stream application/json"],
        ),
    ],
    ids=["set", "by-type"],
)
def test_compression_stays_off_event_streams(gateway, backend, modules, lines):
    def script(peer):
        while True:
            if "json" in peer.read_request().target:
                peer.answer(b'{"a":"%s"}' % (b"x" * 2000))
            else:
                peer.begin_stream().chunk(b"data: plain\n\n").end_chunks()

    gw = gateway(backend(script), modules=modules, location=lines)
    headers = [ACCEPT, ("Accept-Encoding", "gzip")]
    stream = gw.request("GET", "/mcp", headers)
    assert stream.header("Content-Encoding") is None
    assert stream.body == b"data: plain\n\n"
    assert gw.request("GET", "/mcp/json", headers).header("Content-Encoding") == "gzip"


def test_the_access_log_has_one_line_with_status_and_bytes(gateway, server):
    gw = gateway(server())
    client = Mcp(gw).initialize()
    client.call("echo", text="x" * 1000)
    client.post(call("progress"))
    wait_until(lambda: len(gw.access()) >= 3, "the access log")
    lines = gw.access()
    assert [line.split()[0] for line in lines] == ["200"] * 3
    assert int(lines[1].split()[2]) > 1000


def test_mcp_proxy_off_leaves_a_location_to_others(gateway, server):
    gw = gateway(server(), single=True, modules=["proxy_http"], location=["MCPProxy Off"])
    assert Mcp(gw).initialize().where() == "a"


def test_a_batch_passes_as_it_is(gateway, server):
    a = server()
    client = Mcp(gateway(a)).initialize()
    answer = client.post([call("echo", 1), call("echo", 2)])
    assert [m["id"] for m in answer.json()] == [1, 2]
    assert json.loads(a.requests[-1].body) == [call("echo", 1), call("echo", 2)]
