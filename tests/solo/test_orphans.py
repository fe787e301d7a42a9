"""Whoever is stopped leaves nobody behind: an orphan is a zombie for ever under a process 1 that reaps only its own, as
dockerd in a container is.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.engine import STUB, running_engine
from tests.support.proxy import PATIENCE_S, PROGRAM

# Starts, uses and stops published ports as dockerd does, with live connections; then says who is left. It is the
# reaper of its orphans (PR_SET_CHILD_SUBREAPER is 36, include/uapi/linux/prctl.h), as process 1 is.
_PARENT = """
import ctypes, os, socket, sys
from tests.support.parent import arguments_for, exchange_tcp, free_port, started
from tests.support.sockets import echo, serving

assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0
with serving(echo) as backend:
    for _ in range(5):
        address = ("127.0.0.1", free_port("127.0.0.1", socket.SOCK_STREAM))
        with started(arguments_for(address, backend), program=sys.argv[1]) as child:
            assert child.first_answer() == b"0\\n"
            assert exchange_tcp(address) == b"over and back"
            with socket.create_connection(address) as live:
                live.sendall(b"x")
                assert live.recv(1) == b"x"
                assert child.stop() == 0
try:
    sys.exit(f"somebody is left: {os.waitpid(-1, os.WNOHANG)}")
except ChildProcessError:
    pass
"""


@pytest.mark.parametrize("what", ["pyproxy", "the stub, and an engine", "the stub alone"])
def test_a_stop_with_live_connections_leaves_no_orphan(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYPROXY_RUN_DIR", str(tmp_path / "run"))
    command = [sys.executable, "-c", _PARENT, PROGRAM if what == "pyproxy" else STUB]
    if what == "the stub, and an engine":
        with running_engine(tmp_path / "run"):
            subprocess.run(command, check=True, timeout=6 * PATIENCE_S)
    else:
        subprocess.run(command, check=True, timeout=6 * PATIENCE_S)
