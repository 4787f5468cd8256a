# SPDX-License-Identifier: Apache-2.0
"""The harness is tested too: an oracle that cannot speak is worse than none."""
import os
import pathlib
import subprocess
import sys
import threading

import pytest

from harness import oracle
from harness.backend import BlackHole
from harness.client import Broken, Connection

HERE = pathlib.Path(__file__).parent
LINE = "[Fri Nov 20 10:00:00.000000 2026] [%s] [pid 1:tid 2] [client 127.0.0.1:9] %s"


def run_pytest(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=HERE,
        text=True,
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env=dict(os.environ, MPM="event", TMPDIR=str(folder)),
    )


@pytest.mark.parametrize(
    "sample, complaint",
    [
        ("sample_unannounced.py", "unannounced in the error log"),
        ("sample_silent.py", "announced, but not in the error log: AH01114"),
        ("sample_leftover.py", "processes left over"),
    ],
)
def test_a_test_that_must_fail_fails(sample, complaint, stage):
    done = run_pytest(stage.directory, "samples/" + sample)
    assert done.returncode == 1, done.stdout
    assert complaint in done.stdout
    assert "1 failed" in done.stdout


def test_every_test_file_has_tests(stage):
    collected = run_pytest(stage.directory, "--collect-only", "-q").stdout
    counts = dict(line.split(": ") for line in collected.splitlines() if ".py: " in line)
    files = list(HERE.glob("test_*.py"))
    assert len(files) > 5
    for file in files:
        assert int(counts.get(file.name, 0)) > 0, "no test was collected from " + file.name


@pytest.mark.parametrize(
    "line",
    [
        LINE % ("mcp_proxy:warn", "MCP2001: something"),
        LINE
        % ("core:notice", "AH00051: child pid 7 exit signal Segmentation fault (11), possible"),
        LINE % ("core:crit", "AH00102: something"),
        "==12==ERROR: AddressSanitizer: heap-use-after-free on address 0x1",
        "free(): invalid pointer",
    ],
)
def test_oracle_objects_to_what_was_not_announced(line):
    assert len(oracle.judge(oracle.parse(line), [])) == 1


def test_oracle_takes_what_was_announced_and_what_is_harmless():
    lines = [
        LINE % ("mcp_proxy:error", "MCP2001: no route to a"),
        LINE % ("core:notice", "AH00094: Command line: 'httpd'"),
        LINE % ("mcp_proxy:info", "MCP2002: started"),
    ]
    assert (
        oracle.judge(oracle.parse("\n".join(lines)), [oracle.Expectation("MCP2001", "no route")])
        == []
    )


def test_oracle_wants_the_announced_text_too():
    lines = oracle.parse(LINE % ("mcp_proxy:error", "MCP2001: no route to a"))
    assert len(oracle.judge(lines, [oracle.Expectation("MCP2001", "timeout")])) == 2


def fake_response(keep, data):
    """A client connection to a socket that sends these bytes and closes."""
    import socket

    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        sock, _ = listener.accept()
        sock.sendall(data)
        sock.close()
        listener.close()

    threading.Thread(target=serve, daemon=True).start()
    return keep(Connection(listener.getsockname()))


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "data, ended",
    [
        (CHUNKED + b"3\r\nabc\r\n0\r\n\r\n", "complete"),
        (CHUNKED + b"3\r\nabc\r\n0\r\n", "broken"),
        (CHUNKED + b"3\r\nabc\r\n", "broken"),
        (CHUNKED + b"9\r\nabc", "broken"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "complete"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", "broken"),
        (b"HTTP/1.0 200 OK\r\n\r\nabc", "complete"),
    ],
)
def test_client_tells_an_end_from_a_break(keep, data, ended):
    response = fake_response(keep, data).response()
    assert response.wait_end() == ended
    assert response.body == b"abc"
    if ended == "broken":
        with pytest.raises(Broken):
            response.finish()


def test_a_black_hole_lets_nobody_connect(keep):
    hole = keep(BlackHole())
    with pytest.raises(TimeoutError):
        Connection(("127.0.0.1", hole.port), timeout=0.3)


def test_httpd_runs_with_each_block_of_a_pool_by_itself(gateway, backend):
    gw = gateway(backend(lambda peer: peer.read_request() and peer.answer(b"abcde")),
                 preloaded=["pools"])
    assert [gw.request("GET", "/mcp").body for _ in range(3)] == [b"abcde"] * 3


def test_a_stop_waits_until_httpd_has_given_its_connections_memory_back(gateway):
    """httpd alone: it crashes if it is stopped right after its clients have left."""
    gw = gateway(threads=4, preloaded=["slowunmap"])
    gw.expect_log("AH00484", optional=True)
    for _ in range(20):
        assert gw.connect().request("GET", "/server-status?auto").finish().status == 200


@pytest.mark.skipif(os.environ.get("MPM", "event") != "event", reason="another MPM has no such chain")
def test_clients_leave_no_faster_than_httpd_has_workers_for_them(gateway):
    gw = gateway(threads=4, server=["LogLevel mpm_event:trace6"])
    gw.expect_log("AH00484", optional=True)
    for _ in range(40):
        assert gw.connect().request("GET", "/server-status?auto").finish().status == 200
    gw.leave()
    log = gw._text("error.log")
    assert log.count("closing connection from state") >= 40
    assert "deferring close" not in log
