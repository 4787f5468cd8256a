# SPDX-License-Identifier: Apache-2.0
"""mcp-status: what it shows, and who may end a stream with it, from any child."""
import base64
import hashlib
import json
import os
import re
import signal
from urllib.parse import quote

import pytest

from harness import limits, tags
from harness.caching import AUTH
from harness.caching import MODULE as CACHE
from harness.client import Mcp, basic, call, rpc
from harness.gateway import USERS
from harness.metrics import PLACES
from harness.wait import stays, wait_until

FORM = ("Content-Type", "application/x-www-form-urlencoded")
LOCKED = ["<Location /status>", *("  " + line for line in AUTH), "</Location>"]
ALICE, BOB = basic("alice", USERS["alice"]), basic("bob", USERS["bob"])
HOSTILE = {
    "markup": "<img src=x onerror=alert(1)>",
    "attribute": '"><script>alert(2)</script>',
    "quotes": "a&b'c\"d",
    "rtl": "evil\u202egnp.exe",
    "controls": "a\x01b\x7fc\u200bd",
    "long": "x" * 300,
    "not-utf8": b"caf\xe9\xff",
}


def see(gw, headers=(), path="/status"):
    answer = gw.request("GET", path + "?json", headers)
    assert answer.status == 200, answer.body
    assert answer.header("Content-Type") == "application/json"
    return json.loads(answer.body)


@pytest.mark.parametrize("query, kind", [
    ("json", "application/json"), ("json=1", "application/json"), ("json&_=7", "application/json"),
    ("jsonp", "text/html"), ("x=json", "text/html")])
def test_json_is_asked_for_with_or_without_a_value(gateway, server, query, kind):
    gw = gateway(server("a"), server=PLACES)
    assert gw.request("GET", "/status?" + query).header("Content-Type").split(";")[0] == kind


def page(gw, headers=()):
    answer = gw.request("GET", "/status", headers)
    assert answer.status == 200, answer.body
    return answer.body.decode()


def end(gw, stream, token, headers=(), query="?json"):
    body = "end=%s&token=%s" % (stream, token)
    return gw.request("POST", "/status" + query, [FORM, *headers], body.encode())


def hostile_gateway(gateway, *backends, **options):
    """Users with names that nobody should have."""
    gw = gateway(*backends, start=False, location=["AuthType Basic", 'AuthName "x"',
                                                   "AuthUserFile hostile", "Require valid-user"],
                 **options)
    word = base64.b64encode(hashlib.sha1(b"w").digest())
    lines = [raw(name) + b":{SHA}" + word for name in HOSTILE.values()]
    (gw.directory / "hostile").write_bytes(b"\n".join(lines) + b"\n")
    return gw.start()


def raw(name):
    return name if isinstance(name, bytes) else name.encode()


def hostile_user(gw, name):
    word = base64.b64encode(raw(name) + b":w").decode()
    return Mcp(gw, headers=[("Authorization", "Basic " + word)]).initialize()


def test_it_tells_streams_sessions_and_calls_of_each_member(gateway, server):
    a, b = server("a"), server("b")
    gw = gateway(a, b, server=PLACES, children=2)
    clients = [Mcp(gw).initialize() for _ in range(6)]
    streams = [client.listen() for client in clients]
    clients[0].where()
    told = see(gw)
    for member, one in zip(told["members"], (a, b)):
        assert member["url"] == one.url and member["state"] == "ok"
        assert member["streams"] == member["inFlight"] == member["sessions"] == len(one.sessions)
    assert sum(member["requests"] for member in told["members"]) == 13
    assert told["streams"] == {"open": 6, "limit": gw._stream_limit(), "opened": 6, "brokenOff": 0}
    assert told["requests"] == 7, "streams are requests when they end"
    assert len(told["longest"]) == len(streams)
    ages = [stream["ageMs"] for stream in told["longest"]]
    assert ages == sorted(ages, reverse=True)


def test_a_stream_is_shown_with_user_address_bytes_and_last_event(gateway, server):
    a = server("a")
    gw = gateway(a, server=PLACES, location=AUTH)
    client = Mcp(gw, headers=[ALICE]).initialize()
    stream = client.listen()
    a.push(client.session, rpc("notifications/message", {"text": "y" * 2000}, None))
    stream.next_event()
    shown = wait_until(lambda: [s for s in see(gw)["longest"] if s["bytes"] > 2000], "its bytes")[0]
    assert (shown["user"], shown["address"], shown["route"]) == ("alice", "127.0.0.1", "a")
    assert shown["method"] == "GET" and not shown["ending"]
    assert shown["lastEventMs"] <= shown["ageMs"]
    stream.connection.close()
    wait_until(lambda: not see(gw)["longest"], "its end")


def test_no_session_id_is_shown(gateway, server):
    a = server("a")
    gw = gateway(a, server=PLACES)
    client = Mcp(gw).initialize()
    client.listen()
    assert client.session not in page(gw) + json.dumps(see(gw))


def test_limits_cache_and_stores_are_shown_where_their_modules_are_loaded(gateway, server):
    a = server("a")
    both = [limits.LOAD, 'LoadModule mcp_cache_module "%s"' % CACHE, *PLACES]
    gw = gateway(a, server=both, location=["MCPRateLimitStreams 1", "MCPCacheTool who* 60s"])
    client = Mcp(gw).initialize()
    client.where()
    client.where()
    client.listen()
    assert client.listen().finish().status == 429
    told = see(gw)
    assert {"limit": "streams", "allowed": 1, "refused": 1, "dryRun": 0} in told["limits"]
    wait_until(lambda: {"tool": "who*", "hit": 1, "miss": 1, "stale": 0, "bypass": 0}
               in see(gw)["cache"], "both calls to be over, and counted")
    assert told["slots"] == 1
    stores = [(store["module"], store["up"]) for store in told["stores"]]
    assert stores == [("proxy", True), ("ratelimit", True), ("cache", True)]
    html = page(gw)
    assert 'id="limits"' in html and 'id="cache"' in html and 'id="stores"' in html


def test_it_works_where_only_mod_mcp_proxy_is_loaded(gateway, server):
    gw = gateway(server("a"), server=PLACES)
    html, told = page(gw), see(gw)
    assert 'id="limits"' not in html and 'id="cache"' not in html
    assert told["limits"] == told["cache"] == []
    assert [store["module"] for store in told["stores"]] == ["proxy"]
    assert "No event stream is open." in html


def test_a_store_that_does_not_answer_is_shown(gateway, backend, redis):
    store = redis()
    gw = gateway(backend(limits.serve), **limits.limited(
        store.store, "MCPRateLimitMessages 500/1h", timeout="25ms", server=PLACES))

    def is_up():
        return {one["module"]: one["up"] for one in see(gw)["stores"]}["ratelimit"]

    assert is_up()
    gw.expect_log(limits.STORE_DOWN)
    store.kill()
    wait_until(lambda: limits.post(gw).status == 200 and not is_up(), "the breaker")
    assert ">down<" in page(gw)


def test_sealed_sessions_are_in_no_table(gateway, server, stage):
    key = stage.directory / "session.key"
    key.write_text(base64.b64encode(bytes(32)).decode() + "\n")
    key.chmod(0o600)
    gw = gateway(server("a"), tuning=["MCPProxyAffinity sealed", 'MCPProxySessionKey "file:%s"' % key],
                 server=PLACES)
    Mcp(gw).initialize()
    assert see(gw)["members"][0]["sessions"] is None
    assert "sealed" in page(gw)


def test_a_disabled_member_is_shown_as_such(gateway, server):
    a = server("a")
    gw = gateway(a, server("b"), server=PLACES, member="status=+D")
    assert [member["state"] for member in see(gw)["members"]] == ["disabled", "disabled"]
    assert "disabled" in page(gw)


def test_the_last_minutes_are_kept(gateway, server):
    a = server("a")
    gw = gateway(a, server=PLACES)
    client = Mcp(gw).initialize()
    client.listen()

    def steps():
        history = see(gw)["history"]
        return len(history) >= 2 and history

    history = wait_until(steps, "the parent to look twice", 60)
    assert history[-1]["streams"] == 1
    assert all(step["callsPerSecond"] >= 0 for step in history)
    assert any(step["callsPerSecond"] > 0 for step in history)
    times = [step["time"] for step in history]
    assert times == sorted(times)


# Ending a stream


@pytest.mark.parametrize("tuning", [[], ["MCPProxyAsync Off"]], ids=["async", "inline"])
def test_a_standing_stream_is_ended_between_two_events(gateway, server, tuning):
    a = server("a")
    gw = gateway(a, server=PLACES, tuning=tuning)
    client = Mcp(gw).initialize()
    other, stream = client.listen(), client.listen()
    a.push(client.session, rpc("notifications/message", {}, None))
    stream.next_event()
    told = see(gw)
    gw.expect_log(tags.STREAM_ENDED)
    answer = end(gw, told["longest"][-1]["stream"], told["token"])
    assert answer.status == 200 and answer.json() == {"outcome": "ended"}
    assert stream.wait_end() == "complete"
    a.wait_streams(1)
    assert [s["stream"] for s in see(gw)["longest"]] == [told["longest"][0]["stream"]]
    a.push(client.session, rpc("notifications/message", {}, None))
    assert other.next_event()


def test_every_child_can_end_the_streams_of_every_other(gateway, server):
    a = server("a")
    gw = gateway(a, server=PLACES, children=3, threads=6)
    client = Mcp(gw).initialize()
    streams = [client.listen() for _ in range(12)]
    told = see(gw)
    assert len(told["longest"]) == 12
    for shown in told["longest"]:
        gw.expect_log(tags.STREAM_ENDED)
        assert end(gw, shown["stream"], told["token"]).status == 200
    for stream in streams:
        assert stream.wait_end() == "complete"
    wait_until(lambda: see(gw)["streams"]["open"] == 0, "all of them")


def test_a_stream_that_answers_a_call_is_broken_off(gateway, backend, event):
    def script(peer):
        peer.read_request()
        peer.begin_stream()
        peer.chunk(b"data: 1\n\n")
        peer.wait_gone()

    gw = gateway(backend(script), server=PLACES)
    body = json.dumps(call("x")).encode()
    stream = gw.connect().request("POST", "/mcp", Mcp(gw).headers(), body)
    stream.read_until(b"data: 1\n\n")
    told = see(gw)
    assert told["longest"][0]["method"] == "tools/call"
    gw.expect_log(tags.STREAM_ENDED)
    end(gw, told["longest"][0]["stream"], told["token"])
    assert stream.wait_end() == "broken"


def test_a_stream_is_ended_once_and_its_name_is_nobody_elses(gateway, server):
    a = server("a")
    gw = gateway(a, server=PLACES)
    client = Mcp(gw).initialize()
    stream = client.listen()
    told = see(gw)
    name = told["longest"][0]["stream"]
    gw.expect_log(tags.STREAM_ENDED)
    end(gw, name, told["token"])
    stream.wait_end()
    wait_until(lambda: not see(gw)["longest"], "its end")
    again = client.listen()
    assert end(gw, name, told["token"]).json() == {"outcome": "gone"}
    stays(lambda: see(gw)["streams"]["open"] == 1, 0.3, "the other stream")
    again.connection.close()


def test_nonsense_ends_nothing(gateway, server):
    gw = gateway(server("a"), server=PLACES)
    client = Mcp(gw).initialize()
    client.listen()
    token = see(gw)["token"]
    for name in ("", "0", "x-1", "-1-1", "0-", "0-1x", "99999999999-1", "0-99999999999"):
        assert end(gw, quote(name), token).status == 400, name
    for name in ("0-0", "4294967295-1", "5000-1"):
        assert end(gw, name, token).json() == {"outcome": "gone"}, name
    assert gw.request("GET", "/status?end=0-1&token=" + token).status == 200
    refused = gw.request("DELETE", "/status")
    assert refused.status == 405
    assert {"GET", "HEAD", "POST"} <= set(refused.header("Allow").split(","))
    assert see(gw)["streams"]["open"] == 1


def test_the_streams_of_a_killed_child_go(gateway, server):
    a = server("a")
    gw = gateway(a, server=PLACES, children=2, threads=8)
    client = Mcp(gw).initialize()
    for _ in range(10):
        client.listen()
    gw.expect_log("AH00052", optional=True)
    for pid in gw.children():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: gw._answers() and not see(gw)["longest"], "the slots to be freed")
    assert [m["streams"] for m in see(gw)["members"]] == [0]
    Mcp(gw).initialize().listen()
    assert len(see(gw)["longest"]) == 1


@pytest.mark.skipif(os.environ.get("MPM", "event") != "event", reason="event MPM")
def test_streams_of_the_last_generation_are_shown_and_can_be_ended(gateway, server):
    a = server("a")
    gw = gateway(a, server=PLACES, tuning=["MCPProxyDrainTimeout 1h"])
    client = Mcp(gw).initialize()
    stream = client.listen()
    before = see(gw)
    gw.graceful()
    told = see(gw)
    assert told["token"] == before["token"]
    assert [s["stream"] for s in told["longest"]] == [before["longest"][0]["stream"]]
    gw.expect_log(tags.STREAM_ENDED)
    end(gw, told["longest"][0]["stream"], told["token"])
    assert stream.wait_end() == "complete"


# Who may


def with_a_stream(gateway, server, lines=(), **options):
    a = server("a")
    gw = gateway(a, server=[*PLACES, *lines], **options)
    Mcp(gw).initialize().listen()
    return gw


REFUSED = {
    "no-token": ("", []),
    "wrong-token": ("0" * 32, []),
    "cross-site": (None, [("Sec-Fetch-Site", "cross-site")]),
    "same-site": (None, [("Sec-Fetch-Site", "same-site")]),
    "foreign-origin": (None, [("Origin", "http://evil.example")]),
    "null-origin": (None, [("Origin", "null")]),
    "other-port": (None, [("Origin", "http://localhost:1")]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_come_from_a_foreign_page_is_refused(gateway, server, name):
    gw = with_a_stream(gateway, server)
    token, headers = REFUSED[name]
    told = see(gw)
    gw.expect_log(tags.CHANGE_REFUSED)
    answer = end(gw, told["longest"][0]["stream"], told["token"] if token is None else token, headers)
    assert answer.status == 403
    assert not see(gw)["longest"][0]["ending"]


def test_a_page_of_a_name_that_was_bound_to_this_address_is_refused(gateway, server):
    gw = with_a_stream(gateway, server)
    told = see(gw)
    gw.expect_log(tags.CHANGE_REFUSED)
    with gw.connect() as client:
        client.host = "evil.example:%d" % gw.port
        body = "end=%s&token=%s" % (told["longest"][0]["stream"], told["token"])
        origin = ("Origin", "http://" + client.host)
        answer = client.request("POST", "/status", [FORM, origin], body.encode()).finish()
    assert answer.status == 403


def test_the_own_origin_is_allowed(gateway, server):
    gw = with_a_stream(gateway, server)
    told = see(gw)
    gw.expect_log(tags.STREAM_ENDED)
    own = [("Origin", gw.origin), ("Sec-Fetch-Site", "same-origin")]
    answer = end(gw, told["longest"][0]["stream"], told["token"], own, query="")
    assert answer.status == 303
    assert answer.header("Location") == "/status?outcome=ended"


def test_a_reader_from_elsewhere_needs_a_user(gateway, server):
    remote = ("X-Real", "192.0.2.7")
    gw = with_a_stream(gateway, server, modules=["remoteip"],
                       lines=["RemoteIPHeader X-Real", "RemoteIPInternalProxy 127.0.0.1"])
    told = see(gw, [remote])
    assert told["token"] is None
    assert "<button" not in page(gw, [remote]) and "<button" in page(gw)
    gw.expect_log(tags.CHANGE_REFUSED)
    answer = end(gw, told["longest"][0]["stream"], see(gw)["token"], [remote])
    assert answer.status == 403


def test_a_user_has_a_token_of_her_own(gateway, server):
    gw = with_a_stream(gateway, server, lines=LOCKED)
    assert gw.request("GET", "/status").status == 401
    told = see(gw, [ALICE])
    name = told["longest"][0]["stream"]
    gw.expect_log(tags.CHANGE_REFUSED)
    assert end(gw, name, told["token"], [BOB]).status == 403
    gw.expect_log(tags.STREAM_ENDED, "alice")
    assert end(gw, name, told["token"], [ALICE]).status == 200


# What is shown is text


def test_hostile_names_are_text_on_the_page_and_in_json(gateway, server):
    gw = hostile_gateway(gateway, server("a"), server=PLACES)
    for name in HOSTILE.values():
        hostile_user(gw, name).listen()
    html = page(gw)
    assert "<img" not in html and "<script>alert" not in html and "\u202e" not in html
    assert "&#60;img src=x onerror=alert(1)&#62;" in html
    assert 'evil<span class="control">U+202E</span>gnp.exe' in html
    assert "a&#38;b&#39;c&#34;d" in html
    users = [stream["user"] for stream in see(gw)["longest"]]
    assert users[0] == HOSTILE["markup"] and users[3] == HOSTILE["rtl"]
    assert users[4] == HOSTILE["controls"]
    assert users[5] == "x" * 95, "cut"
    assert users[6] == "caf\ufffd\ufffd"


def test_a_hostile_query_is_not_shown(gateway, server):
    gw = gateway(server("a"), server=PLACES)
    for query in ("?outcome=<b>x", "?outcome=ended%3Cb%3E", "?<script>"):
        assert "<b>x" not in gw.request("GET", "/status" + query).body.decode()


def test_the_page_needs_nothing_from_elsewhere_and_allows_nothing_else(gateway, server):
    gw = gateway(server("a"), server=PLACES)
    first, second = (gw.request("GET", "/status") for _ in range(2))
    policy = first.header("Content-Security-Policy")
    nonce = re.search(r"script-src 'nonce-([0-9a-f]{32})'", policy)[1]
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
    assert nonce not in second.header("Content-Security-Policy")
    html = first.body.decode()
    markup = html.split('"use strict"')[0]
    tags_with_nonce = re.findall(r"<(?:script|style)([^>]*)>", markup)
    assert [t for t in tags_with_nonce if "application/json" not in t] == [' nonce="%s"' % nonce] * 2
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""", html)
    assert not re.findall(r"\sstyle=|\son[a-z]+=", html.split("<script")[0])
    assert first.header("Cache-Control") == "no-store"
    assert "{{" not in html.split("<script nonce")[0]
