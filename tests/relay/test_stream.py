"""One direction by itself, where the order of two kernel calls matters."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator

from pyproxy.core.ending import READ, SOURCE_FAILED, WRITE, YIELD
from pyproxy.relay.stream import Shared, StreamRelay
from tests.support.proxy import PATIENCE_S
from tests.support.sockets import accept, listening, reset


@contextlib.contextmanager
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    with listening() as listener, socket.create_connection(listener.getsockname()) as one, accept(listener) as other:
        yield one, other


class ResetBeforeALook(socket.socket):
    """A source whose peer resets just before somebody looks whether there is more to read."""

    peer: socket.socket

    def recv(self, size: int, flags: int = 0) -> bytes:
        if flags & socket.MSG_PEEK and self.peer.fileno() >= 0:
            reset(self.peer)
            poll = select.poll()
            poll.register(self, select.POLLERR)
            assert poll.poll(PATIENCE_S * 1000)
        return super().recv(size, flags)


def test_a_reset_between_splice_and_a_look_for_more_is_not_taken_for_the_end() -> None:
    """The kernel tells of a reset once: whoever hears of it must not ask again, and hear "end of stream"."""
    with (
        connection() as (peer, accepted),
        connection() as (sink, far),
        contextlib.closing(Shared()) as shared,
        ResetBeforeALook(fileno=accepted.detach()) as source,
    ):
        source.peer = peer
        for sock in (source, sink, far):
            sock.setblocking(False)
        relay = StreamRelay(source, sink, shared)
        peer.sendall(b"x" * 150_000)
        received = 0
        outcome = READ
        while outcome in (READ, WRITE):
            outcome = relay.pump(True)
            received += taken(far)
        relay.release()
        assert outcome == SOURCE_FAILED
        assert received + taken(far) == 150_000


class Bulk:
    """A stream of which always more waits than a turn takes, and whose sink takes all."""

    def __init__(self, stack: contextlib.ExitStack, shared: Shared) -> None:
        self._peer, source = stack.enter_context(connection())
        sink, self.far = stack.enter_context(connection())
        for sock in (self._peer, source, sink, self.far):
            sock.setblocking(False)
        self.source, self.sink = source, sink
        self.relay = StreamRelay(source, sink, shared)
        stack.callback(self.relay.release)
        for _ in range(1000):
            if self.relay.is_bulk:
                return
            self.turn()
        raise AssertionError("it does not become bulk")

    def turn(self) -> int:
        """How many bytes go in a turn."""
        for _ in range(1000):
            with contextlib.suppress(BlockingIOError):
                while True:
                    self._peer.send(bytes(1 << 20))
            before = self.relay.moved
            outcome = self.relay.pump(True)
            taken(self.far)
            if outcome == YIELD:
                return self.relay.moved - before
        raise AssertionError("never as much as a turn takes")


def test_bulk_makes_way_for_those_who_speak_in_turn() -> None:
    """A message that was read by itself makes the next turns of bulk short, as its answer may come meanwhile."""
    with (
        contextlib.closing(Shared()) as shared,
        contextlib.ExitStack() as stack,
        connection() as (client, speaker),
        connection() as (listener, container),
    ):
        bulk = Bulk(stack, shared)
        shared.fairness.short_turns_left = shared.fairness.turns_cut_short = (
            0  # its own beginning may have been short of a full read
        )
        assert bulk.turn() >= 1 << 20
        assert shared.fairness.turns_cut_short == 0
        message = StreamRelay(speaker, listener, shared)
        client.sendall(b"a question")
        assert message.pump(False) == READ
        assert container.recv(16) == b"a question"
        assert not message.is_bulk
        short = shared.fairness.short_turns_left
        assert short > 0
        for number in range(short):
            assert bulk.turn() < 2 << 17
            assert shared.fairness.turns_cut_short == number + 1
        assert bulk.turn() >= 1 << 20
        assert shared.fairness.turns_cut_short == short


def test_what_bulk_is_answered_cuts_no_bulk_short() -> None:
    with contextlib.closing(Shared()) as shared, contextlib.ExitStack() as stack:
        bulk, other = Bulk(stack, shared), Bulk(stack, shared)
        answers = StreamRelay(bulk.sink, bulk.source, shared)
        shared.fairness.short_turns_left = 0  # their own beginnings may have been short of a full read
        for speaks in (bulk, other, bulk):
            bulk.far.sendall(b"go on")
            assert answers.pump(False) == READ
            assert speaks.turn() >= 1 << 20
        bulk.relay.release()
        bulk.far.sendall(b"what else?")  # now it is a message like others
        assert answers.pump(False) == READ
        assert other.turn() < 2 << 17
        assert len(shared.fairness.bulk_sinks) == 1


def test_a_turn_cut_short_is_no_sign_of_little_to_do() -> None:
    """What is left over after it may be little; splicing goes on all the same."""
    with (
        contextlib.closing(Shared()) as shared,
        connection() as (peer, source),
        connection() as (sink, far),
    ):
        for sock in (source, sink, far):
            sock.setblocking(False)
        relay = StreamRelay(source, sink, shared)
        poll = select.poll()
        poll.register(source, select.POLLIN)
        sent = 0
        for _ in range(50):
            peer.sendall(bytes(150_000))
            sent += 150_000
            while relay.moved < sent:
                shared.fairness.short_turns_left = 1
                if relay.pump(False) in (READ, WRITE):
                    taken(far)
                    assert relay.moved == sent or poll.poll(1000 * PATIENCE_S)
        assert relay.is_bulk
        relay.release()


def taken(sock: socket.socket) -> int:
    """Take what is there; how much it was."""
    size = 0
    with contextlib.suppress(BlockingIOError):
        while chunk := sock.recv(1 << 16):
            size += len(chunk)
    return size
