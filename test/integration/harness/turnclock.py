# SPDX-License-Identifier: Apache-2.0
"""A redis-server whose clock can be turned while it runs."""
import os
import pathlib
import shutil
import struct
import tempfile

from . import preload
from .redisd import Redis


class TurnableRedis(Redis):
    """turn(seconds): so far is its wall clock from the real one, at once."""

    def __init__(self, *arguments):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="mcp-clock-"))
        self.offset = self.folder / "offset"
        library = preload.library("turnclock", self.folder)
        self.offset.write_bytes(struct.pack("q", 0))
        self.environment = dict(os.environ, LD_PRELOAD=str(library), TURNCLOCK=str(self.offset))
        super().__init__(*arguments)

    def time(self):
        return int(self.ask("TIME")[0])

    def turn(self, seconds):
        before = self.time() - struct.unpack("q", self.offset.read_bytes())[0]
        with open(self.offset, "r+b") as file:
            file.write(struct.pack("q", seconds))
        assert abs(self.time() - before - seconds) < 60, "the clock did not turn"

    def close(self):
        super().close()
        shutil.rmtree(self.folder)
