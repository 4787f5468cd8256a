# SPDX-License-Identifier: Apache-2.0
"""mod_mcp_ratelimit: each limit by itself and several at once, the same with either store."""
import base64
import json
import time

import pytest

from harness.client import ACCEPT, JSON
from harness.limits import (COMPLAINT, DRY_RUN, hang_up, limited, message, open_stream, post,
                            serve, try_stream)
from harness.wait import wait_until


@pytest.fixture(params=[True, False], ids=["mcp_proxy", "mod_proxy"])
def mcp(request):
    return request.param


def statuses(gateway, count, *arguments, **options):
    return [post(gateway, *arguments, **options).status for _ in range(count)]


def test_a_bucket_admits_its_burst_and_no_more(gateway, backend, store, mcp):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitMessages 5/10h burst=3", mcp=mcp))
    assert statuses(made, 5) == [200, 200, 200, 429, 429]


def test_the_slowest_and_the_largest_limits_work(gateway, backend, store):
    made = gateway(backend(serve), **limited(
        store, "MCPRateLimitMessages 1/366d burst=1000000000", "MCPRateLimitWindow 1000000000/1ms",
        "MCPRateLimitTool * 1000000000/366d burst=1"))
    assert [call_tool(made, "x") for _ in range(3)].count(200) >= 1
    assert statuses(made, 2) == [200, 200]


def test_a_bucket_without_a_burst_holds_n(gateway, backend, store):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitMessages 4/10h"))
    assert statuses(made, 5) == [200] * 4 + [429]


def test_a_client_that_waits_as_told_is_admitted(gateway, backend, store):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitMessages 1/1s"))
    assert post(made).status == 200
    answer = post(made)
    assert answer.status == 429
    time.sleep(int(answer.header("Retry-After")))
    assert post(made).status == 200


def test_users_do_not_share(gateway, backend, store):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitMessages 1/10h"))
    assert statuses(made, 2) == [200, 429]
    assert statuses(made, 2, user="bob") == [200, 429]


def test_users_do_not_share_where_they_share_a_connection(gateway, backend, store, mcp):
    """As behind a balancer: what is known of a connection's last user is not taken for the next."""
    made = gateway(backend(serve), **limited(store, "MCPRateLimitMessages 2/10h",
                                             "MCPRateLimitWindow 9/10h", mcp=mcp))
    users = ("alice", "bob", "alice" * 20, "alicf", "alice" * 40)
    with made.connect() as client:
        for expected in (200, 200, 429):
            assert [client.request("POST", "/mcp", [ACCEPT, JSON, ("X-User", user)],
                                   json.dumps(message()).encode()).status
                    for user in users] == [expected] * len(users)


@pytest.mark.parametrize("key", ["%{HTTP:X-User}", "%{req:X-User}", "x%{HTTP:X-User}y",
                                 "%{HTTP:X-User}%{HTTP:X-Other}"])
def test_the_key_is_an_expression(gateway, backend, key):
    options = limited("shm", "MCPRateLimitMessages 1/10h")
    options["location"][0] = 'MCPRateLimitKey "%s"' % key
    made = gateway(backend(serve), **options)
    assert statuses(made, 2) + statuses(made, 2, user="bob") == [200, 429] * 2


def test_a_refused_request_never_gets_to_the_backend(gateway, backend, store, mcp):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitMessages 1/10h", mcp=mcp))
    statuses(made, 6)
    assert sum(len(peer.requests) for peer in made.backends[0].peers) == 1


def test_a_fixed_window_blocks_after_it_is_hit(gateway, backend, store):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitWindow 2/1h block=1s"))
    assert statuses(made, 3) == [200, 200, 429]
    answer = post(made)
    assert (answer.status, answer.header("Retry-After")) == (429, "1")
    time.sleep(1)
    assert statuses(made, 1) == [200]


def test_a_window_counts_gets_too(gateway, backend, store, mcp):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitWindow 2/1h", mcp=mcp,
                                             routes={"/mcp": "/plain"}))
    answers = [made.request("GET", "/mcp", [("X-User", "a")]).status for _ in range(3)]
    assert answers == [200, 200, 429]


def test_a_sliding_window_has_no_edge(gateway, backend, store):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitWindow 3/2s type=sliding"))
    start = time.monotonic()
    admitted = []
    while time.monotonic() < start + 5:
        before = time.monotonic()
        if post(made).status == 200:
            admitted.append((before, time.monotonic()))
        time.sleep(0.02)
    assert len(admitted) >= 6
    for first, fourth in zip(admitted, admitted[3:]):
        assert fourth[1] - first[0] >= 2.0


def test_options_is_never_counted(gateway, backend, store):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitWindow 1/1h"))
    assert {made.request("OPTIONS", "/mcp", [("X-User", "a")]).status for _ in range(3)} == {200}
    assert post(made, user="a").status == 200


def test_a_batch_costs_its_messages(gateway, backend, store):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitMessages 10/10h"))
    assert post(made, [message(id_=n) for n in range(8)]).status == 200
    assert post(made, [message(id_=n) for n in range(3)]).status == 429
    assert statuses(made, 3) == [200, 200, 429]


def test_a_batch_of_a_thousand_is_refused_and_costs_nothing(gateway, backend, store):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitMessages 10/10h"))
    answer = post(made, [message(id_=n) for n in range(1000)])
    assert answer.status == 429
    assert b"never passes" in answer.body
    assert statuses(made, 11) == [200] * 10 + [429]


def call_tool(gateway, name):
    return post(gateway, message("tools/call", name=name, arguments={})).status


def test_tools_are_limited_by_pattern(gateway, backend, store):
    made = gateway(backend(serve), **limited(
        store, 'MCPRateLimitTool "search_*" 2/10h', 'MCPRateLimitTool "get_?" 1/10h burst=1'))
    assert [call_tool(made, "search_a"), call_tool(made, "search_b")] == [200, 200]
    assert call_tool(made, "search_c") == 429
    assert [call_tool(made, "get_1"), call_tool(made, "get_2"), call_tool(made, "get_10")] == [
        200, 429, 200]
    assert statuses(made, 3) == [200] * 3


def test_a_tool_in_a_batch_is_found(gateway, backend, store):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitTool danger 2/10h"))
    batch = [message(id_=1), message("tools/call", 2, name="danger")]
    assert [post(made, batch).status for _ in range(3)] == [200, 200, 429]


def test_a_batch_passes_no_limit_unasked(gateway, backend, store):
    inner = ["a%d" % n for n in range(48)]
    outer = ["b%d" % n for n in range(48)]
    limits = {name: "MCPRateLimitTool %s 1/10h" % name for name in inner + outer}
    made = gateway(backend(serve), **limited(
        store, *[limits[name] for name in inner], server=[limits[name] for name in outer]))
    batch = [message("tools/call", n, name=name) for n, name in enumerate(inner + outer)]
    answer = post(made, batch)
    assert (answer.status, answer.json()["error"]["code"]) == (400, -32600)
    assert post(made, batch[:60]).status == 200
    assert post(made, batch[59]).status == 429
    assert post(made, batch[60]).status == 200


@pytest.mark.parametrize("body, status", [
    (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","method":"ping"}', 400),
    (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","Name":"b"}}', 400),
    (b"no json", 400)])
def test_what_two_could_read_differently_is_refused_where_tools_are_limited(
        gateway, backend, body, status):
    made = gateway(backend(serve), **limited("shm", "MCPRateLimitTool x 1/1h"))
    assert post(made, body).status == status


def test_none_is_charged_if_one_refuses(gateway, backend, store):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitMessages 3/10h",
                                             "MCPRateLimitTool t 1/10h",
                                             "MCPRateLimitWindow 100/1h"))
    assert [call_tool(made, "t") for _ in range(4)] == [200, 429, 429, 429]
    assert statuses(made, 3) == [200, 200, 429]


def test_the_nth_stream_is_the_last(gateway, backend, store, mcp):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitStreams 2", mcp=mcp))
    assert try_stream(made) and try_stream(made)
    assert not try_stream(made)
    assert try_stream(made, user="bob")
    hang_up(made)


def test_a_slot_comes_back_when_the_client_leaves(gateway, backend, store, mcp):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitStreams 1", mcp=mcp))
    first = try_stream(made)
    assert not try_stream(made)
    first.close()
    wait_until(lambda: try_stream(made), "a slot", timeout=3)
    hang_up(made)


def test_a_slot_comes_back_when_the_backend_ends(gateway, backend, store, event, mcp):
    def script(peer):
        while True:
            peer.read_request()
            peer.begin_stream().chunk(b"data: x\n\n").wait(event).end_chunks()
    made = gateway(backend(script), **limited(store, "MCPRateLimitStreams 1", mcp=mcp))
    client, response = open_stream(made)
    assert not try_stream(made)
    event.set()
    response.finish()
    wait_until(lambda: open_stream(made)[1].status == 200, "a slot", timeout=3)
    client.close()
    hang_up(made)


def test_a_get_that_is_no_stream_gives_its_slot_back_at_once(gateway, backend, store, mcp):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitStreams 1", mcp=mcp,
                                             routes={"/mcp": "/plain"}))
    with made.connect() as client:
        for _ in range(20):
            assert client.request("GET", "/mcp", [("X-User", "a")]).finish().status == 200


@pytest.mark.parametrize("accept", ["*/*", "application/json", None])
def test_a_get_takes_a_slot_whatever_it_accepts(gateway, backend, store, accept):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitStreams 1"))
    headers = [("X-User", "a")] + ([("Accept", accept)] if accept else [])
    first = made.connect()
    assert first.request("GET", "/mcp", headers).status == 200
    assert made.connect().request("GET", "/mcp", headers).status == 429


def test_a_listen_post_is_a_stream(gateway, backend, store, mcp):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitStreams 1", mcp=mcp))
    with made.connect() as client:
        head = [("Content-Type", "application/json"), ("X-User", "alice")]
        assert client.request("POST", "/mcp", head, message("subscriptions/listen")).status == 200
        assert not try_stream(made)
        assert post(made).status == 200
    hang_up(made)


def basic(user, word):
    return [("Authorization", "Basic " + base64.b64encode(("%s:%s" % (user, word)).encode())
             .decode())]


AUTH = ["AuthType Basic", "AuthName x", "AuthUserFile users", "Require valid-user"]


def test_requests_without_credentials_count_for_their_address(gateway, backend, store):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitAddress 3/1h", *AUTH))
    assert statuses(made, 5) == [401, 401, 401, 429, 429]


def test_wrong_passwords_count_for_their_address(gateway, backend, store):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitAddress 3/1h", *AUTH))
    made.expect_log("AH01617", optional=True)
    assert statuses(made, 5, headers=basic("alice", "wrong")) == [401, 401, 401, 429, 429]


def test_right_passwords_do_not_count_for_their_address(gateway, backend, store):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitAddress 3/1h", *AUTH))
    assert statuses(made, 8, headers=basic("alice", "wonder")) == [200] * 8


def test_a_backends_401_counts_for_the_address(gateway, backend, store, mcp):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitAddress 3/1h", mcp=mcp,
                                             routes={"/mcp": "/unauthorized"}))
    token = [("Authorization", "Bearer x")]
    answers = [post(made, headers=token).status]
    wait_until(lambda: answers.append(post(made, headers=token).status) or answers[-1] == 429,
               "the address to be refused")
    assert set(answers[:3]) == {401} and len(answers) <= 6


def test_where_nobody_authenticates_everybody_without_credentials_counts(gateway, backend, store):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitAddress 3/1h"))
    assert statuses(made, 5) == [200, 200, 200, 429, 429]


def test_a_user_named_like_an_address_is_not_that_address(gateway, backend, store):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitMessages 1/10h"))
    assert [post(made, user="").status, post(made, user="").status] == [200, 429]
    assert post(made, user="ip:127.0.0.1").status == 200


def test_users_of_any_bytes_and_length_have_keys_of_their_own(gateway, backend, redis):
    server = redis()
    made = gateway(backend(serve), **limited(server.store, "MCPRateLimitMessages 1/10h"))
    users = ["{a}", "a:connections", "a b", "\xff\xfe", "*", "%7Ba%7D", "x" * 4000,
             "x" * 3999 + "y", "h:" + "0" * 64, "A", "a"]
    for user in users:
        assert statuses(made, 2, user=user) == [200, 429], user
    keys = server.keys()
    assert len(keys) == len(users)
    assert all(len(key) < 200 and set(key) < set(map(chr, range(33, 127))) for key in keys)


def test_dry_run_counts_and_logs_and_refuses_nothing(gateway, backend, store):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitMessages 1/10h",
                                             "MCPRateLimitDryRun On"))
    assert statuses(made, 3) == [200] * 3
    made.expect_log(DRY_RUN, "messages")
    assert sum(line.tag == DRY_RUN for line in made.log()) == 2


def test_an_inner_section_overrides_and_ends_limits(gateway, backend, store):
    made = gateway(backend(serve), **limited(
        store, "MCPRateLimitMessages 1/10h", "</Location>", '<Location "/mcp/free">',
        "MCPRateLimitMessages none", "</Location>", '<Location "/mcp/two">',
        "MCPRateLimitWindow 2/10h"))
    assert [post(made, target="/mcp/free").status for _ in range(3)] == [200] * 3
    assert [post(made, target="/mcp/two", user="b").status for _ in range(3)] == [200, 429, 429]


def test_limits_of_the_server_hold_in_its_locations(gateway, backend, store):
    options = limited(store, mcp=True)
    options["server"].append("MCPRateLimitMessages 1/10h")
    made = gateway(backend(serve), **options)
    assert statuses(made, 2) == [200, 429]


def test_a_full_table_does_not_forget_who_is_refused(gateway, backend):
    made = gateway(backend(serve), **limited("shm:64", "MCPRateLimitMessages 1/10h"))
    made.expect_log(COMPLAINT, "full", optional=True)
    assert post(made).status == 200
    assert post(made).status == 429
    for number in range(3000):
        post(made, user="u%d" % number)
    assert post(made).status == 429


@pytest.mark.parametrize("threads", [4])
def test_a_slow_body_is_counted_once_and_answered_with_its_id(gateway, backend, store, mcp,
                                                              threads):
    made = gateway(backend(serve), **limited(store, "MCPRateLimitMessages 2/10h", mcp=mcp,
                                             threads=threads))
    answers = []
    for number in range(3):
        with made.connect() as client:
            body = json.dumps(message(id_="slow%d" % number)).encode()
            head = [("Content-Type", "application/json"), ("X-User", "alice")]
            client.send(client.head("POST", "/mcp", head, body))
            for start in range(0, len(body), 9):
                time.sleep(0.01)
                client.send(body[start:start + 9])
            answers.append(client.response().finish())
    assert [a.status for a in answers] == [200, 200, 429]
    assert answers[2].json()["id"] == "slow2"
