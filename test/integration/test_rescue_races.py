# SPDX-License-Identifier: Apache-2.0
"""MCPProxyRescue: what comes in the very moment of a rescue."""
import json
import os
import uuid

from harness import tags
from harness.client import call
from harness.metrics import PLACES
from harness.wait import wait_until

from test_rescue import _gateway, opening, streaming, two  # noqa: F401
from test_status import end, see


class Held:
    """The next thread that comes to a place in the code, with "heldhash" preloaded."""

    # Looking a session up, behind the table: the name of its parameters' record.
    LOOKUP = "33p"
    # A stream goes on: its mark is made of "1 " and an id of 32 characters that ends with z.
    STREAM = "34z"

    def __init__(self, gw, place):
        self.fifo = gw.directory / ("heldhash.so." + place)
        os.mkfifo(self.fifo)
        self.fifo.chmod(0o666)
        self.end = None

    def wait(self):
        """Until it is held; the ones after it are not."""
        wait_until(self._has_reader, "somebody at " + self.fifo.name)
        self.fifo.unlink()

    def _has_reader(self):
        try:
            self.end = os.open(self.fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return False
        return True

    def release(self):
        """It goes on."""
        os.close(self.end)


def test_a_request_that_looks_its_session_up_while_it_is_rescued_opens_none(gateway, server):
    gw, home, other, client = two(gateway, server, threads=8, preloaded=["heldhash"])
    held = Held(gw, Held.LOOKUP)
    connection = gw.connect()
    body = json.dumps(call("whoami", 9)).encode()
    connection.send(connection.head("POST", "/mcp", client.headers(), body) + body)
    held.wait()
    home.kill()
    assert client.where() == other.name
    held.release()
    answer = connection.response().json()
    assert answer["id"] == 9 and answer["result"]["server"] == other.name
    assert len(opening(other)) == 1


def test_a_stream_that_is_to_end_when_it_goes_on_elsewhere_ends(gateway, server):
    gw, home, other, client, stream = streaming(
        gateway, server, threads=8, preloaded=["heldhash"], server=PLACES)
    other.make_id = lambda: uuid.uuid4().hex[:31] + "z"
    held = Held(gw, Held.STREAM)
    home.kill()
    held.wait()
    told = see(gw)
    gw.expect_log(tags.STREAM_ENDED)
    assert end(gw, told["longest"][0]["stream"], told["token"]).json() == {"outcome": "ended"}
    held.release()
    assert stream.wait_end() == "complete"
    assert client.where() == other.name


def refusals(gw):
    """How often nobody was there to connect to."""
    return sum(line.tag == tags.CONNECT_FAILED for line in gw.log())


def test_a_session_that_its_client_ends_while_it_is_rescued_is_ended_at_its_new_member(
        gateway, server):
    gw, home, other, client, stream = streaming(gateway, server, threads=8)
    other.opening_waits = True
    home.kill()
    other.wait_waiting(1)
    failed = refusals(gw)
    connection = gw.connect()
    connection.send(connection.head("DELETE", "/mcp", client.headers()))
    wait_until(lambda: refusals(gw) > failed, "the DELETE")
    other.release()
    assert connection.response().status == 204
    assert not other.sessions
    assert client.post(call("whoami")).status == 404
