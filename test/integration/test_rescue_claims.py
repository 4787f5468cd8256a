# SPDX-License-Identifier: Apache-2.0
"""MCPProxyRescue: who rescues hangs, dies or comes back too late, or the new member hangs."""
import json
import os
import signal

from harness import tags
from harness.client import call
from harness.process import children
from harness.wait import stays, wait_until

from test_rescue import opened, opening, rescuing, two
from test_rescue_far import Fleet, _fleet  # noqa: F401
from test_rescue_races import refusals

# What the module has: a claim that nobody renews.
CLAIM_LIFE = 4


def ask(gw, client, ident=1):
    """A call on a connection of its own, whose answer is not waited for."""
    connection = gw.connect()
    body = json.dumps(call("whoami", ident)).encode()
    connection.send(connection.head("POST", "/mcp", client.headers(), body) + body)
    return connection


def key_of(fleet, kind):
    return next((key for key in fleet.kept() if key.endswith(b":" + kind)), None)


def tell(pids, number):
    for pid in pids:
        os.kill(pid, number)


def owner_of(port, pids):
    """The one of these processes that is connected to this port."""
    with open("/proc/net/tcp", encoding="ascii") as file:
        rows = [line.split() for line in file.readlines()[1:]]
    sockets = {"socket:[%s]" % row[9] for row in rows
               if int(row[2].split(":")[1], 16) == port and row[3] == "01"}
    for pid in pids:
        folder = "/proc/%d/fd/" % pid
        if any(os.readlink(folder + name) in sockets for name in os.listdir(folder)):
            return pid
    return None


def overtaken(fleet):
    """The first gateway stands still while it rescues a session, and the second one has done so."""
    client, home, other = fleet.opened()
    other.opening_waits = True
    home.kill()
    late = ask(fleet.gateways[0], client)
    other.wait_waiting(1)
    stopped = children(fleet.gateways[0].process.pid)
    tell(stopped, signal.SIGSTOP)
    # As if its time had come.
    assert fleet.redis.ask("DEL", key_of(fleet, b"claim"))
    other.opening_waits = False
    assert fleet.at(1, client).where() == other.name
    return client, other, late, stopped


def test_a_gateway_that_comes_back_too_late_changes_nothing_any_more(fleet):
    client, other, late, stopped = overtaken(fleet)
    (session,) = other.sessions
    route = fleet.redis.ask("GET", key_of(fleet, b"route"))
    tell(stopped, signal.SIGCONT)
    other.release()
    assert late.response().json()["result"]["server"] == other.name
    assert other.requests[-1].header("Mcp-Session-Id") == session
    assert fleet.redis.ask("GET", key_of(fleet, b"route")) == route
    assert client.where() == fleet.at(1, client).where() == other.name
    assert other.requests[-1].header("Mcp-Session-Id") == session


def test_a_gateway_that_comes_back_too_late_does_not_end_the_session(fleet):
    client, other, late, stopped = overtaken(fleet)
    other.refuses_to_open = True
    tell(stopped, signal.SIGCONT)
    other.release()
    assert late.response().json()["result"]["server"] == other.name
    assert fleet.at(1, client).where() == other.name


def test_a_child_that_comes_back_too_late_changes_nothing_any_more(stage, server):
    gw, home, other, client = two(stage.gateway, server, mpm="event", children=2, threads=4,
                                  server=["MCPProxyRescue On"])
    other.opening_waits = True
    home.kill()
    late = ask(gw, client)
    other.wait_waiting(1)
    held = wait_until(lambda: owner_of(other.port, gw.children()), "the child")
    tell([held], signal.SIGSTOP)
    other.opening_waits = False
    # Once its time has come.
    assert client.where() == other.name
    (session,) = other.sessions
    tell([held], signal.SIGCONT)
    other.release()
    assert late.response().json()["result"]["server"] == other.name
    assert client.where() == other.name
    calls = [each for each in other.requests if each.message().get("method") == "tools/call"]
    assert {each.header("Mcp-Session-Id") for each in calls} == {session}


def test_a_rescue_that_takes_long_keeps_its_claim(stage, server):
    fleet = Fleet(stage, server)
    client, home, other = fleet.opened()
    other.opening_waits = True
    home.kill()
    first = ask(fleet.gateways[0], client)
    other.wait_waiting(1)
    second, third = ask(fleet.gateways[1], client), ask(fleet.gateways[0], client)
    stays(lambda: other.waiting == 1, CLAIM_LIFE + 1, "one rescue")
    other.release()
    for connection in (first, second, third):
        assert connection.response().json()["result"]["server"] == other.name
    assert len(opening(other)) == 1


def test_the_claim_of_a_dead_gateway_is_in_nobodys_way_for_long(stage, server):
    fleet = Fleet(stage, server)
    client, home, other = fleet.opened()
    other.opening_waits = True
    home.kill()
    ask(fleet.gateways[0], client)
    other.wait_waiting(1)
    # Its next child would take it over, if a request came there.
    fleet.gateways[0].expect_log("AH00052", optional=True)
    tell(children(fleet.gateways[0].process.pid), signal.SIGKILL)
    other.wait_waiting(0)
    other.opening_waits = False
    assert fleet.at(1, client).where() == other.name


def test_a_route_of_before_an_outage_does_not_replace_one_that_was_made_in_it(fleet):
    client, home, other = fleet.opened()
    home.kill()
    assert client.where() == other.name
    home.listen()
    fleet.redis.pause()
    other.kill()
    assert client.where() == home.name
    fleet.redis.resume()
    gw = fleet.gateways[0]
    wait_until(lambda: not [line for line in gw.log() if line.tag == "MCP2100"]
               or [line for line in gw.log() if line.tag == "MCP2101"], "the store")
    # Another gateway is about to rescue it; a request here finds that out.
    key = key_of(fleet, b"route").replace(b":route", b":claim")
    fleet.redis.ask("SET", key, "somebody's", "PX", 60000)
    home.kill(forget=False)
    failed = refusals(gw)
    connection = ask(gw, client)
    wait_until(lambda: refusals(gw) > failed, "the request")
    connection.close()
    home.listen()
    fleet.redis.ask("DEL", key)
    count = len(opening(home))
    assert client.where() == home.name
    assert len(opening(home)) == count
    # And the store hears of it.
    home.sessions.clear()
    assert client.where() == home.name
    assert fleet.at(1, client).where() == home.name
    assert len(opening(home)) == count + 1


def test_a_member_that_hangs_is_not_waited_for_where_there_is_another(stage, server):
    servers = [server(name) for name in "abc"]
    gw = rescuing(stage.gateway, *servers, server=["MCPProxyRescue On"])
    gw.expect_log(tags.TIMEOUT, "rescue")
    client = opened(gw)
    home = next(each for each in servers if each.sessions)
    others = [each for each in servers if each is not home]
    for each in others:
        each.opening_waits = True
    home.kill()
    connection = ask(gw, client)
    hung = wait_until(lambda: next((each for each in others if each.waiting), None), "one of them")
    for each in others:
        each.opening_waits = False
    where = connection.response().json()["result"]["server"]
    assert where not in (home.name, hung.name)
    assert client.where() == where
