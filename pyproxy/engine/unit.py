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
from typing import Any

NAME = "pyproxy.service"

CAPABILITIES = ("CAP_SYS_PTRACE", "CAP_NET_BIND_SERVICE", "CAP_NET_ADMIN", "CAP_SYS_RESOURCE")
SYSTEM_CALLS = ("@system-service", "pidfd_getfd")

# What `uninstall` needs to know; systemd leaves sections of this kind alone (systemd.unit(5), "X-").
_NOTES = "[X-pyproxy]\nInstalled="


def text_of(program: str, notes: dict[str, Any]) -> str:
    """The unit that runs `program engine`, with `notes` for `notes_of`."""
    return f"""\
# Written by `pyproxy install`; `pyproxy uninstall` removes it.
[Unit]
Description=pyproxy: the engine behind published container ports
Before=docker.service
# However often it ends: its ports are waiting.
StartLimitIntervalSec=0

[Service]
Type=notify
# An upgrade (reload) names the new main process itself.
NotifyAccess=all
ExecStart={_quoted(program)} engine
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
# Stubs wait for a little more than a second before they look after their ports themselves.
RestartSec=100ms
RuntimeDirectory=pyproxy
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes
LimitNOFILE=1048576
# When an engine has died, all stubs wake up at once, in dockerd's control group.
CPUWeight=1000
UMask=0077

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
SystemCallErrorNumber=EPERM

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


def _quoted(program: str) -> str:
    """A path as ExecStart= reads it (systemd.service(5), "Command lines"; systemd.unit(5), "Specifiers")."""
    escaped = program.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if any(letter in " \"'\\" for letter in program) else escaped
