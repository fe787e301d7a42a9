"""Tables that fit, and text that is only text."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from pyproxy.cli.tables import (
    Moving,
    Rates,
    all_ports,
    in_bytes,
    moving,
    ports_table,
    rates,
    shorten,
    top_table,
    total_of,
)
from pyproxy.core.counters import Counters

LONG = "tcp/[2001:db8:85a3:1234:5678:8a2e:370:7334]:65535"
NOTHING = dict.fromkeys(Counters.__slots__, 0)


def row(name: str, up: float = 0.0, live: int = 0, **totals: int) -> Moving:
    return Moving(name, live, Rates(up, 0.0, 0.0), NOTHING | totals)


def described(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "container_ip": "172.19.0.2",
        "container_port": 80,
        "host_port": 80,
        "live": 0,
        "pid": None,
        "draining": False,
        "totals": NOTHING,
    } | fields


@pytest.mark.parametrize("name", ["tcp/[fd00::1]:80", "tcp/[::1]:80", "tcp/[bold]:80", "tcp/:smile:", "tcp/\\[x]"])
def test_a_name_is_text_and_no_markup(name: str) -> None:
    assert ports_table([described(name)], None)[1].startswith(f"{name}  ")
    assert top_table([row(name)], "name", None)[2].startswith(f"{name}  ")


def test_what_does_not_print_is_spelled_out_and_adds_no_line() -> None:
    name = "tcp/\x1b[2J\n\r\u202ex"
    for lines in (ports_table([described(name)], None), top_table([moving(None, described(name), 1.0)], "name", None)):
        assert all(line.isprintable() for line in lines)
        assert sum(r"tcp/\x1b[2J\n\r\u202ex" in line for line in lines) == 1


names = st.sampled_from(
    [LONG, "tcp/0.0.0.0:80", "udp/[::1]:53", "tcp/127.0.0.1:8080", "tcp/\u6f22\u5b57" + "\u6f22" * 30]
)


counts = st.integers(0, 10**15)


@given(st.lists(st.tuples(names, counts, counts), max_size=40), st.integers(60, 200), st.integers(6, 50))
def test_top_fits_every_terminal(found: list[tuple[str, int, int]], width: int, height: int) -> None:
    rows = [row(name, float(count), 10**6, bytes_up=count, connections=more % 10**9) for name, count, more in found]
    lines = top_table(rows, "traffic", width, height)
    assert len(lines) <= height
    assert max(map(cell_len, lines)) <= width
    assert lines[1].split()[:2] == ["port", "live"]
    assert "up/s" in lines[1]
    assert lines[-1].startswith("total ")


@given(st.lists(st.tuples(names, counts), max_size=40), st.integers(60, 200))
def test_ports_fits_every_terminal(found: list[tuple[str, int]], width: int) -> None:
    ports = [described(name, totals=NOTHING | {"bytes_up": count}) for name, count in found]
    lines = ports_table(ports, width)
    assert len(lines) == len(found) + 1
    assert max(map(cell_len, lines)) <= width


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        (200, "port live new/s up/s down/s clients up down failed reset dropped"),
        (80, "port live new/s up/s down/s failed reset dropped"),
        (66, "port live new/s up/s down/s failed reset"),
        (46, "port live up/s down/s"),
        (30, "port live up/s down/s"),
    ],
)
def test_the_columns_that_tell_least_go_first_and_the_name_last(width: int, titles: str) -> None:
    lines = top_table([row("tcp/0.0.0.0:80")], "name", width)
    assert lines[1].split() == titles.split()
    if width > 40:
        assert lines[2].split()[0] == "tcp/0.0.0.0:80"


@pytest.mark.parametrize(
    ("text", "width", "short"),
    [
        ("tcp/0.0.0.0:80", 14, "tcp/0.0.0.0:80"),
        ("tcp/0.0.0.0:80", 13, "tcp/0....0:80"),
        (LONG, 30, "tcp/[2001:db8:...0:7334]:65535"),
        ("\u6f22\u5b57\u6f22\u5b57\u6f22\u5b57", 8, "\u6f22...\u5b57"),
    ],
)
def test_a_name_is_shortened_in_its_middle(text: str, width: int, short: str) -> None:
    assert shorten(text, width) == short


def test_rows_that_do_not_fit_are_counted_and_are_in_the_total() -> None:
    rows = [row(f"tcp/0.0.0.0:{number}", up=number, live=1) for number in range(1, 31)]
    lines = top_table(rows, "traffic", 80, 14)
    assert len(lines) == 14
    assert [line.split()[0] for line in lines[2:5]] == ["tcp/0.0.0.0:30", "tcp/0.0.0.0:29", "tcp/0.0.0.0:28"]
    assert lines[-2] == "and 20 more"
    assert lines[-1].split()[:5] == ["total", "30", "0", "465", "B"]


@pytest.mark.parametrize(
    ("order", "first"), [("traffic", "c"), ("live", "b"), ("up", "c"), ("down", "a"), ("failed", "d"), ("name", "a")]
)
def test_rows_are_sorted_as_asked(order: str, first: str) -> None:
    rows = [row("d", connections_failed=2), row("c", up=9.0), row("b", live=3), row("a")]
    assert top_table(rows, order, None)[2].split()[0] == first


def test_the_total_is_of_rates_and_of_counts() -> None:
    both = total_of([row("a", 1.0, 2, flows=3), row("b", 10.0, 20, flows=30)])
    assert (both.live, both.rates, both.totals["flows"]) == (22, Rates(11.0), 33)
    assert total_of([]).rates == Rates()


def at(up: int, down: int, connections: int, flows: int) -> dict[str, Any]:
    moved = {"bytes_up": up, "bytes_down": down, "connections": connections, "flows": flows}
    return described("tcp/0.0.0.0:80", totals=NOTHING | moved)


def test_rates_are_differences_per_second() -> None:
    assert rates(at(100, 0, 1, 1), at(300, 50, 2, 4), 2.0) == Rates(100.0, 25.0, 2.0)


def test_a_count_that_began_anew_is_no_negative_rate() -> None:
    assert rates(at(100, 0, 9, 0), at(30, 0, 1, 0), 1.0) == Rates(30.0, 0.0, 1.0)


def test_what_drains_in_an_earlier_engine_is_listed_and_counted_once() -> None:
    """As after an upgrade: the new engine's count of the port has the old one's in it."""
    served = at(100, 0, 5, 0) | {"live": 1, "since": 7.0}
    left = at(40, 0, 2, 0) | {"live": 2, "since": 7.0, "draining": True, "engine": 4321}
    gone = at(1, 0, 1, 0) | {"live": 1, "since": 6.0, "draining": True, "engine": 4321}
    ports = all_ports({"ports": [served], "draining": [left, gone]})
    assert [line.split()[1] for line in ports_table(ports, None)[2:]] == ["(draining)"] * 2
    total = total_of([moving(None, port, 1.0) for port in ports])
    assert (total.live, total.totals["connections"], total.totals["bytes_up"]) == (4, 6, 101)


def test_nothing_moves_at_the_first_look() -> None:
    assert moving(None, at(1, 1, 1, 1), 1.0).rates == Rates()


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999.4, "999 B"), (999.6, "1 kB"), (93_700, "93.7 kB"), (999_600, "1 MB"), (5e15, "5e+03 TB")],
)
def test_bytes_are_in_powers_of_a_thousand(count: float, text: str) -> None:
    assert in_bytes(count) == text


def test_a_log_line_does_not_speak_to_the_terminal() -> None:
    program = r"from pyproxy.log import Log; Log('tcp x').info('a\x1b[2Jb\rc \u202e \udcff \u00e9')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, encoding="utf-8")
    assert done.stderr == "pyproxy: tcp x: a\\x1b[2Jb\\rc \\u202e \\udcff \u00e9\n"
