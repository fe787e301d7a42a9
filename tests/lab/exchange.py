"""A message each way between two machines, by real nc: the smallest proof that a connection is carried."""

from __future__ import annotations

import subprocess

from tests.lab.namespaces import World
from tests.support.proxy import PATIENCE_S


class Daemon:
    """`nc -l PORT` on a machine: says one line to whoever connects, and notes what it is told. For one exchange."""

    def __init__(self, world: World, on: str, port: int, *, udp: bool = False, family: str = "-4") -> None:
        self.says = f"this is {on}"
        kind = "-u" if udp else "-N"  # -N: pass the end of its standard input on
        # -v: it says when it listens, so nobody connects too early.
        self._nc = world.start("nc", "-l", "-v", "-n", family, kind, str(port), on=on, stdin=subprocess.PIPE)
        assert self._nc.stderr is not None
        line = self._nc.stderr.readline()
        assert line.startswith(("Listening on", "Bound on")), line
        if not udp:
            self._say()
            assert self._nc.stdin is not None
            self._nc.stdin.close()
            self._nc.stdin = None

    def _say(self) -> None:
        assert self._nc.stdin is not None
        self._nc.stdin.write(self.says + "\n")
        self._nc.stdin.flush()

    def heard(self) -> str:
        """What it was told; waits for the end of the exchange."""
        out, _ = self._nc.communicate(timeout=PATIENCE_S)
        return out.strip()

    def answer(self) -> str:
        """UDP: wait for a line, answer it, and return it."""
        assert self._nc.stdout is not None
        line = self._nc.stdout.readline().strip()
        self._say()
        return line

    def end(self) -> None:
        self._nc.kill()
        self._nc.wait()


def tell(world: World, on: str, address: str, port: int, message: str, *, wait_s: int = 5) -> str:
    """From a machine, connect, say `message`, and return what came back: empty if nobody answered in time."""
    client = world.start("nc", "-N", "-n", "-w", str(wait_s), address, str(port), on=on, stdin=subprocess.PIPE)
    out, _ = client.communicate(message + "\n", timeout=PATIENCE_S + wait_s)
    return out.strip()


class UdpClient:
    """`nc -u` on a machine, kept open: a connected socket, so it hears only from the address it speaks to."""

    def __init__(self, world: World, on: str, address: str, port: int) -> None:
        self._nc = world.start("nc", "-u", "-n", address, str(port), on=on, stdin=subprocess.PIPE)

    def say(self, message: str) -> None:
        assert self._nc.stdin is not None
        self._nc.stdin.write(message + "\n")
        self._nc.stdin.flush()

    def hear(self) -> str:
        assert self._nc.stdout is not None
        return self._nc.stdout.readline().strip()

    def end(self) -> None:
        self._nc.kill()
        self._nc.wait()
