"""One key of dockerd's daemon.json, set and taken out again, with every other byte of the file left as it is. Pure.

Parsing and writing it anew would lose its owner's layout, and could not be undone exactly.
"""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import NamedTuple

# dockerd's default (dockerd(8), --config-file), from the root directory.
PATH = PurePath("etc/docker/daemon.json")

KEY = "userland-proxy-path"

# false: dockerd starts no proxy at all.
SWITCH = "userland-proxy"

_SPACE = " \t\r\n"


class DaemonJsonError(Exception):
    """The text is not what daemon.json should be. Says where."""


class Member(NamedTuple):
    """One key of the outermost object: positions in the text."""

    key: str
    start: int  # of the key's quotation mark
    value: int
    end: int  # after the value


def value_of(text: str, key: str = KEY) -> str | None:
    """The key's value as JSON, None without it. An empty text is an empty object. DaemonJsonError."""
    for member in _members(text) if text.strip() else ():
        if member.key == key:
            return text[member.value : member.end]
    return None


def with_value(text: str, value: str) -> str:
    """`text` with the key's value, given as JSON, set. An empty text is an empty object. DaemonJsonError."""
    if not text.strip():
        return f'{{\n  "{KEY}": {value}\n}}\n'
    members = _members(text)
    for member in members:
        if member.key == KEY:
            return text[: member.value] + value + text[member.end :]
    if not members:
        brace = text.index("{")
        return f'{text[: brace + 1]}\n  "{KEY}": {value}\n{text[brace + 1 :]}'
    last = members[-1]
    # In the manner of the member before: on a line of its own, if that is.
    before = text.index(",", members[-2].end) if len(members) > 1 else text.index("{")
    gap = text[before + 1 : last.start]
    return f'{text[: last.end]},{gap}"{KEY}": {value}{text[last.end :]}'


def without(text: str) -> str:
    """`text` with the key taken out, as it was before `with_value` put it there. DaemonJsonError."""
    members = _members(text)
    for position, member in enumerate(members):
        if member.key != KEY:
            continue
        if position:
            return text[: members[position - 1].end] + text[member.end :]
        if len(members) > 1:
            return text[: member.start] + text[members[1].start :]
        # Alone, and perhaps put there by `with_value`.
        brace, rest = text.index("{"), text[member.end :]
        if text[brace + 1 : member.start] == "\n  " and rest.startswith("\n"):
            return text[: brace + 1] + rest[1:]
        return text[: brace + 1] + rest
    return text


def is_empty(text: str) -> bool:
    """Whether it is an object without any key. DaemonJsonError."""
    return not _members(text)


def _members(text: str) -> list[Member]:
    """The outermost object's members. What the JSON parser would refuse is refused, by that parser."""
    try:
        if not isinstance(json.loads(text), dict):
            raise DaemonJsonError("it is not a JSON object")
    except ValueError as exc:
        raise DaemonJsonError(f"it is not JSON: {exc}") from exc
    decoder = json.JSONDecoder()
    at = _skip(text, text.index("{") + 1)
    found = []
    while text[at] != "}":
        start = at
        key, at = decoder.raw_decode(text, at)
        value = _skip(text, _skip(text, at) + 1)  # past the colon
        _, end = decoder.raw_decode(text, value)
        found.append(Member(key, start, value, end))
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return found


def _skip(text: str, at: int) -> int:
    while text[at] in _SPACE:
        at += 1
    return at
