"""Who is measured in which round, in which turn, and which scenario needs a further round. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from bench.peers.known import QUICK
from bench.results import Run
from bench.scenarios import FIGURES, Scenario
from bench.stats import ratios

# Rounds in which all are measured, if it is said how many (`--rounds`) or peers are few; else others than pyproxy,
# docker-proxy and direct in fewer (`Scenario.rounds_of_others`), for all to end in the time there is. In further ones
# it is pyproxy and docker-proxy alone: the ratio between them is what is quoted most.
LEAST_ROUNDS = 5
_FEW_PEERS = 5
# A quick run is to end within two minutes.
_LEAST_ROUNDS_QUICK = 3
PAIR = ("pyproxy", "docker-proxy")

# By then the ratios are certain, or the machine does not let them be.
_MOST_ROUNDS = 20

# Further rounds go on until the interval of each primary ratio reaches this far at most, which is less than it takes to
# be told (`stats.CERTAIN`): it may look narrow by chance. That of the others a quarter further.
_AIM = 0.08
_PRIMARY_COUNTS = 1.25

# Of a scenario's turns direct has one in so many, and other peers, of whom there are many.
_ONE_IN_OF_DIRECT = 2
_ONE_IN = 4


def takes_part(run: Run, scenario: Scenario, peer: str, number: int) -> bool:
    """Whether a peer is measured in round `number`, from 0."""
    if peer in PAIR:
        return True
    in_all = peer in QUICK or run.rounds is not None or len(run.peers) <= _FEW_PEERS
    return number < (_least(run) if in_all else min(_least(run), scenario.rounds_of_others))


def rounds_of_all(run: Run, scenario: Scenario) -> int:
    """How many rounds a scenario has with all others, in turn."""
    if run.rounds is None:
        return min(_least(run), scenario.most_rounds)
    return min(run.rounds, max(LEAST_ROUNDS, scenario.most_rounds))


def least_certain(run: Run, scenarios: Sequence[Scenario], left_s: float) -> Scenario | None:
    """Which scenario is to have a further round, of those that take no longer than is left; None: none needs one.

    That looks at what it waits for, and so finds some certain a little too early; bench/NOTES.md says how often two
    runs agree.
    """
    if run.rounds is not None:
        return None
    found = [
        (_uncertainty(run, scenario), -rounds_so_far(run, scenario), scenario)
        for scenario in scenarios
        if rounds_so_far(run, scenario) < min(_MOST_ROUNDS, scenario.most_rounds)
        and run.took_s[scenario.name][-1] <= left_s
    ]
    uncertainty, _, scenario = max(found, key=lambda each: each[:2], default=(0.0, 0, None))
    return scenario if uncertainty > _AIM else None


def _uncertainty(run: Run, scenario: Scenario) -> float:
    """How far the least certain of pyproxy's ratios to docker-proxy reaches."""
    ours, base = PAIR
    reaches = [0.0]
    for figure in scenario.figures:
        summary = ratios(run.values(scenario.name, ours, figure), run.values(scenario.name, base, figure))
        if summary is not None and not FIGURES[figure].is_extreme:
            reaches.append(summary.reach / (1 if figure in scenario.primary else _PRIMARY_COUNTS))
    return max(reaches)


def rounds_so_far(run: Run, scenario: Scenario) -> int:
    return len(next(iter(run.cells[scenario.name].values()), ()))


def _least(run: Run) -> int:
    return _LEAST_ROUNDS_QUICK if run.quick else LEAST_ROUNDS


def one_in(peer: str) -> int:
    if peer in PAIR:
        return 1
    return _ONE_IN_OF_DIRECT if peer in QUICK else _ONE_IN


def turns_order(names: Sequence[str], turn: int) -> list[str]:
    """Each is first in turn; and every second turn goes backwards, so that who follows whom is not always the same: to
    the next one goes what one leaves behind.
    """
    first = turn // 2 % len(names)
    order = [*names[first:], *names[:first]]
    return order[::-1] if turn % 2 else order
