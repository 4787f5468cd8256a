# SPDX-License-Identifier: Apache-2.0
"""MCPProxySessionStore redis://...: one session table for several gateways."""
import json
import re
import select
import socket
import threading
import time

import pytest

from harness.client import ACCEPT, JSON, Mcp, assert_rpc_error, basic, call, rpc
from harness.redisd import NONSENSE, FakeServer, answering
from harness.wait import settles, stays, wait_until

AUTH = ["AuthType Basic", 'AuthName "test"', "AuthUserFile users", "Require valid-user"]
ALICE, BOB = basic("alice", "wonder"), basic("bob", "builder")
DOWN, UP = "MCP2100", "MCP2101"
KEY = re.compile(r"mcp:session:\{[0-9a-f]{32}\}$")


@pytest.fixture
def fleet(gateway, server):
    """fleet(store, count, *location): gateways with one name in front of the same three servers."""
    servers = [server(name) for name in "abc"]

    def make(store, count=2, location=(), lines=(), **options):
        made = []
        for _ in range(count):
            gw = gateway(*servers, start=False, location=location, **options)
            # Identities name the server: behind one balancer they are one.
            gw.server += ["MCPProxySessionStore " + store, *lines]
            gw.tuning.append("ServerName gateway.test:8080")
            made.append(gw.start())
        return made

    make.servers = servers
    return make


def at(gw, client):
    """The same client, at another gateway."""
    moved = Mcp(gw, headers=getattr(client, "extra", ()))
    moved.session = client.session
    return moved


def lines(gw, tag):
    return [line for line in gw.log() if line.tag == tag]


def use(gw, session, headers=()):
    return gw.request("POST", "/mcp", [ACCEPT, JSON, ("Mcp-Session-Id", session), *headers],
                      json.dumps(call("whoami")).encode())


def test_a_session_opened_on_one_gateway_is_used_on_the_others(fleet, redis):
    gateways = fleet(redis().store, 3, children=2, threads=4)
    for n in range(12):
        client = Mcp(gateways[n % 3]).initialize()
        home = client.where()
        for gw in gateways:
            assert at(gw, client).where() == home


def test_it_is_stored_before_its_client_hears_of_it(fleet, redis):
    one, two = fleet(redis().store, threads=4)
    for n in range(40):
        client = Mcp(one if n % 2 else two).initialize()
        assert use(two if n % 2 else one, client.session).status == 200


def test_a_record_shows_neither_id_nor_user_and_has_an_end(fleet, redis):
    server = redis()
    (one,) = fleet(server.store, 1, AUTH, ["MCPProxySessionTTL 1h"])
    client = Mcp(one, headers=[ALICE]).initialize()
    (key,) = server.keys()
    assert KEY.match(key)
    value = server.ask("GET", key).decode()
    assert re.match(r"1 [0-9a-f]{32} [abc]$", value)
    assert client.session not in key + value and "alice" not in value
    assert 0 < server.ask("PTTL", key) <= 3600 * 1000


def test_another_identity_gets_404_on_every_gateway(fleet, redis):
    gateways = fleet(redis().store, 3, AUTH)
    client = Mcp(gateways[0], headers=[ALICE]).initialize()
    for gw in gateways[1:] + gateways:
        assert_rpc_error(use(gw, client.session, [BOB]), 404, 1)
    for gw in gateways:
        assert use(gw, client.session, [ALICE]).status == 200
        assert_rpc_error(use(gw, client.session, [BOB]), 404, 1)


def test_an_id_that_is_given_out_anew_is_its_new_owners_on_every_gateway(fleet, redis):
    """By a server that counts its sessions, and was restarted."""
    gateways = fleet(redis().store, 2, AUTH)
    for made in fleet.servers:
        made.make_id = lambda: "session-1"
    alice = Mcp(gateways[0], headers=[ALICE]).initialize()
    for made in fleet.servers:
        made.sessions.clear()
    bob = Mcp(gateways[1], headers=[BOB]).initialize()
    home = bob.where()
    assert bob.session == alice.session
    assert use(gateways[0], bob.session, [BOB]).message()["result"]["server"] == home
    for gw in gateways:
        assert_rpc_error(use(gw, alice.session, [ALICE]), 404, 1)


def test_a_session_deleted_on_one_gateway_is_gone_on_the_other(fleet, redis):
    server = redis()
    one, two = fleet(server.store)
    client = Mcp(one).initialize()
    assert use(two, client.session).status == 200
    assert client.delete().status == 204
    wait_until(lambda: not server.keys(), "the record to be gone")
    assert use(two, client.session).status == 404
    stays(lambda: not server.keys(), 0.5, "no record")


def test_made_up_ids_leave_no_trace_and_do_not_wear_the_store_out(fleet, redis):
    server = redis()
    (one,) = fleet(server.store, 1)
    for n in range(50):
        assert use(one, "made-up-%d" % n).status == 404
    asked = mgets(server)
    assert asked == 50 and not server.keys()
    for _ in range(20):
        assert use(one, "made-up-49").status == 404
    assert mgets(server) - asked <= 20 and not server.keys()


def mgets(server):
    found = re.search(rb"cmdstat_mget:calls=(\d+)", server.ask("INFO", "commandstats"))
    return int(found.group(1)) if found else 0


def test_what_is_known_here_does_not_touch_the_store(fleet, redis):
    server = redis()
    one, two = fleet(server.store)
    client = at(two, Mcp(one).initialize())
    client.where()
    before = (mgets(server), writes(server))
    for _ in range(50):
        client.where()
    assert (mgets(server), writes(server)) == before


def writes(server):
    text = server.ask("INFO", "commandstats")
    return sum(int(n) for n in re.findall(rb"cmdstat_(?:set|del|evalsha|eval):calls=(\d+)", text))


def test_a_request_that_names_too_many_unknown_sessions_is_refused(fleet, redis):
    (one,) = fleet(redis().store, 1)
    query = "&".join("session_id=made-up-%d" % n for n in range(40))
    answer = one.request("POST", "/mcp?" + query, [ACCEPT, JSON],
                         json.dumps(call("whoami")).encode())
    assert_rpc_error(answer, 404, 1)


def test_a_foreign_session_from_another_gateway_is_found_anywhere_in_a_request(fleet, redis):
    one, two = fleet(redis().store, 2, AUTH)
    alice = Mcp(one, headers=[ALICE]).initialize()
    bob = Mcp(two, headers=[BOB]).initialize()
    answer = two.request("POST", "/mcp?sessionId=" + alice.session,
                         bob.headers(), json.dumps(call("whoami")).encode())
    assert_rpc_error(answer, 404, 1)


# HTTP+SSE

def test_http_sse_posts_arrive_on_the_other_gateway(gateway, server, redis):
    servers = [server(name, "sse") for name in "abc"]
    store = redis()
    routes = {"/sse": "/sse", "/message": "/message"}
    one, two = (gateway(*servers, routes=routes, server=["MCPProxySessionStore " + store.store])
                for _ in range(2))
    for _ in range(8):
        stream = one.connect().request("GET", "/sse", [("Accept", "text/event-stream")])
        endpoint = stream.next_event()["data"]
        body = json.dumps(call("whoami", 7)).encode()
        assert two.request("POST", endpoint, [ACCEPT, JSON], body).status == 202
        answer = json.loads(stream.next_event()["data"])
        assert answer["id"] == 7 and "server" in answer["result"]
        stream.connection.close()
    # The stream broke off: its session lives on, as it does with one gateway.
    for made in servers:
        made.wait_streams(0)


def test_an_http_sse_session_ends_with_its_stream_on_all_gateways(gateway, server, redis):
    servers = [server(name, "sse") for name in "abc"]
    store = redis()
    routes = {"/sse": "/sse", "/message": "/message"}
    one = gateway(*servers, routes=routes, server=["MCPProxySessionStore " + store.store])
    stream = one.connect().request("GET", "/sse", [("Accept", "text/event-stream")])
    stream.next_event()
    assert len(store.keys()) == 1
    home = next(s for s in servers if s.open_streams())
    home.end_streams(None)
    stream.wait_end()
    wait_until(lambda: not store.keys(), "the record to be gone")


# Time to live

def test_use_renews_the_record_and_disuse_ends_it(fleet, redis):
    server = redis()
    one, two = fleet(server.store, 2, (), ["MCPProxySessionTTL 4s"])
    client = Mcp(one).initialize()
    (key,) = server.keys()
    end = time.monotonic() + 6
    while time.monotonic() < end:
        client.where()
        assert server.ask("EXISTS", key)
        time.sleep(0.1)
    assert use(two, client.session).status == 200
    wait_until(lambda: not server.ask("EXISTS", key), "the record to end")


def test_an_open_stream_is_use_of_the_record(fleet, redis):
    server = redis()
    (one,) = fleet(server.store, 1, (), ["MCPProxySessionTTL 2s"])
    client = Mcp(one).initialize()
    (key,) = server.keys()
    stream = client.listen()
    stays(lambda: server.ask("EXISTS", key), 5, "a record")
    stream.connection.close()
    wait_until(lambda: not server.ask("EXISTS", key), "the record to end")


# Redis is away, slow, or lies

@pytest.mark.parametrize("how", ["kill", "pause"])
def test_while_redis_is_away_known_sessions_go_on_and_new_ones_are_learnt_here(fleet, redis, how):
    server = redis()
    one, two = fleet(server.store, children=2, threads=4)
    for gw in (one, two):
        gw.expect_log(DOWN)
        gw.expect_log(UP)
    known = [Mcp(gw).initialize() for gw in (one, two) for _ in range(4)]
    homes = [client.where() for client in known]
    getattr(server, how)()
    new = [Mcp(one).initialize() for _ in range(12)]
    new_homes = [client.where() for client in new]
    assert [client.where() for client in known] == homes
    wait_until(lambda: lines(one, DOWN), "the warning")
    wait_until(lambda: lines(two, DOWN), "the other one's warning")
    assert [client.where() for client in new] == new_homes
    server.start() if how == "kill" else server.resume()
    wait_until(lambda: lines(one, UP) and lines(two, UP), "the recovery")
    assert [client.where() for client in new + known] == new_homes + homes
    wait_until(lambda: len(server.keys()) >= len(new + known), "all of them to be stored")
    assert [at(two, client).where() for client in new] == new_homes
    assert [len(lines(gw, tag)) for gw in (one, two) for tag in (DOWN, UP)] == [1, 1, 1, 1]


@pytest.mark.parametrize("place", ["header", "query"])
def test_while_redis_is_away_nobody_gets_a_users_session_from_another_gateway(fleet, redis, place):
    server = redis()
    one, two = fleet(server.store, 2, AUTH)
    for gw in (one, two):
        gw.expect_log(DOWN)
        gw.expect_log(UP)
    alice = Mcp(one, headers=[ALICE]).initialize()
    bob = Mcp(two, headers=[BOB]).initialize()
    server.kill()
    wait_until(lambda: lines(two, DOWN), "the warning")

    def with_hers(*headers):
        if place == "header":
            return use(two, alice.session, headers)
        return two.request("POST", "/mcp?session_id=" + alice.session, [ACCEPT, JSON, *headers],
                           json.dumps(call("whoami")).encode())

    assert_rpc_error(with_hers(BOB), 404, 1)
    # Nobody can tell that it is hers.
    assert_rpc_error(with_hers(ALICE), 404, 1)
    assert use(one, alice.session, [ALICE]).status == 200
    assert bob.where()
    server.start()
    wait_until(lambda: lines(one, UP) and lines(two, UP), "the recovery")
    wait_until(lambda: use(one, alice.session, [ALICE]) and server.keys(), "it to be stored")
    wait_until(lambda: with_hers(ALICE).status == 200, "hers again")
    assert_rpc_error(with_hers(BOB), 404, 1)


def test_nobody_but_a_probe_asks_while_the_breaker_is_open(fleet, keep):
    asked = []

    def script(sock):
        asked.append(sock)
        threading.Event().wait(60)

    fake = keep(FakeServer(script))
    (one,) = fleet(fake.store, 1)
    one.expect_log(DOWN)
    wait_until(lambda: Mcp(one).initialize() and lines(one, DOWN), "the breaker")
    before, start = len(asked), time.monotonic()
    for _ in range(100):
        assert use(one, Mcp(one).initialize().session).status == 200
    probes = 3 * (time.monotonic() - start) + 5
    assert len(asked) - before < probes < 100


def test_a_store_that_never_answers_costs_a_new_session_a_moment(fleet, keep):
    fake = keep(FakeServer(lambda sock: threading.Event().wait(60)))
    (one,) = fleet(fake.store, 1)
    one.expect_log(DOWN, optional=True)
    start = time.monotonic()
    client = Mcp(one).initialize()
    assert time.monotonic() - start < 5
    assert client.where()


@pytest.mark.parametrize("reply", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_for_answers_is_an_outage(fleet, keep, reply):
    fake = keep(FakeServer(answering(reply)))
    (one,) = fleet(fake.store, 1)
    one.expect_log(DOWN)
    clients = [Mcp(one).initialize() for _ in range(6)]
    homes = [client.where() for client in clients]
    wait_until(lambda: lines(one, DOWN), "the breaker")
    assert [client.where() for client in clients] == homes
    assert len(lines(one, DOWN)) == 1


@pytest.mark.parametrize("value", [
    b"", b"hello", b"1 ", b"1 00000000000000000000000000000000 ",
    b"2 00000000000000000000000000000000 a", b"1 0000000000000000000000000000000g a",
    b"1 00000000000000000000000000000000 \x01", b"1 0000 a", None],
    ids=["empty", "text", "short", "no-member", "version", "hex", "control", "cut", "type"])
def test_a_record_that_is_none_is_no_session(fleet, redis, value):
    server = redis()
    one, two = fleet(server.store)
    client = Mcp(one).initialize()
    (key,) = server.keys()
    if value is None:
        server.ask("DEL", key)
        server.ask("LPUSH", key, "x")
    else:
        server.ask("SET", key, value)
    homes = {use(two, client.session).status for _ in range(3)}
    # Nobody knows it there: hashing sends it to one member, which has it or has not.
    assert len(homes) == 1 and homes <= {200, 404}
    assert use(one, client.session).status == 200
    stays(lambda: use(one, client.session).status == 200, 0.5, "the session here")


def test_a_record_with_a_member_that_is_not_here_is_a_lost_session(fleet, redis):
    server = redis()
    one, two = fleet(server.store)
    client = Mcp(one).initialize()
    (key,) = server.keys()
    server.ask("SET", key, server.ask("GET", key)[:-1] + b"elsewhere")
    assert_rpc_error(use(two, client.session), 404, 1)


def test_a_wrong_password_is_an_outage_and_the_right_one_works(fleet, redis, stage):
    server = redis("--requirepass", "wonder land")
    secret = stage.directory / "secret"
    secret.write_text("wrong\n", encoding="utf-8")
    (one,) = fleet("%s password=file:%s" % (server.store, secret), 1)
    one.expect_log(DOWN, "WRONGPASS")
    client = Mcp(one).initialize()
    assert client.where() and len(lines(one, DOWN)) == 1
    secret.write_text("wonder land\n", encoding="utf-8")
    two, three = fleet("%s password=file:%s" % (server.store, secret))
    client = Mcp(two).initialize()
    assert at(three, client).where() == client.where()


def test_a_user_with_the_least_rights_is_enough(fleet, redis, stage):
    server = redis()
    rights = "on >pw ~mcp* -@all +get +mget +set +del +pexpire +evalsha +eval +select +info"
    server.ask("ACL", "SETUSER", "mcp", *rights.split())
    secret = stage.directory / "secret"
    secret.write_text("pw", encoding="utf-8")
    one, two = fleet('"redis://mcp@127.0.0.1:%d/4" password=file:%s' % (server.port, secret), 2, (),
                     ["MCPProxySessionTTL 2s"])
    client = Mcp(one).initialize()
    (key,) = server.keys()
    end = time.monotonic() + 3
    while time.monotonic() < end:
        client.where()
        assert server.ask("EXISTS", key)
    assert at(two, client).where() == client.where()
    assert client.delete().status == 204
    wait_until(lambda: not server.ask("EXISTS", key), "the record to be gone")
    assert not server.ask("ACL", "LOG") # nor was anything refused that nobody noticed


def test_a_store_that_forgets_everything_is_told_again(fleet, redis):
    server = redis()
    one, two = fleet(server.store)
    for gw in (one, two):
        gw.expect_log(DOWN, optional=True)
        gw.expect_log(UP, optional=True)
    clients = [Mcp(one).initialize() for _ in range(6)]
    homes = [client.where() for client in clients]
    server.restart()

    def told():
        assert [client.where() for client in clients] == homes
        return len(server.keys()) == len(clients)

    wait_until(told, "all of them to be stored again")
    assert [at(two, client).where() for client in clients] == homes


def test_a_store_that_comes_and_goes_under_traffic_loses_no_session(fleet, redis):
    server = redis()
    one, two = fleet(server.store, children=2, threads=8)
    for gw in (one, two):
        gw.expect_log(DOWN, optional=True)
        gw.expect_log(UP, optional=True)
    problems, stop = [], threading.Event()

    def work(gw):
        while not stop.is_set():
            client = Mcp(gw).initialize()
            home = client.where()
            problems.extend(other for other in (client.where() for _ in range(5)) if other != home)

    workers = [threading.Thread(target=work, args=(gw,)) for gw in (one, two) for _ in range(3)]
    for worker in workers:
        worker.start()
    for _ in range(4):
        server.pause()
        time.sleep(0.3)
        server.resume()
        time.sleep(0.3)
        server.restart()
        time.sleep(0.3)
    stop.set()
    for worker in workers:
        worker.join()
    assert not problems


# Restarts

def test_sessions_go_on_through_graceful_restarts_of_either_gateway(fleet, redis):
    one, two = fleet(redis().store, children=2, threads=4)
    clients = [Mcp(gw).initialize() for gw in (one, two) for _ in range(5)]
    homes = [client.where() for client in clients]
    for gw in (one, two, one):
        gw.graceful()
        assert [at(one, client).where() for client in clients] == homes
        assert [at(two, client).where() for client in clients] == homes


def test_sessions_outlive_their_gateway(fleet, redis):
    one, two = fleet(redis().store)
    clients = [Mcp(one).initialize() for _ in range(8)]
    homes = [client.where() for client in clients]
    one.stop()
    one.start()
    assert [client.where() for client in clients] == homes
    assert [at(two, client).where() for client in clients] == homes


# Other ways to keep a thread

@pytest.mark.parametrize("mpm", ["worker", "prefork"])
def test_it_works_where_every_request_keeps_its_thread(fleet, redis, mpm):
    one, two = fleet(redis().store, mpm=mpm)
    for _ in range(5):
        client = Mcp(one).initialize()
        assert at(two, client).where() == client.where()


def slowly(path, sock, delay=0.003):
    """Between a gateway and the server: each piece is passed on a little later."""
    far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    far.connect(path)
    with far:
        while True:
            ready, _, _ = select.select([sock, far], [], [])
            for one in ready:
                data = one.recv(65536)
                if not data:
                    return
                if one is far:
                    time.sleep(delay)
                (far if one is sock else sock).sendall(data)


def test_a_slow_store_parks_the_request_and_it_goes_on(fleet, keep, redis):
    """Every answer takes longer than a worker waits; a loaded machine may make it too long."""
    server = redis()
    fake = keep(FakeServer(lambda sock: slowly(server.path, sock)))
    one, two = fleet(fake.store)
    for gw in (one, two):
        gw.expect_log(DOWN, optional=True)
        gw.expect_log(UP, optional=True)

    def goes_on():
        client = Mcp(one).initialize()
        answer = use(two, client.session)
        return answer.status == 200 and answer.message()["result"]["server"] == client.where()

    for _ in range(10):
        wait_until(goes_on, "a session to be found there")


def test_clients_that_vanish_while_the_store_is_asked_harm_nobody(gateway, server, keep, redis):
    """At any moment: sessions being opened, looked up, and opened by a stream."""
    store = redis()
    fake = keep(FakeServer(lambda sock: slowly(store.path, sock, 0.006)))
    servers = [server(name, "sse") for name in "ab"] + [server(name) for name in "cd"]
    gw = gateway(*servers, routes={"/mcp": "/mcp", "/sse": "/sse"}, threads=8,
                 server=["MCPProxySessionStore " + fake.store])
    gw.expect_log(DOWN, optional=True)
    gw.expect_log(UP, optional=True)
    opening = json.dumps(rpc("initialize", {}, 0)).encode()
    using = json.dumps(call("whoami")).encode()
    for n in range(150):
        client = gw.connect()
        if n % 3 == 0:
            client.send(client.head("POST", "/mcp", [ACCEPT, JSON], opening) + opening)
        elif n % 3 == 1:
            known = ("Mcp-Session-Id", "made-up-%d" % n)
            client.send(client.head("POST", "/mcp", [ACCEPT, JSON, known], using) + using)
        else:
            client.send(client.head("GET", "/sse", [("Accept", "text/event-stream")]))
        time.sleep(n % 30 / 1000)
        (client.reset if n % 2 else client.close)()
    for made in servers:
        made.wait_streams(0)
    assert gw.request("POST", "/mcp", [ACCEPT, JSON], opening).status in (200, 404)
    settled = settles(gw.descriptor_count)
    assert settled < 60, settled


# httpd -t

def checked(gateway, server, *lines):
    made = gateway(server(), start=False, server=lines)
    return made.check_config()


def test_a_password_in_the_url_is_refused_and_not_shown(gateway, server):
    status, said = checked(gateway, server, 'MCPProxySessionStore "redis://u:s3cret@127.0.0.1:1/1"')
    assert status != 0 and "MCPProxySessionStore" in said and "s3cret" not in said


def test_a_password_file_that_is_not_there_is_refused(gateway, server):
    status, said = checked(gateway, server,
                           'MCPProxySessionStore "redis://127.0.0.1:1/1" password=file:/no/file')
    assert status != 0 and "/no/file" in said


def test_a_store_beside_sealed_ids_is_warned_of(gateway, server, stage):
    key = stage.directory / "key"
    key.write_text("A" * 43 + "=\n", encoding="utf-8")
    key.chmod(0o600)
    lines = ("MCPProxyAffinity sealed", "MCPProxySessionKey file:%s" % key,
             'MCPProxySessionStore "redis://127.0.0.1:1/1"')
    status, said = checked(gateway, server, *lines)
    assert status == 0 and "MCP2103" in said
    status, said = checked(gateway, server, *lines[:2])
    assert status == 0 and "MCP2103" not in said
