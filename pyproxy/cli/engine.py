"""`pyproxy engine`, in the foreground, for systemd or by hand.

SIGTERM, SIGINT   stop: connections are reset, and each port's stub serves it by itself
SIGHUP            upgrade: start the engine that is installed now, and hand over to it
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys
from typing import NoReturn

from pyproxy import __version__
from pyproxy.cli.parser import Parser
from pyproxy.core.counters import counted
from pyproxy.engine.api import Control
from pyproxy.engine.engine import Engine, Options
from pyproxy.engine.handover.new import Takeover
from pyproxy.engine.handover.present import Handover
from pyproxy.engine.notify import tell_systemd
from pyproxy.engine.rundir import EngineRunsError, RunDir, RunDirError, default_path
from pyproxy.interpreter import successors
from pyproxy.log import Log
from pyproxy.relay.loop import new_loop, raise_descriptor_limit


def main(arguments: list[str]) -> int:
    """Run `pyproxy engine`; return the exit status, if it does not become the engine."""
    options = Parser("engine").read(arguments)
    if options.check:
        new_loop(options.loop).close()
        print(f"pyproxy engine {__version__}: its flags are right, and what it needs is installed.")
        return 0
    log = Log("engine")
    raise_descriptor_limit()  # before a take-over, which brings a descriptor or two for each port
    try:
        run_dir = RunDir(options.run_dir or default_path())
        takeover = _become_the_one(run_dir, replace=options.replace)
    except RunDirError as exc:
        log.error(str(exc))
        return 1
    _serve(options, run_dir, takeover, log)


def _become_the_one(run_dir: RunDir, *, replace: bool) -> Takeover | None:
    """Get the lock, or else what the present engine serves, if that is wanted. RunDirError."""
    try:
        run_dir.lock()
    except EngineRunsError:
        if not replace:
            raise
        takeover = Takeover(run_dir)
        takeover.begin()
        return takeover
    return None


def _serve(options: argparse.Namespace, run_dir: RunDir, takeover: Takeover | None, log: Log) -> NoReturn:
    loop = new_loop(options.loop)
    asyncio.set_event_loop(loop)
    engine = Engine(loop, run_dir, Options(options.drain, options.drain_unpublished, options.busy_poll / 1e6), log)
    loop.set_exception_handler(engine.report)
    if takeover is not None:
        takeover.serve_all(engine, log)
        try:
            takeover.finish(engine)
        except RunDirError as exc:
            log.error(str(exc))
            os._exit(1)
    # What has been imported stays: the garbage collector, which many connections keep busy, need not look at it.
    gc.collect()
    gc.freeze()
    # All the rest inside the loop: uvloop loses a signal that comes while it does not run.
    loop.run_until_complete(_run(engine, options, takeover, log))
    raise AssertionError("only a signal ends the loop")


async def _run(engine: Engine, options: argparse.Namespace, takeover: Takeover | None, log: Log) -> None:
    loop = engine.loop
    control = Control(engine, options.metrics)
    try:
        await control.start()
    except OSError as exc:
        log.error(f"no control API: {exc}: give another --metrics address, or see who has it: ss -lnpt")
        if takeover is None:
            os._exit(1)  # else there are ports to serve, and nobody to give them back to
    Handover(engine, log, free_addresses=control.stop, on_done=lambda: os._exit(0))
    upgrade = _Upgrade(engine, log)
    loop.add_signal_handler(signal.SIGHUP, upgrade.begin)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _stop, engine, log, signal.Signals(number).name)
    engine.open(takeover.unread if takeover is not None else b"")
    log.info(
        f"version {__version__} serves {counted(len(engine.ports), 'port')}"
        + (", taken over from another engine" if takeover is not None else "")
        + f"; requests come by {engine.run_dir.path}"
    )
    tell_systemd("READY=1", f"MAINPID={os.getpid()}")
    await loop.create_future()  # for ever


def _stop(engine: Engine, log: Log, name: str) -> None:
    log.info(
        f"stopped by {name}: {engine.ports.live} live, {engine.ports.counters().summary()};"
        f" {counted(len(engine.ports), 'port')} left to the next engine, or to processes of their own"
    )
    engine.withdraw()
    tell_systemd("STOPPING=1")
    os._exit(0)  # the kernel resets what is unfinished, and tells the stubs


class _Upgrade:
    """SIGHUP: another process of the same command line, which takes over. This one then ends, by `Handover`."""

    def __init__(self, engine: Engine, log: Log) -> None:
        self._engine = engine
        self._log = log
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        if self._task is None and not self._engine.handed_off:
            self._task = self._engine.loop.create_task(self._run())

    async def _run(self) -> None:
        command = [*next(successors()), *sys.argv[1:]]
        if "--replace" not in command:
            command.append("--replace")
        try:
            process = await asyncio.create_subprocess_exec(*command)
            status = await process.wait()
        except OSError as exc:
            self._log.error(f"no upgrade: {command[0]}: {exc}: this engine goes on")
        else:
            self._log.error(f"no upgrade: the new engine ended with status {status}: this one goes on")
        finally:
            self._task = None
