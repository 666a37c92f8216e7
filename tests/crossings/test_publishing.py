"""Every cell of the publishing table, with real clients on both sides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.crossings.peers import Http, Peers, Said
from tests.crossings.table import MESSAGE, PAGE, PROTOCOLS, PUBLISH_CELLS, Cell, render

EVENT = [("specversion", "1.0"), ("id", "e-1"), ("source", "/plant"), ("type", "plant.reading")]
HEADERS = [("colour", "red"), ("shape", "round")]
REPEATED = [("colour", "red"), ("shape", "round"), ("colour", "blue")]

SAID = {
    "text payload": Said("21.5 °C".encode()),
    "binary payload": Said(b"\x00\xff\xfe\x80"),
    "empty payload": Said(b""),
    "retained": Said(b"kept", retained=True),
    "headers": Said(b"x", headers=HEADERS),
    "repeated headers": Said(b"x", headers=REPEATED),
    "content type": Said(b"{}", content_type="application/json"),
    "reply-to": Said(b"x", reply_to="answers/here"),
    "correlation": Said(b"x", correlation="c-1"),
    "expiry": Said(b"x", expires_s=300),
    "key": Said(b"x", key="k-1"),
    "cause": Said(b"x", cause="2a-7"),
    "CloudEvents attributes": Said(b"{}", headers=EVENT),
    "id and offset": Said(b"x"),
    "sender": Said(b"x"),
}


def test_the_page_is_what_the_table_renders():
    assert PAGE.read_text("utf-8") == render(), "run: python -m tests.crossings.table"


def test_every_field_is_walked_for_every_pair():
    assert SAID.keys() == MESSAGE.keys()
    assert len(PUBLISH_CELLS) == len(PROTOCOLS) ** 2 * len(MESSAGE)


@pytest.mark.parametrize("cell", PUBLISH_CELLS, ids=lambda cell: f"{cell.source}-{cell.target}-{cell.field}")
def test_cell(cell: Cell, peers: Peers):
    channel = f"cross/{cell.source}/{cell.target}/{cell.field.replace(' ', '-')}"
    said = SAID[cell.field]
    source, target = peers.sayers[cell.source], peers.seers[cell.target]
    if cell.field == "retained":
        source.publish(channel, said)
        assert target.retained(channel).payload == said.payload
        return
    if cell.field == "CloudEvents attributes" and cell.source == "http":
        assert isinstance(source, Http)
        target.listen(channel)
        status, body, _ = source.ask(
            "POST",
            f"/v1/channels/{channel}",
            said.payload,
            [("Content-Type", "application/json"), *((f"ce-{name}", value) for name, value in EVENT)],
        )
        assert status == 201, body
    elif cell.field == "repeated headers" and cell.source == "mcp":
        target.listen(channel)
        source.publish(channel, replace(said, headers=HEADERS))
        assert all(seen == 1 for seen in _counts(target.take(channel)).values()), "JSON objects have no duplicates"
        return
    else:
        target.listen(channel)
        source.publish(channel, said)
    seen = target.take(channel)
    assert seen.payload == said.payload
    _compare(cell, said, seen, peers, channel)


def _counts(seen: Said) -> dict[str, int]:
    names = [name for name, _ in seen.headers]
    return {name: names.count(name) for name in names}


def _compare(cell: Cell, said: Said, seen: Said, peers: Peers, channel: str) -> None:
    match cell.field:
        case "headers" | "repeated headers":
            assert seen.headers == (said.headers if cell.crosses else [])
        case "CloudEvents attributes":
            if cell.target == "http" and cell.crosses:
                http = peers.seers["http"]
                assert isinstance(http, Http)
                raw = {name.lower(): value for name, value in http.raw(channel)}
                assert {name: raw.get(f"ce-{name}") for name, _ in EVENT} == dict(EVENT)
            else:
                assert dict(seen.headers) == (dict(EVENT) if cell.crosses else {})
        case "content type":
            assert seen.content_type == (said.content_type if cell.crosses else None)
        case "reply-to":
            assert seen.reply_to == (said.reply_to if cell.crosses else None)
        case "correlation":
            assert seen.correlation == (said.correlation if cell.crosses else None)
        case "expiry":
            assert (seen.expires_s is not None) == cell.crosses
            assert seen.expires_s is None or 200 < seen.expires_s <= 300
        case "key":
            assert seen.key == (said.key if cell.crosses else None)
        case "cause":
            assert seen.cause == (said.cause if cell.crosses else None)
        case "id and offset":
            assert (seen.id is not None) == cell.crosses
        case "sender":
            assert seen.sender == (peers.sayers[cell.source].name if cell.crosses else None)
        case "text payload" | "binary payload" | "empty payload":
            pass
        case _:
            raise AssertionError(f"nobody compares {cell.field!r}")
