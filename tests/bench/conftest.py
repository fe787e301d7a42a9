"""The namespaces of the benchmark, once for all tests of it: to set them up takes a second."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.world import BenchWorld, LoadError
from tests.lab.namespaces import WorldError


@pytest.fixture(scope="package")
def world() -> Iterator[BenchWorld]:
    try:
        world = BenchWorld()
    except (WorldError, LoadError) as exc:
        pytest.skip(str(exc))
    with world:
        yield world
