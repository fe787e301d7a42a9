"""One key of dockerd's daemon.json comes and goes, and every other byte stays."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pyproxy.cli import daemonjson

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(st.text().filter(lambda key: key != daemonjson.KEY), json_values, max_size=4),
    st.sampled_from([None, 0, 1, 4, "\t"]),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,", " :\n")]),
    st.booleans(),
)
def test_the_key_comes_and_goes_without_a_trace(
    document: dict[str, Any], indent: int | str | None, separators: tuple[str, str], plain: bool
) -> None:
    text = json.dumps(document, indent=indent, separators=separators, ensure_ascii=plain)
    changed = daemonjson.with_value(text, '"/new"')
    assert json.loads(changed) == document | {daemonjson.KEY: "/new"}
    assert daemonjson.value_of(changed) == '"/new"'
    assert daemonjson.without(changed) == text
    assert daemonjson.without(text) == text


@given(st.integers(0, 3), st.sampled_from([None, 2]))
def test_the_key_is_replaced_where_it_stands(position: int, indent: int | None) -> None:
    items: list[tuple[str, object]] = [("a", 1), ("b", {daemonjson.KEY: 2}), ("c", [])]
    items.insert(position, (daemonjson.KEY, "/old"))
    text = json.dumps(dict(items), indent=indent)
    changed = daemonjson.with_value(text, '"/new"')
    assert changed == text.replace("/old", "/new")
    assert json.loads(daemonjson.without(text)) == {key: value for key, value in items if key != daemonjson.KEY}
