"""The description of the control API: it is OpenAPI, and what it describes is what there is."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from pyproxy.core.counters import Counters
from pyproxy.engine.api import Control
from pyproxy.engine.engine import Engine as Core
from pyproxy.engine.openapi import description
from pyproxy.flags import parse
from tests.support.engine import LOCAL, Engine, client_of, free, publish, running_engine, stub
from tests.support.proxy import PATIENCE_S
from tests.support.sockets import echo, serving

METHODS = ("get", "put", "post", "delete", "patch")


def operations() -> dict[tuple[str, str], dict[str, Any]]:
    """By method and path."""
    paths = description()["paths"]
    return {(m, path): item[m] for path, item in paths.items() for m in METHODS if m in item}


def strict(schema: Any) -> Any:
    """The same, and what it does not name must not be there: a client is to expect more, a test is not."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {"additionalProperties": False} if isinstance(schema.get("properties"), dict) else {}
    return {name: strict(value) for name, value in schema.items()} | closed


def resolved(said: dict[str, Any]) -> dict[str, Any]:
    """What a reference stands for."""
    if "$ref" not in said:
        return said
    found: Any = description()
    for name in said["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return dict(found)


def problems(schema: dict[str, Any], value: Any) -> list[str]:
    components = strict(description()["components"])
    validator = Draft202012Validator(strict(schema) | {"components": components})
    return [error.message for error in validator.iter_errors(value)]


class Answer(NamedTuple):
    status: int
    kind: str
    body: bytes


def asked(engine: Engine, method: str, path: str, body: bytes | None = None) -> Answer:
    connection = http.client.HTTPConnection("engine", timeout=PATIENCE_S)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(PATIENCE_S)
    connection.sock.connect(str(engine.run_dir / "control"))
    with contextlib.closing(connection):
        connection.request(method.upper(), path, body)
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers["Content-Type"].partition(";")[0], answer.read())


def test_it_is_openapi() -> None:
    validate(description())


def test_it_describes_exactly_the_routes_there_are(core: Core) -> None:
    assert {(route.method.lower(), route.path) for route in Control(core).routes()} == set(operations())


def test_every_reference_and_every_component_is_used() -> None:
    text = json.dumps(description())
    components = description()["components"]
    there = {f"#/components/{kind}/{name}" for kind, named in components.items() for name in named}
    assert set(re.findall(r'"\$ref": "([^"]+)"', text)) == there


def test_the_engine_serves_it(engine: Engine) -> None:
    answer = asked(engine, "get", "/openapi.json")
    assert (answer.status, answer.kind) == (200, "application/json")
    assert json.loads(answer.body) == description()


def test_every_method_that_is_not_described_is_refused(engine: Engine) -> None:
    name = publish(engine)["name"]
    for path in description()["paths"]:
        for method in METHODS:
            if (method, path) not in operations():
                answer = asked(engine, method, path.replace("{proto}/{address}", name))
                assert answer.status == 405
                assert problems({"$ref": "#/components/schemas/Error"}, json.loads(answer.body)) == []


def test_counters_are_described_in_their_order() -> None:
    assert [*description()["components"]["schemas"]["Counters"]["properties"]] == [*Counters.__slots__]


PUBLISH = description()["components"]["schemas"]["PublishRequest"]
NEEDED = {"host_port": 0, "container_port": 9}


@pytest.mark.parametrize("name", PUBLISH["properties"])
def test_what_a_publication_may_say_is_a_flag_with_that_default(name: str) -> None:
    schema = PUBLISH["properties"][name]
    assert (name in PUBLISH["required"]) == ("default" not in schema)
    for value in [schema.get("default", 1), *schema.get("examples", ())]:
        assert problems(schema, value) == []
        said = NEEDED | {name: value}
        settings = parse([f"-{name.replace('_', '-')}={value}" for name, value in said.items()])
        if value == schema.get("default"):
            default = parse([f"-{name.replace('_', '-')}={value}" for name, value in NEEDED.items()])
            assert str(settings.port) == str(default.port)
            assert settings.udp_max_flows == default.udp_max_flows
            assert settings.limits.idle_s == default.limits.idle_s


@pytest.mark.parametrize(("name", "value"), [
    ("proto", "icmp"), ("host_port", 65_536), ("host_port", -1), ("container_port", 0), ("container_port", 65_536),
    ("udp_max_flows", 0), ("udp_max_flows", 1_000_001), ("host_ip", None), ("host_port", True),
])  # fmt: skip
def test_what_the_description_refuses_the_engine_refuses(engine: Engine, name: str, value: object) -> None:
    said = NEEDED | {name: value}
    assert problems({"$ref": "#/components/schemas/PublishRequest"}, said) != []
    assert asked(engine, "post", "/ports", json.dumps(said).encode()).status == 400


@pytest.fixture
def busy(run_dir: Path) -> Iterator[tuple[Engine, str, str, str]]:
    """An engine with something of everything: the names of a port with a client that was published by command, of one
    that a stub holds, and of one of UDP; and one that is gone but for its connection.
    """
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(running_engine(run_dir, "--drain-unpublished", "30"))
        backend = stack.enter_context(serving(echo))
        gone, ours = (publish(engine, container_port=backend[1]) for _ in range(2))
        for port in (gone, ours):
            stack.enter_context(client_of((LOCAL, port["host_port"])))
        assert asked(engine, "delete", f"/ports/{gone['name']}").status == 200
        address = free()
        child = stack.enter_context(stub("sh", address, backend))
        assert child.first_answer() == b"0\n"
        yield engine, ours["name"], f"tcp/{LOCAL}:{address[1]}", publish(engine, proto="udp")["name"]
        assert child.stop() == 0


def test_every_answer_is_described_and_every_described_answer_is_given(busy: tuple[Engine, str, str, str]) -> None:
    engine, ours, held, udp = busy
    one, of_one = "/ports/{proto}/{address}", "/ports/{proto}/{address}/connections"
    new = {"host_ip": LOCAL, "host_port": 0, "container_ip": LOCAL, "container_port": 9, "idle_timeout": "5m"}
    large = {"proto": "x" * 20_000}
    exchanges: list[tuple[str, str, str, object, int]] = [
        ("get", "/health", "/health", None, 200),
        ("get", "/ports", "/ports", None, 200),
        ("post", "/ports", "/ports", new, 201),
        ("post", "/ports", "/ports", {}, 400),
        ("post", "/ports", "/ports", ["no object"], 400),
        ("post", "/ports", "/ports", new | {"host_port": int(ours.rpartition(":")[2])}, 409),
        ("post", "/ports", "/ports", large, 413),
        ("get", one, f"/ports/{ours}", None, 200),
        ("get", one, "/ports/tcp/nowhere", None, 404),
        ("get", of_one, f"/ports/{ours}/connections", None, 200),
        ("get", of_one, f"/ports/{udp}/connections", None, 200),
        ("get", of_one, "/ports/tcp/nowhere/connections", None, 404),
        ("get", "/connections", "/connections", None, 200),
        ("get", "/totals", "/totals", None, 200),
        ("post", "/drain", "/drain", {"port": ours}, 200),
        ("post", "/drain", "/drain", [], 400),
        ("post", "/drain", "/drain", {"port": 1}, 404),
        ("post", "/drain", "/drain", {"port": udp}, 409),
        ("post", "/drain", "/drain", large, 413),
        ("delete", one, f"/ports/{held}", None, 409),
        ("delete", one, f"/ports/{ours}", None, 200),
        ("delete", one, f"/ports/{ours}", None, 404),
        ("get", "/metrics", "/metrics", None, 200),
        ("get", "/openapi.json", "/openapi.json", None, 200),
    ]
    given = set()
    for method, path, asked_for, body, status in exchanges:
        answer = asked(engine, method, asked_for, None if body is None else json.dumps(body).encode())
        operation = operations()[method, path]
        said = resolved(operation["responses"][str(answer.status)])
        assert answer.status == status
        [(kind, content)] = said["content"].items()
        assert answer.kind == kind
        if kind == "application/json":
            value = json.loads(answer.body)
            assert problems(content["schema"], value) == []
            assert (value.get("draining") != [] and value.get("connections") != []) or udp in asked_for
        if body is not None and status < 300:
            assert problems(operation["requestBody"]["content"]["application/json"]["schema"], body) == []
        given.add((method, path, str(status)))
    assert given == {(*key, status) for key, operation in operations().items() for status in operation["responses"]}


def test_examples_are_what_they_are_examples_of() -> None:
    for operation in operations().values():
        if "requestBody" in operation:
            content = operation["requestBody"]["content"]["application/json"]
            assert problems(content["schema"], content["example"]) == []
