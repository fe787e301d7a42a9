"""A round: peers take turns, and those that die, hang or cheat fail alone."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import results, usage
from bench.peers.peer import Running
from bench.peers.unproxied import Direct, Dnat
from bench.report.markdown import markdown
from bench.run import measure_all, measure_round
from bench.scenarios import Scenario
from bench.trials.trial import Figures, Trial
from bench.world import BenchWorld, LoadError
from tests.support.bench import measure_once, new_run, scenario, stand_in


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("sys.exit()", "refused|reset"),
        ("c, _ = sock.accept(); c.recv(100); c.send(b'falsified' * 100); time.sleep(100)", "differ"),
        ("c, _ = sock.accept(); c.recv(100); c.close()", "differ|reset"),
        ("time.sleep(100)", "timed out"),
    ],
    ids=["dies", "falsifies", "cuts off", "hangs"],
)
def test_a_peer_that_fails_fails_its_cell(world: BenchWorld, tmp_path: Path, body: str, complaint: str) -> None:
    peer = stand_in(tmp_path, body)
    with pytest.raises(LoadError, match=complaint):
        measure_once(world, scenario("tcp-exchange-64-1"), peer, 0.01)


class Recorded:
    """A peer's trial that says when it was its turn."""

    def __init__(self, name: str, turns: list[str], fails_in: int = 0) -> None:
        self.name = name
        self.turns = turns
        self.fails_in = fails_in

    def turn(self, seconds: float) -> None:
        assert seconds == pytest.approx(0.01)
        self.turns.append(self.name)
        if self.turns.count(self.name) == self.fails_in:
            raise LoadError("has had enough")

    def figures(self) -> Figures:
        return {"per_s": self.turns.count(self.name)}


class Named(Direct):
    """Its address carries its name to the trial."""

    @contextlib.contextmanager
    def serving(self, world: BenchWorld, proto: str, host_port: int, container_port: int) -> Iterator[Running]:
        yield Running((self.name, container_port), [])


def recorded(turns: list[str], fails_in: dict[str, int]) -> Scenario:
    @contextlib.contextmanager
    def begin(world: BenchWorld, running: Running) -> Iterator[Trial]:
        name = running.address[0]
        yield Recorded(name, turns, fails_in.get(name, 0))
        turns.append(f"{name} ended")

    return scenario("tcp-connect")._replace(begin=begin, turns=4)


def test_peers_take_turns_and_each_is_the_first_in_turn(world: BenchWorld) -> None:
    turns: list[str] = []
    peers = [Named(name) for name in ("pyproxy", "docker-proxy", "direct", "socat")]
    found, errors = measure_round(world, recorded(turns, {}), peers, 0.01)
    ours, base, limit, other = "pyproxy", "docker-proxy", "direct", "socat"
    # Direct has one turn in two, other peers, of whom there are many, one in four.
    assert turns[:-4] == [ours, base, limit, other, base, ours, base, limit, ours, ours, base]
    assert sorted(turns[-4:]) == sorted(f"{peer.name} ended" for peer in peers)
    figures = {ours: {"per_s": 4}, base: {"per_s": 4}, limit: {"per_s": 2}, other: {"per_s": 1}}
    assert (found, errors) == (figures, {})


def test_a_peer_that_fails_in_its_turn_is_ended_at_once_and_the_others_go_on(world: BenchWorld) -> None:
    turns: list[str] = []
    peers = [Named(name) for name in ("pyproxy", "docker-proxy")]
    found, errors = measure_round(world, recorded(turns, {"pyproxy": 2}), peers, 0.01)
    ours, base = "pyproxy", "docker-proxy"
    assert turns == [ours, base, base, ours, f"{ours} ended", base, base, f"{base} ended"]
    assert found == {base: {"per_s": 4}}
    assert str(errors[ours]) == "has had enough"


def test_what_goes_wrong_when_a_peer_is_ended_is_its_fault(world: BenchWorld) -> None:
    @contextlib.contextmanager
    def begin(world: BenchWorld, running: Running) -> Iterator[Trial]:
        yield Recorded(running.address[0], [])
        if running.address[0] == "pyproxy":
            raise LoadError("does not end")

    ends_badly = scenario("tcp-connect")._replace(begin=begin, turns=1)
    found, errors = measure_round(world, ends_badly, [Named("pyproxy"), Named("docker-proxy")], 0.01)
    assert set(found) == {"docker-proxy"}
    assert str(errors["pyproxy"]) == "does not end"


def test_ctrl_c_ends_the_run_whatever_fails_on_its_account(world: BenchWorld) -> None:
    """As when a load program is asked to end while its answer to the last question is still awaited."""

    class Interrupted(Recorded):
        def turn(self, seconds: float) -> None:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def begin(world: BenchWorld, running: Running) -> Iterator[Trial]:
        try:
            yield Interrupted("direct", [])
        finally:
            raise LoadError("an answer is missing")

    with pytest.raises(KeyboardInterrupt):
        measure_round(world, scenario("tcp-connect")._replace(begin=begin), [Direct("direct")], 0.01)


def test_a_peer_that_fails_is_tried_again_in_the_next_round(
    tmp_path: Path, world: BenchWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cuts off the first client it ever has, and serves the others."""
    assert world
    monkeypatch.setattr(usage, "others_cpu", lambda: 0.0)
    echo = "while data := c.recv(100): c.sendall(data)\n"
    serve = f"while True:\n    c, _ = sock.accept()\n    {echo}"
    once = tmp_path / "once"
    body = f"open({str(once)!r}, 'x').close() if not os.path.exists({str(once)!r}) else exec({serve!r})\nsys.exit()"
    run = new_run()
    run.rounds = 2
    peers = [stand_in(tmp_path, body), Direct("direct")]
    measure_all(run, [scenario("tcp-exchange-64-1")], peers, tmp_path / "run.json")
    cells = run.cells["tcp-exchange-64-1"]
    assert [cell is None for cell in cells["stand-in"]] == [True, False]
    assert [cell is None for cell in cells["direct"]] == [False, False]
    assert set(run.errors["tcp-exchange-64-1"]) == {"stand-in"}


def test_a_disturbed_measurement_is_made_again(
    world: BenchWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others take a second at each look, in the first try; and for ever, in the second run."""
    assert world
    for looks, disturbed in ([0.0, 1.0, 1.0, 1.0], 0), ([0.0, 1.0, 1.0, 2.0, 2.0, 3.0], 1):
        at = iter(looks)
        monkeypatch.setattr(usage, "others_cpu", lambda at=at: next(at))
        run = new_run()
        run.rounds = 1
        measure_all(run, [scenario("tcp-exchange-64-1")], [Direct("direct")], tmp_path / "run.json")
        assert next(at, None) is None
        assert run.disturbed == disturbed
        assert run.cells["tcp-exchange-64-1"]["direct"][0] is not None


def test_ctrl_c_leaves_what_is_done_so_far(tmp_path: Path, world: BenchWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the user pressed it when the second peer begins its second round."""
    assert world
    monkeypatch.setattr(usage, "others_cpu", lambda: 0.0)
    run = new_run()
    wanted = scenario("tcp-exchange-64-1")
    calls = itertools.count(1)
    begin = wanted.begin
    assert begin is not None

    def begin_or_leave(world: BenchWorld, running: Running) -> contextlib.AbstractContextManager[Trial]:
        if next(calls) == 4:
            raise KeyboardInterrupt
        return begin(world, running)

    run.rounds = 5
    peers = [Direct("direct"), Dnat("dnat")]
    measure_all(run, [wanted._replace(begin=begin_or_leave)], peers, tmp_path / "run.json")
    kept = results.read(tmp_path / "run.json")
    assert kept.interrupted
    assert kept.values("tcp-exchange-64-1", "direct", "p50_us")[0]
    assert kept.values("tcp-exchange-64-1", "dnat", "p50_us")[0]
    assert kept.values("tcp-exchange-64-1", "dnat", "p50_us")[1:] == [None]
    assert "Interrupted" in markdown(kept)
