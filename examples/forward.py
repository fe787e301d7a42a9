"""A port of this host, served by an asyncio program until Ctrl-C.

python examples/forward.py 8080 172.19.0.2 80
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys

import pyproxy


async def main(host_port: int, container_ip: str, container_port: int) -> None:
    try:
        async with pyproxy.forward(
            host=("127.0.0.1", host_port),
            container=(container_ip, container_port),
            connect_timeout_s=10,
            drain_s=5,
        ) as port:
            print(f"{port.proto} {port.host} -> {port.container}", flush=True)
            try:
                await asyncio.Event().wait()
            finally:
                print(port.counters().summary())
    except pyproxy.StartError as exc:
        sys.exit(str(exc))


logging.basicConfig()
with contextlib.suppress(KeyboardInterrupt):
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
