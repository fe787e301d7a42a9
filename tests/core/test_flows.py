"""UDP flows: found again, kept while somebody speaks, ended in time, evicted in order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pyproxy.core.flows import FlowTable


class Flow:
    def __init__(self, key: str) -> None:
        self.key = key
        self.last_s = 0.0


def table_of(*keys: str, idle_s: float = 90.0, max_flows: int = 100) -> FlowTable[str, Flow]:
    table: FlowTable[str, Flow] = FlowTable(max_flows, idle_s)
    for now, key in enumerate(keys):
        table.add(key, Flow(key), float(now))
    return table


def keys(flows: list[Flow]) -> list[str]:
    return [flow.key for flow in flows]


def test_a_flow_ends_when_it_has_been_silent_for_the_idle_time_and_not_before() -> None:
    table = table_of("a")
    assert table.next_expiry() == 90.0
    assert table.expire(89.9) == []
    assert keys(table.expire(90.0)) == ["a"]
    assert table.next_expiry() is None


def test_a_datagram_in_either_direction_keeps_a_flow() -> None:
    table = table_of("a", "b", "c")
    assert table.find("a", 80.0) is not None  # upstream
    table.touch("b", 85.0)  # downstream
    assert keys(table.expire(92.0)) == ["c"]
    assert keys(table.expire(170.0)) == ["a"]
    assert keys(table.expire(175.0)) == ["b"]


def test_the_least_recently_used_flow_goes_first() -> None:
    table = table_of("a", "b", "c", max_flows=3)
    assert table.is_full
    table.find("a", 10.0)
    evicted = table.evict()
    assert evicted is not None
    assert evicted.key == "b"
    assert not table.is_full


def test_an_empty_table_has_nothing_to_give() -> None:
    table = table_of()
    assert table.evict() is None
    assert table.find("a", 0.0) is None
    assert table.clear() == []


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 50)), max_size=60))
def test_expiry_never_takes_a_flow_that_spoke_within_the_idle_time(spoken: list[tuple[str, float]]) -> None:
    table: FlowTable[str, Flow] = FlowTable(3, 30.0)
    now = 0.0
    last: dict[str, float] = {}
    for key, wait_s in spoken:
        now += wait_s
        for flow in table.expire(now):
            assert now - last.pop(flow.key) >= 30.0
        if table.find(key, now) is None:
            if table.is_full and (evicted := table.evict()) is not None:
                assert last.pop(evicted.key) <= min(last.values())
            table.add(key, Flow(key), now)
        last[key] = now
        assert len(table) == len(last) <= 3
        assert table.next_expiry() == min(last.values()) + 30.0


class Against(RuleBasedStateMachine):
    """The table against the obvious: a dict of times, searched."""

    def __init__(self) -> None:
        super().__init__()
        self.table: FlowTable[int, Flow] = FlowTable(4, 10.0)
        self.model: dict[int, float] = {}
        self.now = 0.0

    @rule(key=st.integers(0, 6), wait_s=st.floats(0.001, 4))
    def speak(self, key: int, wait_s: float) -> None:
        self.now += wait_s
        found = self.table.find(key, self.now)
        assert (found is not None) == (key in self.model)
        if found is None and not self.table.is_full:
            self.table.add(key, Flow(str(key)), self.now)
        if found is not None or len(self.model) < 4:
            self.model[key] = self.now

    @precondition(lambda self: self.model)
    @rule()
    def evict(self) -> None:
        oldest = min(self.model, key=lambda key: self.model[key])
        flow = self.table.evict()
        assert flow is not None
        assert flow.key == str(oldest)
        del self.model[oldest]

    @rule(wait_s=st.floats(0, 12))
    def expire(self, wait_s: float) -> None:
        self.now += wait_s
        gone = {key for key, last in self.model.items() if last + 10.0 <= self.now}
        assert {int(flow.key) for flow in self.table.expire(self.now)} == gone
        self.model = {key: last for key, last in self.model.items() if key not in gone}

    @invariant()
    def same_size(self) -> None:
        assert len(self.table) == len(self.model)


TestAgainstTheObvious = Against.TestCase
