"""The control API as OpenAPI 3.1 describes it (https://spec.openapis.org/oas/v3.1.1): served as /openapi.json.

The one description of it: paths, parameters, what is sent and answered, errors. A test holds the routes and real
answers against it. Pure: data, and small functions that write what is alike in many places once.
"""

from __future__ import annotations

from typing import Any

from pyproxy import __version__
from pyproxy.config import DEFAULT_UDP_MAX_FLOWS
from pyproxy.core.counters import Counters
from pyproxy.engine.metrics import MEANINGS

Schema = dict[str, Any]

_ABOUT = """\
HTTP with JSON on the UNIX socket `control` of the engine's run directory (/run/pyproxy, if it is root's). Who may enter
that directory may use it. The name of the host in a request does not matter:
`curl --unix-socket /run/pyproxy/control http://engine/ports`.

A path or a method that is not here is answered with 404 or 405, and an `Error` as the others. New fields may be added
to answers at any time."""


def description() -> Schema:
    """The whole of it."""
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "The control API of pyproxy's engine",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://engine", "description": "The socket `control` of the run directory"}],
        "paths": _PATHS,
        "components": {"schemas": _SCHEMAS, "parameters": _PARAMETERS, "responses": _ERRORS},
    }


def _described(kind: str, text: str, **more: Any) -> Schema:
    return {"type": kind, "description": text, **more}


def _count(text: str) -> Schema:
    return _described("integer", text, minimum=0)


def _object(properties: Schema, *, optional: tuple[str, ...] = ()) -> Schema:
    """All properties are there, but for those that are `optional`."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def _schema(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _list_of(name: str) -> Schema:
    return {"type": "array", "items": _schema(name)}


def _json(text: str, schema: Schema) -> Schema:
    """An answer."""
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _asked(schema: str, example: Schema) -> Schema:
    """What is sent."""
    content = {"schema": _schema(schema), "example": example}
    return {"required": True, "content": {"application/json": content}}


def _may_fail(*names: str) -> Schema:
    """Answers that are errors."""
    return {_STATUS[name]: {"$ref": f"#/components/responses/{name}"} for name in names}


_PORT_NUMBER: Schema = {"type": "integer", "minimum": 1, "maximum": 65_535}
_EPOCH = "seconds since 1970-01-01 00:00 UTC"

# Seconds, or text with a unit: as the flags have it.
_DURATION: Schema = {"type": ["number", "string"], "default": 0, "examples": [30, "1.5", "300ms", "5m"]}

_PORT: Schema = {
    "name": _described("string", "What it is called in paths", examples=["tcp/0.0.0.0:80", "udp/[::1]:53"]),
    "proto": _described("string", "Protocol", enum=["tcp", "udp", "sctp"]),
    "host_ip": _described("string", "Host address: where clients connect"),
    "host_port": _PORT_NUMBER,
    "container_ip": _described("string", "Container address: where the traffic goes"),
    "container_port": _PORT_NUMBER,
    "pid": {
        "type": ["integer", "null"],
        "description": "Process that holds it, a stub that dockerd started; null if it was published here",
    },
    "since": _described("number", f"When it was published: {_EPOCH}"),
    "draining": _described("boolean", "Whether new clients are refused"),
    "live": _count("Connections or UDP flows now, in this engine"),
    "totals": _schema("Counters"),
}

_SCHEMAS: Schema = {
    "Error": _object({"error": _described("string", "What is wrong, and what would do, in a line")}),
    "Counters": _object({name: _count(MEANINGS[name]) for name in Counters.__slots__})
    | {"description": "What has gone through since the port was published, over upgrades of the engine"},
    "Port": _object(_PORT),
    "DrainingPort": _object(
        _PORT | {"engine": _described("integer", "Process id of the engine that has the connections")}
    )
    | {"description": "A port of which only connections are left: it was unpublished, or another engine serves it"},
    "Ports": _object({"ports": _list_of("Port"), "draining": _list_of("DrainingPort")}),
    "DrainedPorts": _object({"ports": _list_of("Port")}),
    "Connection": _object(
        {
            "port": _described("string", "Name of the port"),
            "client_ip": _described("string", "Address of the client"),
            "client_port": _PORT_NUMBER,
            "bytes_up": _count("Bytes from the client to the container"),
            "bytes_down": _count("Bytes from the container to the client"),
            "state": _described(
                "string",
                "dialing: the container has not answered yet; half-closed: one side has finished",
                enum=["dialing", "half-closed", "open"],
            ),
        }
    ),
    "Connections": _object({"connections": _list_of("Connection")}),
    "Totals": _object(
        {
            "ports": _count("Ports served now"),
            "live": _count("Connections and UDP flows now, those that drain among them"),
            "since": _described("number", f"When counting began: {_EPOCH}"),
            "totals": _schema("Counters"),
        }
    ),
    "Health": _object(
        {
            "status": {"const": "ok"},
            "version": _described("string", "Version of the engine"),
            "pid": _described("integer", "Process id of the engine"),
            "since": _described("number", f"When the engine was started: {_EPOCH}"),
            "ports": _count("Ports served"),
            "draining": _count("Ports in this engine of which only connections are left"),
            "draining_engines": {
                "type": "array",
                "items": {"type": "integer"},
                "description": "Process ids of the engines before this one whose connections have not all ended",
            },
            "requests_refused": _count("Requests of stubs that were left to the stub itself"),
            "requests_garbage": _count("Lines in the FIFO that were no requests"),
        }
    ),
    "PublishRequest": _object(
        {
            "proto": _described("string", "Protocol", enum=["tcp", "udp", "sctp"], default="tcp"),
            "host_ip": _described("string", "Address to serve; 0.0.0.0 and :: are every one", default="0.0.0.0"),
            "host_port": _described("integer", "Port to serve; 0 takes any that is free", minimum=0, maximum=65_535),
            "container_ip": _described("string", "The container's address", default="0.0.0.0"),
            "container_port": _PORT_NUMBER,
            "connect_timeout": _DURATION | {"description": "Seconds to dial the container; 0: the kernel's own"},
            "idle_timeout": _DURATION | {"description": "Seconds that a connection may be silent; 0: no limit"},
            "half_closed_timeout": _DURATION
            | {"description": "Seconds that one may be silent of which one side has finished; 0: no limit"},
            "udp_max_flows": _described(
                "integer", "UDP clients at once", minimum=1, maximum=1_000_000, default=DEFAULT_UDP_MAX_FLOWS
            ),
        },
        optional=(
            "proto",
            "host_ip",
            "container_ip",
            "connect_timeout",
            "idle_timeout",
            "half_closed_timeout",
            "udp_max_flows",
        ),
    )
    | {
        "description": "Named as the flags of pyproxy are, with _ for -. The other flags are accepted too, and change"
        " nothing: they are the process's, and that is the engine"
    },
    "DrainRequest": _object(
        {
            "port": {
                "type": ["string", "integer"],
                "description": "A name, a host port, or both: all that match, though not UDP's beside others",
                "examples": ["tcp/0.0.0.0:80", "80", "80/tcp"],
            }
        }
    ),
}

_PARAMETERS: Schema = {
    "proto": {
        "name": "proto",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "enum": ["tcp", "udp", "sctp"]},
    },
    "address": {
        "name": "address",
        "in": "path",
        "required": True,
        "description": "Host address and port",
        "schema": {"type": "string", "examples": ["0.0.0.0:80", "[::1]:53"]},
    },
}

_STATUS = {"Unreadable": "400", "NoSuchPort": "404", "CannotBeDone": "409", "TooLarge": "413"}

_ERRORS: Schema = {
    "Unreadable": _json("What was sent cannot be read, or makes no port", _schema("Error")),
    "NoSuchPort": _json("There is no such port", _schema("Error")),
    "CannotBeDone": _json("It cannot be done now, or with this port", _schema("Error")),
    "TooLarge": _json("More was sent than any request takes (16 KiB)", _schema("Error")),
}

_OF_ONE = [{"$ref": f"#/components/parameters/{name}"} for name in _PARAMETERS]

_PATHS: Schema = {
    "/health": {
        "get": {
            "operationId": "health",
            "summary": "Whether the engine is there, and which it is",
            "responses": {"200": _json("It is", _schema("Health"))},
        }
    },
    "/ports": {
        "get": {
            "operationId": "listPorts",
            "summary": "All ports, and those of which only connections are left",
            "responses": {"200": _json("All ports", _schema("Ports"))},
        },
        "post": {
            "operationId": "publish",
            "summary": "Serve a port until it is unpublished here, over upgrades of the engine",
            "requestBody": _asked(
                "PublishRequest", {"host_port": 8080, "container_ip": "172.17.0.2", "container_port": 80}
            ),
            "responses": {"201": _json("It is served", _schema("Port"))}
            | _may_fail("Unreadable", "CannotBeDone", "TooLarge"),
        },
    },
    "/ports/{proto}/{address}": {
        "parameters": _OF_ONE,
        "get": {
            "operationId": "getPort",
            "summary": "One port",
            "responses": {"200": _json("The port", _schema("Port"))} | _may_fail("NoSuchPort"),
        },
        "delete": {
            "operationId": "unpublish",
            "summary": "Free a port that was published here",
            "responses": {"200": _json("As it was, before it was unpublished", _schema("Port"))}
            | _may_fail("NoSuchPort", "CannotBeDone"),
        },
    },
    "/ports/{proto}/{address}/connections": {
        "parameters": _OF_ONE,
        "get": {
            "operationId": "listConnectionsOfPort",
            "summary": "Live connections of one port; UDP has none",
            "responses": {"200": _json("Its connections", _schema("Connections"))} | _may_fail("NoSuchPort"),
        },
    },
    "/connections": {
        "get": {
            "operationId": "listConnections",
            "summary": "Live connections of all ports, in this engine",
            "responses": {"200": _json("All connections", _schema("Connections"))},
        }
    },
    "/totals": {
        "get": {
            "operationId": "totals",
            "summary": "What has gone through all ports, those that are closed among them, over upgrades of the engine",
            "responses": {"200": _json("The sums", _schema("Totals"))},
        }
    },
    "/drain": {
        "post": {
            "operationId": "drain",
            "summary": "Refuse new clients of a port from now on; those that are served stay",
            "requestBody": _asked("DrainRequest", {"port": "80/tcp"}),
            "responses": {"200": _json("The ports that drain now", _schema("DrainedPorts"))}
            | _may_fail("Unreadable", "NoSuchPort", "CannotBeDone", "TooLarge"),
        }
    },
    "/metrics": {
        "get": {
            "operationId": "metrics",
            "summary": "Figures for Prometheus. On the address that --metrics gives, too: the only path there",
            "responses": {
                "200": {"description": "The figures", "content": {"text/plain": {"schema": {"type": "string"}}}}
            },
        }
    },
    "/openapi.json": {
        "get": {
            "operationId": "openapi",
            "summary": "This description",
            "responses": {"200": _json("OpenAPI 3.1", {"type": "object"})},
        }
    },
}
