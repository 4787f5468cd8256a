# SPDX-License-Identifier: Apache-2.0
"""MCPProxyRescue with several gateways that share a session store in Redis."""
import base64
import json
import os
import re
import time

import pytest

from harness.client import Mcp, call
from harness.redisd import Redis
from harness.wait import wait_until

from test_members import MANAGER
from test_rescue import assert_opened_as_by_the_client, hear, opened, opening, rescuing

SECRETS = [b"the client's own", b"protocolVersion", b"listChanged"]


class Fleet:
    """Gateways with one key and one store, in front of the same two servers."""

    def __init__(self, stage, server, sealed=False, count=2):
        self.redis = stage.keep(Redis())
        self.servers = [server("a"), server("b")]
        key = stage.directory / "key"
        key.write_text(base64.b64encode(os.urandom(32)).decode() + "\n", encoding="ascii")
        key.chmod(0o600)
        lines = ["MCPProxyRescue On", 'MCPProxySessionKey "file:%s"' % key,
                 "MCPProxySessionStore " + self.redis.store]
        lines += ["MCPProxyAffinity sealed"] if sealed else []

        def make(*servers, server=(), **options):
            return stage.gateway(*servers, server=[*lines, *server], **options)

        self.gateways = [rescuing(make, *self.servers, member="retry=0") for _ in range(count)]
        for gw in self.gateways:
            gw.expect_log("MCP2100|MCP2101", optional=True)

    def opened(self, at=0):
        """A client at one of the gateways, the server that has its session, the other."""
        while True:
            client = opened(self.gateways[at])
            if any(key.endswith(b":params") for key in self.kept()):
                break
            # A machine that is too busy for the 25 ms that the store has.
            client.delete()
        home, other = self.servers if self.servers[0].sessions else reversed(self.servers)
        # Known to all: a look-up has 25 ms, too, and is not what is tested here.
        for number in 3 * list(range(len(self.gateways))):
            assert self.at(number, client).where() in ("a", "b")
        return client, home, other

    def at(self, number, client):
        """The same client at another gateway."""
        moved = Mcp(self.gateways[number])
        moved.session = client.session
        return moved

    def kept(self):
        """Everything that stands in the store."""
        return {key: self.redis.ask("GET", key) for key in self.redis.ask("KEYS", "*")}


@pytest.fixture(name="fleet", params=["table", "sealed"])
def _fleet(request, stage, server):
    return Fleet(stage, server, sealed=request.param == "sealed")


def test_a_session_of_one_gateway_is_rescued_by_another(fleet):
    client, home, other = fleet.opened()
    home.kill()
    assert fleet.at(1, client).where() == other.name
    assert_opened_as_by_the_client(other)
    # The first finds out where it went, and does not open another one, whatever its table says.
    for _ in range(3):
        assert client.where() == other.name
    assert len(opening(other)) == 1


def test_rescues_of_one_session_at_several_gateways_are_one(fleet):
    client, home, other = fleet.opened()
    other.opening_waits = True
    home.kill()
    connections = [gw.connect() for gw in fleet.gateways for _ in range(4)]
    for number, connection in enumerate(connections):
        body = json.dumps(call("whoami", number)).encode()
        connection.send(connection.head("POST", "/mcp", client.headers(), body) + body)
    other.wait_waiting(1)
    other.release()
    for number, connection in enumerate(connections):
        answer = connection.response().json()
        assert answer["id"] == number and answer["result"]["server"] == other.name
    assert len(opening(other)) == 1


def test_whoever_waits_for_another_gateway_asks_less_and_less(fleet):
    client, home, other = fleet.opened()
    other.opening_waits = True
    home.kill()
    connections = [fleet.gateways[0].connect(), fleet.gateways[1].connect()]
    body = json.dumps(call("whoami")).encode()
    for connection in connections:
        connection.send(connection.head("POST", "/mcp", client.headers(), body) + body)
        other.wait_waiting(1)
    asked = []

    def is_calm():
        """As many claims as a quarter of a second ago."""
        text = fleet.redis.ask("INFO", "commandstats")
        count = int(re.search(rb"cmdstat_set:calls=(\d+)", text)[1])
        asked.append((time.monotonic(), count))
        return any(at < asked[-1][0] - 0.25 and count == before for at, before in asked)

    wait_until(is_calm, "fewer claims")
    other.release()
    for connection in connections:
        assert connection.response().json()["result"]["server"] == other.name


def test_a_stream_at_one_gateway_follows_a_rescue_at_another(fleet):
    client, home, other = fleet.opened()
    stream = client.listen()
    home.wait_streams(1)
    home.kill()
    assert fleet.at(1, client).where() == other.name
    hear(stream, other)
    assert len(opening(other)) == 1


def test_a_session_goes_to_and_fro_between_gateways_and_servers(fleet):
    client, home, other = fleet.opened()
    for number in (1, 0, 1):
        home.kill()
        assert fleet.at(number, client).where() == other.name
        home.listen()
        home, other = other, home
    assert fleet.at(0, client).where() == home.name
    assert fleet.at(0, client).delete().status == 204


def test_nothing_in_the_store_can_be_read_and_nothing_is_left(fleet):
    client, home, other = fleet.opened()
    home.kill()
    assert client.where() == other.name
    new = next(iter(other.sessions)).encode()
    kept = fleet.kept()
    assert {key.rsplit(b":", 1)[1] for key in kept} >= {b"params", b"route"}
    for key, value in kept.items():
        for secret in [*SECRETS, new, client.session.encode()]:
            assert secret not in key and secret not in value
    assert client.delete().status == 204
    wait_until(lambda: not fleet.kept(), "the store to be empty")


def test_while_the_store_is_away_a_gateway_rescues_what_it_knows(fleet):
    client, home, other = fleet.opened()
    fleet.redis.kill()
    home.kill()
    assert client.where() == other.name
    assert client.where() == other.name
    assert len(opening(other)) == 1
