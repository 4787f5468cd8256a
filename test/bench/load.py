# SPDX-License-Identifier: Apache-2.0
"""The load tool, mcpload: its two halves, and a proxy between them."""
import contextlib
import os
import subprocess

from contenders import die_with_parent, free_port, wait_for_port


class Tool:
    """One half of mcpload, driven through a pipe; ends when the pipe does."""

    def __init__(self, load, half, port, board):
        # pylint: disable=subprocess-popen-preexec-fn
        self.proc = subprocess.Popen([load, half, str(port), board], stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, text=True, bufsize=1,
                                     preexec_fn=die_with_parent)

    def __call__(self, *words):
        self.proc.stdin.write(" ".join(str(w) for w in words) + "\n")
        line = self.proc.stdout.readline()
        if not line:
            raise RuntimeError(f"mcpload gave up on {words}")
        return {k: float(v) for k, v in (pair.split("=") for pair in line.split())}

    def close(self):
        self.proc.stdin.close()
        self.proc.wait(10)


@contextlib.contextmanager
def between(load, half, work, contender, for_calls=False):
    """A fresh backend and a fresh proxy in front of it; gives the half of mcpload that asks."""
    board = os.path.join(work, "board")
    if os.path.exists(board):
        os.unlink(board)
    port = free_port()
    backend = Tool(load, "serve", port, board)
    tool = None
    try:
        wait_for_port(port, backend.proc, "the backend")
        contender.start(port, for_calls)
        tool = Tool(load, half, contender.port, board)
        yield tool
    finally:
        if tool:
            tool.close()
        backend.close()
        contender.stop()
