"""Checking values against strangers' schemas: right, bounded and offline."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from dragoman.adapters.mcp.schemas import SchemaCheck, SchemaFaultError

BYTES_MAX = 64 * 1024


def faults(schema: dict[str, Any], value: Any) -> list[str]:
    return SchemaCheck(schema, BYTES_MAX).faults(value)


def test_faults_say_where_and_what() -> None:
    schema = {
        "type": "object",
        "properties": {"t": {"type": "number", "minimum": 5}, "mode": {"enum": ["a", "b"]}},
        "required": ["t"],
        "additionalProperties": False,
    }
    assert faults(schema, {"t": 6, "mode": "a"}) == []
    assert faults(schema, {"t": 1}) == ["$.t: 1 is less than the minimum of 5"]
    assert faults(schema, {}) == ["$: 't' is a required property"]
    assert faults(schema, {"t": 6, "x": 1})[0].startswith("$: Additional properties are not allowed")
    assert faults(schema, {"t": 6, "mode": "c"}) == ["$.mode: 'c' is not one of ['a', 'b']"]


def test_references_within_the_schema_are_followed_and_none_beyond() -> None:
    schema = {"$defs": {"n": {"type": "number"}}, "properties": {"a": {"$ref": "#/$defs/n"}}}
    assert faults(schema, {"a": 1}) == []
    assert faults(schema, {"a": "1"}) == ["$.a: '1' is not of type 'number'"]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/s"
        assert "not in it" in faults({"properties": {"a": {"$ref": url}}}, {"a": 1})[0]
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert "not in it" in faults({"properties": {"a": {"$ref": "#/nowhere"}}}, {"a": 1})[0]


def doubling(levels: int) -> dict[str, Any]:
    definitions: dict[str, Any] = {
        f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"$ref": f"#/$defs/d{n + 1}"}]} for n in range(levels)
    }
    definitions[f"d{levels}"] = {"type": "number"}
    return {"$defs": definitions, "properties": {"a": {"$ref": "#/$defs/d0"}}}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (doubling(40), 1),
        ({"properties": {"a": {"uniqueItems": True}}}, [[n] for n in range(200_000)]),
        ({"properties": {"a": {"items": {"enum": list(range(5_000))}}}}, [-1] * 200_000),
        ({"properties": {"a": {"items": {"anyOf": [{"const": n} for n in range(1_000)]}}}}, [-1] * 200_000),
        ({"$ref": "#"}, 1),
    ],
)
def test_hostile_schemas_and_values_cost_little(schema: dict[str, Any], value: Any) -> None:
    began = time.process_time()
    (fault,) = faults(schema, {"a": value})[:1]
    assert "check" in fault or "-1" in fault
    assert time.process_time() - began < 2, "far above what it takes, far below what it would take unbounded"


def test_deep_values_are_refused_not_fallen_over() -> None:
    value: list[Any] = []
    for _ in range(900):
        value = [value]
    schema = {"properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"items": {"$ref": "#/$defs/x"}}}}
    assert "too deeply" in faults(schema, {"a": value})[0]


def test_regular_expressions_are_left_to_who_serves() -> None:
    evil = {"properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}, "patternProperties": {"^(b+)+$": False}}
    assert faults(evil, {"a": "a" * 60 + "!", "b" * 60 + "!": 1}) == []
    closed = {"patternProperties": {"^x": {}}, "additionalProperties": False}
    assert faults(closed, {"y": 1}) == []
    assert faults({"properties": {"pattern": {"type": "number"}}}, {"pattern": "x"}) != []


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "strange"},
        {"properties": 3},
        {"properties": {"p": {"pattern": "("}}},
        {"description": "x" * BYTES_MAX},
    ],
)
def test_what_is_no_schema_is_said(schema: dict[str, Any]) -> None:
    with pytest.raises(SchemaFaultError, match=r"."):
        SchemaCheck(schema, BYTES_MAX)
