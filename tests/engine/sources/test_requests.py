"""What stubs write into the FIFO: cut into requests, whatever else is written there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.engine.sources.requests import PIPE_BUF, SERVE, SOLO, STOP, Reader, Request, drop_withdrawn, line_of


@pytest.mark.parametrize(
    ("line", "request_"),
    [
        (b"serve 12 /bin/stub -proto tcp", Request(SERVE, 12, b"/bin/stub -proto tcp")),
        (b"stop 4194304 /bin/stub", Request(STOP, 4194304, b"/bin/stub")),
        (b"solo 1 x", Request(SOLO, 1, b"x")),
        (b"", None),
        (b"serve", None),
        (b"serve 12", None),
        (b"serve 12 ", None),
        (b"serve -12 x", None),
        (b"serve 12345678 x", None),
        (b"serve \xc2\xb2 x", None),  # a digit to str, and not to bytes
        (b"SERVE 12 x", None),
        (b" serve 12 x", None),
        (b"serve  12 x", None),
        (b"serve 12 " + b"x" * PIPE_BUF, None),
    ],
)
def test_lines(line: bytes, request_: Request | None) -> None:
    reader = Reader()
    assert reader.feed(line + b"\n") == ([request_] if request_ is not None else [])
    assert reader.garbage == (request_ is None)


@given(st.lists(st.binary(max_size=9000), max_size=8), st.integers(1, 5000))
def test_a_request_arrives_after_any_garbage_in_any_pieces(garbage: list[bytes], size: int) -> None:
    stream = b"\n".join(garbage) + b"\nserve 7 /bin/stub\n"
    reader = Reader()
    found = [request for at in range(0, len(stream), size) for request in reader.feed(stream[at : at + size])]
    assert found[-1] == Request(SERVE, 7, b"/bin/stub")
    assert len(reader.take_rest()) < PIPE_BUF


def test_a_line_that_never_ends_takes_no_memory() -> None:
    reader = Reader()
    for _ in range(1000):
        assert reader.feed(b"x" * 65_536) == []
    assert reader.garbage == 1
    assert len(reader.take_rest()) < PIPE_BUF


def test_what_one_reader_leaves_another_goes_on_with() -> None:
    first, second = Reader(), Reader()
    [request] = first.feed(b"serve 7 /bin/stub\nstop 8 /bi")
    assert second.feed(line_of(request) + first.take_rest()) == [request]
    assert second.feed(b"n/stub\n") == [Request(STOP, 8, b"/bin/stub")]
    assert first.take_rest() == b""


def serve(pid: int) -> Request:
    return Request(SERVE, pid, b"stub")


def stop(pid: int) -> Request:
    return Request(STOP, pid, b"stub")


def solo(pid: int) -> Request:
    return Request(SOLO, pid, b"stub")


@pytest.mark.parametrize(
    ("waited", "left"),
    [
        ([], []),
        ([serve(1), serve(2)], [serve(1), serve(2)]),
        ([serve(1), solo(1)], [solo(1)]),
        ([serve(1), serve(2), stop(1)], [serve(2), stop(1)]),
        ([solo(1), serve(1)], [solo(1), serve(1)]),  # a number that was used again
        ([serve(1), solo(1), serve(1)], [solo(1), serve(1)]),
        ([stop(1), stop(1)], [stop(1), stop(1)]),
    ],
)
def test_what_was_withdrawn_meanwhile_is_not_done(waited: list[Request], left: list[Request]) -> None:
    assert drop_withdrawn(waited) == left
