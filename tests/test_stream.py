"""One direction by itself, where the order of two kernel calls matters."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator

from pyproxy.ending import MORE, SOURCE_FAILED, WAIT
from pyproxy.pipes import Pipes
from pyproxy.stream import StreamRelay
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
        contextlib.closing(Pipes()) as pipes,
        ResetBeforeALook(fileno=accepted.detach()) as source,
    ):
        source.peer = peer
        for sock in (source, sink, far):
            sock.setblocking(False)
        relay = StreamRelay(source, sink, pipes)
        peer.sendall(b"x" * 150_000)
        received = 0
        outcome = WAIT
        while outcome == WAIT:
            outcome = relay.pump(True)
            received += taken(far)
        relay.release()
        assert outcome == SOURCE_FAILED
        assert received + taken(far) == 150_000


def test_bulk_makes_way_for_those_who_speak_in_turn() -> None:
    """A message that was read by itself makes the next turns of bulk short, as its answer may come meanwhile."""
    with (
        connection() as (peer, source),
        connection() as (sink, far),
        connection() as (client, speaker),
        connection() as (listener, container),
        contextlib.closing(Pipes()) as pipes,
    ):
        for sock in (peer, source, sink, far, speaker, listener):
            sock.setblocking(False)
        bulk, message = StreamRelay(source, sink, pipes), StreamRelay(speaker, listener, pipes)
        full = bytes(1 << 20)

        def turn() -> int:
            """Bytes that bulk moves in a turn, where there are more than it takes, and its sink takes all."""
            while True:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        peer.send(full)
                before = bulk.moved
                if bulk.pump(True) == MORE:
                    return bulk.moved - before
                taken(far)

        while not bulk.is_bulk:
            turn()
        taken(far)
        assert turn() >= 1 << 20
        assert pipes.contended == 0
        client.sendall(b"a question")
        assert message.pump(False) == WAIT
        assert container.recv(16) == b"a question"
        assert not message.is_bulk
        while pipes.short_turns:
            before = pipes.contended
            moved = turn()
            assert moved < 2 << 17 or pipes.contended == before
        assert pipes.contended > 0
        taken(far)
        assert turn() >= 1 << 20
        for relay in (bulk, message):
            relay.release()


def taken(sock: socket.socket) -> int:
    """Take what is there; how much it was."""
    size = 0
    with contextlib.suppress(BlockingIOError):
        while chunk := sock.recv(1 << 16):
            size += len(chunk)
    return size
