"""Runs, scenarios and peers for tests of the benchmark."""

from __future__ import annotations

import sys
from pathlib import Path

from bench import results
from bench.peers.docker_proxy import DockerProxyLike
from bench.peers.known import known_peers
from bench.peers.peer import Peer
from bench.results import Run
from bench.run import measure_round
from bench.scenarios import SCENARIOS, Scenario
from bench.trials.trial import Figures
from bench.world import BenchWorld

TREE = Path(__file__).parents[2]


def scenario(name: str) -> Scenario:
    return next(each for each in SCENARIOS if each.name == name)


def new_run(**cells: dict[str, list[dict[str, float] | None]]) -> Run:
    run = Run("2026-01-01", "python -m bench run", 3, 0.1, False, results.machine(TREE))
    run.cells = {name.replace("_", "-"): by_peer for name, by_peer in cells.items()}
    run.peers = {peer: "" for by_peer in cells.values() for peer in by_peer}
    return run


def measure_once(world: BenchWorld, scenario: Scenario, peer: Peer, seconds: float) -> Figures:
    """A round of one peer; raises what it failed of."""
    found, errors = measure_round(world, scenario, [peer], seconds)
    for exc in errors.values():
        raise exc
    return found[peer.name]


def stand_in(tmp_path: Path, body: str) -> Peer:
    """A peer with docker-proxy's command line, which does what a Python program says once it has the port."""
    program = tmp_path / "proxy"
    program.write_text(
        f"#!{sys.executable}\n"
        "import os, socket, sys, time\n"
        "kind = socket.SOCK_DGRAM if 'udp' in sys.argv else socket.SOCK_STREAM\n"
        "sock = socket.socket(socket.AF_INET, kind)\n"
        "sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
        "sock.bind((sys.argv[4], int(sys.argv[6])))\n"
        "if kind == socket.SOCK_STREAM: sock.listen()\n"
        "os.write(3, b'0\\n'); os.close(3)\n" + body
    )
    program.chmod(0o755)
    peer = DockerProxyLike("stand-in", [str(program)])
    assert peer.missing() is None
    return peer


def known(name: str) -> Peer:
    peer = next(peer for peer in known_peers() if peer.name == name)
    assert peer.missing() is None
    return peer
