"""The program. The order of a start: read the flags, bind or adopt, answer the parent, wait for the first client;
only then import the event loop.

dockerd starts its proxies one after the other and waits for each answer, so every import before the answer is paid
once per published port: `signal` alone costs 3 ms, asyncio with uvloop 60, where an empty interpreter starts in 8.
And most published ports never see a client here, because DNAT carries theirs: until one comes, the loop's 60 ms and
10 MB would be spent for nothing. The first client waits for it, in the kernel's backlog; the second does not.
That is why this module and those it imports at the top use `_socket` and `_signal`, and no dataclasses or enums.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":  # `python -m pyproxy`
    from pyproxy.interpreter import isolate

    isolate()  # before anything is imported that PYTHONPATH might have a namesake of

import _socket
import os

from pyproxy import __version__, dockerd
from pyproxy.bind import LISTEN_FD, backend_address, host_socket
from pyproxy.errors import FlagError, StartError
from pyproxy.flags import NoPortError, parse
from pyproxy.log import Log, stderr_is_null
from pyproxy.signals import Signals, exit_on_stop, hold_stop

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing would cost a start-up 8 ms
    from typing import NoReturn

    from pyproxy.config import Settings

_STDOUT_FD = 1
_STDERR_FD = 2

# The last argument of a start that is an attempt: read the arguments, import what a first client needs, and exit 0.
_ATTEMPT = "-attempt"

# What an import may raise where files have been removed, replaced or cut short.
_IMPORT_FAILS = (ImportError, AttributeError, SyntaxError, EOFError, ValueError, OSError)


def main() -> None:
    """Run pyproxy with the process's own arguments, descriptors and signals. Returns only after -help and -version."""
    _fill_standard_descriptors()
    if sys.argv[-1] == _ATTEMPT:
        _attempt(sys.argv[1:-1])
        return
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):  # dockerd starts with a flag
        from pyproxy.interpreter import find_packages

        find_packages()
        from pyproxy.cli.dispatch import main as run

        sys.exit(run(sys.argv[1], sys.argv[2:]))
    status = dockerd.status_pipe()
    # dockerd may stop us the moment it has its answer, and death by signal is an error to it (moby: cmd.Wait).
    exit_on_stop()
    try:
        if len(sys.argv) == 1:
            raise FlagError(_nothing_said())
        settings = parse(sys.argv[1:])
        _check(settings)
        sock, port = host_socket(settings.port, adopt=settings.use_listen_fd)
    except NoPortError as exc:
        os.write(_STDOUT_FD, _text(exc.wanted).encode())
        return
    except StartError as exc:
        dockerd.answer_failure(status, str(exc))
        _say_why_not(exc, told=status is not None)
        sys.exit(exc.exit_status)
    settings = settings.on(port)
    log = Log(port.host)
    signals = Signals(log)
    # From here on nobody reads a traceback: what ends us is logged.
    sys.excepthook = lambda kind, exc, _trace: log.error(f"ended by an error, please report it: {kind.__name__}: {exc}")
    if not dockerd.answer_ready(status):
        sys.exit(1)
    _serve(settings, sock, log, signals)


def _text(wanted: str) -> str:
    """What `-help` or `-version` prints."""
    if wanted == "version":
        return f"pyproxy version {__version__}\n"
    from pyproxy.cli.help import usage

    return usage()


def _nothing_said() -> str:
    from pyproxy.cli.help import nothing_said

    return nothing_said()


def _serve(settings: Settings, sock: _socket.socket, log: Log, signals: Signals) -> NoReturn:
    """Wait for the first client; then serve, with what is installed by then."""
    from pyproxy.interpreter import find_packages, fingerprint

    installed = fingerprint()
    log.info(f"serving -> {settings.port.container}")
    _wait_for_a_client(sock, signals)
    if fingerprint() != installed:
        _start_again(sock, settings)
        log.error("pyproxy or Python has been replaced, and does not work as it is now: this client gets the old one")
    find_packages()
    try:
        from pyproxy.solo.serve import serve
    except _IMPORT_FAILS as exc:
        _start_again(sock, settings)
        log.error(
            f"this port cannot be served any more: {type(exc).__name__}: {exc}: files of pyproxy or of Python are"
            " missing or damaged: install it again, then restart the container"
        )
        sys.exit(1)

    serve(settings, sock, log, signals)


def _start_again(sock: _socket.socket, settings: Settings) -> None:
    """Become what is installed now, with the same process id and socket: a port may wait for its first client through
    an upgrade of pyproxy or of Python, and half of one version does not go with half of another. Returns if nothing
    that is installed now would serve.
    """
    from pyproxy.interpreter import successors, works

    arguments = sys.argv[1:] if settings.use_listen_fd else [*sys.argv[1:], "-use-listen-fd"]
    for command in successors():
        if works([*command, *arguments, _ATTEMPT]):
            # A signal between the two programs would kill; it waits for the new one's handler (`main`).
            hold_stop()
            os.dup2(sock.fileno(), LISTEN_FD)
            os.set_inheritable(LISTEN_FD, True)  # dup2 to itself changes nothing
            os.execv(command[0], [*command, *arguments])


def _attempt(arguments: list[str]) -> None:
    """Import what a first client needs, and return. Any exception or exit status but 0 means that this fails."""
    try:
        settings = parse(arguments)
        _check(settings)
    except StartError as exc:
        sys.exit(exc.exit_status)
    from pyproxy.interpreter import find_packages

    find_packages()
    from importlib import import_module

    from pyproxy.relay.loop import new_loop

    import_module("pyproxy.solo.serve")
    new_loop(settings.loop).close()


def _say_why_not(exc: StartError, *, told: bool) -> None:
    """Write the reason to stderr. If that is /dev/null and no parent has been `told`, as when a port goes from the
    engine to a process of its own, write it to the system log.
    """
    if stderr_is_null() and not told:
        Log("start").error(str(exc))
        return
    hint = "\nSee pyproxy -help." if exc.exit_status == 2 else ""
    os.write(_STDERR_FD, f"pyproxy: {exc}{hint}\n".encode(errors="backslashreplace"))


def _check(settings: Settings) -> None:
    """Check now what else would fail only when the first client comes. StartError."""
    backend_address(settings.port)
    if settings.loop == "uvloop":
        from pyproxy.interpreter import find_packages

        find_packages()
        from importlib.util import find_spec

        if find_spec("uvloop") is None:
            raise StartError("-loop uvloop: uvloop is not installed here: pip install uvloop, or give -loop asyncio")


def _wait_for_a_client(sock: _socket.socket, signals: Signals) -> None:
    """Sleep until a connection or a datagram has come."""
    import select  # 0.25 ms, which dockerd need not wait for

    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(signals.wake_fd, select.POLLIN)
    while all(fd == signals.wake_fd for fd, _ in poll.poll()):
        signals.handle_pending()


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
