"""A real dockerd in a private world, with pyproxy in docker-proxy's place."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import NamedTuple

from tests.lab.namespaces import CommandError, World, WorldError
from tests.support.proxy import PATIENCE_S, PROGRAM

IMAGE = "busybox"
_APPLETS = ["sh", "nc", "cat", "sleep", "echo", "mkfifo", "seq"]

_BUILD = Path(__file__).parents[2] / "build"


class Release(NamedTuple):
    """A Docker to be tested under: in which folders of build/ its programs are, before the machine's own."""

    name: str
    folders: tuple[str, ...]
    # Which of them must come from the first folder, lest it be another release that is tested.
    own: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """For PATH."""
        unpacked = [str(_BUILD / folder / bin) for folder in self.folders for bin in ("usr/sbin", "usr/bin")]
        return os.pathsep.join([*unpacked, "/usr/sbin", "/sbin", os.environ["PATH"]])

    def find(self, program: str) -> str | None:
        """The path of one of Docker's programs, or None."""
        return shutil.which(program, path=self.path)

    @property
    def plugins(self) -> list[Path]:
        """Where the client looks for buildx; it has dockerd's own builder build if there is none."""
        return [_BUILD / folder / "usr/libexec/docker/cli-plugins" for folder in self.folders]

    def missing(self) -> str | None:
        """What is not here, and who makes it; or None."""
        for program in self.own:
            if not f"{self.find(program)}".startswith(f"{_BUILD / self.folders[0]}/"):
                return f"no {program} in build/{self.folders[0]}: `make test` unpacks Debian's, if it can be had"
        for program in ("dockerd", "containerd", "runc", "docker", "iptables", "busybox", "nc.openbsd"):
            if self.find(program) is None:
                return f"no {program} here: `make test` as root installs it on Debian and Ubuntu"
        return None


# What the Makefile unpacks: this machine's distribution's, which may as well be installed; and Debian's next, whose
# runc takes a newer C library than this machine may have.
RELEASES = [
    Release("docker", ("docker",)),
    Release("docker-next", ("docker-next", "docker"), own=("dockerd", "docker", "containerd")),
]

_WAIT_FOR_API = """
tail -F -n +1 "$1" 2>/dev/null | while read -r line; do
    case $line in *"API listen on"*) exit 0 ;; *"failed to start"*) exit 1 ;; esac
done
"""


class Dockerd(World):
    """dockerd on the host machine of a private world; `docker` runs its client. WorldError says why it cannot be."""

    def __init__(self, proxy: str, release: Release, *, engine: bool = False) -> None:
        if os.geteuid() != 0:
            raise WorldError("dockerd takes root")
        if (why := release.missing()) is not None:
            raise WorldError(why)
        self.release = release
        self.version: tuple[int, ...] = ()  # dockerd's, (28, 5, 2) say
        self._group = f"pyproxy-test-{os.getpid()}"
        super().__init__(own_processes=True)
        self.has_engine = engine
        self._proxy = proxy
        try:
            if engine:
                self.start_engine()
            self._configure_client()
            self._boot()
            self.version = tuple(map(int, re.findall(r"\d+", self.docker("version", "-f", "{{.Server.Version}}"))[:3]))
            self.load(IMAGE, _image(release))
        except CommandError as exc:
            self.__exit__()
            raise WorldError(f"dockerd does not run here: {exc}") from exc

    def __exit__(self, *arguments: object) -> None:
        super().__exit__(*arguments)
        # Control groups are the machine's. All in it are dead, and the kernel removes a group that is empty.
        for group in sorted(Path("/sys/fs/cgroup").glob(f"**/{self._group}/**/"), reverse=True):
            with contextlib.suppress(OSError):
                group.rmdir()

    def start_engine(self, *arguments: str, program: str = PROGRAM) -> subprocess.Popen[str]:
        """Start an engine, as an administrator would; it serves when this returns."""
        engine = self.start(program, "engine", *arguments)
        assert engine.stderr is not None
        said = ""
        while "requests come by" not in (line := engine.stderr.readline()):
            said += line
            assert line, f"the engine did not start: {said}"
        return engine

    def docker(self, *arguments: str) -> str:
        """Run the client; CommandError carries what a user would read."""
        return self.run(*self._client, *arguments).strip()

    def await_log(self, container: str, words: str) -> None:
        """Follow what a container says, on either stream, until a line has `words` in it."""
        follow = self.start("sh", "-c", f"exec {' '.join(self._client)} logs -f {container} 2>&1")
        assert follow.stdout is not None
        while words not in (line := follow.stdout.readline()):
            assert line, f"{container} never said {words!r}"

    def load(self, image: str, archive: bytes) -> None:
        """Make an image of a root file system in a tar archive."""
        command = self.command(*self._client, "import", "-", image)
        subprocess.run(command, input=archive, check=True, capture_output=True)

    @property
    def passes_sockets(self) -> bool:
        """Whether it binds published ports itself, and hands the sockets to its proxies."""
        return self.version >= (28,)

    def proxies(self) -> list[tuple[int, str]]:
        """Process id, from outside, and arguments of every proxy that dockerd has."""
        found = []
        for pid in self.processes():
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            if "-container-ip" in words:
                found.append((pid, " ".join(words[words.index("-proto") :]).strip()))
        return sorted(found, key=lambda item: item[1])

    def pid(self) -> str:
        """dockerd's own, inside."""
        return self.run("cat", "/run/docker.pid").strip()

    def restart(self) -> None:
        """Stop dockerd and start it anew, as an upgrade would; containers live on (live-restore)."""
        self.run("kill", "-TERM", self.pid())
        assert self._dockerd.wait(PATIENCE_S) == 0
        self.run("mv", _LOG, f"{_LOG}.1")
        self._boot()

    @property
    def _client(self) -> list[str]:
        """The release's own client: an older one may speak an API that is no longer served."""
        return [f"{self.release.find('docker')}", "--config", _CLIENT, "-H", _API]

    def _configure_client(self) -> None:
        plugins = json.dumps({"cliPluginsExtraDirs": [str(folder) for folder in self.release.plugins]})
        self.run("sh", "-c", f"mkdir {_CLIENT} && cat >{_CLIENT}/config.json", stdin=plugins)

    def _boot(self) -> None:
        flags = f"--data-root /run/data --exec-root /run/exec --pidfile /run/docker.pid --host {_API} --live-restore"
        flags += " --storage-driver vfs --default-address-pool base=172.16.0.0/12,size=16"
        flags += f" --userland-proxy-path {self._proxy}"
        command = f"PATH={self.release.path} exec dockerd {flags} >{_LOG} 2>&1"
        self._dockerd = self.start("sh", "-c", command, stdout=None, stderr=None)
        try:
            self.run("timeout", "30", "sh", "-c", _WAIT_FOR_API, "wait", _LOG)
        except CommandError as exc:
            raise WorldError(f"dockerd does not run here: {self.run('tail', '-n', '3', _LOG)}") from exc


_LOG = "/run/dockerd.log"
_API = "unix:///run/docker.sock"
# The client's configuration, lest it be that of whoever runs the tests.
_CLIENT = "/run/client"


def _image(release: Release) -> bytes:
    """A root file system of one static busybox, as a tar archive; and OpenBSD's nc, as busybox's has no UDP."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(f"{release.find('busybox')}", "bin/busybox")
        nc = f"{release.find('nc.openbsd')}"
        for path in [nc, *_libraries_of(nc)]:
            tar.add(os.path.realpath(path), path.lstrip("/"))
        for applet in _APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return archive.getvalue()


def _libraries_of(program: str) -> list[str]:
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return [word for word in listed.split() if word.startswith("/")]
