"""What stubs write into the FIFO, a line each. Pure: bytes in, requests out.

    serve PID COMMAND    serve the port that the command line names
    stop PID COMMAND     close that port, then answer
    solo PID COMMAND     forget that port: the process serves it itself from now on

COMMAND is the stub's path and arguments, joined by spaces. None of this is believed: the process itself is looked at
(`stub.py`). A line is one write(2) of less than PIPE_BUF, which arrives whole (pipe(7)); what arrives otherwise was
not written by a stub, and is dropped up to the next line's start.
"""

from __future__ import annotations

from typing import NamedTuple

SERVE = "serve"
STOP = "stop"
SOLO = "solo"

# include/uapi/linux/limits.h. Stubs keep well below it.
PIPE_BUF = 4096

_VERBS = {verb.encode(): verb for verb in (SERVE, STOP, SOLO)}

# kernel.pid_max is at most 2 to the 22nd (proc(5)).
_PID_DIGITS = 7


class Request(NamedTuple):
    """One line of a stub. `command`: its path and arguments, joined by spaces."""

    verb: str
    pid: int
    command: bytes


class Reader:
    """Cuts what is read into requests; counts in `garbage` the lines that are none."""

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False  # in a line that has grown too long
        self.garbage = 0

    def take_rest(self) -> bytes:
        """Return the start of a line that is not complete yet, and forget it."""
        rest, self._rest = self._rest, b""
        return rest

    def feed(self, data: bytes) -> list[Request]:
        """Return the requests that `data` completes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        found = []
        for line in lines:
            if self._skipping:
                self._skipping = False
                continue
            if (request := _parse(line)) is None:
                self.garbage += 1
            else:
                found.append(request)
        if len(self._rest) >= PIPE_BUF:
            self._rest = b""
            self.garbage += not self._skipping
            self._skipping = True
        return found


def line_of(request: Request) -> bytes:
    """The line that a stub would write."""
    return b"%s %d %s\n" % (request.verb.encode(), request.pid, request.command)


def drop_withdrawn(requests: list[Request]) -> list[Request]:
    """What is still to be done of requests that have waited: not what their stub has itself withdrawn since."""
    withdrawn: dict[int, int] = {}
    for position, request in enumerate(requests):
        if request.verb != SERVE:
            withdrawn[request.pid] = position
    return [
        request
        for position, request in enumerate(requests)
        if request.verb != SERVE or position > withdrawn.get(request.pid, -1)
    ]


def _parse(line: bytes) -> Request | None:
    if len(line) >= PIPE_BUF:
        return None
    verb, _, rest = line.partition(b" ")
    pid, _, command = rest.partition(b" ")
    if verb not in _VERBS or not pid.isdigit() or len(pid) > _PID_DIGITS or not int(pid) or not command:
        return None
    return Request(_VERBS[verb], int(pid), command)
