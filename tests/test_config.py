"""Settings are values: equal if they say the same, and never changed."""

from __future__ import annotations

import pytest

from pyproxy.config import Limits, PublishedPort, Settings

PORT = PublishedPort("tcp", "0.0.0.0", 80, "172.19.0.2", 8080)
VALUES = [Limits(1.0), PORT, Settings(PORT, limits=Limits(1.0))]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_no_setting_changes_or_goes(value: object) -> None:
    for name in value.__slots__:  # type: ignore[attr-defined]
        before = getattr(value, name)
        with pytest.raises(AttributeError, match=name):
            setattr(value, name, before)
        with pytest.raises(AttributeError, match=name):
            delattr(value, name)
        assert getattr(value, name) == before
    with pytest.raises(AttributeError):
        value.other = 1  # type: ignore[attr-defined]


def test_values_that_say_the_same_are_equal() -> None:
    assert Settings(PORT, limits=Limits(1.0)) == VALUES[2]
    assert len({*VALUES, Limits(1.0), PublishedPort("tcp", "0.0.0.0", 80, "172.19.0.2", 8080)}) == len(VALUES)
    assert PORT.at("::1", 80) != PORT
    assert Limits(1.0) != Limits(2.0)
    assert Settings(PORT) != Settings(PORT, workers=1)


def test_a_port_elsewhere_keeps_all_else() -> None:
    assert str(PORT.at("::1", 81)) == "tcp [::1]:81 -> 172.19.0.2:8080"
    settings = Settings(
        PORT,
        use_listen_fd=True,
        limits=Limits(1.0, 2.0, 3.0),
        udp_max_flows=5,
        busy_poll_s=0.5,
        workers=2,
        loop="uvloop",
    )
    moved = settings.on(PORT.at("::1", 81))
    assert (str(PORT), moved.port.host_port) == ("tcp 0.0.0.0:80 -> 172.19.0.2:8080", 81)
    assert moved.on(PORT) == settings
