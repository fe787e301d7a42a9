"""Tables for a terminal: which columns fit, what a name is shortened to, how many rows are left out. Pure.

All text is plain: nothing in it is markup, and what does not print has been spelled out, as names come from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from rich.cells import cell_len

from pyproxy.endpoint import join_host_port
from pyproxy.errors import plain

# A name is not shortened further than this: the line is then longer than the terminal.
_LEAST_NAME = 12

_GAP = 2
_GROUP_GAP = 3
_CUT = "..."


class Column(NamedTuple):
    """`loss`: where not all columns fit, the one with the highest is left out first; one with 0 stays. After that the
    first column, the name, is shortened. `least`: a least width, so that columns do not move while their values change.
    """

    title: str
    loss: int = 0
    group: str = ""
    least: int = 0
    left: bool = False


class Rates(NamedTuple):
    """Between two looks; bytes and connections (or flows) per second."""

    up_per_s: float = 0.0
    down_per_s: float = 0.0
    new_per_s: float = 0.0


class Moving(NamedTuple):
    """A port, or all of them, in `pyproxy top`. The name is `plain`."""

    name: str
    live: int
    rates: Rates
    totals: dict[str, int]
    counted_elsewhere: bool = False  # its rates and totals are in another row's too

    @property
    def failed(self) -> int:
        return self.totals["connections_failed"] + self.totals["connections_timed_out"]


PORTS = (
    Column("port"),
    Column("container", 1, left=True),
    Column("live"),
    Column("so far", 4),
    Column("up", 2),
    Column("down", 3),
    Column("failed", 5),
    Column("process", 6),
)

_NOW, _SO_FAR = "now", "so far"
_BYTES = len("93.7 kB")
_COUNT = 5

TOP = (
    Column("port"),
    Column("live", 0, _NOW, _COUNT),
    Column("new/s", 1, _NOW, _COUNT),
    Column("up/s", 0, _NOW, _BYTES),
    Column("down/s", 0, _NOW, _BYTES),
    Column("clients", 5, _SO_FAR, _COUNT),
    Column("up", 6, _SO_FAR, _BYTES),
    Column("down", 7, _SO_FAR, _BYTES),
    Column("failed", 2, _SO_FAR),
    Column("reset", 3, _SO_FAR),
    Column("dropped", 4, _SO_FAR),
)

# By the names in `verbs.ORDERS`; the highest first, and by name where they are equal.
_RANKS: dict[str, Callable[[Moving], float]] = {
    "traffic": lambda row: row.rates.up_per_s + row.rates.down_per_s,
    "live": lambda row: row.live,
    "up": lambda row: row.rates.up_per_s,
    "down": lambda row: row.rates.down_per_s,
    "failed": lambda row: row.failed,
    "name": lambda row: 0,
}


def all_ports(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What the control API says of ports: those that are served, and those of which only connections are left, in this
    engine or in one before it. The counts of a served port have in them what earlier engines count of it still.
    """
    served = {(port["name"], port.get("since")) for port in found["ports"]}
    left = found.get("draining", [])
    return [
        *found["ports"],
        *(port | {"counted_elsewhere": (port["name"], port.get("since")) in served} for port in left),
    ]


def ports_table(ports: Sequence[dict[str, Any]], width: int | None) -> list[str]:
    """Lines of `pyproxy ports`, no longer than `width` where that can be. `ports`: the control API's descriptions."""
    rows = []
    for port in sorted(ports, key=lambda port: (port["host_port"], port["name"])):
        totals = port["totals"]
        rows.append(
            (
                _name(port),
                plain(join_host_port(port["container_ip"], port["container_port"])),
                str(port["live"]),
                str(totals["connections"] + totals["flows"]),
                in_bytes(totals["bytes_up"]),
                in_bytes(totals["bytes_down"]),
                str(totals["connections_failed"] + totals["connections_timed_out"] + totals["datagrams_dropped"]),
                str(port["pid"] or "-"),
            )
        )
    return lay_out(PORTS, rows, width)


def top_table(rows: Sequence[Moving], order: str, width: int | None, height: int | None = None) -> list[str]:
    """Lines of `pyproxy top`: sorted, cut to what fits `height` lines, and with a total of all rows."""
    key = _RANKS[order]
    rows = sorted(rows, key=lambda row: (-key(row), row.name))
    heads = 3  # groups, titles, total
    shown = rows
    if height is not None and len(rows) + heads > height:
        shown = rows[: max(0, height - heads - 1)]
    *lines, total = lay_out(TOP, [_top_cells(row) for row in (*shown, total_of(rows))], width)
    if len(shown) < len(rows):
        lines.append(f"and {len(rows) - len(shown)} more")
    return [*lines, total]


def total_of(rows: Sequence[Moving]) -> Moving:
    counted = [row for row in rows if not row.counted_elsewhere]
    names = sorted({name for row in counted for name in row.totals} | _USED)
    totals = {name: sum(row.totals.get(name, 0) for row in counted) for name in names}
    rates = Rates(*(sum(each) for each in zip(*(row.rates for row in counted), strict=True)))
    return Moving("total", sum(row.live for row in rows), rates, totals)


def moving(before: dict[str, Any] | None, after: dict[str, Any], seconds: float) -> Moving:
    """A port's row, from its descriptions at two looks, `seconds` apart; without an earlier one nothing moves."""
    found = rates(before, after, seconds) if before is not None and seconds > 0 else Rates()
    return Moving(_name(after), after["live"], found, after["totals"], after.get("counted_elsewhere", False))


def rates(before: dict[str, Any], after: dict[str, Any], seconds: float) -> Rates:
    """Between two descriptions of one port. Where a count has begun anew, it has risen from 0 at least."""

    def each(name: str) -> float:
        then, now = before["totals"][name], after["totals"][name]
        return float((now - then if now >= then else now) / seconds)

    return Rates(each("bytes_up"), each("bytes_down"), each("connections") + each("flows"))


def lay_out(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """A line of groups, if there are any, one of titles, and one for each row. `width` None: as long as they are."""
    widths = [
        max([column.least, cell_len(column.title), *(cell_len(row[at]) for row in rows)])
        for at, column in enumerate(columns)
    ]
    kept = list(range(len(columns)))
    if width is not None:
        for at in sorted(kept[1:], key=lambda at: -columns[at].loss):
            if _length(columns, widths, kept) > width and columns[at].loss:
                kept.remove(at)
        widths[0] = max(min(widths[0], _LEAST_NAME), widths[0] - max(0, _length(columns, widths, kept) - width))
    cells = [[column.title for column in columns], *rows]
    lines = []
    for row in cells:
        line = [_pad(shorten(row[0], widths[0]), widths[0], left=True)]
        for last, at in pairwise(kept):
            line += [" " * _gap(columns, last, at), _pad(row[at], widths[at], left=columns[at].left)]
        lines.append("".join(line).rstrip())
    return [*_groups(columns, widths, kept), *lines]


def shorten(text: str, width: int) -> str:
    """`text` with its middle left out, if it is longer than `width` cells: both ends of a name tell most."""
    if cell_len(text) <= width:
        return text
    end = max(0, width - len(_CUT)) // 2
    start = max(0, width - len(_CUT) - end)
    return _within(text, start) + _CUT + _within(text[::-1], end)[::-1]


def in_bytes(count: float) -> str:
    """In powers of 1000: 999 B, 1.5 kB, 12.3 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


_USED = frozenset(
    {"connections", "flows", "bytes_up", "bytes_down", "connections_failed", "connections_timed_out",
     "connections_reset", "datagrams_dropped"}
)  # fmt: skip


def _name(port: dict[str, Any]) -> str:
    return plain(port["name"]) + (" (draining)" if port["draining"] else "")


def _top_cells(row: Moving) -> tuple[str, ...]:
    totals = row.totals
    return (
        row.name,
        str(row.live),
        f"{row.rates.new_per_s:.0f}",
        in_bytes(row.rates.up_per_s),
        in_bytes(row.rates.down_per_s),
        str(totals["connections"] + totals["flows"]),
        in_bytes(totals["bytes_up"]),
        in_bytes(totals["bytes_down"]),
        str(row.failed),
        str(totals["connections_reset"]),
        str(totals["datagrams_dropped"]),
    )


def _groups(columns: Sequence[Column], widths: Sequence[int], kept: Sequence[int]) -> list[str]:
    """The line above the titles that says which of them belong together."""
    names = list(dict.fromkeys(columns[at].group for at in kept if columns[at].group))
    if not names:
        return []
    line = " " * widths[kept[0]]
    for name in names:
        members = [at for at in kept if columns[at].group == name]
        room = _length(columns, widths, members)
        line += " " * _GROUP_GAP + f" {name} ".center(room, "-")[:room]
    return [line]


def _length(columns: Sequence[Column], widths: Sequence[int], kept: Sequence[int]) -> int:
    gaps = sum(_gap(columns, last, at) for last, at in pairwise(kept))
    return sum(widths[at] for at in kept) + gaps


def _gap(columns: Sequence[Column], last: int, at: int) -> int:
    return _GAP if columns[last].group == columns[at].group else _GROUP_GAP


def _pad(text: str, width: int, *, left: bool) -> str:
    space = " " * (width - cell_len(text))
    return text + space if left else space + text


def _within(text: str, width: int) -> str:
    """As much of its beginning as takes `width` cells at most."""
    while cell_len(text) > width:
        text = text[:-1]
    return text
