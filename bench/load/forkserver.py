"""The fork server: `python -m bench.load.forkserver` on the client runs load programs, each in a fork of its own.

An interpreter that starts costs 0.1 s, which was a third of a measurement; a fork costs 2 ms. It is spoken to by lines
of JSON:

    {"run": WHAT, "as": NAME, "arguments": {...}, "processors": [N, ...], "within_s": S}
                                            its result, or {"error": "..."}; a program that has neither by then, or
                                            ends without, is killed and is an error
    {"ask": NAME, "order": "...", "within_s": S}    the same, of a session
    {"end": NAME}                           {} when it has ended, or had already

Sessions wait alongside one another, each for its turn. They die with the server, and the server with the harness.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import signal
import sys
from collections.abc import Collection
from typing import Any

import psutil

from bench.load.programs import ONE_SHOT, SESSIONS

_PR_SET_PDEATHSIG = 1

# In which a session that is told to end must do so: it has a few sockets to close.
_ENDS_MS = 5000


class FailedError(Exception):
    """A program failed; the text is for the report."""


class _Pipes:
    """A program's end of the two pipes: a line is an order, end of file the order to end."""

    def __init__(self, questions: int, answers: int) -> None:
        self._questions = questions
        self._answers = answers

    def fileno(self) -> int:
        return self._questions

    def next_order(self) -> str | None:
        # One question is asked at a time, and is shorter than a pipe's atomic write.
        return os.read(self._questions, 1 << 12).decode().strip() or None

    def answer(self, found: dict[str, Any]) -> None:
        os.write(self._answers, json.dumps(found).encode() + b"\n")


class Child:
    """A program that runs. Its owner calls `end`."""

    def __init__(
        self, what: str, arguments: dict[str, Any], processors: list[int], siblings: Collection[Child]
    ) -> None:
        questions, self._ask = os.pipe()
        self._answers, answers = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            for child in (self, *siblings):  # else those would not see their end
                os.close(child._ask)
            os.sched_setaffinity(0, processors)
            _run(what, arguments, _Pipes(questions, answers))
            os._exit(0)
        os.close(questions)
        os.close(answers)

    def ask(self, order: str) -> None:
        os.write(self._ask, order.encode() + b"\n")

    def answer(self, within_s: float) -> dict[str, Any]:
        """FailedError if there is none."""
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        line = b""
        while not line.endswith(b"\n"):
            if not poll.poll(1e3 * within_s):
                raise FailedError(f"timed out after {within_s:.0f} s")
            more = os.read(self._answers, 1 << 16)
            if not more:
                raise FailedError("ended without a result")
            line += more
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise FailedError(found["error"])
        return found

    def end(self, *, kill: bool) -> None:
        os.close(self._ask)
        poll = select.poll()
        poll.register(self._answers, 0)  # its end is always told
        if kill or not poll.poll(_ENDS_MS):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._answers)


def _run(what: str, arguments: dict[str, Any], harness: _Pipes) -> None:
    """In the fork."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    try:
        if what in SESSIONS:
            SESSIONS[what](harness, **arguments)
        else:
            harness.answer(ONE_SHOT[what](**arguments))
    except (AssertionError, OSError, psutil.Error) as exc:  # what a peer that dies, cheats or hangs leads to
        harness.answer({"error": f"{type(exc).__name__}: {exc}"})


def serve() -> None:
    gc.disable()  # a collection would look like the proxy's latency; a program leaves nothing behind anyway
    children: dict[str, Child] = {}
    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        name = request.get("as") or request.get("ask") or request["end"]
        found: dict[str, Any] = {}
        in_session = "ask" in request
        try:
            if "run" in request:
                children[name] = Child(request["run"], request["arguments"], request["processors"], children.values())
                found = children[name].answer(request["within_s"])
                in_session = request["run"] in SESSIONS
            elif in_session:
                if name not in children:
                    raise FailedError("has failed before")
                children[name].ask(request["order"])
                found = children[name].answer(request["within_s"])
        except FailedError as exc:
            found = {"error": str(exc)}
            if name in children:
                children.pop(name).end(kill=True)
        if not in_session and name in children:
            children.pop(name).end(kill=False)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    serve()
