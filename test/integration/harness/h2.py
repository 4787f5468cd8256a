# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 through curl, whose output is read while it comes."""
import json
import select
import subprocess

from . import certs
from .wait import DEADLINE, wait_until


class Curl:
    """One curl process. Its body comes on stdout."""

    def __init__(self, gw, path, *arguments, body=None, headers=()):
        command = [
            "curl",
            "-sS",
            "-N",
            "--max-time",
            str(int(DEADLINE * 2)),
            "-o",
            "-",
            "-w",
            "%{stderr}%{http_version} %{http_code}\n",
        ]
        if gw.tls:
            command += ["--http2", "--cacert", str(certs.files()[0])]
        else:
            command += ["--http2-prior-knowledge"]
        for header in headers:
            command += ["-H", header]
        if body is not None:
            command += [
                "-H",
                "Content-Type: application/json",
                "--data-binary",
                body if isinstance(body, str) else json.dumps(body),
            ]
        self.process = subprocess.Popen(
            [*command, *arguments, gw.origin + path],
            bufsize=0,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.body = b""

    def _read(self):
        if select.select([self.process.stdout], [], [], 0)[0]:
            self.body += self.process.stdout.read(65536) or b""
        return self.body

    def wait_body(self, part):
        wait_until(lambda: part in self._read(), "%r in the body" % part)

    def finish(self):
        """(exit status, "2 200", body)"""
        out, err = self.process.communicate(timeout=DEADLINE)
        self.body += out
        return self.process.returncode, err.decode().strip().splitlines()[-1], self.body

    def close(self):
        """End it, if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
