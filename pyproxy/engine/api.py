"""The control API: HTTP with JSON on the UNIX socket `control` of the run directory. What there is to ask, and every
answer and error: `openapi.py`, served as /openapi.json.

A port's totals go on over an upgrade. "live" of a port counts this engine's connections only.
Answers are made in steps (`slices.py`): thousands of ports must not hold up the clients.

Who may speak with it: who may enter the run directory. To a TCP address, if one is asked for, goes /metrics alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from aiohttp import web

from pyproxy import __version__
from pyproxy.config import UDP
from pyproxy.engine.engine import Engine
from pyproxy.engine.metrics import CONTENT_TYPE, exposition
from pyproxy.engine.openapi import description
from pyproxy.engine.port import Port
from pyproxy.engine.publisher import RefusedError
from pyproxy.engine.slices import sliced
from pyproxy.errors import StartError
from pyproxy.flags import parse

# A request for publishing one port is some hundred bytes.
_REQUEST_BYTES = 1 << 14

# Of some hundred bytes each: a piece is about what the socket takes at once.
_ITEMS_A_PIECE = 200


class Control:
    """Serves from `start` to `stop`. `metrics`: a TCP address for /metrics alone, or None."""

    def __init__(self, engine: Engine, metrics: tuple[str, int] | None = None) -> None:
        self._engine = engine
        self._metrics = metrics
        self._runners: list[web.AppRunner] = []
        self._sites: list[web.BaseSite] = []

    async def start(self) -> None:
        """Listen. OSError if an address cannot be had."""
        app = web.Application(client_max_size=_REQUEST_BYTES, middlewares=[_errors_as_json])
        app.add_routes(self.routes())
        path = str(self._engine.run_dir.control)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # that of an engine that has gone, or that we have taken over from
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        sock.bind(path)
        await self._serve(app, lambda runner: web.SockSite(runner, sock))
        if self._metrics is not None:
            host, port = self._metrics
            alone = web.Application()
            alone.add_routes([web.get("/metrics", self._prometheus)])
            await self._serve(alone, lambda runner: web.TCPSite(runner, host, port))

    def routes(self) -> list[web.RouteDef]:
        """All paths, and who answers."""
        return [
            web.get("/health", self._health),
            web.get("/ports", self._list),
            web.post("/ports", self._publish),
            web.get("/ports/{proto}/{address}", self._one),
            web.delete("/ports/{proto}/{address}", self._unpublish),
            web.get("/ports/{proto}/{address}/connections", self._connections_of_one),
            web.get("/connections", self._connections),
            web.get("/totals", self._totals),
            web.post("/drain", self._drain),
            web.get("/metrics", self._prometheus),
            web.get("/openapi.json", self._description),
        ]

    async def stop(self) -> None:
        """Stop listening: another engine needs the addresses. Requests on open connections are still answered."""
        for site in self._sites:
            await site.stop()

    async def _serve(self, app: web.Application, site_of: Any) -> None:
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        self._runners.append(runner)
        site = site_of(runner)
        await site.start()
        self._sites.append(site)

    def _port(self, request: web.Request) -> Port:
        name = f"{request.match_info['proto']}/{request.match_info['address']}"
        if (port := self._engine.ports.named(name)) is None:
            raise _answer(web.HTTPNotFound, f"no port {name}: see `pyproxy ports`")
        return port

    async def _health(self, _request: web.Request) -> web.Response:
        engine = self._engine
        return web.json_response(
            {
                "status": "ok",
                "version": __version__,
                "pid": os.getpid(),
                "since": engine.started,
                "ports": len(engine.ports),
                "draining": len(engine.ports.leaving),
                "draining_engines": [earlier.pid for earlier in engine.predecessors],
                "requests_refused": engine.stubs.refused,
                "requests_garbage": engine.stubs.garbage,
            }
        )

    async def _list(self, request: web.Request) -> web.StreamResponse:
        engine = self._engine
        await engine.predecessors.refresh()
        ports = await _array(port.describe() for port in engine.ports)
        draining = await _array(_draining(engine))
        return await _sent(request, [b'{"ports": ', *ports, b', "draining": ', *draining, b"}"])

    async def _one(self, request: web.Request) -> web.Response:
        return web.json_response(self._port(request).describe())

    async def _connections_of_one(self, request: web.Request) -> web.StreamResponse:
        found = await _array(_connections(self._port(request)))
        return await _sent(request, [b'{"connections": ', *found, b"}"])

    async def _connections(self, request: web.Request) -> web.StreamResponse:
        ports = self._engine.ports
        found = await _array(found for port in (*ports, *ports.leaving) for found in _connections(port))
        return await _sent(request, [b'{"connections": ', *found, b"}"])

    async def _totals(self, _request: web.Request) -> web.Response:
        engine = self._engine
        await engine.predecessors.refresh()
        totals = await engine.ports.counters_in_slices()
        for earlier in engine.predecessors:
            totals.add(earlier.counters.values())
        live = engine.ports.live + engine.predecessors.live
        return web.json_response(
            {"ports": len(engine.ports), "live": live, "since": engine.counting_since, "totals": totals.as_dict()}
        )

    async def _publish(self, request: web.Request) -> web.Response:
        wanted = await _body(request)
        arguments = [f"-{name.replace('_', '-')}={_text(value)}" for name, value in wanted.items()]
        try:
            settings = parse(arguments)
        except StartError as exc:
            raise _answer(web.HTTPBadRequest, str(exc)) from exc
        try:
            port = self._engine.commands.publish(settings, arguments)
        except (StartError, RefusedError) as exc:
            raise _answer(web.HTTPConflict, str(exc)) from exc
        return web.json_response(port.describe(), status=201)

    async def _unpublish(self, request: web.Request) -> web.Response:
        port = self._port(request)
        described = port.describe()
        try:
            self._engine.commands.unpublish(port)
        except RefusedError as exc:
            raise _answer(web.HTTPConflict, str(exc)) from exc
        return web.json_response(described)

    async def _drain(self, request: web.Request) -> web.Response:
        wanted = (await _body(request)).get("port")
        found = self._engine.ports.find(str(wanted))
        if not found:
            raise _answer(web.HTTPNotFound, f"no port {wanted}: see `pyproxy ports`")
        # A number may be a TCP port's and a UDP port's; only a UDP port alone is a mistake.
        tcp = [port for port in found if port.published.proto != UDP] or found
        try:
            for port in tcp:
                self._engine.commands.drain(port)
        except RefusedError as exc:
            raise _answer(web.HTTPConflict, str(exc)) from exc
        return web.json_response({"ports": [port.describe() for port in tcp]})

    async def _description(self, _request: web.Request) -> web.Response:
        return web.json_response(description())

    async def _prometheus(self, request: web.Request) -> web.StreamResponse:
        return await _sent(request, await exposition(self._engine), CONTENT_TYPE)


async def _sent(
    request: web.Request, parts: Sequence[bytes], content_type: str = "application/json; charset=utf-8"
) -> web.StreamResponse:
    """Answer with these, one after the other: whole megabytes would be copied again and again as the client reads."""
    response = web.StreamResponse(headers={"Content-Type": content_type})
    response.content_length = sum(len(part) for part in parts)
    await response.prepare(request)
    for part in parts:
        await response.write(part)
    return response


async def _array(items: Iterable[dict[str, Any]]) -> list[bytes]:
    """A JSON array of them, made in steps: in pieces of some kilobytes."""
    parts: list[bytes] = []
    piece = ["["]
    async for item in sliced(items):
        piece.append(", " * (len(piece) > 1 or len(parts) > 0) + json.dumps(item))
        if len(piece) == _ITEMS_A_PIECE:
            parts.append("".join(piece).encode())
            piece.clear()
    return [*parts, "".join([*piece, "]"]).encode()]


def _draining(engine: Engine) -> Iterator[dict[str, Any]]:
    """Ports of which only connections are left, in this engine and in those before it."""
    for port in tuple(engine.ports.leaving):
        yield port.describe() | {"draining": True, "engine": os.getpid()}
    for earlier in engine.predecessors:
        yield from tuple(earlier.listed.values())


def _connections(port: Port) -> Iterator[dict[str, Any]]:
    """A port's live connections, in bytes, as dictionaries."""
    for connection in port.connections():
        address = connection.client_address
        if address is not None:
            yield {
                "port": port.name,
                "client_ip": address[0],
                "client_port": address[1],
                "bytes_up": connection.moved_up,
                "bytes_down": connection.moved_down,
                "state": "dialing" if connection.dialing else "half-closed" if connection.half_closed else "open",
            }


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        found = json.loads(await request.text())
    except ValueError as exc:
        raise _answer(web.HTTPBadRequest, f"the request's body is not JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise _answer(web.HTTPBadRequest, "the request's body is not a JSON object")
    return found


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _answer(kind: type[web.HTTPError], text: str) -> web.HTTPError:
    return kind(text=json.dumps({"error": text}), content_type="application/json")


@web.middleware
async def _errors_as_json(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        response: web.StreamResponse = await handler(request)
    except web.HTTPError as exc:
        if exc.content_type == "application/json":
            raise
        error = {"error": f"{request.method} {request.path}: {exc.reason.lower()}"}
        return web.json_response(error, status=exc.status)
    return response
