"""How much a pipe holds, and for whom."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys

import pytest

from pyproxy.relay.pipes import CHUNK_BYTES, Pipes


@pytest.mark.parametrize(("unlimited", "later"), [(True, CHUNK_BYTES), (False, CHUNK_BYTES // 4)])
def test_the_pipes_of_one_user_stay_below_its_limit(unlimited: bool, later: int) -> None:
    before = os.listdir("/proc/self/fd")
    with contextlib.closing(Pipes(unlimited=unlimited)) as pipes:
        lent = [pipe for _ in range(40) if (pipe := pipes.borrow()) is not None]
        sizes = [fcntl.fcntl(pipe[1], fcntl.F_GETPIPE_SZ) for pipe in lent]
        assert sizes == [CHUNK_BYTES] * 32 + [later] * 8
        for pipe in lent:
            pipes.give_back(pipe, empty=True)
    assert os.listdir("/proc/self/fd") == before


def test_root_of_a_user_namespace_is_a_user_like_others() -> None:
    """The kernel asks for the capability in the machine's own namespace."""
    words = ["unshare", "--user", "--map-root-user"]
    ask = [sys.executable, "-c", "from pyproxy.relay.pipes import _is_unlimited; print(_is_unlimited())"]
    done = subprocess.run([*words, *ask], capture_output=True, text=True, check=False)
    if "unshare" in done.stderr:
        pytest.skip(done.stderr)  # a kernel, or a container, without user namespaces
    assert (done.stdout, done.stderr) == ("False\n", "")
