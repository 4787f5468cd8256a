# SPDX-License-Identifier: Apache-2.0
"""mod_mcp_ratelimit: what a refused client reads, and what a wrong configuration says."""
import json
import re
import time

import pytest

from harness import tags
from harness.backend import Nobody
from harness.limits import (BY_HEADER, LOAD, hang_up, limited, message, open_stream, post, serve,
                            try_stream)

ONE = "MCPRateLimitMessages 1/10h"


def refused(gateway, backend, body=None, *location, store="shm", **options):
    made = gateway(backend(serve), **limited(store, *(location or (ONE,)), **options))
    assert post(made).status == 200
    return post(made, body)


@pytest.mark.parametrize("id_text", [
    "1", "0", "-7", '"1"', '"a\\u00e9\\n"', '""', "9007199254740993", "1.0", "1e2", "9" * 400])
def test_the_id_comes_back_exactly(gateway, backend, id_text):
    body = b'{"jsonrpc":"2.0","method":"ping","id":%s}' % id_text.encode()
    answer = refused(gateway, backend, body)
    assert answer.status == 429
    assert b'"id":' + id_text.encode() + b"," in answer.body
    json.loads(answer.body)


def test_the_error_says_which_limit_and_how_long(gateway, backend):
    answer = refused(gateway, backend)
    error = answer.json()["error"]
    wait = int(answer.header("Retry-After"))
    assert wait >= 1
    assert error["code"] == -31429
    assert error["data"] == {"error": "too_many_requests", "limit": "messages",
                             "retryAfter": wait}
    assert answer.header("Content-Type") == "application/json"
    assert answer.header("Content-Length") == str(len(answer.body))


@pytest.mark.parametrize("body", [message("notifications/initialized", id_=None),
                                  b'{"jsonrpc":"2.0","id":1,"result":{}}'])
def test_a_notification_or_response_gets_an_empty_body(gateway, backend, body):
    answer = refused(gateway, backend, body)
    assert (answer.status, answer.body) == (429, b"")


def test_a_stream_gets_an_error_without_an_id(gateway, backend):
    made = gateway(backend(serve), **limited("shm", "MCPRateLimitStreams 1"))
    keep = try_stream(made)
    _, response = open_stream(made)
    answer = response.json()
    assert response.status == 429 and keep
    assert "id" not in answer and answer["error"]["data"]["limit"] == "streams"


def test_headers_tell_how_things_stand(gateway, backend, store):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitMessages 60/1h burst=3"))
    answers = [post(made) for _ in range(4)]
    assert [a.header("X-RateLimit-Limit") for a in answers] == ["3"] * 4
    assert [a.header("X-RateLimit-Remaining") for a in answers] == ["2", "1", "0", "0"]
    resets = [int(a.header("X-RateLimit-Reset")) for a in answers]
    assert 55 <= resets[0] <= 61 and 170 <= resets[2] <= 181


def test_a_bucket_of_one_is_full_again_after_its_period(gateway, backend, store):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitMessages 1/60s"))
    assert 55 <= int(post(made).header("X-RateLimit-Reset")) <= 60


def test_headers_are_of_the_limit_nearest_to_refusal(gateway, backend, store):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitMessages 100/1h",
                                             "MCPRateLimitWindow 7/1h"))
    assert post(made).header("X-RateLimit-Limit") == "7"


def test_draft_headers(gateway, backend, store):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitMessages 200/60s burst=50",
                                             "MCPRateLimitHeaders draft"))
    answer = post(made)
    assert answer.header("RateLimit-Policy") == '"messages";q=200;w=60'
    assert re.fullmatch(r'"messages";r=49;t=1', answer.header("RateLimit"))
    assert answer.header("X-RateLimit-Limit") is None


def test_headers_off(gateway, backend):
    answer = refused(gateway, backend, None, ONE, "MCPRateLimitHeaders off")
    assert not [name for name, _ in answer.headers if "ratelimit" in name.lower()]
    assert answer.header("Retry-After")


@pytest.mark.parametrize("mcp", [True, False])
def test_a_backends_headers_of_the_same_name_give_way(gateway, backend, mcp):
    def script(peer):
        while True:
            peer.read_request()
            peer.answer(headers=[("X-RateLimit-Limit", "99"), ("X-RateLimit-Remaining", "98")])
    made = gateway(backend(script), **limited("shm", ONE, mcp=mcp))
    assert post(made).header("X-RateLimit-Limit") == "1"


def test_a_programs_headers_of_the_same_name_give_way(gateway, backend, stage):
    program = stage.directory / "tool"
    program.write_text("#!/bin/sh\ncat >/dev/null\nprintf 'Content-Type: application/json\\n"
                       "X-RateLimit-Limit: 99\\n\\n{}'\n", encoding="utf-8")
    program.chmod(0o755)
    made = gateway(Nobody(), **limited("shm", mcp=False, modules=["alias", "cgid"], server=[
        "ScriptSock cgid.sock", 'ScriptAlias /tool "%s"' % program, "<Location /tool>",
        "Require all granted", ONE, "</Location>"]))
    assert post(made, target="/tool").header_all("X-RateLimit-Limit") == ["1"]


def test_the_environment_says_what_was_decided(gateway, backend):
    made = gateway(backend(serve), **limited("shm", ONE, server=[
        'LogFormat "%{MCP_LIMIT}e" limit', "CustomLog limit.log limit env=MCP_LIMIT"]))
    post(made)
    post(made)
    made.leave()
    made.stop()
    # In any order: a line is written once the answer has gone, by whichever thread sent it.
    assert sorted((made.directory / "limit.log").read_text().split()) == ["allowed", "messages"]


# Before authentication

BEFORE = ("MCPRateLimitAddress 2/10h", "AuthType Basic", "AuthName x", "AuthUserFile users",
          "Require all granted")


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("body, says", [
    (b'{"jsonrpc":"2.0","id":9007199254740993,"method":"ping"}', b'"id":9007199254740993,'),
    (b'{"jsonrpc":"2.0","method":"notifications/initialized"}', b"")])
def test_a_blocked_address_gets_its_id_too(gateway, backend, store, body, says, chunked):
    made = gateway(backend(serve), **limited(store, *BEFORE))
    assert [post(made).status for _ in range(2)] == [200, 200]
    head = (b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            + (b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" if chunked else
               b"Content-Length: %d\r\n\r\n%s") % (len(body), body))
    with made.connect() as client:
        for _ in range(2): # the connection goes on
            client.send(head) # in one piece, so that the message is there with its head
            answer = client.response().finish()
            assert answer.status == 429 and says in answer.body
            assert bool(answer.body) == bool(says)


def test_a_message_just_behind_its_head_gives_its_id_too(gateway, backend, store):
    made = gateway(backend(serve), **limited(store, *BEFORE))
    assert [post(made).status for _ in range(2)] == [200, 200]
    body = b'{"jsonrpc":"2.0","id":"x","method":"ping"}'
    with made.connect() as client:
        for _ in range(3):
            client.send(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
                        % len(body))
            time.sleep(0.003)
            client.send(body)
            answer = client.response().finish()
            assert answer.status == 429 and b'"id":"x",' in answer.body
            assert not answer.header("Connection")


def test_a_blocked_address_is_refused_without_its_body(gateway, backend, store):
    made = gateway(backend(serve), **limited(store, *BEFORE))
    assert [post(made).status for _ in range(2)] == [200, 200]
    for more in (b"Content-Length: 50\r\n\r\n", b"Content-Length: 50\r\n\r\n{",
                 b"Content-Length: 50\r\nExpect: 100-continue\r\n\r\n",
                 b"Content-Length: 70000\r\n\r\n" + b" " * 70000,
                 b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"):
        with made.connect() as client:
            client.send(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\n" + more)
            answer = client.response().finish()
            assert answer.status == 429 and b'"limit":"address"' in answer.body
            assert answer.header("Connection") == "close"


def test_who_was_counted_before_authentication_is_told_too(gateway, backend, store):
    """Nobody has logged in, and need not."""
    def script(peer):
        while True:
            peer.read_request()
            peer.answer(headers=[("X-RateLimit-Limit", "99")])
    made = gateway(backend(script), **limited(store, *BEFORE, server=[
        'LogFormat "%{MCP_LIMIT}e" limit', "CustomLog limit.log limit env=MCP_LIMIT"]))
    answers = [post(made) for _ in range(3)]
    assert [a.status for a in answers] == [200, 200, 429]
    assert [a.header("X-RateLimit-Limit") for a in answers] == ["2"] * 3
    assert [a.header("X-RateLimit-Remaining") for a in answers] == ["1", "0", "0"]
    made.leave()
    made.stop()
    words = (made.directory / "limit.log").read_text().split()
    assert sorted(words) == ["address", "allowed", "allowed"]


# Internal redirects

def redirected(here, there, **options):
    """/mcp has the limits of here and goes on as /there, which has those of there."""
    return limited("shm", *here, "RewriteEngine On", "RewriteRule . /there [PT]",
                   server=['<Location "/there">', BY_HEADER, 'ProxyPass "balancer://mcp/mcp"',
                           *there, "</Location>", 'LogFormat "%{MCP_LIMIT}e" limit',
                           "CustomLog limit.log limit"],
                   modules=["rewrite"], mcp=False, **options)


def logged(gateway):
    gateway.leave()
    gateway.stop()
    return sorted((gateway.directory / "limit.log").read_text().replace("-", "").split())


def test_a_redirected_request_meets_the_limits_of_both_places(gateway, backend):
    made = gateway(backend(serve), **redirected(
        ["MCPRateLimitMessages 9/10h"], ['MCPRateLimitTool "t" 1/10h',
                                         "MCPRateLimitMessages 2/10h", "MCPRateLimitStreams 1"]))
    call = message("tools/call", name="t")
    answers = [post(made, body) for body in (call, call, message())]
    assert [a.status for a in answers] == [200, 429, 200]
    assert answers[1].json()["error"]["data"]["limit"] == "tool"
    # One token for a message, and the limit of the first place, which has been asked.
    assert [answers[i].header("X-RateLimit-Limit") for i in (0, 2)] == ["1", "9"]
    assert answers[2].header("X-RateLimit-Remaining") == "6"
    assert try_stream(made) and not try_stream(made)
    hang_up(made)
    assert logged(made) == ["allowed"] * 3 + ["streams", "tool"]


def test_a_redirected_request_keeps_what_was_decided(gateway, backend):
    made = gateway(backend(serve), **redirected([ONE], []))
    answer = post(made)
    assert (answer.status, answer.header("X-RateLimit-Limit")) == (200, "1")
    assert post(made).status == 429
    assert logged(made) == ["allowed", "messages"]


@pytest.mark.parametrize("page", [(), ('ErrorDocument 503 "later"',), ("ErrorDocument 503 /sorry",)])
@pytest.mark.parametrize("mcp", [True, False])
def test_an_error_that_httpd_makes_tells_it_too(gateway, mcp, page):
    """Such an answer has none of the filters that the good one would have had."""
    made = gateway(Nobody(), **limited("shm", "MCPRateLimitMessages 9/10h", *page, mcp=mcp))
    for line in [tags.CONNECT_FAILED] if mcp else ["AH00957", "AH00959", "AH01114"]:
        made.expect_log(line)
    answer = post(made)
    assert answer.status in (502, 503, 404)
    assert [value for name, value in answer.headers if name == "X-RateLimit-Limit"] == ["9"]
    assert answer.header("X-RateLimit-Remaining") == "8"


@pytest.mark.parametrize("there", [[], ['MCPRateLimitTool "t" 9/10h']])
def test_a_redirected_request_keeps_its_body(gateway, backend, there):
    made = gateway(backend(serve), **redirected(["MCPRateLimitMessages 9/10h"], there))
    with made.connect() as client:
        for word in ("a", "b"):
            head = [("Content-Type", "application/json"), ("X-User", "a")]
            body = message("tools/call", name=word)
            assert client.request("POST", "/mcp", head, body).finish().status == 200
    sent = [json.loads(request.body) for peer in made.backends[0].peers
            for request in peer.requests]
    assert [body["params"]["name"] for body in sent] == ["a", "b"]


def test_a_keep_alive_connection_survives_a_refusal(gateway, backend):
    made = gateway(backend(serve), **limited("shm", ONE))
    with made.connect() as client:
        head = [("Content-Type", "application/json"), ("X-User", "a")]
        answers = [client.request("POST", "/mcp", head, message()).finish().status
                   for _ in range(4)]
    assert answers == [200, 429, 429, 429]


def test_bodies_that_are_not_json_pass(gateway, backend):
    made = gateway(backend(serve), **limited("shm", "MCPRateLimitMessages 9/1h",
                                             "MCPRateLimitStreams 1"))
    form = [("Content-Type", "application/x-www-form-urlencoded")]
    assert made.request("POST", "/mcp", form, b"grant_type=x").status == 200
    assert made.backends[0].peers[-1].requests[-1].body == b"grant_type=x"


@pytest.mark.parametrize("body, status", [
    (b'{"client_name":"x","redirect_uris":[]}', 200), (b'{"method":"subscriptions/listen"}', 400),
    (b'{"jsonrpc":"2.0","id":1,"method":"a","method":"subscriptions/listen"}', 400)])
def test_where_streams_are_limited_json_that_is_no_message_passes(gateway, backend, body, status):
    made = gateway(backend(serve), **limited("shm", "MCPRateLimitStreams 1", mcp=False))
    assert post(made, body).status == status


def test_a_compressed_message_is_not_counted_as_one(gateway, backend):
    made = gateway(backend(serve), **limited("shm", ONE))
    assert post(made, headers=[("Content-Encoding", "gzip")]).status == 415


@pytest.mark.parametrize("line, says", [
    ("MCPRateLimitStreams 0", "from 1 to"),
    ("MCPRateLimitStreams -1", "from 1 to"),
    ("MCPRateLimitStreams 99999999999999999999", "from 1 to"),
    ("MCPRateLimitStreams many", "from 1 to"),
    ("MCPRateLimitMessages 200", "N/PERIOD"),
    ("MCPRateLimitMessages 0/60s", "N from 1"),
    ("MCPRateLimitMessages 5/0s", "PERIOD from 1ms"),
    ("MCPRateLimitMessages 5/60x", "PERIOD"),
    ("MCPRateLimitMessages 5/99999999999999d", "PERIOD"),
    ("MCPRateLimitMessages 5/60s burst=0", "burst=B"),
    ("MCPRateLimitMessages 5/60s bursts=1", "burst=B"),
    ("MCPRateLimitWindow 5/60s type=round", "type=fixed|sliding"),
    ("MCPRateLimitWindow 20000/60s type=sliding", "10000"),
    ("MCPRateLimitAddress 5/60s type=sliding", "block=DURATION"),
    ("MCPRateLimitTool x", "PATTERN N/PERIOD"),
    ("MCPRateLimitTool x 5/1s burst=-1", "burst=B"),
    ("MCPRateLimitOnError maybe", "local|open|closed"),
    ("MCPRateLimitHeaders y", "x|draft|off"),
    ("MCPRateLimitDryRun 2", "On or Off"),
    ("MCPRateLimitLease 1ms", "from 1s"),
    ("MCPRateLimitTimeout 0", "from 1ms"),
    ('MCPRateLimitKey "%{nonsense"', "expression"),
    ("MCPRateLimitStore disk", "redis://"),
    ("MCPRateLimitStore redis://u:secret@h:1/4", "password=file:PATH"),
    ("MCPRateLimitStore redis://u@h:1/4", "password=file:PATH"),
    ("MCPRateLimitStore redis://h:99999/4", "port"),
    ("MCPRateLimitStore redis://h:1/x", "database"),
    ("MCPRateLimitStore redis+unix:relative", "absolute"),
    ("MCPRateLimitStore shm:0", "size"),
    ("MCPRateLimitStore shm password=file:/x", "password"),
    ("MCPRateLimitStore redis://h password=file:/nonexistent", "/nonexistent"),
    ("MCPRateLimitLease 9s\nMCPRateLimitLease 8s", "one value for the whole httpd"),
    ("MCPRateLimitStore shm:5\nMCPRateLimitStore shm:6", "one value for the whole httpd"),
])
def test_a_wrong_value_is_told(gateway, line, says):
    made = gateway(start=False, server=[LOAD, line])
    status, text = made.check_config()
    assert status != 0
    assert says in text and line.split()[0] in text
