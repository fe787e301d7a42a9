"""pyproxy's stub, before an engine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence

import psutil

from bench.peers.docker_proxy import DockerProxyLike
from bench.peers.peer import Prerequisites, Running, process_on_host
from bench.world import BenchWorld, LoadError


class Stub(DockerProxyLike):
    """pyproxy's stub, before an engine."""

    def __init__(self, name: str, stub: str, engine: Sequence[str]) -> None:
        super().__init__(name, [stub], version_flag="-v")
        self._engine = list(engine)

    @contextlib.contextmanager
    def serving(self, world: BenchWorld, proto: str, host_port: int, container_port: int) -> Iterator[Running]:
        with (
            tempfile.TemporaryDirectory() as folder,
            process_on_host(world, self._engine_in(folder), stderr=subprocess.PIPE) as engine,
        ):
            _wait_for_engine(engine)
            self.environment = [f"{_RUN_DIR}={folder}"]
            with super().serving(world, proto, host_port, container_port) as running:
                yield Running(running.address, [*running.processes, psutil.Process(engine.pid)])

    @contextlib.contextmanager
    def prerequisites(self) -> Iterator[Prerequisites]:
        with tempfile.TemporaryDirectory() as folder:
            engine = subprocess.Popen(self._engine_in(folder), stderr=subprocess.PIPE, text=True)
            try:
                _wait_for_engine(engine)
                yield Prerequisites([psutil.Process(engine.pid)], os.environ | {_RUN_DIR: folder})
            finally:
                engine.kill()
                engine.communicate()

    def _engine_in(self, folder: str) -> list[str]:
        return [*self._engine, "--run-dir", folder]


# Where a stub looks for its engine's run directory.
_RUN_DIR = "PYPROXY_RUN_DIR"


def _wait_for_engine(engine: subprocess.Popen[str]) -> None:
    assert engine.stderr is not None
    if "requests come by" not in (said := engine.stderr.readline()):
        raise LoadError(f"the engine did not start: {said + engine.stderr.read()}")
