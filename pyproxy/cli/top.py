"""`pyproxy top` on a terminal: a look at the ports each interval, redrawn in place, and keys that sort it or end it.

The terminal is restored when this ends, except by SIGKILL: its modes (termios(3)), its screen and its cursor.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

from rich.console import Console
from rich.live import Live
from rich.text import Text

from pyproxy.cli.tables import ORDERS, Moving, moving, top_table
from pyproxy.errors import plain

# `q`, and end of file as a terminal without line editing has it (Ctrl-D).
_QUIT = ("q", "Q", "\x04")

_KEYS = {order[0]: order for order in ORDERS}

_EVENTS = (signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)

Ask = Callable[[], list[dict[str, Any]]]


class Looks:
    """What was found at each look. `ask` returns the control API's descriptions of all ports."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._last: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._last_at = 0.0

    def again(self) -> list[Moving]:
        # One name may be in several engines, and may have been published again.
        found = {(port["name"], port.get("engine"), port.get("since")): port for port in self._ask()}
        now = time.monotonic()
        rows = [moving(self._last.get(key), port, now - self._last_at) for key, port in found.items()]
        self._last, self._last_at = found, now
        return rows


def print_tables(ask: Ask, order: str, interval_s: float, count: int) -> None:
    """For what is no terminal: `count` whole tables, one after the other; 0: for ever."""
    looks = Looks(ask)
    done = 0
    while not count or done < count:
        if done:
            time.sleep(interval_s)
        print(*top_table(looks.again(), order, None), sep="\n", flush=True)
        done += 1


def watch(ask: Ask, order: str, interval_s: float, count: int, failures: type[Exception]) -> None:
    """On a terminal, until `q`, Ctrl-C or `count` looks. One of `failures` ends it at the first look only: later the
    engine may be starting anew.
    """
    looks = Looks(ask)
    rows = looks.again()
    console = Console(markup=False, emoji=False, highlight=False)
    with contextlib.suppress(KeyboardInterrupt), _terminal(console) as terminal:
        done, due, trouble = 1, time.monotonic() + interval_s, ""
        while not (count and done >= count):
            terminal.show(_screen(rows, order, trouble, console.width, console.height))
            key = terminal.wait(due - time.monotonic())
            if key in _QUIT:
                break
            order = _KEYS.get(key, order)
            if time.monotonic() < due:
                continue
            try:
                rows, trouble = looks.again(), ""
            except failures as exc:
                trouble = str(exc)
            done, due = done + 1, time.monotonic() + interval_s
    # The last look stays to be read, where the screen was.
    console.print(Text("\n".join(top_table(rows, order, console.width, console.height - 1))), no_wrap=True)


def _screen(rows: list[Moving], order: str, trouble: str, width: int, height: int) -> Text:
    lines = top_table(rows, order, width, height - 1)
    lines += [""] * (height - 1 - len(lines))
    status = plain(trouble) if trouble else _keys(order)
    text = Text(no_wrap=True, overflow="crop", end="")
    for at, line in enumerate(lines):
        text.append(f"{line}\n", "bold" if at < 2 else "")
    text.append(status[:width], "reverse" if trouble else "dim")
    return text


def _keys(order: str) -> str:
    """No longer than 60 columns, the narrowest terminal that is looked after."""
    return "[q]uit sort: " + " ".join(f"[{each[0]}]{each[1:]}{'*' if each == order else ''}" for each in ORDERS)


class _Terminal:
    """Made by `_terminal`."""

    def __init__(self, live: Live, wake_fd: int, modes: _Modes) -> None:
        self._live = live
        self._wake_fd = wake_fd
        self._modes = modes

    def show(self, text: Text) -> None:
        self._live.update(text, refresh=True)

    def wait(self, seconds: float) -> str:
        """Return a key that was pressed, or "" when the time is over or the window has another size."""
        watched = [self._wake_fd, *([self._modes.fd] if self._modes.keys else [])]
        ready, _, _ = select.select(watched, [], [], max(0.0, seconds))
        if self._wake_fd in ready and signal.SIGTSTP in os.read(self._wake_fd, 64):
            self._stop_for_a_while()
        if self._modes.fd in ready:
            # End of file: the terminal is gone.
            return os.read(self._modes.fd, 1).decode(errors="replace") or _QUIT[0]
        return ""

    def _stop_for_a_while(self) -> None:
        """Ctrl-Z: the shell finds its terminal as it left it."""
        self._live.stop()
        self._modes.restore()
        before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, before)
        self._modes.take()
        self._live.start()


class _Modes:
    """The terminal on standard input: keys come one by one, unseen; Ctrl-C and Ctrl-Z are signals still."""

    def __init__(self) -> None:
        self.fd = sys.stdin.fileno()
        self.keys = os.isatty(self.fd)
        self._before = termios.tcgetattr(self.fd) if self.keys else None

    def take(self) -> None:
        if self.keys:
            tty.setcbreak(self.fd)

    def restore(self) -> None:
        if self._before is not None:
            termios.tcsetattr(self.fd, termios.TCSADRAIN, self._before)


@contextlib.contextmanager
def _terminal(console: Console) -> Iterator[_Terminal]:
    modes = _Modes()
    live = Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
    wake_fd, signal_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    for number in _EVENTS:
        signal.signal(number, lambda _number, _frame: None)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    signal.set_wakeup_fd(signal_fd, warn_on_full_buffer=False)
    try:
        modes.take()
        live.start()
        yield _Terminal(live, wake_fd, modes)
    finally:
        live.stop()
        modes.restore()
        signal.set_wakeup_fd(-1)
        os.close(wake_fd)
        os.close(signal_fd)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)
