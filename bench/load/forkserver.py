"""The fork server: `python -m bench.load.forkserver` on the client runs load programs, each in a fork of its own.

An interpreter that starts costs 0.1 s, which was a third of a measurement; a fork costs 2 ms. It is spoken to by lines
of JSON:

    {"run": WHAT, "as": NAME, "arguments": {...}, "processors": [N, ...], "within_s": S}
                                            its result, or {"error": "..."}; a program that has neither by then, or
                                            ends without, is killed and is an error
    {"ask": NAME, "words": "...", "within_s": S}    the same, of a program that stays
    {"let go": NAME}                                {} when it has ended, or had already

Programs that stay wait beside one another, each for its turn. They die with the server, and the server with the
harness.
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

from bench.load.programs import PROGRAMS, STAYING

_PR_SET_PDEATHSIG = 1

# In which a program that was let go must end: it has a few sockets to close.
_ENDS_MS = 5000


class FailedError(Exception):
    """A program failed; the text is for the report."""


class _Pipes:
    """A program's end of the two pipes: a line is a question, the end is to be let go."""

    def __init__(self, questions: int, answers: int) -> None:
        self._questions = questions
        self._answers = answers

    def fileno(self) -> int:
        return self._questions

    def heed(self) -> str | None:
        # One question is asked at a time, and is shorter than a pipe's atomic write.
        return os.read(self._questions, 1 << 12).decode().strip() or None

    def say(self, found: dict[str, Any]) -> None:
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

    def ask(self, words: str) -> None:
        os.write(self._ask, words.encode() + b"\n")

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
        if what in STAYING:
            STAYING[what](harness, **arguments)
        else:
            harness.say(PROGRAMS[what](**arguments))
    except (AssertionError, OSError, psutil.Error) as exc:  # what a peer that dies, cheats or hangs leads to
        harness.say({"error": f"{type(exc).__name__}: {exc}"})


def serve() -> None:
    gc.disable()  # a collection would look like the proxy's latency; a program leaves nothing behind anyway
    children: dict[str, Child] = {}
    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        name = request.get("as") or request.get("ask") or request["let go"]
        found: dict[str, Any] = {}
        stays = "ask" in request
        try:
            if "run" in request:
                children[name] = Child(request["run"], request["arguments"], request["processors"], children.values())
                found = children[name].answer(request["within_s"])
                stays = request["run"] in STAYING
            elif stays:
                if name not in children:
                    raise FailedError("has failed before")
                children[name].ask(request["words"])
                found = children[name].answer(request["within_s"])
        except FailedError as exc:
            found = {"error": str(exc)}
            if name in children:
                children.pop(name).end(kill=True)
        if not stays and name in children:
            children.pop(name).end(kill=False)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    serve()
