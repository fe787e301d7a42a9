"""Make a Debian package of the wheel: /opt/pyproxy with an environment of its own, a link in /usr/bin, the systemd unit
(not enabled), man pages and completion. Usage, from the Makefile: debian_package.py WHEEL WHEELS PACKAGE.deb

Plain dpkg-deb. The environment's interpreter is Debian's /usr/bin/python3, for which WHEELS has what pyproxy needs; all
is compiled for it. Dates are the release's, so that the same sources make the same package.
"""

from __future__ import annotations

import datetime
import email
import email.message
import email.utils
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pyproxy import __version__
from pyproxy.cli import unit

PYTHON = Path("/usr/bin/python3")
HOME = Path("/opt/pyproxy")
# Of the package, beside upstream's version.
REVISION = "1"
TREE = Path(__file__).parents[1]
MAINTAINER = f"{os.environ.get('DEBFULLNAME', 'pyproxy')} <{os.environ.get('DEBEMAIL', 'pyproxy@pyproxy.invalid')}>"

DESCRIPTION = """\
Description: userland proxy for published container ports
 What Docker starts as docker-proxy, in Python: it carries the connections that
 the DNAT rules of published ports miss. TCP, UDP and SCTP; a process for each
 port, or one engine for all.
 .
 Nothing of Docker's is changed by the installation. Name
 /opt/pyproxy/bin/pyproxy as userland-proxy-path in dockerd's daemon.json, or
 run `pyproxy install` for the engine.
"""

POSTINST = """\
#!/bin/sh
# Enables and starts nothing, and touches nothing of Docker's: that is `pyproxy install`, for an administrator to run.
set -e
if [ "$1" = configure ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload || true
    # An upgrade: an engine that runs gives its ports to a new one, and cuts no connection.
    if [ -n "$2" ] && systemctl --quiet is-active pyproxy.service; then
        systemctl reload pyproxy.service || true
    fi
fi
"""

PRERM = """\
#!/bin/sh
# dockerd does not start with a userland-proxy-path that is gone, so that is taken back first.
set -e
if [ "$1" = remove ]; then
    if found=$(grep -ls /opt/pyproxy/ /etc/docker/daemon.json /etc/systemd/system/pyproxy.service); then
        echo "pyproxy is in use by" $found: "run \\`pyproxy uninstall\\`, or take that out, and try again." >&2
        exit 1
    fi
    if [ -d /run/systemd/system ]; then
        systemctl --quiet disable --now pyproxy.service || true
    fi
fi
"""

POSTRM = """\
#!/bin/sh
set -e
case $1 in remove | purge)
    rm -rf /run/pyproxy # which the unit keeps when it stops
    mkdir -p /opt # every Debian has it, but no package, so dpkg removes it when it is empty
    if [ -d /run/systemd/system ]; then systemctl daemon-reload || true; fi
    ;;
esac
"""

# Of what lintian says of such a package, what is meant so.
OVERRIDES = """\
pyproxy: dir-or-file-in-opt
pyproxy: maintainer-script-calls-systemctl
pyproxy: embedded-library
"""


def main(wheel: Path, wheels: Path, package: Path) -> None:
    """Make `package`. Exits with a message where Debian's tools or Python are not to be had."""
    if shutil.which("dpkg-deb") is None or not PYTHON.exists():
        sys.exit(f"debian_package: this takes dpkg-deb and {PYTHON}, as Debian and Ubuntu have them")
    os.umask(0o022)
    with tempfile.TemporaryDirectory(prefix="pyproxy-deb-") as folder:
        root = Path(folder) / "root"
        root.mkdir()
        install(root, wheel, wheels)
        add_links_and_unit(root)
        add_manual(root)
        add_documentation(root)
        date_all(root)
        compile_all(root)
        add_control(root)
        date_all(root)
        package.parent.mkdir(exist_ok=True)
        run("dpkg-deb", "--root-owner-group", "-z3", "--build", root, package, quiet=True)


def run(*command: str | Path, quiet: bool = False) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL if quiet else None)


def said(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def below(root: Path, path: Path | str) -> Path:
    """Where an absolute path is while the package is being made; its folder exists afterwards."""
    found = root / str(path).lstrip("/")
    found.parent.mkdir(parents=True, exist_ok=True)
    return found


def install(root: Path, wheel: Path, wheels: Path) -> None:
    """The environment, as `venv` makes it but without activation scripts and paths of this machine."""
    home = below(root, HOME)
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python3").symlink_to(PYTHON)
    (home / "bin" / "python").symlink_to("python3")
    (home / "pyvenv.cfg").write_text(f"home = {PYTHON.parent}\ninclude-system-site-packages = false\n")
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install", "--quiet"]
    flags = ["--disable-pip-version-check", "--no-compile", "--no-index", "--find-links", str(wheels)]
    run(*pip, *flags, f"{wheel}[engine]")
    for program in (home / "bin").iterdir():
        if not program.name.startswith("py") or program.name == "pygmentize":
            program.unlink()  # of the libraries
    for start in (home / "bin").glob("pyproxy*"):
        start.write_text(start.read_text().replace(str(root), ""))  # pip's first line
    for record in home.glob("lib/*/site-packages/*.dist-info"):
        (record / "INSTALLER").write_text("dpkg\n")
        for name in ("RECORD", "REQUESTED", "direct_url.json"):  # pip's own notes, which tell of this machine
            (record / name).unlink(missing_ok=True)


def add_links_and_unit(root: Path) -> None:
    below(root, "/usr/bin/pyproxy").symlink_to(HOME / "bin" / "pyproxy")
    below(root, f"/usr/lib/systemd/system/{unit.NAME}").write_text(unit_text())
    below(root, "/usr/share/lintian/overrides/pyproxy").write_text(OVERRIDES)


def unit_text() -> str:
    """As `pyproxy install` writes it for /etc/systemd/system, which goes before this one; without its notes."""
    text = unit.text_of(str(HOME / "bin" / "pyproxy"), [], {})
    _, _, text = text.partition("\n")
    return (
        "# As the package has it; `pyproxy install` writes another, which counts, to /etc.\n"
        + text.partition("\n[X-")[0]
    )


def add_manual(root: Path) -> None:
    """Man pages, if `make man` has made them, and completion, if the program has it."""
    for page in (TREE / "build" / "man").glob("*.[1-8]"):
        write_gzip(below(root, f"/usr/share/man/man{page.suffix[1:]}/{page.name}.gz"), page.read_text())
    for shell, path in {
        "bash": "/usr/share/bash-completion/completions/pyproxy",
        "zsh": "/usr/share/zsh/vendor-completions/_pyproxy",
        "fish": "/usr/share/fish/vendor_completions.d/pyproxy.fish",
    }.items():
        command = [str(below(root, HOME) / "bin" / "pyproxy"), "completion", shell]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            below(root, path).write_text(done.stdout)


def add_documentation(root: Path) -> None:
    folder = "/usr/share/doc/pyproxy"
    changes = (TREE / "CHANGELOG.md").read_text()
    entry = f"pyproxy ({version()}) unstable; urgency=medium\n\n  * Version {__version__}: see changelog.gz.\n\n"
    write_gzip(below(root, f"{folder}/changelog.gz"), changes)
    write_gzip(
        below(root, f"{folder}/changelog.Debian.gz"),
        f"{entry} -- {MAINTAINER}  {email.utils.format_datetime(released())}\n",
    )
    below(root, f"{folder}/copyright").write_text(copyright_text(root))


def copyright_text(root: Path) -> str:
    """In Debian's machine-readable form; of the libraries, what their own metadata says."""
    parts = [
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: pyproxy\n",
        "Files: *\nCopyright: the authors of pyproxy\nLicense: Apache-2.0\n",
    ]
    for metadata in sorted(below(root, HOME).glob("lib/*/site-packages/*.dist-info/METADATA")):
        found = email.message_from_string(metadata.read_text())
        if found["Name"] == "pyproxyd":
            continue
        name = found["License-Expression"] or found["License"] or _classified(found) or "see-its-own-files"
        owner = found["Author"] or found["Author-email"] or f"the authors of {found['Name']}"
        files = f"opt/pyproxy/lib/*/site-packages/{metadata.parent.name.partition('-')[0]}*"
        parts.append(f"Files: {files}\nCopyright: {owner}\nLicense: {name.splitlines()[0].replace(' ', '-')}\n")
    parts.append(
        "License: Apache-2.0\n On Debian systems the text is in /usr/share/common-licenses/Apache-2.0. That of each\n"
        " library's license is in /opt/pyproxy/lib, in the folder of its name that ends in .dist-info.\n"
    )
    return "\n".join(parts)


def _classified(metadata: email.message.Message) -> str:
    """`MIT License`, where a library says its license only as a trove classifier."""
    words = [str(each).split(" :: ") for each in metadata.get_all("Classifier", [])]
    return " or ".join(each[-1] for each in words if each[0] == "License")


def compile_all(root: Path) -> None:
    """Once for all starts; by the times of the sources, which the package keeps."""
    paths: list[str | Path] = ["-s", root, "-p", "/", "--invalidation-mode", "timestamp", below(root, HOME) / "lib"]
    run(PYTHON, "-I", "-m", "compileall", "-q", *paths)


def add_control(root: Path) -> None:
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    folder = root / "DEBIAN"
    folder.mkdir()
    (folder / "control").write_text(control_text(sum(path.stat().st_size for path in files) // 1024))
    sums = [f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(root)}\n" for path in files]
    (folder / "md5sums").write_text("".join(sums))
    for name, text in {"postinst": POSTINST, "prerm": PRERM, "postrm": POSTRM}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


def control_text(size_kib: int) -> str:
    """The libraries are compiled for one minor version of Python; 2.28 is what their wheels ask of the C library."""
    major, minor = (int(part) for part in said(PYTHON, "-c", "import sys; print(*sys.version_info[:2])").split())
    return (
        f"Package: pyproxy\nVersion: {version()}\nArchitecture: {said('dpkg', '--print-architecture')}\n"
        f"Maintainer: {MAINTAINER}\nInstalled-Size: {size_kib}\nSection: net\nPriority: optional\n"
        f"Depends: python3 (>= {major}.{minor}), python3 (<< {major}.{minor + 1}), libc6 (>= 2.28)\n"
        f"Suggests: docker.io | docker-ce\n{DESCRIPTION}"
    )


def version() -> str:
    return f"{__version__}-{REVISION}"


def released() -> datetime.datetime:
    """When, as the changelog has it."""
    found = re.search(rf"^## \[{re.escape(__version__)}\] - (\S+)$", (TREE / "CHANGELOG.md").read_text(), re.MULTILINE)
    if found is None:
        sys.exit(f"debian_package: CHANGELOG.md has no section `## [{__version__}] - DATE`")
    return datetime.datetime.fromisoformat(found[1]).replace(tzinfo=datetime.UTC)


def date_all(root: Path) -> None:
    when = released().timestamp()
    for path in (root, *root.rglob("*")):
        os.utime(path, (when, when), follow_symlinks=False)


def write_gzip(path: Path, text: str) -> None:
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
