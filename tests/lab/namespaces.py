"""Machines out of Linux namespaces: a private world in which networks can be laid and rules loaded.

One holder process, the first of a PID namespace, keeps a network and a mount namespace alive; further machines are
named network namespaces inside. Everything vanishes with the holder, which dies with the process that made it, however
that ends: parent-death signals all the way down. Nothing here touches the machine's own interfaces or rules.
As root, plain namespaces; else inside a user namespace, where the kernel allows one.
"""

from __future__ import annotations

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


class World:
    """A private set of machines. Use as a context manager; leaving it ends every process inside."""

    def __init__(self) -> None:
        self._rootless = os.geteuid() != 0
        user = ("--user", "--map-root-user") if self._rootless else ()
        spaces = ("unshare", *user, "--net", "--mount", "--pid", "--fork", "--kill-child")
        self._holder = subprocess.Popen(
            [*_DIE_WITH_PARENT, *spaces, "sh", "-c", _HOLDER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
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

    def command(self, *command: str, on: str = HOST) -> list[str]:
        """The command line that runs `command` on a machine, from outside, as a direct child that dies with us."""
        network = f"/proc/{self._pid}/root/run/netns/{on}" if on != HOST else f"/proc/{self._pid}/ns/net"
        user = ("--user", "--preserve-credentials") if self._rootless else ()
        return [
            "nsenter",
            "--target",
            str(self._pid),
            *user,
            "--mount",
            f"--net={network}",
            *_DIE_WITH_PARENT,
            *command,
        ]

    def run(self, *command: str, on: str = HOST, stdin: str = "") -> str:
        """Run to the end and return what it printed. CalledProcessError carries what it complained of."""
        done = subprocess.run(
            self.command(*command, on=on), input=stdin, capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
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
        process = subprocess.Popen(self.command(*command, on=on), stdin=stdin, stdout=stdout, stderr=stderr, text=True)
        self._processes.append(process)
        return process

    def _end_holder(self) -> None:
        self._holder.kill()
        self._holder.wait()
        for stream in (self._holder.stdin, self._holder.stdout):
            if stream is not None:
                stream.close()


def complaint(exc: subprocess.CalledProcessError) -> str:
    """What a failed `World.run` said."""
    command: Sequence[str] = exc.cmd
    return f"{' '.join(command)}: {exc.stderr.strip() or exc.stdout.strip() or exc.returncode}"
