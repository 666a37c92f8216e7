"""Every cell of the calling table, with real clients on both sides."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.crossings.calling import (
    ARGUMENTS,
    BYTES,
    ERROR,
    PARTS,
    RESULT,
    SKILLS,
    Ask,
    Asked,
    Callers,
    Got,
    Servers,
    start,
)
from tests.crossings.outside import McpServer
from tests.crossings.outside_a2a import A2aServer
from tests.crossings.peers import PATIENCE_S, Peers
from tests.crossings.table import CALL, CALLING, Cell, Crossing

RAW = b"\x00\xff\x80"
BINARY = ("mqtt3", "mqtt5", "kafka", "a2a")
DATED = ("mqtt5", "kafka", "http", "a2a")
"""Callers that can say a deadline."""
DEADLINE_S = 1
CAUSE = "2a-7"

_walked: dict[Cell, object] = {}


@pytest.fixture(scope="module")
def parties(peers: Peers, outside: McpServer, outside_agent: A2aServer) -> Iterator[tuple[Callers, Servers]]:
    callers, servers = start(peers.mesh, {"mcp": outside, "a2a": outside_agent})
    yield callers, servers
    for party in (*callers.values(), *servers.values()):
        if party not in (outside, outside_agent):
            party.close()


def _ask(crossing: Crossing) -> Ask:
    """What the caller says, as far as it can."""
    match crossing.cell.field:
        case "binary arguments" if crossing.cell.source in BINARY:
            return Ask(RAW)
        case "deadline" if crossing.cell.source in DATED:
            return Ask(deadline_s=DEADLINE_S)
        case "cause" if crossing.cell.source in DATED and crossing.cell.source != "a2a":
            return Ask(cause=CAUSE)
        case "cancel":
            return Ask(cancel=threading.Event())
    return Ask()


@pytest.mark.parametrize("crossing", CALLING, ids=lambda c: f"{c.cell.source}-{c.cell.target}-{c.cell.field}")
def test_cell(crossing: Crossing, parties: tuple[Callers, Servers]):
    cell = crossing.cell
    caller, server = parties[0][cell.source], parties[1][cell.target]
    ask = _ask(crossing)
    skill = SKILLS.get(cell.field, "do")
    if skill == "wait" and ask.cancel is None and ask.deadline_s is None:
        skill = "do"
    if ask.payload == RAW and cell.target == "mcp":
        # A tool takes an object, so the server is not asked at all.
        got = caller.call(f"serve-{cell.target}", f"{skill}_{cell.target}", ask)
        assert (got.reason, server.asked.empty()) == ("arguments-invalid", True)
        _walked[cell] = got
        return
    with ThreadPoolExecutor(1) as other:
        calling = other.submit(caller.call, f"serve-{cell.target}", f"{skill}_{cell.target}", ask)
        asked = server.asked.get(timeout=PATIENCE_S)
        if ask.cancel is not None:
            ask.cancel.set()
        if skill == "wait":
            assert server.cancelled.get(timeout=PATIENCE_S) == asked.call, "it is told that nobody waits any more"
        got = calling.result(PATIENCE_S * 2)
    assert server.asked.empty(), "a server is asked once"
    _compare(crossing, caller.name, asked, got)
    _walked[cell] = got


def _compare(crossing: Crossing, caller: str, asked: Asked, got: Got) -> None:
    crosses = crossing.crosses
    match crossing.cell.field:
        case "arguments":
            assert json.loads(asked.payload) == ARGUMENTS
            assert json.loads(got.payload or b"") == RESULT
        case "binary arguments":
            assert (asked.payload == RAW) == crosses
        case "deadline":
            _compare_deadline(crossing, asked, got)
        case "cancel":
            assert got.reason == "cancelled"
        case "caller":
            assert asked.caller == (caller if crosses else None)
        case "cause":
            assert asked.cause == (CAUSE if crosses else None)
        case "result":
            assert (json.loads(got.payload or b""), got.error, got.parts) == (RESULT, None, [])
        case "binary result":
            assert (got.payload, got.error) == (BYTES, None)
        case "its content type":
            assert got.content_type == ("image/png" if crosses else None)
        case "error":
            assert (got.payload, got.reason) == (None, "failed")
            assert ERROR in (got.error or "")
        case "partial answers":
            assert got.parts == PARTS
            assert json.loads(got.payload or b"") == RESULT
        case _:
            raise AssertionError(f"nobody compares {crossing.cell.field!r}")


def _compare_deadline(crossing: Crossing, asked: Asked, got: Got) -> None:
    said = crossing.cell.source in DATED
    assert got.reason == ("deadline-passed" if said else None)
    if crossing.crosses:
        assert asked.deadline_s is not None
        assert 0 < asked.deadline_s <= DEADLINE_S
    else:
        assert asked.deadline_s is None or asked.deadline_s > 30


def test_every_cell_was_walked():
    """Run with its module: a cell without a run is red, whatever the reason."""
    assert {crossing.cell.field for crossing in CALLING} == CALL.keys()
    assert _walked.keys() == {crossing.cell for crossing in CALLING}
