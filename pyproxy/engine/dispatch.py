"""The subcommands: what each needs is imported only when it is the one, and what is missing is named."""

from __future__ import annotations

import sys

_NEEDED = {"aiohttp", "prometheus_client", "rich"}


def main(name: str, arguments: list[str]) -> int:
    """Run `pyproxy NAME`, and return its exit status."""
    try:
        return _run(name, arguments)
    except ModuleNotFoundError as exc:
        missing = (exc.name or "").partition(".")[0]
        if missing not in _NEEDED:
            raise
        print(f"pyproxy {name} needs {missing}, which is not installed: pip install 'pyproxy[engine]'", file=sys.stderr)
        return 1


def _run(name: str, arguments: list[str]) -> int:
    if name == "engine":
        from pyproxy.engine import command

        return command.main(arguments)
    if name in ("install", "uninstall"):
        from pyproxy.engine import install

        return install.COMMANDS[name](arguments)
    from pyproxy.engine import client

    return client.main(name, arguments)
