"""How peers are found and started."""

from __future__ import annotations

import os

import pytest

from bench.peers.docker_proxy import DockerProxy, DockerProxyLike, NextDockerProxy
from bench.peers.unproxied import Dnat
from bench.world import BenchWorld, LoadError
from tests.support.bench import known, measure_once, scenario


def test_a_newer_docker_proxy_is_named_by_its_version() -> None:
    peer = NextDockerProxy()
    if (why := peer.missing()) is not None:
        assert (peer.name, why) == ("docker-proxy-next", "no docker-proxy in build/docker-next (make bench-deps)")
        pytest.skip(why)
    assert f" version {peer.name.removeprefix('docker-proxy-')}." in peer.version()
    assert peer.version() != DockerProxy("docker-proxy", ["docker-proxy"], "-v").version()


def test_only_the_stub_is_told_where_the_engine_is(world: BenchWorld) -> None:
    for peer in (known("pyproxy"), known("pyproxy-engine"), Dnat("dnat")):
        assert measure_once(world, scenario("tcp-exchange-64-1"), peer, 0.01)["per_s"] > 0
    assert "PYPROXY_RUN_DIR" not in os.environ


def test_a_peer_that_does_not_start_is_named(world: BenchWorld) -> None:
    peer = DockerProxyLike("broken", ["/bin/false"])
    with pytest.raises(LoadError, match="broken did not start"):
        measure_once(world, scenario("tcp-exchange-64-1"), peer, 0.01)
