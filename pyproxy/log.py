"""Where messages go: stderr, or the system log where stderr is /dev/null, as under dockerd.

The system log is written as one datagram per message to /dev/log (RFC 3164, as syslog(3) does), never blocking: a
stuck log daemon must not stop traffic. A message that cannot be delivered is dropped: there is nowhere left to say so.
Light, as it is imported before the event loop is (see `__main__`).
"""

from __future__ import annotations

import _socket
import os
import stat
import time

from pyproxy.errors import plain
from pyproxy.ratelimit import RateLimit

_SYSTEM_LOG = "/dev/log"
_STDERR_FD = 2

# A pipe that is ready takes this much without blocking (PIPE_BUF, pipe(7)).
_AT_ONCE_BYTES = 4096

# RFC 3164 section 4.1.1: facility 3 is "system daemons"; severities as in syslog(3).
_DAEMON = 3 << 3
ERROR, WARNING, INFO = 3, 4, 6


class Log:
    """Messages about one published port. `name` goes before each: `tcp 0.0.0.0:1234`."""

    def __init__(self, name: str, *, system_log: str = _SYSTEM_LOG) -> None:
        self._name = name
        self._limit = RateLimit()
        self._system_log = system_log if stderr_is_null() else None

    def info(self, text: str) -> None:
        self._write(INFO, text)

    def error(self, text: str) -> None:
        self._write(ERROR, text)

    def warn(self, kind: str, text: str) -> None:
        """Say `text`, unless a message of this kind was said a moment ago (`ratelimit.INTERVAL_S`)."""
        held_back = self._limit.admit(kind, time.monotonic())
        if held_back is None:
            return
        self._write(WARNING, text + (f" ({held_back} more like it since the last such line)" if held_back else ""))

    def _write(self, severity: int, text: str) -> None:
        # A traceback keeps its line ends; nothing within a line can control a terminal.
        line = "\n".join(plain(each) for each in f"{self._name}: {text}".split("\n"))
        try:
            if self._system_log is None:
                # Never blocking either: a terminal that is held, or a pipe that nobody reads, must not stop traffic.
                import select  # after dockerd's answer, which it would delay

                poll = select.poll()
                poll.register(_STDERR_FD, select.POLLOUT)
                if poll.poll(0):
                    os.write(_STDERR_FD, f"pyproxy: {line}\n".encode(errors="backslashreplace")[:_AT_ONCE_BYTES])
                return
            sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_NONBLOCK)
            try:
                message = f"<{_DAEMON | severity}>pyproxy[{os.getpid()}]: {line}"
                # An argument that is not UTF-8 is quoted here and there.
                sock.sendto(message.encode(errors="backslashreplace"), self._system_log)
            finally:
                sock.close()
        except OSError:
            return  # no log daemon, or stderr closed: see the module's first lines


def stderr_is_null() -> bool:
    """Whether what we write to stderr is lost: it is /dev/null, or closed."""
    try:
        found = os.fstat(_STDERR_FD)
    except OSError:
        return True
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == os.stat(os.devnull).st_rdev
