"""The harness itself: its arithmetic, its reading of iperf3, its patience with peers that die, hang or cheat."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement
from math import comb, sqrt
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bench import results, trials, usage
from bench.__main__ import choose_scenarios
from bench.compare import compare, print_comparison
from bench.iperf import IperfError, bits_per_second
from bench.peers import Direct, Dnat, DockerProxy, DockerProxyLike, NextDockerProxy, Peer, Running, known_peers
from bench.report import (
    SECTION_BEGIN,
    SECTION_END,
    benchmark_section,
    markdown,
    number,
    print_table,
    readme_section,
    rows,
    update_section,
)
from bench.results import ResultsError, Run
from bench.run import least_certain, measure_all, measure_round, rounds_of_all, takes_part, turns_order
from bench.scenarios import FIGURES, SCENARIOS, Scenario
from bench.stats import is_noisy, percentile, ratios, summarize
from bench.trials import Figures, Trial, counted, publish
from bench.world import (
    BULK_PORT,
    CLIENT,
    CLIENT_IPS,
    CONGESTION_CONTROL,
    CONTAINER,
    CONTAINER_IP,
    DATAGRAM_PORT,
    ECHO_PORT,
    BenchWorld,
    LoadError,
    StayingLoad,
)
from tests.lab.namespaces import HOST, WorldError, processes_in

DATA = Path(__file__).with_name("data")
TREE = Path(__file__).parents[1]


def scenario(name: str) -> Scenario:
    return next(each for each in SCENARIOS if each.name == name)


def new_run(**cells: dict[str, list[dict[str, float] | None]]) -> Run:
    run = Run("2026-01-01", "python -m bench run", 3, 0.1, False, results.machine(TREE))
    run.cells = {name.replace("_", "-"): by_peer for name, by_peer in cells.items()}
    run.peers = {peer: "" for by_peer in cells.values() for peer in by_peer}
    return run


# Arithmetic.


def test_a_summary_is_of_the_rounds_that_succeeded() -> None:
    assert summarize([3.0, None, 1.0, 2.0]) == (2.0, 1.0, 3.0, 3)
    assert summarize([None, None]) is None


# From tables of the sign test: how many of the sorted values are left out at each end, for 9 in 10 or a little less.
@pytest.mark.parametrize(("rounds", "left_out"), [(1, 0), (4, 0), (5, 0), (8, 1), (10, 2), (15, 3), (20, 5)])
def test_the_interval_of_a_median_by_hand(rounds: int, left_out: int) -> None:
    summary = summarize([float(value) for value in range(rounds)])
    assert summary is not None
    assert (summary.low, summary.high) == (left_out, rounds - 1 - left_out)


# From tables of Wilcoxon's signed-rank test: how many of the means of all pairs, sorted, are left out at each end.
@pytest.mark.parametrize(("rounds", "left_out"), [(1, 0), (4, 0), (5, 0), (6, 2), (8, 6), (10, 11)])
def test_the_interval_of_ratios_by_hand(rounds: int, left_out: int) -> None:
    given = [float(3**value) for value in range(rounds)]  # whose means all differ
    means = sorted(sqrt(one * other) for one, other in combinations_with_replacement(given, 2))
    summary = ratios(given, [1.0] * rounds)
    assert summary is not None
    assert (summary.low, summary.high) == (means[left_out], means[-1 - left_out])


@given(st.integers(5, 40))
def test_the_interval_holds_the_median_nine_times_in_ten(rounds: int) -> None:
    summary = summarize([float(value) for value in range(rounds)])
    assert summary is not None
    inside = sum(comb(rounds, below) for below in range(int(summary.low) + 1, int(summary.high) + 1)) / 2**rounds
    assert inside >= 0.89


@pytest.mark.parametrize(
    ("values", "certain"),
    [
        ([0.91, 0.98, 1.0, 1.05, 1.09], True),
        ([0.89, 0.98, 1.0, 1.05, 1.09], False),
        ([0.5, 0.98, 1.0, 1.0, 1.0, 1.0, 1.05, 2.0], True),  # of eight, lowest and highest are left out
        ([0.99, 1.0, 1.01], False),  # too few
        ([0.0, 0.0], True),
    ],
)
def test_a_ratio_is_certain_when_its_interval_is_narrow(values: list[float | None], certain: bool) -> None:
    summary = summarize(values)
    assert summary is not None
    assert summary.is_certain is certain


def test_ratios_are_of_the_same_round() -> None:
    # Both doubled in the second round: the machine was slow, the ratio is the same.
    found = ratios([10.0, 20.0, 12.0], [5.0, 10.0, 4.0])
    assert found is not None
    assert (found.low, found.high, found.rounds) == (2.0, 3.0, 3)
    assert ratios([1.0, None, 3.0], [None, 2.0, 2.0]) == (1.5, 1.5, 1.5, 1)
    assert ratios([1.0], [0.0]) is None


def test_the_median_of_ratios_is_of_the_means_of_all_pairs() -> None:
    # 1, 2, 2, 2.83, 4, 4, 5.66, 8, 8, 16: of four rounds the 5th and the 6th.
    found = ratios([1.0, 4.0, 4.0, 16.0], [1.0, 1.0, 1.0, 1.0])
    assert found is not None
    assert found.median == pytest.approx(4.0)
    # Of one wild round among eight next to nothing is left.
    found = ratios([1.0] * 7 + [100.0], [1.0] * 8)
    assert found is not None
    assert (found.median, found.low) == (1.0, 1.0)
    assert ratios([0.0, 0.0], [1.0, 2.0]) == (0.0, 0.0, 0.0, 2)


@pytest.mark.parametrize(
    ("values", "noisy"), [([100.0, 110.0, 125.0], False), ([100.0, 140.0, 105.0], True), ([], False)]
)
def test_a_run_is_noisy_when_direct_moved_by_more_than_30_percent(values: list[float | None], noisy: bool) -> None:
    assert is_noisy(values) == noisy


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_a_percentile_has_that_share_at_or_below_it(values: list[float], share: float) -> None:
    ordered = sorted(values)
    found = percentile(ordered, share)
    assert found in ordered
    assert sum(value <= found for value in ordered) >= share * len(ordered) - 1e-9


def test_percentiles_by_hand() -> None:
    assert [percentile([1, 2, 3, 4], share) for share in (0, 0.25, 0.5, 0.51, 0.99, 1)] == [1, 1, 2, 3, 4, 4]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"),
        (0.0123, "0.0123"),
        (0.298, "0.298"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (123.4, "123"),
        (65_958.2, "65,958"),
    ],
)
def test_numbers_have_three_digits(value: float, words: str) -> None:
    assert number(value) == words


# iperf3's output, recorded from version 3.12 and shortened to a few of its fields.


def test_what_arrived_is_read_from_iperf3() -> None:
    assert bits_per_second((DATA / "iperf3.json").read_text()) == pytest.approx(13531758936.636986)


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        ((DATA / "iperf3-refused.json").read_text(), "unable to connect to server"),
        ("iperf3: parameter error", "printed no JSON"),
        ('{"end": {"sum_received": {"bytes": 0, "bits_per_second": 0}}}', "nothing arrived"),
        ('{"end": {}}', "nothing arrived"),
    ],
)
def test_an_iperf3_that_failed_is_an_error(output: str, complaint: str) -> None:
    with pytest.raises(IperfError, match=complaint):
        bits_per_second(output)


# Results and report.


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = new_run(start={"pyproxy": [{"answer_p50_ms": 11.0}, None]})
    results.write(run, tmp_path / "run.json")
    assert results.read(tmp_path / "run.json") == run


@pytest.mark.parametrize("content", ["", "[]", '{"schema": 0}', '{"schema": 1, "started": "x"}'])
def test_a_file_that_is_no_run_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ResultsError, match=r"run\.json"):
        results.read(tmp_path / "run.json")


def test_the_report_compares_round_by_round_and_says_what_failed() -> None:
    run = new_run(
        tcp_connect={
            "pyproxy": [{"per_s": 200.0}, {"per_s": 150.0}, {"per_s": 210.0}],
            "docker-proxy": [{"per_s": 100.0}, {"per_s": 100.0}, {"per_s": 100.0}],
            "direct": [{"per_s": 400.0}, {"per_s": 400.0}, None],
        }
    )
    run.errors = {"tcp-connect": {"direct": "LoadError: hangs"}}
    [ours, base, limit] = rows(run)
    assert ours.to_base == pytest.approx((1.887, 1.5, 2.1, 3), rel=0.001)
    assert ours.to_limit == pytest.approx((0.433, 0.375, 0.5, 2), rel=0.001)
    assert base.to_base == (1.0, 1.0, 1.0, 3)
    assert limit.value.rounds == 2
    text = markdown(run)
    assert "| rate, more is better | pyproxy | 200 1/s | 1.50-2.10? | 0.38-0.50? |" in text
    assert "Failed: tcp-connect: direct: LoadError: hangs" in text


def test_of_extremes_no_ratio_is_told() -> None:
    cells = {"p50_us": 50.0, "p99_us": 100.0, "p999_us": 1000.0}
    run = new_run(udp_ping={"pyproxy": [cells] * 5, "docker-proxy": [cells] * 5})
    assert {row.name for row in rows(run) if row.to_base is not None} == {"p50_us", "p99_us"}
    assert "| p99.9, less is better | pyproxy | 1,000 us |  |  |" in markdown(run)
    assert {each.figure for each in compare(run, run, ["pyproxy"])} == {"p50_us", "p99_us"}


def test_the_report_says_who_could_not_hold_all_connections() -> None:
    held = {"pyproxy": 9_900.0, "docker-proxy": 3_317.0, "direct": 9_900.0}
    run = new_run(idle_10000={peer: [{"held": count}] for peer, count in held.items()})
    assert "Fewer: idle-10000: docker-proxy holds 3,317; a process may open" in markdown(run)
    assert "Fewer: idle-10000: pyproxy" not in markdown(run)


def test_the_report_says_which_versions_were_measured() -> None:
    run = new_run()
    assert "Versions" not in markdown(run)
    run.peers = {"docker-proxy": "Docker version 20.10.24", "direct": "", "docker-proxy-28": "version 28.5.2"}
    assert "- Versions: docker-proxy: Docker version 20.10.24; docker-proxy-28: version 28.5.2." in markdown(run)
    assert "\nVersions: docker-proxy: " in benchmark_section(run, "bench/results/run.json")


def test_a_newer_docker_proxy_is_named_by_its_version() -> None:
    peer = NextDockerProxy()
    if (why := peer.missing()) is not None:
        assert (peer.name, why) == ("docker-proxy-next", "no docker-proxy in build/docker-next (make bench-deps)")
        pytest.skip(why)
    assert f" version {peer.name.removeprefix('docker-proxy-')}." in peer.version()
    assert peer.version() != DockerProxy("docker-proxy", ["docker-proxy"], "-v").version()


def test_two_runs_are_compared_ratio_by_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    def run(rate: float, p50: float) -> Run:
        ours, base = {"per_s": rate, "p50_us": p50}, {"per_s": 100.0, "p50_us": 100.0}
        return new_run(tcp_connect={"pyproxy": [ours] * 5, "docker-proxy": [base] * 5, "direct": [base] * 5})

    first, second = run(100.0, 100.0), run(80.0, 120.0)
    [rate, p50] = compare(first, second, ["pyproxy"])
    assert (rate.figure, rate.first.median, rate.second.median, rate.agree, rate.is_primary) == (
        "per_s", 1.0, 0.8, False, True,
    )  # fmt: skip
    assert not p50.is_primary
    assert [each.agree for each in compare(first, run(87.0, 115.0), ["pyproxy", "docker-proxy"])] == [True, True]
    assert {each.peer for each in compare(first, second, ["direct", "pyproxy"])} == {"direct", "pyproxy"}
    print_comparison(first, second, ["pyproxy"], Console(width=200))
    assert "primary figures (bold): 0 of 1 that both tell agree within 15%" in capsys.readouterr().out


def test_a_peers_name_is_text_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    name = "[b]:smile:[/b]"
    run = new_run(tcp_connect={peer: [{"per_s": 1.0, "p50_us": 1.0}] * 5 for peer in (name, "docker-proxy")})
    print_table(run, Console(width=200))
    print_comparison(run, run, [name, "docker-proxy"], Console(width=200))
    said = capsys.readouterr().out
    assert said.count(name) >= 2


def test_what_both_runs_tell_is_counted_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    def run(rates: list[float], p99: float) -> Run:
        ours = [{"per_s": rate, "p99_us": p99} for rate in rates]
        return new_run(tcp_connect={"pyproxy": [*ours], "docker-proxy": [{"per_s": 1.0, "p99_us": 1.0}] * len(ours)})

    sure, unsure = run([1.0] * 5, 1.0), run([1.0, 1.2, 1.5, 1.8, 2.0], 1.1)
    assert [(each.are_told, each.agree) for each in compare(sure, unsure, ["pyproxy"])] == [(False, True), (True, True)]
    far = run([3.0, 4.0, 5.0, 6.0, 7.0], 1.2)
    assert [(each.are_told, each.agree) for each in compare(sure, far, ["pyproxy"])] == [(False, False), (True, False)]
    print_comparison(sure, unsure, ["pyproxy"], Console(width=200))
    said = capsys.readouterr().out
    assert "primary figures (bold): 1 of 1 that both tell agree within 15%; 1 of 1 others meet" in said
    assert "1.00-2.00?" in said


def test_a_page_is_changed_between_its_marks_only(tmp_path: Path) -> None:
    page = tmp_path / "benchmark.md"
    page.write_text(f"before\n{SECTION_BEGIN}\nof yesterday\n{SECTION_END}\nafter\n")
    run = new_run(start={"pyproxy": [{"answer_p50_ms": 8.0}], "docker-proxy": [{"answer_p50_ms": 2.0}]})
    update_section(page, benchmark_section(run, "bench/results/run.json"))
    text = page.read_text()
    assert text.startswith(f"before\n{SECTION_BEGIN}\nRatios")
    assert text.endswith(f"{SECTION_END}\nafter\n")
    assert "| Start of one proxy | spawn to answer, p50, less is better | 4.00 (once) |" in text
    assert "of yesterday" not in text


def test_the_readme_has_ten_rows_of_the_kept_run_and_the_benchmark_page_has_all() -> None:
    kept = max((TREE / "bench/results").glob("*.json"))
    run = results.read(kept)
    readme, page = ((TREE / name).read_text() for name in ("README.md", "docs/benchmark.md"))
    assert f"{SECTION_BEGIN}\n{readme_section(run)}{SECTION_END}" in readme
    assert f"{SECTION_BEGIN}\n{benchmark_section(run, str(kept.relative_to(TREE)))}{SECTION_END}" in page
    _title, _rule, *rows_of_readme = [line for line in readme_section(run).splitlines() if line.startswith("| ")]
    assert len(rows_of_readme) == 10


def test_every_figure_of_a_scenario_can_be_shown() -> None:
    assert {name for each in SCENARIOS for name in each.figures} <= set(FIGURES)
    assert all(set(each.primary) <= set(each.figures) for each in SCENARIOS)
    assert len({each.name for each in SCENARIOS}) == len(SCENARIOS)


# With real namespaces.


@pytest.fixture(scope="module")
def world() -> Iterator[BenchWorld]:
    try:
        world = BenchWorld()
    except (WorldError, LoadError) as exc:
        pytest.skip(str(exc))
    with world:
        yield world


def measure_once(world: BenchWorld, scenario: Scenario, peer: Peer, seconds: float) -> Figures:
    """A round of one peer; raises what it failed of."""
    found, errors = measure_round(world, scenario, [peer], seconds)
    for exc in errors.values():
        raise exc
    return found[peer.name]


def stand_in(tmp_path: Path, body: str) -> Peer:
    """A peer with docker-proxy's command line, which does what a Python program says once it has the port."""
    program = tmp_path / "proxy"
    program.write_text(
        f"#!{sys.executable}\n"
        "import os, socket, sys, time\n"
        "kind = socket.SOCK_DGRAM if 'udp' in sys.argv else socket.SOCK_STREAM\n"
        "sock = socket.socket(socket.AF_INET, kind)\n"
        "sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
        "sock.bind((sys.argv[4], int(sys.argv[6])))\n"
        "if kind == socket.SOCK_STREAM: sock.listen()\n"
        "os.write(3, b'0\\n'); os.close(3)\n" + body
    )
    program.chmod(0o755)
    peer = DockerProxyLike("stand-in", [str(program)])
    assert peer.missing() is None
    return peer


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


def test_datagrams_are_counted_where_they_arrive(world: BenchWorld, tmp_path: Path) -> None:
    """A proxy that answers by itself delivers none."""
    answer = "while True: sock.sendto(*sock.recvfrom(100))"
    with pytest.raises(LoadError, match="nothing arrived"):
        measure_once(world, scenario("udp-bulk-64-1"), stand_in(tmp_path, answer), 0.05)


def test_a_hundred_flows_are_as_many_clients(world: BenchWorld) -> None:
    with (
        world.start(
            sys.executable, "-c",
            "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('', 7999)); print('ready', flush=True)\n"
            "sources = [s.recvfrom(100)[1] for _ in range(200)]\n"
            "print(len(set(sources)), sources[:100] == sources[100:])",
            on=CONTAINER,
        ) as receiver,
        world.staying_load("datagrams", address=[CONTAINER_IP, 7999], size=64, sources=CLIENT_IPS) as load,
    ):  # fmt: skip
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "ready\n"
        load.ask("2000 0.12")
        assert receiver.stdout.readline() == "100 True\n"
        world.forget(receiver)


def test_congestion_control_is_the_kernels_default_whatever_the_machine_has(world: BenchWorld) -> None:
    peers = {peer.name: peer for peer in known_peers()}
    machines = (CLIENT, HOST, CONTAINER)
    for machine in machines:  # what a namespace inherits may be anything
        world.run("sh", "-c", "echo reno >/proc/sys/net/ipv4/tcp_congestion_control", on=machine)
    with (
        peers["pyproxy"].before(world, "tcp", 9999, BULK_PORT) as running,
        trials.bulk(1, "u")(world, running),
        peers["direct"].before(world, "tcp", 0, BULK_PORT) as direct,
        trials.bulk(1, "u")(world, direct),
    ):
        found = [world.run("ss", "-HtinO", "state", "established", on=machine) for machine in machines]
    streams = [line.split() for line in "".join(found).splitlines() if f":{BULK_PORT} " in line or ":9999 " in line]
    assert len(streams) == 6
    assert all(CONGESTION_CONTROL in words for words in streams)


def test_a_stream_that_ends_by_itself_is_a_failure(world: BenchWorld) -> None:
    load = world.staying_load("bulk", address=[CONTAINER_IP, BULK_PORT], streams=2, ways="u", key="z")
    with load as streams:
        world.bulk("end z")
        with pytest.raises(LoadError, match="2 of 2 streams have ended"):
            all(streams.ask("read") for _ in itertools.count())


def test_a_flood_of_which_nothing_arrives_in_a_turn_is_a_failure(world: BenchWorld, tmp_path: Path) -> None:
    """A proxy that has died: the client's kernel alone knows, and the load program goes on."""
    relay = (
        "sock.connect(sock.recvfrom(100, socket.MSG_PEEK)[1])\n"
        "out = socket.socket(type=socket.SOCK_DGRAM); out.connect((sys.argv[8], int(sys.argv[10])))\n"
        "out.send(sock.recv(100)); sock.send(out.recv(100)); sock.close()"
    )
    with pytest.raises(LoadError, match="nothing arrived"):
        measure_once(world, scenario("udp-bulk-64-1"), stand_in(tmp_path, relay), 0.01)


def test_descendants_are_found_and_an_ended_root_is_told() -> None:
    sleeper = "import time; print('up', flush=True); time.sleep(100)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {sleeper!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        root = psutil.Process(process.pid)
        [found_root, child] = usage.trees([root])
        assert (found_root, child.ppid()) == (root, process.pid)
        child.kill()
    with pytest.raises(psutil.NoSuchProcess):
        usage.trees([root])


def test_a_damaged_datagram_is_noticed(world: BenchWorld) -> None:
    """The counter compares whole batches; one that differs, in content or in size, must not hide among them."""
    for bad in (b"pyproxx!" * 8, b"pyproxy!" * 7):
        world.datagrams("count")
        world.run(
            sys.executable, "-c",
            "import socket; s = socket.socket(type=socket.SOCK_DGRAM)\n"
            f"for data in [b'pyproxy!' * 8] * 5 + [{bad!r}] + [b'pyproxy!' * 8] * 5: s.sendto(data, {DATAGRAMS})",
            on=CLIENT,
        )  # fmt: skip
        with pytest.raises(LoadError, match="damaged"):
            counted(world, 64, 11)


DATAGRAMS = (CONTAINER_IP, DATAGRAM_PORT)


@pytest.mark.parametrize(
    "name",
    [
        "tcp-bulk-both-8",
        "udp-down-1400",
        "udp-segmented-1200",
        "udp-burst",
        "udp-bulk-64-100",
        "tcp-exchange-beside",
        "tcp-exchange-paced",
        "tcp-connect",
    ],
)
def test_the_limit_itself_can_be_measured(world: BenchWorld, name: str) -> None:
    found = measure_once(world, scenario(name), Direct("direct"), 0.01)
    if name == "udp-burst":
        assert found == {"lost": 0}
    elif name == "tcp-exchange-paced":
        assert 0 < found["per_s"] <= 520  # its first figure is the CPU of a proxy
    else:
        assert found[scenario(name).figures[0]] > 0


def test_the_highest_percentile_rests_on_a_thousand_exchanges(
    world: BenchWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = scenario("tcp-exchange-64-1")
    assert measure_once(world, wanted, Direct("direct"), 0.03)["p999_us"] > 0
    monkeypatch.setattr(trials, "_TAIL_SAMPLES", 10**6)
    assert "p999_us" not in measure_once(world, wanted, Direct("direct"), 0.001)


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
    def before(self, world: BenchWorld, proto: str, host_port: int, container_port: int) -> Iterator[Running]:
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


def test_each_peer_follows_each_other_and_is_first_in_turn() -> None:
    orders = [turns_order(["A", "B", "C"], turn) for turn in range(6)]
    assert {order[0] for order in orders} == {"A", "B", "C"}
    pairs = [pair for order in orders for pair in itertools.pairwise(order)]
    assert {pairs.count(pair) for pair in itertools.permutations("ABC", 2)} == {2}


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


def test_client_and_container_have_processors_of_their_own_where_it_matters(world: BenchWorld) -> None:
    processors = sorted(os.sched_getaffinity(0))
    [server] = (pid for pid in world.processes(on=CONTAINER) if "echo" in command_line(pid))
    with world.apart(), world.staying_load("hold", address=[CONTAINER_IP, ECHO_PORT], most=1):
        programs = world.processes(on=CLIENT)
        [client] = (pid for pid in programs if psutil.Process(pid).ppid() in programs)
        assert os.sched_getaffinity(server) == {processors[-1]}
        assert os.sched_getaffinity(client) == {processors[0]}
    assert os.sched_getaffinity(server) == set(processors)


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


@pytest.mark.parametrize("way", ["u", "d"])
def test_streams_send_when_it_is_their_turn(world: BenchWorld, way: str) -> None:
    """Those of two peers, here of none, side by side."""
    with contextlib.ExitStack() as stack:

        def streams(key: str) -> StayingLoad:
            stack.callback(world.bulk, f"end {key}")
            load = world.staying_load("bulk", address=[CONTAINER_IP, BULK_PORT], streams=3, ways=way, key=key)
            return stack.enter_context(load)

        def amount(load: StayingLoad) -> float:
            found: float = (load.ask("read") if way == "d" else world.bulk())["amount"]
            return found

        one, other = streams("x"), streams("y")

        def arrives(load: StayingLoad) -> None:
            before = amount(load)
            deadline = time.monotonic() + 10
            while amount(load) - before < 10**7:
                assert time.monotonic() < deadline

        before = amount(other)
        for load, key in ((one, "x"), (other, "y")):
            world.bulk(f"go {key}")
            load.ask("go")
            arrives(load)
            world.bulk("pause")
            load.ask("pause")
            deadline = time.monotonic() + 10
            while (arrived := amount(load)) != amount(load):
                assert time.monotonic() < deadline
            if load is one and way == "d":
                assert amount(other) == before
        world.bulk("end x")  # is the end of those alone
        world.bulk("go y")
        other.ask("go")
        arrives(other)
        if way == "d":
            with pytest.raises(LoadError, match="3 of 3 streams have ended"):
                one.ask("read")
        assert arrived


def test_who_holds_no_more_is_found_by_filling(world: BenchWorld) -> None:
    found = measure_once(world, scenario("tcp-descriptors"), known("pyproxy"), 0.05)
    assert 280 < found["held"] < 300
    assert found["serves_again"]


def known(name: str) -> Peer:
    peer = next(peer for peer in known_peers() if peer.name == name)
    assert peer.missing() is None
    return peer


def test_cpu_is_that_of_the_process_and_of_its_ended_children() -> None:
    busy = "import time\nwhile time.process_time() < 0.123: pass\n"
    both = (
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {busy!r}])\n{busy}print('done', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", f"{both}sys.stdin.read()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        found = usage.cpu([psutil.Process(process.pid)])
    # Of the ended child the time is told in ticks of 10 ms, cut off.
    assert 0.246 - 0.02 < found.total < 0.5


def adaptive(rates: Sequence[float]) -> Run:
    run = new_run(
        tcp_exchange_64_100={
            "pyproxy": [{"per_s": rate} for rate in rates],
            "docker-proxy": [{"per_s": 100.0}] * len(rates),
        }
    )
    run.rounds = None
    return run


def further(run: Run, *names: str, left_s: float = 60.0) -> str | None:
    """Which of the scenarios is to have a further round. Each takes two seconds."""
    run.took_s = {name: [2.0] for name in names}
    found = least_certain(run, [scenario(name) for name in names], left_s)
    return found.name if found is not None else None


@pytest.mark.parametrize(
    ("rates", "more"),
    [
        ([100.0] * 5, False),
        ([100.0, 150.0, 120.0, 100.0, 140.0], True),
        ([100.0, 150.0, 190.0] * 6, True),
        ([100.0, 150.0] * 10, False),  # it has had its share
    ],
)
def test_rounds_go_on_until_the_ratio_is_certain(rates: list[float], more: bool) -> None:
    found = further(adaptive(rates), "tcp-exchange-64-100")
    assert found == ("tcp-exchange-64-100" if more else None)


def test_the_least_certain_has_the_next_round_if_it_can_end_in_time() -> None:
    def rounds(rates: list[float], figure: str = "per_s") -> dict[str, list[dict[str, float] | None]]:
        return {"pyproxy": [{figure: rate} for rate in rates], "docker-proxy": [{figure: 100.0}] * len(rates)}

    some, more, most = [95.0, 98.0, 100.0, 102.0, 109.0], [95.0, 98.0, 100.0, 102.0, 111.0], [50.0, 80.0, 100.0] * 2
    names = ("tcp-connect", "tcp-exchange-64-100", "idle-10000")
    run = new_run(tcp_connect=rounds(some), tcp_exchange_64_100=rounds(more), idle_10000=rounds(most, "pss_each"))
    run.rounds = None
    assert further(run, *names) == "tcp-exchange-64-100"  # of ten thousand connections one round is all there is
    assert further(run, *names, left_s=1.0) is None
    run.cells["tcp-connect"] = rounds(some, "p50_us")  # is not what users look at first: may be told, and no more
    run.cells["tcp-exchange-64-100"] = rounds(some, "p50_us")
    assert further(run, *names) is None
    run.cells["tcp-connect"] = rounds(most, "p50_us")
    assert further(run, *names) == "tcp-connect"
    run.cells["tcp-exchange-64-100"] = rounds([100.0, 100.1])  # of two rounds nobody knows
    assert further(run, *names) == "tcp-exchange-64-100"


def test_rounds_are_as_many_as_asked_for() -> None:
    run = adaptive([100.0, 150.0, 120.0])
    assert rounds_of_all(run, scenario("tcp-exchange-64-100")) == 5
    run.rounds = 4
    assert rounds_of_all(run, scenario("tcp-exchange-64-100")) == 4
    assert rounds_of_all(run, scenario("idle-10000")) == 4
    assert further(run, "tcp-exchange-64-100") is None
    run.rounds = 12
    assert rounds_of_all(run, scenario("tcp-exchange-64-100")) == 12
    assert rounds_of_all(run, scenario("idle-10000")) == 5
    run.rounds = None
    assert rounds_of_all(run, scenario("idle-10000")) == 1  # whose rounds are long, and its memory the same in all
    run.quick = True
    assert rounds_of_all(run, scenario("tcp-exchange-64-100")) == 3


def test_a_quick_run_is_brief_where_scenarios_are_named_too() -> None:
    (whole,) = choose_scenarios(["udp-bulk-64-100"], quick=False)
    (brief,) = choose_scenarios(["udp-bulk-64-100"], quick=True)
    assert whole == scenario("udp-bulk-64-100")
    assert brief.begin is whole.begin_quick is not whole.begin
    assert all(each.quick for each in choose_scenarios([], quick=True))
    assert choose_scenarios([], quick=False) == SCENARIOS


def test_what_is_quoted_most_is_measured_most() -> None:
    run = adaptive([])
    run.peers = {peer.name: "" for peer in known_peers()}

    def rounds(peer: str, name: str = "tcp-connect") -> list[bool]:
        return [takes_part(run, scenario(name), peer, number) for number in (0, 1, 2, 4, 5, 20)]

    assert rounds("docker-proxy") == [True] * 6
    assert rounds("direct") == [True, True, True, True, False, False]
    assert rounds("socat") == [True, True, False, False, False, False]
    assert rounds("socat", "tcp-bulk-both-8") == [True, False, False, False, False, False]
    run.rounds = 12
    assert rounds("socat", "tcp-bulk-both-8") == rounds("direct") == [True, True, True, True, False, False]
    run.rounds, run.quick = None, True
    assert rounds("direct") == [True, True, True, False, False, False]
    run.peers, run.quick = {"pyproxy": "", "docker-proxy": "", "direct": "", "socat": ""}, False
    assert rounds("socat", "tcp-bulk-both-8") == [True, True, True, True, False, False]


# The load server.


def test_what_fails_in_a_load_program_is_told(world: BenchWorld) -> None:
    with pytest.raises(LoadError, match=r"knock: ConnectionRefusedError: .*refused"):
        world.run_load("knock", proto="tcp", address=[CONTAINER_IP, 1])


def test_a_load_program_that_hangs_is_ended_and_the_next_one_runs(world: BenchWorld) -> None:
    world.datagrams("count")  # so that nothing ever comes back
    with pytest.raises(LoadError, match="knock: timed out after 0 s"):
        world.run_load("knock", within_s=0.1, proto="udp", address=DATAGRAMS)
    world.datagrams("echo")
    assert world.run_load("knock", proto="udp", address=DATAGRAMS) == {}


def test_load_programs_that_stay_wait_for_their_turn_side_by_side(world: BenchWorld) -> None:
    address = [CONTAINER_IP, ECHO_PORT]
    with (
        world.staying_load("exchange", address=address, size=64, connections=1) as one,
        world.staying_load("exchange", address=address, size=64, connections=2) as other,
    ):
        for load in (one, other, one):
            load.ask("0.02")
        assert one.ask("figures")["samples"] > 0
        found = other.ask("figures")
        # Of its turn, which is as long as what was under way at its end took, and not of the time between turns.
        assert 0.02 <= found["samples"] / found["per_s"] < 0.04


def test_a_load_program_that_failed_is_not_asked_again(world: BenchWorld) -> None:
    world.datagrams("echo")
    with world.staying_load("ping", address=DATAGRAMS, size=64, within_s=0.5) as load:
        world.datagrams("count")
        with pytest.raises(LoadError, match="ping: timed out"):
            load.ask("0.02")
        with pytest.raises(LoadError, match="ping: has failed before"):
            load.ask("figures")
    world.datagrams("echo")


def test_a_load_program_stays_until_it_is_let_go(world: BenchWorld) -> None:
    with world.staying_load("hold", address=[CONTAINER_IP, ECHO_PORT], most=7) as held:
        assert held.found == {"held": 7}
        assert connections(world) == 7
    assert connections(world) == 0


def connections(world: BenchWorld) -> int:
    return len(world.run("ss", "-tnH", "state", "established", f"dport = :{ECHO_PORT}", on=CLIENT).splitlines())


def test_a_peer_that_fails_is_tried_again_in_the_next_round(
    tmp_path: Path, world: BenchWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cuts off the first client it ever has, and serves the others."""
    assert world
    monkeypatch.setattr(usage, "strangers", lambda: 0.0)
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


def test_only_the_stub_is_told_where_the_engine_is(world: BenchWorld) -> None:
    for peer in (known("pyproxy"), known("pyproxy-engine"), Dnat("dnat")):
        assert measure_once(world, scenario("tcp-exchange-64-1"), peer, 0.01)["per_s"] > 0
    assert "PYPROXY_RUN_DIR" not in os.environ


def test_what_our_own_processes_use_is_no_disturbance() -> None:
    """Ours spends a fifth of a second; a stranger is what has another ancestor, and there may be any."""
    busy = "import time\nwhile time.process_time() < 0.2: pass\n"
    before = usage.cpu([psutil.Process()])
    strangers = usage.strangers()
    subprocess.run([sys.executable, "-c", busy], check=True)
    elapsed = usage.cpu([psutil.Process()]).since(before).at
    assert 0 <= usage.strangers() - strangers <= elapsed * (os.cpu_count() or 1) - 0.15


@pytest.mark.parametrize("adopt", [False, True], ids=["another's", "left by one of ours"])
def test_what_others_use_is_a_disturbance(adopt: bool) -> None:
    """A busy program whose parent has ended is init's, or ours to wait for. In a process of its own: there is no way
    back for one that adopts orphans than to end.
    """
    busy = "import time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)\ntime.sleep(100)"
    begin = "subprocess.Popen([sys.executable, '-c', sys.argv[1]]).pid"
    orphan = f"import subprocess, sys\nprint({begin}, flush=True)"
    program = f"""
import os, signal, subprocess, sys
from bench import usage
if {adopt}: usage.adopt_orphans()
before = usage.strangers()
parent = subprocess.Popen([sys.executable, "-c", {orphan!r}, {busy!r}], stdout=subprocess.PIPE, text=True)
pid = int(parent.stdout.readline())
assert parent.stdout.readline() == "done\\n"
parent.wait()
print(usage.is_stranger(pid), usage.strangers() - before)
os.kill(pid, signal.SIGKILL)
if {adopt}: os.waitpid(pid, 0)
"""
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    is_stranger, used_s = done.stdout.split()
    assert is_stranger == str(not adopt)
    assert adopt or float(used_s) >= 0.25


def test_ports_are_published_in_parts() -> None:
    """Two in each turn: after ten all are there, and end with the next. A look at them needs the rest of them."""
    peer = known("docker-proxy")
    if (why := peer.missing()) is not None:
        pytest.skip(why)
    with publish(20)(peer) as trial:
        for _ in range(13):
            trial.turn(0.0)
        pids = list(trial.pids)  # type: ignore[attr-defined]
        assert len(pids) == 6
        assert all(psutil.pid_exists(pid) for pid in pids)
        figures = trial.figures()
        assert figures["processes"] == 20
        assert 0 < figures["publish_s"] < 20
        assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_disturbed_measurement_is_made_again(
    world: BenchWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others take a second at each look, in the first try; and for ever, in the second run."""
    assert world
    for looks, disturbed in ([0.0, 1.0, 1.0, 1.0], 0), ([0.0, 1.0, 1.0, 2.0, 2.0, 3.0], 1):
        at = iter(looks)
        monkeypatch.setattr(usage, "strangers", lambda at=at: next(at))
        run = new_run()
        run.rounds = 1
        measure_all(run, [scenario("tcp-exchange-64-1")], [Direct("direct")], tmp_path / "run.json")
        assert next(at, None) is None
        assert run.disturbed == disturbed
        assert run.cells["tcp-exchange-64-1"]["direct"][0] is not None


def test_a_peer_that_does_not_start_is_named(world: BenchWorld) -> None:
    peer = DockerProxyLike("broken", ["/bin/false"])
    with pytest.raises(LoadError, match="broken did not start"):
        measure_once(world, scenario("tcp-exchange-64-1"), peer, 0.01)


def test_the_world_leaves_no_process_behind() -> None:
    try:
        world = BenchWorld()
    except (WorldError, LoadError) as exc:
        pytest.skip(str(exc))
    with world:
        networks = [world.run("readlink", "/proc/self/ns/net", on=machine).strip() for machine in (HOST, CONTAINER)]
        assert all(processes_in(network) for network in networks)
        watched = [os.pidfd_open(pid) for network in networks for pid in processes_in(network)]
    for pidfd in watched:
        assert select.select([pidfd], [], [], 10)[0]  # readable when the process is gone
        os.close(pidfd)
    assert [processes_in(network) for network in networks] == [[], []]


def test_ctrl_c_leaves_what_is_done_so_far(tmp_path: Path, world: BenchWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the user pressed it when the second peer begins its second round."""
    assert world
    monkeypatch.setattr(usage, "strangers", lambda: 0.0)
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


def test_a_quick_run_end_to_end(tmp_path: Path, world: BenchWorld) -> None:
    assert world
    flags = [
        "--quick",
        "--rounds",
        "1",
        "--seconds",
        "0.01",
        "--scenario",
        "tcp-exchange-64-1",
        "--scenario",
        "udp-ping",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "bench", "run", *flags, "--output", str(tmp_path), "--peer", "pyproxy"],
        capture_output=True, text=True, check=False, cwd=TREE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "TCP request and response, 64 B, 1 connection" in done.stdout
    [path] = tmp_path.glob("*.json")
    found = json.loads(path.read_text())
    assert not found["errors"]
    assert set(found["cells"]) == {"tcp-exchange-64-1", "udp-ping"}
    assert {"pyproxy", "direct"} <= set(found["cells"]["udp-ping"])
    assert found["cells"]["tcp-exchange-64-1"]["pyproxy"][0]["p50_us"] > 0
    assert path.with_suffix(".md").exists()
    assert {each.name for each in path.with_suffix("").iterdir()} >= {"latency.png", "latency.svg"}
