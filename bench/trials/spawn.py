"""A proxy started as dockerd does, and ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

from bench.world import LoadError


def spawn(command: tuple[str, ...], environment: Mapping[str, str]) -> int:
    """Start a proxy on a free port of loopback as dockerd does, and wait for its answer. Its process id."""
    read, write = os.pipe()
    ends = ["-proto", "tcp", "-host-ip", "127.0.0.1", "-host-port", "0"]
    pid = os.posix_spawn(
        command[0],
        [*command, *ends, "-container-ip", "127.0.0.1", "-container-port", "9"],
        environment,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, write, 100),
            (os.POSIX_SPAWN_DUP2, 100, 3),
            (os.POSIX_SPAWN_CLOSE, 100),
            *((os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)),
        ],
    )
    os.close(write)
    answer = os.read(read, 2)
    os.close(read)
    if answer != b"0\n":
        kill([pid])
        raise LoadError(f"{command[0]} answered {answer!r}")
    return pid


def kill(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        os.waitpid(pid, 0)
