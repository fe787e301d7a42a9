"""The engine as a systemd service: the unit's text. Pure.

Hardened as far as its work allows (systemd.exec(5)). What it needs:

- CAP_SYS_PTRACE, to take the socket of a stub that dockerd started with rights that the engine has not (ptrace(2),
  "Ptrace access mode checking"); pidfd_getfd is not in systemd's @system-service for the same reason.
- CAP_NET_BIND_SERVICE, for host ports below 1024; CAP_NET_ADMIN, for receive buffers that hold a burst of datagrams;
  CAP_SYS_RESOURCE, for more than 64 MiB of pipes, as many bulk streams want (pipe(7), pipe-user-pages-soft).
- /proc, to see who asks; the host's network; its run directory, kept when it stops, as stubs wait there for the next.

No MemoryDenyWriteExecute: ctypes makes executable memory (libffi).
"""

from __future__ import annotations

import json
import shlex
import stat
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

NAME = "pyproxy.service"

# Where administrators' units belong (systemd.unit(5)), from the root directory.
PATH = PurePath("etc/systemd/system") / NAME

# EX_CONFIG of sysexits.h: the engine cannot start as it is installed, and trying again will not mend it.
MISCONFIGURED = 78

# What PrivateTmp= replaces by empty directories of the unit's own.
_PRIVATE = ("/tmp", "/var/tmp")

CAPABILITIES = ("CAP_SYS_PTRACE", "CAP_NET_BIND_SERVICE", "CAP_NET_ADMIN", "CAP_SYS_RESOURCE")
SYSTEM_CALLS = ("@system-service", "pidfd_getfd")

# What `uninstall` needs to know; systemd leaves sections of this kind alone (systemd.unit(5), "X-").
_NOTES = "[X-pyproxy]\nInstalled="


# What the service may not do (systemd.exec(5)).
_HARDENING = f"""\
CapabilityBoundingSet={" ".join(CAPABILITIES)}
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter={" ".join(SYSTEM_CALLS)}
SystemCallErrorNumber=EPERM"""


def text_of(program: str, arguments: Sequence[str], notes: dict[str, Any]) -> str:
    """The unit that runs `program engine` with these arguments, with `notes` for `notes_of`."""
    return f"""\
# Written by `pyproxy install`; `pyproxy uninstall` removes it.
[Unit]
Description=pyproxy: the engine behind published container ports
Before=docker.service
# Start it again however often it crashes: its ports wait for it.
StartLimitIntervalSec=0

[Service]
Type=notify
# An upgrade (reload) names the new main process itself.
NotifyAccess=all
ExecStart={" ".join(_quoted(word) for word in (program, "engine", *arguments))}
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
# But not after a wrong flag, or without a library or the interpreter: the last line of its log says which. Ports are
# served without it. When that is fixed: systemctl start pyproxy.
RestartPreventExitStatus=2 {MISCONFIGURED} 203
# Stubs wait for a little more than a second before they look after their ports themselves.
RestartSec=100ms
RuntimeDirectory=pyproxy
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes
LimitNOFILE=1048576
# When an engine has died, all stubs wake up at once, in dockerd's control group.
CPUWeight=1000
UMask=0077

{_HARDENING}

[Install]
WantedBy=multi-user.target docker.service

{_NOTES}{json.dumps(notes)}
"""


def notes_of(text: str) -> dict[str, Any] | None:
    """The notes in a unit that `text_of` made; None if it is somebody else's."""
    _, found, rest = text.partition(_NOTES)
    if not found:
        return None
    try:
        notes = json.loads(rest)
    except ValueError:
        return None
    return notes if isinstance(notes, dict) else None


def arguments_of(text: str) -> list[str]:
    """The engine's arguments in such a unit, which its administrator may have changed. ValueError: no command line."""
    lines = [line.removeprefix("ExecStart=") for line in text.splitlines() if line.startswith("ExecStart=")]
    words = [word.replace("%%", "%").replace("$$", "$") for line in lines[-1:] for word in shlex.split(line)]
    return words[words.index("engine") + 1 :] if "engine" in words else []


def is_hidden(path: PurePath) -> bool:
    """Whether the unit does not see an absolute path that everybody else sees."""
    return any(path.is_relative_to(hidden) for hidden in _PRIVATE)


def is_open_to_the_unit(mode: int, owner: int, group: int) -> bool:
    """Whether root without CAP_DAC_OVERRIDE, as the unit has it, may read a file, or pass a directory, of this mode."""
    wanted = 0o1 if stat.S_ISDIR(mode) else 0o4
    return mode >> (6 if owner == 0 else 3 if group == 0 else 0) & wanted == wanted


def _quoted(word: str) -> str:
    """A word as ExecStart= reads it (systemd.service(5), "Command lines"; systemd.unit(5), "Specifiers")."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if any(letter in " \"'\\" for letter in word) else escaped
