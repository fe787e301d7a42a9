"""Many published ports."""

from __future__ import annotations

import psutil
import pytest

from bench.trials.publish import publish
from tests.support.bench import known


def test_ports_are_published_in_parts() -> None:
    """Two in each turn: after ten all are there, and end with the next. A look at them needs the rest of them."""
    peer = known("docker-proxy")
    if (why := peer.missing()) is not None:
        pytest.skip(why)
    with publish(20)(peer) as trial:
        for _ in range(13):
            trial.turn(0.0)
        pids = list(trial.pids)  # type: ignore[attr-defined]
        assert len(pids) == 6
        assert all(psutil.pid_exists(pid) for pid in pids)
        figures = trial.figures()
        assert figures["processes"] == 20
        assert 0 < figures["publish_s"] < 20
        assert not any(psutil.pid_exists(pid) for pid in pids)
