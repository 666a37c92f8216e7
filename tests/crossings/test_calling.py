"""Every cell of the calling table: each caller's protocol with each server's, with real clients on both sides."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.crossings.calling import (
    ASKED,
    ERROR,
    PARTS,
    RESULT,
    HttpCaller,
    HttpServer,
    McpCaller,
    MqttCaller,
    MqttServer,
)
from tests.crossings.peers import Peers
from tests.crossings.table import CALL, CALL_CELLS, PROTOCOLS, SERVERS, Cell

SKILLS = {"arguments": "do", "result": "do", "error": "fail", "partial answers": "parts"}


@pytest.fixture(scope="module")
def parties(peers: Peers) -> Iterator[tuple[dict[str, object], dict[str, object]]]:
    mesh = peers.mesh

    def skills(server: str) -> list[str]:
        return [f"{skill}_{server}" for skill in dict.fromkeys(SKILLS.values())]

    servers = {
        "mqtt3": MqttServer(mesh, "serve-mqtt3", 4, skills("mqtt3")),
        "mqtt5": MqttServer(mesh, "serve-mqtt5", 5, skills("mqtt5")),
        "http": HttpServer(mesh, "serve-http", skills("http")),
    }
    callers = {
        "mqtt3": MqttCaller(mesh, "ask-mqtt3", 4),
        "mqtt5": MqttCaller(mesh, "ask-mqtt5", 5),
        "http": HttpCaller(mesh),
        "mcp": McpCaller(mesh),
    }
    yield dict(callers), dict(servers)
    for party in (*callers.values(), *servers.values()):
        party.close()


def test_every_pair_is_walked():
    assert SKILLS.keys() == CALL.keys()
    assert len(CALL_CELLS) == len(PROTOCOLS) * len(SERVERS) * len(CALL)


@pytest.mark.parametrize("cell", CALL_CELLS, ids=lambda cell: f"{cell.source}-{cell.target}-{cell.field}")
def test_cell(cell: Cell, parties: tuple[dict[str, object], dict[str, object]]):
    callers, servers = parties
    caller, server = callers[cell.source], servers[cell.target]
    assert isinstance(caller, MqttCaller | HttpCaller | McpCaller)
    assert isinstance(server, MqttServer | HttpServer)
    got = caller.call(f"serve-{cell.target}", f"{SKILLS[cell.field]}_{cell.target}")
    assert json.loads(server.asked.get(timeout=10)) == ASKED
    assert server.asked.empty(), "a server is asked once"
    match cell.field:
        case "arguments" | "result":
            assert (got.result, got.error, got.parts) == (RESULT, None, [])
        case "error":
            assert got.result is None
            assert got.error is not None
            assert ERROR in got.error
        case "partial answers":
            assert got.parts == PARTS
            assert got.result == RESULT
        case _:
            raise AssertionError(f"nobody compares {cell.field!r}")
