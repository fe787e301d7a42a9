"""Machines out of Linux namespaces: a private world in which networks can be laid and rules loaded.

One holder process, the first of a PID namespace, keeps a network and a mount namespace alive; further machines are
named network namespaces inside. Everything vanishes with the holder, which dies with the process that made it, however
that ends: parent-death signals all the way down. Nothing here touches the machine's own interfaces or rules.
As root, plain namespaces; else inside a user namespace, where the kernel allows one.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Self

# The machine that the holder itself is.
HOST = "host"

_DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")

# In the private mount namespace: room for named namespaces and for iptables' lock; forwarding on; loopback up.
# The last line waits for the end of standard input, which is the end of us.
_HOLDER = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir /run/netns
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
echo 0 >/proc/sys/net/ipv6/conf/all/accept_dad
echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
echo ready
exec cat >/dev/null
"""


class WorldError(Exception):
    """No private world can be made here; the text says why."""


class CommandError(Exception):
    """A command on a machine failed: its words, and what it complained of."""

    def __init__(self, command: Sequence[str], status: int, said: str) -> None:
        super().__init__(f"{' '.join(command)}: {said.strip() or 'status'} ({status})")


class World:
    """A private set of machines. Use as a context manager; leaving it ends every process inside."""

    def __init__(self, *, own_processes: bool = False) -> None:
        """`own_processes`: programs see, and are seen in, the private PID namespace only. Whatever they leave behind
        then dies with the world as well; but `start` returns nsenter's process instead of the program's.
        """
        self._own_processes = ("--pid",) if own_processes else ()
        self._rootless = os.geteuid() != 0
        user = ("--user", "--map-root-user") if self._rootless else ()
        spaces = ("unshare", *user, "--net", "--mount", "--pid", "--fork", "--kill-child")
        own_proc = ("--mount-proc",) if own_processes else ()
        self._holder = subprocess.Popen(
            [*_DIE_WITH_PARENT, *spaces, *own_proc, "sh", "-c", _HOLDER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,  # Ctrl-C is for whoever made this, who then ends it
        )
        assert self._holder.stdout is not None
        said = self._holder.stdout.readline()
        if said != "ready\n":
            said += self._holder.stdout.read()
            self._end_holder()
            raise WorldError(f"no namespaces here: {said.strip()}")
        # unshare forks the holder proper: the first process of the new PID namespace.
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text()
        self._pid = int(children.split()[0])
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        self._end_holder()

    def add_machine(self, name: str) -> None:
        """A further machine, with loopback up and nothing else."""
        self.run("ip", "netns", "add", name)
        self.run("ip", "link", "set", "lo", "up", on=name)
        self.run("sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad", on=name)

    def cable(self, name: str, here: str, there: str) -> None:
        """A veth pair from interface `here` of the host to interface `there` of machine `name`; `here` is up."""
        self.run("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
        self.run("ip", "link", "set", here, "up")

    def command(self, *command: str, on: str = HOST) -> list[str]:
        """The command line that runs `command` on a machine, from outside, as a direct child that dies with us."""
        network = f"/proc/{self._pid}/root/run/netns/{on}" if on != HOST else f"/proc/{self._pid}/ns/net"
        user = ("--user", "--preserve-credentials") if self._rootless else ()
        target = ("--target", str(self._pid), *user, "--mount", *self._own_processes)
        enter = ("nsenter", *target, f"--net={network}")
        return [*enter, *_DIE_WITH_PARENT, *command]

    def run(self, *command: str, on: str = HOST, stdin: str = "", check: bool = True, timeout_s: float = 60) -> str:
        """Run to the end and return what it printed. CommandError carries what it complained of, unless not `check`;
        subprocess.TimeoutExpired if there is no end.
        """
        done = subprocess.run(
            self.command(*command, on=on), input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        if done.returncode and check:
            raise CommandError(command, done.returncode, done.stderr or done.stdout)
        return done.stdout

    def start(
        self,
        *command: str,
        on: str = HOST,
        stdin: int | IO[str] = subprocess.DEVNULL,
        stdout: int | None = subprocess.PIPE,
        stderr: int | None = subprocess.PIPE,
    ) -> subprocess.Popen[str]:
        """Start in the background. It is ended with the world, if it has not ended by then."""
        process = subprocess.Popen(
            self.command(*command, on=on), stdin=stdin, stdout=stdout, stderr=stderr, text=True, process_group=0
        )
        self._processes.append(process)
        return process

    def forget(self, process: subprocess.Popen[str]) -> None:
        """A process of `start` that its user has ended: for worlds that start thousands."""
        self._processes.remove(process)

    def processes(self, on: str = HOST) -> list[int]:
        """Process ids, as seen from outside, of all that lives on a machine: programs, and the holder on HOST."""
        network = self.run("readlink", "/proc/self/ns/net", on=on).strip()
        return processes_in(network)

    def _end_holder(self) -> None:
        self._holder.kill()
        self._holder.wait()
        for stream in (self._holder.stdin, self._holder.stdout):
            if stream is not None:
                stream.close()


def processes_in(network: str) -> list[int]:
    """Process ids in a network namespace, given as its link in /proc/PID/ns/net reads."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):  # it may have ended by now
                if os.readlink(process / "ns/net") == network:
                    found.append(int(process.name))
    return found
