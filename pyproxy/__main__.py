"""The program. The order of a start: read the flags, bind or adopt, answer the parent, wait for the first client;
only then import the event loop.

dockerd starts its proxies one after the other and waits for each answer, so every import before the answer is paid
once per published port: `signal` alone costs 3 ms, asyncio with uvloop 60, where an empty interpreter starts in 8.
And most published ports never see a client here, because DNAT carries theirs: until one comes, the loop's 60 ms and
10 MB would be spent for nothing. The first client waits for it, in the kernel's backlog; the second does not.
That is why this module and those it imports at the top use `_socket` and `_signal`, and no dataclasses or enums.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import os
import select
import sys

from pyproxy import __version__, parent
from pyproxy.bind import backend_address, host_socket
from pyproxy.errors import StartError
from pyproxy.flags import USAGE, Settings, parse
from pyproxy.log import Log

_STDERR_FD = 2


def main() -> None:
    """Run pyproxy with the process's own arguments, descriptors and signals. Returns only after -help and -version."""
    _fill_standard_descriptors()
    status = parent.status_pipe()
    # dockerd may stop us the moment it has its answer, and death by signal is an error to it (moby: cmd.Wait).
    _signal.signal(_signal.SIGINT, _exit_at_once)
    _signal.signal(_signal.SIGTERM, _exit_at_once)
    try:
        settings = parse(sys.argv[1:])
        if settings.wants == "help":
            sys.stdout.write(USAGE)
            return
        if settings.wants == "version":
            sys.stdout.write(f"pyproxy version {__version__}\n")
            return
        _check(settings)
        sock = host_socket(settings.port, adopt=settings.use_listen_fd)
    except StartError as exc:
        parent.answer_failure(status, str(exc))
        hint = "\nSee pyproxy -help." if exc.exit_status == 2 else ""
        sys.stderr.write(f"pyproxy: {exc}{hint}\n")
        sys.exit(exc.exit_status)
    log = Log(settings.port.host)

    def stop(number: int, _frame: object) -> None:
        log.info(f"stopped by {'SIGINT' if number == _signal.SIGINT else 'SIGTERM'}: no client so far")
        os._exit(0)

    _signal.signal(_signal.SIGINT, stop)
    _signal.signal(_signal.SIGTERM, stop)
    _signal.signal(_signal.SIGUSR1, lambda _number, _frame: log.info("0 live, no client so far"))
    if not parent.answer_ready(status):
        sys.exit(1)
    log.info(f"serving -> {settings.port.container}")
    _wait_for_a_client(sock)

    from pyproxy.solo import serve

    serve(settings, sock, log)


def _check(settings: Settings) -> None:
    """Find what would only be missed when the first client comes. StartError."""
    backend_address(settings.port)
    if settings.loop == "uvloop":
        from importlib.util import find_spec

        if find_spec("uvloop") is None:
            raise StartError("-loop uvloop: uvloop is not installed here: pip install uvloop, or give -loop asyncio")


def _wait_for_a_client(sock: _socket.socket) -> None:
    """Sleep until a connection or a datagram has come."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.poll()


def _exit_at_once(_number: int, _frame: object) -> None:
    os._exit(0)


def _fill_standard_descriptors() -> None:
    """Open /dev/null on whichever of 0, 1, 2 is closed, as Go's runtime does: else a client's socket could become
    descriptor 2, and our messages part of its stream.
    """
    for fd in range(_STDERR_FD + 1):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: fd


if __name__ == "__main__":
    main()
