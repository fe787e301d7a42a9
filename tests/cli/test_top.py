"""`pyproxy top` on a terminal, which is left as it was."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import pytest

from tests.support.engine import Engine, publish
from tests.support.proxy import PROGRAM
from tests.support.terminal import Terminal

LEFT = "\x1b[?1049l"  # the screen of before (xterm's ctlseqs)
CURSOR = "\x1b[?25h"


@contextlib.contextmanager
def top(width: int, *arguments: str) -> Iterator[Terminal]:
    terminal = Terminal(PROGRAM, "top", "--interval", "0.05", *arguments, width=width)
    try:
        yield terminal
    finally:
        terminal.close()


@pytest.mark.parametrize(
    ("ending", "status"), [("q", 0), ("\x03", 0), ("\x04", 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_the_terminal_is_as_it_was_whatever_ends_top(engine: Engine, ending: str | signal.Signals, status: int) -> None:
    name = publish(engine)["name"]
    with top(80) as terminal:
        terminal.await_text(name)
        assert terminal.modes_now() != terminal.modes
        if isinstance(ending, signal.Signals):
            terminal.process.send_signal(ending)
        else:
            terminal.press(ending)
        terminal.await_text(LEFT)
        assert terminal.status() == status
        assert CURSOR in terminal.shown
        assert terminal.modes_now() == terminal.modes


def test_a_key_sorts_and_the_window_may_change(engine: Engine) -> None:
    publish(engine)
    with top(60, "--interval", "3600") as terminal:
        terminal.await_text("[t]raffic*")
        assert "dropped" not in terminal.shown
        terminal.press("n")
        terminal.await_text("[n]ame*")
        terminal.resize(120, 12)
        terminal.await_text("dropped")
        terminal.press("q")
        assert terminal.status() == 0


def test_the_terminal_is_the_shells_while_top_is_stopped(engine: Engine) -> None:
    publish(engine)
    # With job control, as a person's shell has it: else there would be nobody to go back to.
    shell = f"{PROGRAM} top; echo back in the shell; read -r _; fg; exit"
    terminal = Terminal("sh", "-m", "-c", shell, width=80)
    try:
        terminal.await_text("total")
        terminal.press("\x1a")
        terminal.await_text("back in the shell")
        assert LEFT in terminal.shown
        assert terminal.modes_now() == terminal.modes
        terminal.press("\n")
        terminal.await_text("[q]uit")
        terminal.press("q")
        assert terminal.status() == 0
    finally:
        terminal.close()


def test_top_goes_on_when_the_engine_does_not_answer_for_a_while(engine: Engine) -> None:
    publish(engine)
    with top(100) as terminal:
        terminal.await_text("total")
        engine.kill()
        terminal.await_text("has ended")
        terminal.press("q")
        assert terminal.status() == 0
        assert terminal.modes_now() == terminal.modes
