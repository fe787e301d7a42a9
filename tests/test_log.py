"""Messages reach whoever is to read them, and hold up nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.proxy import PATIENCE_S, PROGRAM
from tests.support.sockets import (
    echo,
    listening,
    receive_exactly,
    serving,
)

ENDS = ["-host-ip", "127.0.0.1", "-host-port", "0", "-container-ip", "127.0.0.1", "-container-port", "9"]


def test_messages_go_to_the_system_log_where_stderr_is_null(tmp_path: Path) -> None:
    # In place of /dev/log, which a test has no right to take: a datagram socket like it.
    path = str(tmp_path / "log")
    program = (
        "import sys; from pyproxy.log import Log\n"
        "log = Log('tcp 0.0.0.0:80', system_log=sys.argv[1])\n"
        "log.info('serving'); log.warn('kind', 'refused'); log.warn('kind', 'refused'); log.error('broken')\n"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(path)
        process = subprocess.Popen([sys.executable, "-c", program, path], stderr=subprocess.DEVNULL)
        assert process.wait(PATIENCE_S) == 0
        daemon.setblocking(False)
        said = [daemon.recv(1000).decode() for _ in range(3)]
        with pytest.raises(BlockingIOError):
            daemon.recv(1000)
    # Facility daemon (3) times 8, and informational, warning, error.
    assert said == [
        f"<30>pyproxy[{process.pid}]: tcp 0.0.0.0:80: serving",
        f"<28>pyproxy[{process.pid}]: tcp 0.0.0.0:80: refused",
        f"<27>pyproxy[{process.pid}]: tcp 0.0.0.0:80: broken",
    ]
    # And without a daemon, nothing happens.
    assert subprocess.run([sys.executable, "-c", program, path], stderr=subprocess.DEVNULL, check=False).returncode == 0


def test_a_log_that_nobody_reads_stops_neither_traffic_nor_the_stop() -> None:
    with listening() as unused:
        port = unused.getsockname()[1]
    with serving(echo) as backend:
        read, write = os.pipe()
        os.set_blocking(write, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(write, b"x" * 65_536)
        os.set_blocking(write, True)
        arguments = [*ENDS, "-host-port", str(port), "-container-port", str(backend[1])]
        answer, status = os.pipe()
        child = os.posix_spawn(
            PROGRAM,
            [PROGRAM, *arguments],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, write, 2), (os.POSIX_SPAWN_DUP2, status, 3)],
        )
        os.close(status)
        assert os.read(answer, 2) == b"0\n"
        os.close(answer)
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
            client.sendall(b"x")
            assert receive_exactly(client, 1) == b"x"
            os.kill(child, signal.SIGINT)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        os.close(read)
        os.close(write)
