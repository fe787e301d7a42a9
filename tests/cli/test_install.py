"""`pyproxy install` and `uninstall`: what they write, that all else stays, and that it is undone exactly."""

from __future__ import annotations

import json
import os
import pty
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.cli import daemonjson, install, unit
from pyproxy.cli.client import ask
from tests.engine.test_publisher import LOCAL, free, run_dir
from tests.support.engine import STUB, is_stub, running_engine, stub
from tests.support.parent import exchange_tcp, passed_socket
from tests.support.proxy import PATIENCE_S, PROGRAM
from tests.support.sockets import address_of, echo, serving

__all__ = ["run_dir"]

TREE = Path(__file__).parents[1]
UNIT = Path("etc/systemd/system/pyproxy.service")
DAEMON = Path("etc/docker/daemon.json")


def pyproxy(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False, stdin=subprocess.DEVNULL
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc/docker").mkdir(parents=True)
    return tmp_path


def files_below(root: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(root)): (path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
        for path in root.rglob("*")
        if path.is_file()
    }


ODD_LAYOUTS = [
    None,
    "",
    "{}",
    "{ }\n",
    '{"debug":true}',
    '{\n    "debug": true\n}\n',
    '{\r\n\t"log-opts": {"max-size": "10m"},\r\n\t"hosts": ["fd://"]\r\n}',
    '\n{"a": "\\u007d }",\n "dns": [\n  "10.0.0.1"]  \n\n}\n\n',
]


@pytest.mark.parametrize("before", ODD_LAYOUTS)
def test_install_sets_the_key_keeps_the_rest_and_uninstall_undoes_it_exactly(root: Path, before: str | None) -> None:
    if before is not None:
        (root / DAEMON).write_bytes(before.encode())
        (root / DAEMON).chmod(0o640)
    untouched = files_below(root)
    done = pyproxy("install", "--yes", "--root", str(root))
    assert done.returncode == 0, done.stderr
    found = json.loads((root / DAEMON).read_text())
    assert found.pop("userland-proxy-path") == STUB
    assert found == json.loads(before or "{}")
    if before is not None:
        assert stat.S_IMODE((root / DAEMON).stat().st_mode) == 0o640
    assert f"ExecStart={PROGRAM} engine\n" in (root / UNIT).read_text()
    assert pyproxy("install", "--yes", "--root", str(root)).stdout == "Nothing to change.\n"
    done = pyproxy("uninstall", "--yes", "--root", str(root))
    assert done.returncode == 0, done.stderr
    assert files_below(root) == untouched
    assert pyproxy("uninstall", "--yes", "--root", str(root)).stdout == "Nothing to change.\n"


def test_a_proxy_path_that_was_there_comes_back(root: Path) -> None:
    before = '{"userland-proxy-path": "/opt/other" , "debug": false}\n'
    (root / DAEMON).write_text(before)
    assert pyproxy("install", "--yes", "--root", str(root)).returncode == 0
    assert json.loads((root / DAEMON).read_text()) == {"userland-proxy-path": STUB, "debug": False}
    assert pyproxy("uninstall", "--yes", "--root", str(root)).returncode == 0
    assert (root / DAEMON).read_text() == before


@pytest.mark.parametrize("since", ['{"userland-proxy-path": "/opt/other"}', "{}"])
@pytest.mark.parametrize("before", [None, '{"userland-proxy-path": "/opt/first"}'])
def test_a_proxy_path_that_was_set_since_is_not_taken_back(root: Path, before: str | None, since: str) -> None:
    if before is not None:
        (root / DAEMON).write_text(before)
    assert pyproxy("install", "--yes", "--root", str(root)).returncode == 0
    (root / DAEMON).write_text(since)
    done = pyproxy("uninstall", "--yes", "--root", str(root))
    assert done.returncode == 0
    assert (root / DAEMON).read_text() == since
    assert not (root / UNIT).exists()
    assert ('is "/opt/other" now, which is not ours: it stays.' in done.stdout) == ("other" in since)


def test_a_proxy_path_that_was_set_since_comes_back_after_another_installation(root: Path) -> None:
    assert pyproxy("install", "--yes", "--root", str(root)).returncode == 0
    (root / DAEMON).write_text(since := '{"userland-proxy-path": "/opt/other"}')
    assert pyproxy("install", "--yes", "--root", str(root)).returncode == 0
    assert json.loads((root / DAEMON).read_text()) == {"userland-proxy-path": STUB}
    assert pyproxy("uninstall", "--yes", "--root", str(root)).returncode == 0
    assert (root / DAEMON).read_text() == since


def exec_start(root: Path) -> str:
    return next(line for line in (root / UNIT).read_text().splitlines() if line.startswith("ExecStart="))


def test_the_engines_flags_are_kept_in_the_unit_by_later_installations(root: Path) -> None:
    def install(*arguments: str) -> None:
        done = pyproxy("install", "--yes", "--root", str(root), *arguments)
        assert done.returncode == 0, done.stderr

    install("-metrics", ":9100", "--drain=5m")
    assert exec_start(root) == f"ExecStart={PROGRAM} engine --drain=5m --metrics=:9100"
    install()
    assert exec_start(root) == f"ExecStart={PROGRAM} engine --drain=5m --metrics=:9100"
    install("--drain", "10", "--busy-poll", "0")
    assert exec_start(root) == f"ExecStart={PROGRAM} engine --drain=10 --metrics=:9100 --busy-poll=0"
    install("--defaults", "--loop=asyncio")
    assert exec_start(root) == f"ExecStart={PROGRAM} engine --loop=asyncio"


def test_flags_that_the_administrator_wrote_into_the_unit_are_kept_or_named(root: Path) -> None:
    assert pyproxy("install", "--yes", "--root", str(root)).returncode == 0
    text = (root / UNIT).read_text()
    (root / UNIT).write_text(text.replace(" engine\n", ' engine -drain 7 "--metrics" :9\n'))
    assert pyproxy("install", "--yes", "--root", str(root)).returncode == 0
    assert exec_start(root) == f"ExecStart={PROGRAM} engine --drain=7 --metrics=:9"
    (root / UNIT).write_text(text.replace(" engine\n", " engine --run-dir /x\n"))
    done = pyproxy("install", "--yes", "--root", str(root))
    assert done.returncode == 1
    assert "unknown argument --run-dir" in done.stderr
    assert "--defaults" in done.stderr
    assert pyproxy("install", "--defaults", "--yes", "--root", str(root)).returncode == 0


def test_without_the_userland_proxy_there_is_nothing_to_install(root: Path) -> None:
    (root / DAEMON).write_text('{"userland-proxy": false}')
    untouched = files_below(root)
    done = pyproxy("install", "--yes", "--root", str(root))
    assert done.returncode == 1
    assert '"userland-proxy": false, so dockerd would never start a proxy' in done.stderr
    assert done.stdout == ""
    assert files_below(root) == untouched
    (root / DAEMON).write_text('{"userland-proxy": true}')
    assert pyproxy("install", "--yes", "--root", str(root)).returncode == 0


def test_install_wants_what_the_engine_needs_before_it_shows_anything(root: Path, tmp_path: Path) -> None:
    program = bare_installation(tmp_path / "bare")
    done = subprocess.run(
        [program, "install", "--yes", "--root", str(root)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "the engine would not start: pyproxy engine needs aiohttp, which is not installed: " in done.stderr
    assert not (root / UNIT).exists()


def bare_installation(folder: Path, python: str = sys.executable) -> str:
    """pyproxy's own files in a virtual environment with nothing else in it; the program."""
    subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True)
    [packages] = folder.glob("lib/python*/site-packages")
    shutil.copytree(TREE / "pyproxy", packages / "pyproxy")
    for script in (TREE / "bin").iterdir():
        (folder / "bin" / script.name).write_text(script.read_text().replace("#!python", f"#!{folder}/bin/python"))
        (folder / "bin" / script.name).chmod(0o755)
    return str(folder / "bin" / "pyproxy")


def test_a_place_that_the_unit_does_not_see_is_refused(tmp_path: Path) -> None:
    """Of this machine only what is there is read: a dry run."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        program = bare_installation(Path(folder) / "bare")
        done = subprocess.run(
            [program, "install", "--dry-run"], capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"{program} is hidden from the engine's unit" in done.stderr
    assert "/opt/pyproxy" in done.stderr


@pytest.mark.parametrize(
    ("path", "hidden"),
    [
        ("/tmp/x/bin/python", True),
        ("/var/tmp/x", True),
        ("/opt/tmp/x", False),
        ("/tmpx/y", False),
        ("/home/u/x", False),
    ],
)
def test_what_private_tmp_hides(path: str, hidden: bool) -> None:
    assert unit.is_hidden(PurePath(path)) == hidden


@pytest.mark.parametrize(
    ("mode", "owner", "group", "is_open"),
    [
        (stat.S_IFDIR | 0o700, 0, 0, True),
        (stat.S_IFDIR | 0o700, 1000, 1000, False),
        (stat.S_IFDIR | 0o750, 1000, 0, True),
        (stat.S_IFDIR | 0o711, 1000, 1000, True),
        (stat.S_IFREG | 0o644, 1000, 1000, True),
        (stat.S_IFREG | 0o640, 1000, 1000, False),
        (stat.S_IFREG | 0o044, 0, 0, False),
    ],
)
def test_the_units_root_has_no_right_to_other_users_files(mode: int, owner: int, group: int, is_open: bool) -> None:
    assert unit.is_open_to_the_unit(mode, owner, group) == is_open


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes somebody else, which takes root")
def test_who_may_not_write_is_told_before_anything_is_shown(root: Path) -> None:
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        # Not with the interpreter of the tests: it may be in root's home.
        program = bare_installation(Path(folder) / "bare", "/usr/bin/python3")
        done = subprocess.run(
            [*nobody, program, "install", "--root", folder], capture_output=True, text=True, timeout=PATIENCE_S,
            check=False, cwd="/", stdin=subprocess.DEVNULL,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert "is not yours to change: run this as root, or with --dry-run" in done.stderr


def test_what_was_written_is_taken_back_when_the_rest_fails(root: Path) -> None:
    (root / DAEMON).symlink_to(root / "no/such/folder/daemon.json")
    done = pyproxy("install", "--yes", "--root", str(root))
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert done.stderr.endswith("; nothing is changed\n")
    assert files_below(root) == {}
    assert not (root / "etc/systemd").exists()


def test_a_command_that_fails_takes_everything_back_in_the_opposite_order(tmp_path: Path) -> None:
    """systemctl is what fails in earnest; that takes a machine that systemd runs."""
    path, log = tmp_path / "unit", tmp_path / "log"

    def noted(word: str) -> list[str]:
        return ["sh", "-c", f"echo {word} $(cat {path} 2>/dev/null) >>{log}"]

    steps = [
        install.command_step(undo=[noted("reload")]),
        install.file_step(install.Change(path, None, "text")),
        install.command_step(noted("enable"), ["false"], undo=[noted("disable")]),
    ]
    with pytest.raises(install.InstallError, match=r"^false failed with status 1; nothing is changed$"):
        install.carry_out(steps)
    assert log.read_text().splitlines() == ["enable text", "disable text", "reload"]
    assert not path.exists()


def test_what_cannot_be_taken_back_is_named(tmp_path: Path) -> None:
    steps = [install.command_step(["false"], undo=[["sh", "-c", "exit 3"]])]
    with pytest.raises(install.InstallError) as failed:
        install.carry_out(steps)
    assert str(failed.value) == (
        "false failed with status 1; and this could not be taken back: sh -c 'exit 3' failed with status 3"
    )


def test_what_somebody_else_writes_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"
    path.write_text("theirs")
    with pytest.raises(install.InstallError, match="has just been changed by somebody else: run this again"):
        install.carry_out([install.file_step(install.Change(path, "as it was read", "ours"))])
    assert path.read_text() == "theirs"


def test_what_others_have_changed_in_the_meantime_stays(root: Path) -> None:
    assert pyproxy("install", "--yes", "--root", str(root)).returncode == 0
    found = json.loads((root / DAEMON).read_text()) | {"debug": True}
    (root / DAEMON).write_text(json.dumps(found, indent=4))
    assert pyproxy("uninstall", "--yes", "--root", str(root)).returncode == 0
    assert json.loads((root / DAEMON).read_text()) == {"debug": True}


def test_a_dry_run_shows_the_change_and_makes_none(root: Path) -> None:
    (root / DAEMON).write_text('{\n  "debug": true\n}\n')
    untouched = files_below(root)
    done = pyproxy("install", "--dry-run", "--root", str(root))
    assert done.returncode == 0
    assert files_below(root) == untouched
    lines = done.stdout.splitlines()
    assert "+Restart=always" in lines
    assert '+  "debug": true,' in lines
    assert f'+  "userland-proxy-path": "{STUB}"' in lines


def test_without_somebody_to_ask_nothing_is_changed(root: Path) -> None:
    done = pyproxy("install", "--root", str(root))
    assert done.returncode == 1
    assert "--yes" in done.stderr
    assert files_below(root) == {}


@pytest.mark.parametrize(("answer", "made"), [("y", True), ("n", False), ("", False)])
def test_a_person_is_asked_after_the_change_was_shown(root: Path, answer: str, made: bool) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen([PROGRAM, "install", "--root", str(root)], stdin=theirs, stdout=subprocess.PIPE) as process:
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        said, _ = process.communicate(timeout=PATIENCE_S)
    os.close(ours)
    assert said.index(b"+Restart=always") < said.index(b"Make these changes?")
    assert (root / UNIT).exists() == made


@pytest.mark.parametrize("key", [b"\x04", b"\x03"], ids=["Ctrl-D", "Ctrl-C"])
def test_who_leaves_at_the_question_has_changed_nothing(root: Path, key: bytes) -> None:
    ours, theirs = pty.openpty()
    # Ctrl-C is a signal only on a terminal that is the session's.
    command = ["setsid", "--ctty", PROGRAM, "install", "--root", str(root)]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        said = ""
        while "Make these changes?" not in said:
            said += os.read(ours, 1 << 16).decode()
        os.write(ours, key)
        assert process.wait(PATIENCE_S) == 1
        said += os.read(ours, 1 << 16).decode()
        os.close(theirs)
    os.close(ours)
    assert said.splitlines()[-1] == "pyproxy install: nothing is changed"
    assert "Traceback" not in said
    assert files_below(root) == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1,}', "nonsense"])
def test_a_daemon_json_that_cannot_be_read_is_left_alone(root: Path, text: str) -> None:
    (root / DAEMON).write_text(text)
    done = pyproxy("install", "--yes", "--root", str(root))
    assert done.returncode == 1
    assert "fix it first" in done.stderr
    assert (root / DAEMON).read_text() == text
    assert not (root / UNIT).exists()


def test_somebody_elses_unit_is_left_alone(root: Path) -> None:
    (root / UNIT).parent.mkdir(parents=True)
    (root / UNIT).write_text("[Service]\nExecStart=/bin/true\n")
    for name in ("install", "uninstall"):
        done = pyproxy(name, "--yes", "--root", str(root))
        assert done.returncode == 1
        assert "is not pyproxy's" in done.stderr


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(st.text().filter(lambda key: key != daemonjson.KEY), json_values, max_size=4),
    st.sampled_from([None, 0, 1, 4, "\t"]),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,", " :\n")]),
    st.booleans(),
)
def test_the_key_comes_and_goes_without_a_trace(
    document: dict[str, Any], indent: int | str | None, separators: tuple[str, str], plain: bool
) -> None:
    text = json.dumps(document, indent=indent, separators=separators, ensure_ascii=plain)
    changed = daemonjson.with_value(text, '"/new"')
    assert json.loads(changed) == document | {daemonjson.KEY: "/new"}
    assert daemonjson.value_of(changed) == '"/new"'
    assert daemonjson.without(changed) == text
    assert daemonjson.without(text) == text


@given(st.integers(0, 3), st.sampled_from([None, 2]))
def test_the_key_is_replaced_where_it_stands(position: int, indent: int | None) -> None:
    items: list[tuple[str, object]] = [("a", 1), ("b", {daemonjson.KEY: 2}), ("c", [])]
    items.insert(position, (daemonjson.KEY, "/old"))
    text = json.dumps(dict(items), indent=indent)
    changed = daemonjson.with_value(text, '"/new"')
    assert changed == text.replace("/old", "/new")
    assert json.loads(daemonjson.without(text)) == {key: value for key, value in items if key != daemonjson.KEY}


def test_a_program_with_an_odd_path_is_quoted() -> None:
    text = unit.text_of('/opt/my "py" 100%/pyproxy', [], {})
    assert 'ExecStart="/opt/my \\"py\\" 100%%/pyproxy" engine\n' in text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed here")
def test_systemd_finds_no_fault_with_the_unit(root: Path) -> None:
    assert pyproxy("install", "--yes", "--root", str(root)).returncode == 0
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(root / UNIT)], capture_output=True, text=True, check=False
    )
    ours = [line for line in done.stderr.splitlines() if "pyproxy" in line]
    assert ours == []
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="root's rights are what is limited")
def test_the_units_capabilities_are_enough(run_dir: Path) -> None:
    """For a stub with all of root's rights, a low port, and a deep receive buffer."""
    kept = ",".join("+" + name.removeprefix("CAP_").lower() for name in unit.CAPABILITIES)
    limited = ("setpriv", "--no-new-privs", "--inh-caps=-all", f"--bounding-set=-all,{kept}")
    with running_engine(run_dir, prefix=limited) as engine, serving(echo) as backend:
        status = Path(f"/proc/{engine.pid}/status").read_text()
        assert "CapEff:\t" + f"{1 << 19 | 1 << 10 | 1 << 12:016x}" in status
        with stub("sh", address := free(), backend) as child:
            assert child.first_answer() == b"0\n"
            assert is_stub(child.pid)
            assert exchange_tcp(address) == b"over and back"
            assert child.stop() == 0
        wanted = {"proto": "udp", "host_ip": "127.0.0.1", "container_port": 9}
        low = next(port for port in range(200, 1024) if _is_free(port))
        assert ask(run_dir, "POST", "/ports", wanted | {"host_port": low})["host_port"] == low
        # Twice what was asked for: the kernel counts its own overhead in (socket(7)).
        memory = subprocess.run(["ss", "-lunmH", f"sport = :{low}"], capture_output=True, text=True, check=True).stdout
        assert f"rb{2 * (4 << 20)}" in memory


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None or shutil.which("strace") is None,
    reason="systemd-analyze and strace are not installed here",
)
def test_the_units_system_calls_are_enough(run_dir: Path) -> None:
    """Not under systemd's filter itself, which only systemd installs: what was called is held against its list."""
    with tempfile.NamedTemporaryFile("r") as trace:
        traced = ("strace", "--follow-forks", "--output", trace.name)
        with running_engine(run_dir, prefix=traced) as engine, serving(echo) as backend:
            for proto in ("tcp", "udp"):
                ask(run_dir, "POST", "/ports", {"proto": proto, "host_port": 0, "container_port": 9})
            with (
                passed_socket(LOCAL, socket.SOCK_STREAM) as sock,
                stub("sh", address := address_of(sock), backend, sock) as child,
            ):
                assert child.first_answer() == b"0\n"
                assert exchange_tcp(address, b"x" * (1 << 22)) == b"x" * (1 << 22)
                with running_engine(run_dir, "--replace"):
                    engine.rest()
                    assert child.stop() == 0
        called = {line.split()[1].partition("(")[0] for line in trace if "(" in line and "= " in line}
    allowed = set(_system_calls(unit.SYSTEM_CALLS))
    assert {"pidfd_getfd", "splice", "sendmsg", "epoll_wait"} <= called | {"epoll_wait"}
    assert {name for name in called if name.isidentifier()} - allowed == set()


def _system_calls(names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        if not name.startswith("@"):
            yield name
            continue
        done = subprocess.run(["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True)
        lines = [line.strip() for line in done.stdout.splitlines()[1:]]
        yield from _system_calls(tuple(line for line in lines if line and not line.startswith("#")))


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def test_what_systemd_is_told(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of systemd: a datagram socket where NOTIFY_SOCKET says, which is all that it is to a service."""
    run_dir.mkdir(mode=0o700)
    path = str(run_dir / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        systemd.settimeout(PATIENCE_S)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        with running_engine(run_dir) as engine:
            assert systemd.recv(1000).decode().splitlines() == ["READY=1", f"MAINPID={engine.pid}"]
            with running_engine(run_dir, "--replace") as new:
                assert systemd.recv(1000).decode().splitlines() == ["READY=1", f"MAINPID={new.pid}"]
                engine.rest()
            assert systemd.recv(1000) == b"STOPPING=1"


def test_uninstall_needs_no_more_than_pyproxy_itself(root: Path) -> None:
    assert pyproxy("install", "--yes", "--root", str(root)).returncode == 0
    program = (
        "import sys\nfor name in ('aiohttp', 'prometheus_client', 'rich'): sys.modules[name] = None\n"
        "from pyproxy.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "uninstall", "--yes", "--root", str(root)],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert files_below(root) == {}


def test_an_engine_that_cannot_start_is_not_started_for_ever() -> None:
    """What is typed wrong, what is missing and what systemd cannot execute; a crash is none of these."""
    [line] = [line for line in unit.text_of(PROGRAM, [], {}).splitlines() if line.startswith("RestartPrevent")]
    assert line.split("=")[1].split() == ["2", "78", "203"]
    assert "Restart=always\n" in unit.text_of(PROGRAM, [], {})
    assert pyproxy("engine", "--no-such-flag").returncode == 2


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed here")
def test_the_stub_is_a_clean_posix_script() -> None:
    done = subprocess.run(["shellcheck", "--shell=sh", STUB], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
