"""CPU of process trees, and of others."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from bench import usage


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


def test_what_our_own_processes_use_is_no_disturbance() -> None:
    """Ours spends a fifth of a second; another program is what has another ancestor, and there may be any."""
    busy = "import time\nwhile time.process_time() < 0.2: pass\n"
    before = usage.cpu([psutil.Process()])
    others = usage.others_cpu()
    subprocess.run([sys.executable, "-c", busy], check=True)
    elapsed = usage.cpu([psutil.Process()]).since(before).at
    assert 0 <= usage.others_cpu() - others <= elapsed * (os.cpu_count() or 1) - 0.15


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
before = usage.others_cpu()
parent = subprocess.Popen([sys.executable, "-c", {orphan!r}, {busy!r}], stdout=subprocess.PIPE, text=True)
pid = int(parent.stdout.readline())
assert parent.stdout.readline() == "done\\n"
parent.wait()
print(usage.is_other(pid), usage.others_cpu() - before)
os.kill(pid, signal.SIGKILL)
if {adopt}: os.waitpid(pid, 0)
"""
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    is_other, used_s = done.stdout.split()
    assert is_other == str(not adopt)
    assert adopt or float(used_s) >= 0.25
