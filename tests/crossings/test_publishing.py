"""Every cell of the publishing table, with real clients on both sides."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.crossings.kafka_peer import Kafka
from tests.crossings.page import PAGE, render
from tests.crossings.peers import Peers
from tests.crossings.said import Said
from tests.crossings.table import MESSAGE, PUBLISHING, Cell, Crossing

BYTES = b"\x00\xff\xfe\x80"
EVENT = {"specversion": "1.0", "id": "e-1", "source": "/plant/9", "type": "plant.reading", "subject": "a b"}
EVENT_JSON = b'{"specversion":"1.0","id":"e-1","source":"/plant/9","type":"plant.reading", "data" : {"t":1}}'
EVENT_TYPE = "application/cloudevents+json"
HEADERS = [("colour", b"red"), ("Gr\u00f6\u00dfe", "9 \u00b5m".encode()), ("colour", b"blue"), ("empty", b"")]
TRACE = [("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("tracestate", b"a=1,b=2")]


class Walk(NamedTuple):
    """What is said for a field, what of the message then seen is looked at, and what is there if it does not cross."""

    said: Said
    look: Callable[[Said], object]
    absent: object = None
    arrives: object = None
    """None: what ``look`` finds in ``said``."""

    @property
    def expected(self) -> object:
        return self.look(self.said) if self.arrives is None else self.arrives


def _of(name: str, said: Said, absent: object = None, arrives: object = None) -> Walk:
    return Walk(said, lambda seen: getattr(seen, name), absent, arrives)


def _headers(*headers: tuple[str, bytes | None]) -> Walk:
    return _of("headers", Said(b"x", headers=list(headers)), [])


def _lives(seen: Said) -> bool | None:
    return None if seen.expires_s is None else 290 < seen.expires_s <= 300


WALKS: dict[str, Walk] = {
    "text payload": _of("payload", Said("21.5 °C\r\n\x00".encode())),
    "binary payload": _of("payload", Said(BYTES)),
    "empty payload": _of("payload", Said(b"")),
    "tombstone": Walk(Said(None), lambda seen: seen.payload is None, False),
    "UTF-8 mark": Walk(Said(b"x", text=True), lambda seen: bool(seen.text), False),
    "retain flag": Walk(Said(b"x", retain=True), lambda seen: bool(seen.retain), False),
    "at most once": Walk(Said(b"x", wish=0), lambda seen: seen.wish == 0, False),
    "exactly once": Walk(Said(b"x", wish=2), lambda seen: seen.wish == 2, False),
    "headers": _headers(*HEADERS),
    "header of bytes": _headers(("before", b"1"), ("signature", BYTES), ("after", b"2")),
    "header without value": _headers(("before", b"1"), ("nothing", None), ("after", b"2")),
    "header named as ours": Walk(
        Said(b"x", headers=[("mesh-cause", b"2a-7"), ("mesh-key", b"k")]),
        lambda seen: (seen.headers, seen.cause, seen.key),
        ([], None, None),
    ),
    "content type": _of("content_type", Said(b"{}", content_type='application/json;  odd="Yes"')),
    "key": _of("key", Said(b"x", key="k-1 ü".encode())),
    "binary key": _of("key", Said(b"x", key=BYTES)),
    "reply-to": _of("reply_to", Said(b"x", reply_to="answers/here")),
    "reply to me": _of("reply_to", Said(b"x", reply_to="mesh/me/reply/r"), None, "mesh/to/{sayer}/reply/r"),
    "correlation": _of("correlation", Said(b"x", correlation=b"c-1")),
    "binary correlation": _of("correlation", Said(b"x", correlation=BYTES)),
    "expiry": Walk(Said(b"x", expires_s=300), _lives),
    "sender": _of("sender", Said(b"x"), None, "{sayer}"),
    "sender's clock": _of("sent_ms", Said(b"x", sent_ms=1_700_000_000_123)),
    "mesh's clock": Walk(
        Said(b"x"), lambda seen: seen.time_ms and abs(seen.time_ms / 1000 - time.time()) < 60, None, arrives=True
    ),
    "id": Walk(Said(b"x"), lambda seen: seen.id and bool(re.fullmatch("[0-9a-f]+-0", seen.id)), None, arrives=True),
    "cause": _of("cause", Said(b"x", cause="2a-7")),
    "hops": _of("hops", Said(b"x", hops=3)),
    "trace context": _headers(*TRACE),
    "CloudEvent, binary": Walk(
        Said(
            b'{"t": 1}',
            headers=[(name, value.encode()) for name, value in EVENT.items()],
            content_type="application/json",
        ),
        lambda seen: (seen.headers, seen.content_type, seen.payload),
        ([], None, b'{"t": 1}'),
    ),
    "CloudEvent, structured": Walk(
        Said(EVENT_JSON, content_type=EVENT_TYPE), lambda seen: (seen.content_type, seen.payload), (None, EVENT_JSON)
    ),
}
"""One a row of the table but ``retained value``, which newcomers see."""

LESS = {("http", "raw", "retain flag"): False}
"""(reader, way, field) where one of a protocol's ways shows less than the table says of the protocol."""

_walked: dict[Cell, object] = {}


def test_the_page_is_what_the_table_renders():
    assert PAGE.read_text("utf-8") == render(), "run: python -m tests.crossings.table"


@pytest.mark.parametrize("crossing", PUBLISHING, ids=lambda c: f"{c.cell.source}-{c.cell.target}-{c.cell.field}")
def test_cell(crossing: Crossing, peers: Peers):
    cell = crossing.cell
    source, target = peers.sayers[cell.source], peers.seers[cell.target]
    channel = f"cross/{cell.source}/{cell.target}/{re.sub('[^a-zA-Z0-9]', '-', cell.field)}"
    if cell.field == "retained value":
        source.publish(channel, Said(b"kept", retain=True))
        source.publish(channel, Said(b"later"))
        if isinstance(target, Kafka):
            # Whoever comes late gets all that is kept, in order, and what was retained once among it.
            assert not crossing.crosses
            assert [seen.payload for seen in target.records(channel)] == [b"kept", b"later"]
        else:
            assert crossing.crosses
            assert target.retained(channel).payload == b"kept"
        _walked[cell] = b"kept"
        return
    walk = WALKS[cell.field]
    target.listen(channel)
    source.publish(channel, walk.said)
    expected = walk.expected if crossing.crosses else walk.absent
    if isinstance(expected, str):
        expected = expected.replace("{sayer}", source.name)
    ways = target.see(channel)
    for way, seen in ways.items():
        wanted = LESS.get((cell.target, way, cell.field), expected)
        assert walk.look(seen) == wanted, way
        if walk.said.payload is not None:
            assert seen.payload == walk.said.payload, way
    _walked[cell] = ways


def test_every_cell_was_walked():
    """Run with its module: a cell without a run is red, whatever the reason."""
    assert WALKS.keys() | {"retained value"} == MESSAGE.keys()
    assert _walked.keys() == {crossing.cell for crossing in PUBLISHING}
