# SPDX-License-Identifier: Apache-2.0
"""Affinity: who answers a session, who may use it, and when it is forgotten."""
import json

import pytest

from harness.client import ACCEPT, JSON, Mcp, assert_rpc_error, basic, call, rpc
from harness.wait import stays, wait_until

BODY = json.dumps(call("whoami")).encode()
AUTH = ["AuthType Basic", 'AuthName "test"', "AuthUserFile users", "Require valid-user"]
ALICE, BOB = basic("alice", "wonder"), basic("bob", "builder")


def use(gw, session, ident=1, extra=(), path="/mcp"):
    """A call with that session, known or not."""
    return gw.request(
        "POST",
        path,
        [ACCEPT, JSON, ("Mcp-Session-Id", session), *extra],
        json.dumps(call("whoami", ident)).encode(),
    )


def seen_by(servers, session):
    """Which servers have seen that session id in a header."""
    return [
        s.name for s in servers if any(r.header("Mcp-Session-Id") == session for r in s.requests)
    ]


def mcp_clients(gw, count, **options):
    return [Mcp(gw, **options).initialize() for _ in range(count)]


def three(server):
    return [server(name) for name in "abc"]


@pytest.mark.parametrize("children", [1, 3])
def test_a_session_stays_with_its_member(gateway, server, children):
    servers = three(server)
    gw = gateway(*servers, children=children, threads=4)
    clients = mcp_clients(gw, 9)
    homes = {
        client.session: next(s.name for s in servers if client.session in s.sessions)
        for client in clients
    }
    assert set(homes.values()) == set("abc")
    for _ in range(4):
        for client in clients:
            assert client.where() == homes[client.session]
    for client in clients:
        client.listen().connection.close()
        assert client.delete().status == 204


def test_a_session_is_known_before_its_client_can_use_it(gateway, server):
    gw = gateway(*three(server), children=3, threads=4)
    for _ in range(40):
        client = Mcp(gw).initialize()
        assert client.call("echo", n=1)["echo"] == {"n": 1}


def test_a_session_issued_on_an_event_stream_is_learnt(gateway, backend, server, event):
    def script(peer):
        while True:
            if b"initialize" in peer.read_request().body:
                peer.begin_stream([("Mcp-Session-Id", "streamed")])
                peer.chunk(b'data: {"jsonrpc":"2.0","id":0,"result":{}}\n\n').end_chunks()
            else:
                peer.answer(b'{"jsonrpc":"2.0","id":1,"result":{"server":"mine"}}')

    mine, others = backend(script), [server("x"), server("y"), server("z")]
    gw = gateway(mine, *others)
    body = json.dumps(rpc("initialize", {}, 0)).encode()
    answers = (gw.request("POST", "/mcp", [ACCEPT, JSON], body) for _ in range(20))
    assert any(answer.header("Mcp-Session-Id") == "streamed" for answer in answers)
    for _ in range(5):
        assert use(gw, "streamed").message()["result"]["server"] == "mine"


@pytest.mark.parametrize(
    "form",
    ["/mcp?session_id=%s", "/mcp?sessionId=%s", "/mcp?a=b&session_id=%s", "/mcp?sessionId=%s&x=y"],
)
def test_a_session_may_stand_in_the_query(gateway, server, form):
    servers = three(server)
    gw = gateway(*servers)
    for client in mcp_clients(gw, 6):
        answer = gw.request("POST", form % client.session, [ACCEPT, JSON], BODY)
        assert answer.status == 200, answer.body
        assert answer.message()["result"]["server"] == client.where()


def test_new_sessions_go_where_the_least_is_in_flight(gateway, server):
    a, b = server("a", "sse"), server("b", "sse")
    gw = gateway(a, b)
    streams = []
    for count in range(1, 7):
        streams.append(gw.connect().request("GET", "/mcp", [("Accept", "text/event-stream")]))
        wait_until(lambda: len(a.open_streams() + b.open_streams()) == count, "the stream")
        assert abs(len(a.open_streams()) - len(b.open_streams())) <= 1
    for stream in streams:
        stream.connection.close()
    a.wait_streams(0)
    b.wait_streams(0)


def test_waiting_calls_count_as_load(gateway, server):
    a, b = server("a", "stateless"), server("b", "stateless")
    gw = gateway(a, b)
    clients = [gw.connect() for _ in range(10)]
    for count, client in enumerate(clients, 1):
        body = json.dumps(call("hold")).encode()
        client.send(client.head("POST", "/mcp", [ACCEPT, JSON], body) + body)
        wait_until(lambda: a.waiting + b.waiting == count, "the call")
    assert (a.waiting, b.waiting) == (5, 5)
    a.release()
    b.release()
    assert all(client.response().finish().status == 200 for client in clients)


def test_loadfactor_weighs(gateway, server):
    a, b = server("a", "sse"), server("b", "sse")
    gw = gateway(a, b, start=False)
    gw.balancer = ['BalancerMember "%s" route=b loadfactor=3' % b.url]
    gw.backends = [a]
    gw.start()
    for count in range(1, 13):
        gw.connect().request("GET", "/mcp", [("Accept", "text/event-stream")])
        wait_until(lambda: len(a.open_streams() + b.open_streams()) == count, "the stream")
    assert (len(a.open_streams()), len(b.open_streams())) == (3, 9)


def test_idle_members_take_turns_by_their_loadfactor(gateway, server):
    a, b = server("a"), server("b")
    gw = gateway(a, b, start=False)
    gw.balancer = ['BalancerMember "%s" route=b loadfactor=3' % b.url]
    gw.backends = [a]
    gw.start()
    for _ in range(12):
        Mcp(gw).initialize()
    assert (len(a.sessions), len(b.sessions)) == (3, 9)


# Unknown ids


def test_an_unknown_id_goes_to_the_same_member_on_every_gateway(gateway, server):
    servers = three(server)
    gateways = [gateway(*servers, children=2, threads=4), gateway(*servers)]
    for number in range(30):
        session = "made-up-%d" % number
        for _ in range(3):
            for gw in gateways:
                assert use(gw, session).status == 404
        assert len(seen_by(servers, session)) == 1
    assert {seen_by(servers, "made-up-%d" % n)[0] for n in range(30)} == set("abc")


def test_unknown_ids_of_other_members_do_not_move_when_one_goes(gateway, server):
    servers = three(server)
    every, without = gateway(*servers), gateway(*servers[:2])
    ids = ["made-up-%d" % n for n in range(20)]
    for session in ids:
        use(every, session)
    first = {session: seen_by(servers, session) for session in ids}
    for session in ids:
        use(without, session)
        if first[session] != ["c"]:
            assert seen_by(servers, session) == first[session]


def test_the_backend_decides_about_an_unknown_id(gateway, server):
    servers = three(server)
    gw = gateway(*servers)
    for s in servers:
        s.sessions["kept"] = []
    answer = use(gw, "kept")
    assert answer.message()["result"]["server"] == seen_by(servers, "kept")[0]


def test_made_up_ids_leave_no_trace_in_the_table(gateway, server):
    servers = three(server)
    gw = gateway(*servers, server=["MCPProxySessionStore shm:8"])
    clients = mcp_clients(gw, 4)
    homes = [client.where() for client in clients]
    for number in range(60):
        use(gw, "made-up-%d" % number)
    assert [client.where() for client in clients] == homes


# Whose it is


def open_and_closed(gateway, a, *lines):
    """/mcp is open, /auth wants a user; both have the same balancer."""
    return gateway(
        a,
        server=[
            "<Location /auth>",
            '  ProxyPass "balancer://mcp/mcp"',
            "  MCPProxy On",
            *AUTH,
            "</Location>",
            *lines,
        ],
    )


@pytest.mark.parametrize("owner, other", [(ALICE, BOB), (BOB, ALICE)])
def test_a_foreign_session_is_404_and_reaches_no_backend(gateway, server, owner, other):
    a = server()
    gw = gateway(a, location=AUTH)
    client = Mcp(gw, headers=[owner]).initialize()
    count = len(a.requests)
    assert_rpc_error(use(gw, client.session, "id-7", [other]), 404, "id-7")
    assert_rpc_error(gw.request("DELETE", "/mcp", [other, ("Mcp-Session-Id", client.session)]), 404)
    assert_rpc_error(gw.request("GET", "/mcp", [other, ("Mcp-Session-Id", client.session)]), 404)
    assert len(a.requests) == count
    assert client.where() == "a"


def test_nobody_is_an_identity_too(gateway, server):
    a = server()
    gw = open_and_closed(gateway, a)
    nobodys, alices = Mcp(gw).initialize(), Mcp(gw, "/auth", [ALICE]).initialize()
    assert_rpc_error(use(gw, nobodys.session, 3, [ALICE], "/auth"), 404, 3)
    assert_rpc_error(use(gw, alices.session, 4), 404, 4)
    assert (nobodys.where(), alices.where()) == ("a", "a")


def is_known(gw, a, session):
    """Whether the table has it: then a foreigner's request is stopped, and is no use."""
    count = len(a.requests)
    use(gw, session, 1, [BOB], "/auth")
    return len(a.requests) == count


def test_delete_forgets_a_session(gateway, server):
    a = server()
    gw = open_and_closed(gateway, a)
    client = Mcp(gw).initialize()
    assert is_known(gw, a, client.session)
    assert client.delete().status == 204
    assert not is_known(gw, a, client.session)


def test_a_delete_that_the_backend_refuses_forgets_nothing(gateway, backend):
    def script(peer):
        while True:
            request = peer.read_request()
            peer.answer(
                status="405 Method Not Allowed" if request.method == "DELETE" else "200 OK",
                headers=[("Mcp-Session-Id", "s1")] if b"initialize" in request.body else [],
            )

    a = backend(script)
    gw = open_and_closed(gateway, a)
    client = Mcp(gw).initialize()
    assert client.delete().status == 405
    assert is_known(gw, a, "s1")


def test_the_backends_404_forgets_a_session(gateway, server):
    a = server()
    gw = open_and_closed(gateway, a)
    client = Mcp(gw).initialize()
    a.sessions.clear()
    assert client.post(call("whoami")).status == 404
    assert not is_known(gw, a, client.session)


def test_a_session_is_forgotten_after_its_time_to_live(gateway, server):
    a = server()
    gw = open_and_closed(gateway, a, "MCPProxySessionTTL 1s")
    client = Mcp(gw).initialize()
    assert is_known(gw, a, client.session)
    wait_until(lambda: not is_known(gw, a, client.session), "the session to be forgotten")


def test_an_open_standing_stream_keeps_a_session(gateway, server):
    a = server()
    gw = open_and_closed(gateway, a, "MCPProxySessionTTL 1s")
    client, other = Mcp(gw).initialize(), Mcp(gw).initialize()
    client.listen()
    wait_until(lambda: not is_known(gw, a, other.session), "the idle session to be forgotten")
    stays(lambda: is_known(gw, a, client.session), 1.2, "the session with a stream known")


def test_a_full_table_forgets_the_least_recently_used(gateway, server):
    a = server()
    gw = open_and_closed(gateway, a, "MCPProxySessionStore shm:8")
    clients = mcp_clients(gw, 8)
    # Uses within the same second are not told apart.
    stays(lambda: clients[0].where() == "a", 1.5)
    Mcp(gw).initialize()
    assert [is_known(gw, a, c.session) for c in clients[:3]] == [True, False, True]


def test_a_full_table_spares_sessions_with_an_open_stream(gateway, server):
    a = server()
    gw = open_and_closed(gateway, a, "MCPProxySessionStore shm:8")
    held = Mcp(gw).initialize()
    held.listen()
    mcp_clients(gw, 20)
    assert is_known(gw, a, held.session)
    assert held.where() == "a"


def test_a_full_table_takes_from_the_identity_that_holds_the_most(gateway, server):
    a = server()
    gw = open_and_closed(gateway, a, "MCPProxySessionStore shm:8")
    alice = Mcp(gw, "/auth", [ALICE]).initialize()
    mcp_clients(gw, 30)
    count = len(a.requests)
    assert use(gw, alice.session).status == 404
    assert len(a.requests) == count, "alice's session was evicted for nobody's"
    assert alice.where() == "a"


def test_balancers_have_tables_of_their_own(gateway, server):
    a, b = server("a"), server("b")
    a.make_id = b.make_id = lambda: "same"
    gw = gateway(
        a,
        server=[
            '<Proxy "balancer://two">',
            '  BalancerMember "%s"' % b.url,
            "  ProxySet lbmethod=mcp",
            "</Proxy>",
            "<Location /two>",
            '  ProxyPass "balancer://two/mcp"',
            "  MCPProxy On",
            "</Location>",
        ],
    )
    one, two = Mcp(gw).initialize(), Mcp(gw, "/two").initialize()
    assert one.session == two.session
    assert (one.where(), two.where()) == ("a", "b")


def test_a_session_is_the_balancers_not_the_locations(gateway, server):
    servers = three(server)
    gw = gateway(*servers, routes={"/mcp": "/mcp", "/other": "/mcp"})
    for client in mcp_clients(gw, 6):
        home = client.where()
        assert use(gw, client.session, path="/other").message()["result"]["server"] == home


def test_the_table_survives_a_graceful_restart(gateway, server):
    servers = three(server)
    gw = gateway(*servers)
    clients = mcp_clients(gw, 6)
    homes = [client.where() for client in clients]
    gw.graceful()
    assert [client.where() for client in clients] == homes
