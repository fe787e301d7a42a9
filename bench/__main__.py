"""`python -m bench run`, `python -m bench report` and `python -m bench compare`."""

from __future__ import annotations

import argparse
import compileall
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from bench import results, usage
from bench.peers.docker_proxy import DockerProxyLike
from bench.peers.known import NOT_MEASURED, QUICK, known_peers
from bench.peers.peer import Peer
from bench.report.compare import print_comparison
from bench.report.markdown import benchmark_section, markdown, readme_section, update_section
from bench.report.rows import BASE, LIMIT
from bench.report.table import print_table
from bench.results import ResultsError, Run
from bench.run import measure_all
from bench.scenarios import SCENARIOS, Scenario
from tests.lab.namespaces import WorldError

TREE = Path(__file__).parents[1]
FOLDER = TREE / "build" / "bench"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="What a proxy costs, against its peers.")
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="measure, print a table, write JSON, Markdown and plots")
    run.add_argument("--quick", action="store_true", help="three peers and fewer scenarios, in under two minutes")
    run.add_argument(
        "--scenario", action="append", default=[], metavar="NAME", help="only this, or those whose name begins so"
    )
    run.add_argument(
        "--peer", action="append", default=[], metavar="NAME[=COMMAND]",
        help="only this peer, docker-proxy and direct; or one more, a COMMAND with docker-proxy's command line",
    )  # fmt: skip
    run.add_argument(
        "--rounds", type=int,
        help="rounds: from the 6th on pyproxy and docker-proxy alone (default: 5, of other peers fewer, and more where"
        " the ratios between those two are least certain, as long as there is time)",
    )  # fmt: skip
    run.add_argument("--seconds", type=float, default=0.03, help="seconds of a turn, of ten in a round (default 0.03)")
    run.add_argument("--output", type=Path, default=FOLDER, help="folder of the results (default build/bench)")
    run.add_argument("--list", action="store_true", help="list scenarios and peers, and measure nothing")
    run.set_defaults(call=do_run)
    show = commands.add_parser("report", help="print the table of a run and draw its plots again")
    show.add_argument("file", type=Path, nargs="?", help="the JSON of a run (default: the newest in build/bench)")
    show.add_argument("--readme", action="store_true", help="write README.md's figures and docs/benchmark.md's from it")
    show.set_defaults(call=do_report)
    compare = commands.add_parser("compare", help="whether two runs agree on the ratios to docker-proxy")
    compare.add_argument("first", type=Path, help="the JSON of a run")
    compare.add_argument("second", type=Path, help="that of another")
    compare.add_argument(
        "--peer", action="append", default=[], metavar="NAME", help="of this peer, or `all` (default: pyproxy)"
    )
    compare.set_defaults(call=do_compare)
    arguments = parser.parse_args()
    try:
        arguments.call(arguments)
    except (WorldError, ResultsError) as exc:
        sys.exit(f"bench: {exc}")


def do_run(arguments: argparse.Namespace) -> None:
    console = Console()
    peers, skipped = choose_peers(arguments.peer, quick=arguments.quick)
    scenarios = choose_scenarios(arguments.scenario, quick=arguments.quick)
    if arguments.list:
        for scenario in scenarios:
            console.print(f"{scenario.name:24} {scenario.title}")
        console.print(f"\npeers: {', '.join(peer.name for peer in peers)}", markup=False, emoji=False)
        for name, why in skipped.items():
            console.print(f"skipped: {name}: {why}", markup=False, emoji=False)
        return
    started = datetime.now(UTC)
    run = Run(
        started=started.isoformat(timespec="seconds"),
        command=shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        quick=arguments.quick,
        machine=results.machine(TREE),
        peers={peer.name: peer.version() for peer in peers},
        skipped=skipped,
    )
    path = arguments.output / f"{started:%Y%m%d-%H%M%S}.json"
    for name, why in skipped.items():
        console.print(f"skipped: {name}: {why}", markup=False, emoji=False)
    usage.adopt_orphans()
    # As pip does where it installs. With PYTHONDONTWRITEBYTECODE each start would else compile: 18 ms instead of 11.
    compileall.compile_dir(TREE / "pyproxy", quiet=1)
    measure_all(run, scenarios, peers, path)
    show(run, path, console)


def do_report(arguments: argparse.Namespace) -> None:
    path = arguments.file
    if path is None:
        found = sorted(FOLDER.glob("*.json"))
        if not found:
            raise ResultsError(f"no run in {FOLDER}: `python -m bench run` makes one")
        path = found[-1]
    run = results.read(path)
    show(run, path, Console())
    if arguments.readme:
        source = path.resolve().relative_to(TREE) if path.resolve().is_relative_to(TREE) else path
        update_section(TREE / "README.md", readme_section(run))
        update_section(TREE / "docs/benchmark.md", benchmark_section(run, str(source)))


def do_compare(arguments: argparse.Namespace) -> None:
    first, second = results.read(arguments.first), results.read(arguments.second)
    peers = set(first.peers) if "all" in arguments.peer else set(arguments.peer or ["pyproxy"])
    print_comparison(first, second, peers, Console())


def show(run: Run, path: Path, console: Console) -> None:
    from bench.report.plots import draw_all  # matplotlib takes a second to import: not before it is needed

    print_table(run, console)
    path.with_suffix(".md").write_text(markdown(run))
    drawn = draw_all(run, path.with_suffix(""))
    console.print(
        f"Written: {path}, {path.with_suffix('.md').name}, and {len(drawn)} plots in {path.with_suffix('')}",
        markup=False,
        emoji=False,
    )


def choose_peers(wanted: list[str], *, quick: bool) -> tuple[list[Peer], dict[str, str]]:
    """The peers to measure, and the others with the reason why not."""
    peers = known_peers()
    names = {name for name in wanted if "=" not in name}
    if unknown := names - {peer.name for peer in peers}:
        raise ResultsError(f"no peer {', '.join(sorted(unknown))}: known are {', '.join(p.name for p in peers)}")
    if names:
        peers = [peer for peer in peers if peer.name in names | {BASE, LIMIT}]
    elif quick:
        peers = [peer for peer in peers if peer.name in QUICK]
    for name, _, command in (each.partition("=") for each in wanted if "=" in each):
        peers.append(DockerProxyLike(name, shlex.split(command)))
    skipped = {peer.name: why for peer in peers if (why := peer.missing()) is not None}
    if not quick and not names:
        skipped |= NOT_MEASURED
    return [peer for peer in peers if peer.name not in skipped], skipped


def choose_scenarios(wanted: list[str], *, quick: bool) -> list[Scenario]:
    names = {scenario.name for scenario in SCENARIOS}
    exact, beginnings = set(wanted) & names, tuple(set(wanted) - names)
    found = [each for each in SCENARIOS if each.name in exact or each.name.startswith(beginnings)]
    if not wanted:
        found = [each for each in SCENARIOS if each.quick or not quick]
    elif not found:
        raise ResultsError(
            f"no scenario begins with {', '.join(wanted)}: known are {', '.join(s.name for s in SCENARIOS)}"
        )
    return [each.quick_version() for each in found] if quick else found


if __name__ == "__main__":
    main()
