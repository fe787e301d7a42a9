"""A program on a terminal of its own."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
from typing import Any

from tests.support.proxy import PATIENCE_S


class Terminal:
    """A program on a terminal of its own, `width` columns by `height` lines."""

    def __init__(self, *command: str, width: int, height: int = 12) -> None:
        self.fd, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.modes = termios.tcgetattr(theirs)
        # Ctrl-C is a signal only on a terminal that is the session's.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=os.environ | {"TERM": "xterm"},
        )
        self._theirs = theirs
        self.shown = ""

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def await_text(self, text: str) -> None:
        """Read on until it has been shown since the last time."""
        new = ""
        while text not in new:
            new += os.read(self.fd, 1 << 16).decode()
        self.shown += new

    def press(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def status(self) -> int:
        return self.process.wait(PATIENCE_S)

    def modes_now(self) -> list[Any]:
        return termios.tcgetattr(self._theirs)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._theirs)
        os.close(self.fd)
