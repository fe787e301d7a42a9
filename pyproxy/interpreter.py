"""The Python that runs us: isolated from the environment, and replaced while a port waits for its first client.

dockerd's environment reaches its proxies, with whatever is set there for other programs in Python: PYTHONHOME,
PYTHONPATH, a user site, `.pth` files. `bin/pyproxy` therefore starts Python with -I and -S. These also leave out the
packages that are installed beside us, which we need: they are found here.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing would cost a start-up 8 ms
    from collections.abc import Iterator

# As in bin/pyproxy, which argues them.
_ISOLATED = ("-I", "-S", "-X", "utf8")

# The folder that holds the package: all that Python must be told in spite of `-I -S`.
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_START = "import sys; del sys.argv[0]; sys.path.append(sys.argv.pop(0)); from pyproxy.__main__ import main; main()"


def isolate() -> None:
    """Start this program again, isolated from the environment, if it is not, as with `python -m pyproxy`."""
    if not (sys.flags.isolated and sys.flags.no_site):
        os.execv(sys.executable, [sys.executable, *_ISOLATED, "-c", _START, _ROOT, *sys.argv])


def find_packages() -> None:
    """Add to `sys.path` the folders that `site` would, but run no .pth file. They come after the standard library: a
    backport that somebody has installed must not take the place of one of its modules.
    """
    if not sys.flags.no_site:
        return
    import site  # which does nothing by itself

    prefixes = [os.path.dirname(os.path.dirname(os.path.dirname(_ROOT)))] if _ROOT.endswith("-packages") else []
    environment = os.path.dirname(os.path.dirname(sys.executable))
    settings = _settings(environment)
    if settings is not None:
        sys.prefix = sys.exec_prefix = environment  # as `site` sets them, and Debian's looks for them
        prefixes.append(environment)
    if settings is None or settings.get("include-system-site-packages") == "true":
        prefixes += [sys.base_prefix, sys.base_exec_prefix]
    for path in site.getsitepackages(prefixes):
        if path not in sys.path and os.path.isdir(path):
            sys.path.append(path)


def _settings(environment: str) -> dict[str, str] | None:
    """The pyvenv.cfg of a virtual environment, with lower-case keys and values; None if it is none."""
    try:
        with open(f"{environment}/pyvenv.cfg", encoding="utf-8") as file:
            pairs = [line.lower().split("=", 1) for line in file if "=" in line]
    except OSError:
        return None
    return {key.strip(): value.strip() for key, value in pairs}


Fingerprint = tuple["tuple[int, int] | None", ...]


def fingerprint() -> Fingerprint:
    """Which pyproxy, interpreter and standard library are installed; an upgrade replaces their files."""
    return tuple(_seen(path) for path in (__file__, sys.executable, os.__file__))


def _seen(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def successors() -> Iterator[list[str]]:
    """Commands that may start pyproxy as it is installed now, best first; our arguments are to follow.

    An interpreter may be there and not work, as when its standard library has been removed: another will do.
    """
    if os.access(sys.argv[0], os.X_OK):
        yield [sys.argv[0]]
    with_flags = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]
    paths = [os.path.join(folder, "python3") for folder in (*os.get_exec_path(), "/usr/local/bin", "/usr/bin", "/bin")]
    for path in dict.fromkeys([sys.executable, *paths]):
        if os.access(path, os.X_OK):
            yield [path, *with_flags]


def works(command: list[str]) -> bool:
    """Whether this command ends with status 0. Its output is discarded."""
    # If whoever started us had SIGCHLD ignored, so have we, and there would be no status to wait for.
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    silent = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)]
    try:
        pid = os.posix_spawn(command[0], command, os.environ, file_actions=silent)
    except OSError:
        return False
    return os.waitpid(pid, 0)[1] == 0
