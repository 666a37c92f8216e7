"""``docs/crossings.md``, written from the table and from the adapters' own tables of refusals."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from dragoman.adapters.a2a.errors import refused
from dragoman.adapters.a2a.rpc import FORBIDDEN
from dragoman.adapters.a2a.views import state_for
from dragoman.adapters.kafka.errors import CODES as KAFKA_CODES
from dragoman.adapters.mqtt import codes
from dragoman.adapters.mqtt.mapping import CODES, PASSING, code_for
from dragoman.adapters.serving.statuses import STATUS
from dragoman.routing.refusals import Reason, Refusal
from tests.crossings.table import (
    ANSWERED,
    ASKED,
    CALLING,
    MARKS,
    MESSAGE,
    NAMES,
    PROTOCOLS,
    PUBLISHING,
    SERVERS,
    Crossing,
    Row,
    Spelling,
)

PAGE: Final = Path(__file__).parents[2] / "docs" / "crossings.md"


def render() -> str:
    """The page."""
    parts = [HEAD, "## How each protocol spells a message", _spellings(MESSAGE, PROTOCOLS)]
    parts += ["## What arrives of a message", _legend(PUBLISHING), _marks(PUBLISHING, MESSAGE)]
    parts += [SPECIAL, "## How each protocol asks and serves", _calls()]
    parts += ["## What arrives of a call", CALL_NOTE, _legend(CALLING), _marks(CALLING, {**ASKED, **ANSWERED})]
    parts += ["## How a no is said", _refusals(), FOOT]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _spellings(rows: dict[str, Row], protocols: Iterable[str]) -> str:
    return _table(["", *(NAMES[p] for p in protocols)], [[f, *(_both(rows[f][p]) for p in protocols)] for f in rows])


def _both(spelling: Spelling) -> str:
    if spelling.says == spelling.shows:
        return spelling.says or "–"
    return f"says {spelling.says or '–'}; shows {spelling.shows or '–'}"


def _legend(crossings: list[Crossing]) -> str:
    used = {crossing.mark for crossing in crossings}
    return " · ".join(f"{mark} {text}" for mark, text in MARKS.items() if mark in used)


def _marks(crossings: list[Crossing], fields: Iterable[str]) -> str:
    """One row a field, one column an ordered pair."""
    pairs = list(dict.fromkeys((c.cell.source, c.cell.target) for c in crossings))
    marks = {tuple(c.cell): c.mark for c in crossings}
    head = ["", *(f"{SHORT[a]} → {SHORT[b]}" for a, b in pairs)]
    return _table(head, [[field, *(marks[a, b, field] for a, b in pairs)] for field in fields])


def _calls() -> str:
    head = ["", *(f"{NAMES[p]} asks" for p in PROTOCOLS), *(f"{NAMES[p]} serves" for p in SERVERS)]
    asked = [
        [f, *(row[p].says or "–" for p in PROTOCOLS), *(row[p].shows or "–" for p in SERVERS)]
        for f, row in ASKED.items()
    ]
    answered = [
        [f, *(row[p].shows or "–" for p in PROTOCOLS), *(row[p].says or "–" for p in SERVERS)]
        for f, row in ANSWERED.items()
    ]
    return _table(head, asked + answered)


def _refusals() -> str:
    head = [
        "reason",
        "MQTT 5 PUBACK",
        "SUBACK",
        "CONNACK, DISCONNECT",
        "MQTT 3.1.1 CONNACK",
        "MQTT 3.1.1 PUBLISH",
        "Kafka",
        "HTTP",
        "MCP",
        "A2A JSON-RPC",
        "A2A HTTP+JSON",
        "A2A task",
    ]
    return _table(head, [_refusal(reason) for reason in Reason])


def _refusal(reason: Reason) -> list[str]:
    said = CODES[reason]
    a2a = refused(Refusal(reason, ""))
    ends = code_for(codes.CONNACK, reason), code_for(codes.DISCONNECT, reason)
    return [
        f"`{reason.value}`",
        _code(code_for(codes.PUBACK, reason)),
        _code(code_for(codes.SUBACK, reason)),
        ", ".join(dict.fromkeys(f"0x{code:02X}" for code in ends)),
        str(int(codes.return_code(said))),
        "closes" if reason in PASSING or reason is Reason.NAME_INVALID else "dropped, counted",
        f"{int(KAFKA_CODES[reason])} {KAFKA_CODES[reason].name}",
        str(int(STATUS[reason])),
        f"`isError`, `{reason.value}: …`",
        f"{a2a.fault.value.rpc}" + (f", HTTP {a2a.status}" if reason in FORBIDDEN else ""),
        f"{a2a.status} {a2a.rest()['error']['status']}",
        state_for(reason).removeprefix("TASK_STATE_").lower(),
    ]


def _code(code: codes.Code) -> str:
    return f"0x{code:02X} {code.text}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


SHORT: Final = {"mqtt3": "3.1.1", "mqtt5": "5", "kafka": "Kafka", "http": "HTTP", "mcp": "MCP", "a2a": "A2A"}

HEAD: Final = """
# Crossings

What survives when a message or a call goes from one protocol to another, how it is spelt there, and what is lost.
Written from `tests/crossings/table.py`; the tests walk every cell of it with real clients against a running mesh, and
what is not said to arrive must not.

The payload is always the sender's bytes. A message that stays in its protocol leaves as it came: MQTT 5 properties
go on byte for byte and in order. What MQTT 3.1.1 has no place for is kept beside the message, so a reader of another
protocol still gets it from a sender that could say it.
"""

SPECIAL: Final = """
- HTTP shows a message in three ways: as JSON in a page or an event, and raw, payload as body and the rest as header
  fields. Nothing is lost between them but the retain flag, which the raw form does not have.
- HTTP header names know no capitals and the mesh does: a capital letter in `{name}` is percent-encoded.
- Kafka's records are kept and given unread, so what one Kafka client says to another is its own bytes: the mesh adds
  nothing, and a `mesh-from` or `mesh-id` in them is the producer's word. To readers of other protocols such a header
  is not passed on. A record with the header `mesh-retain` is taken apart and said one by one.
- A Kafka client is no agent unless a record registers it: it has no sender's name and no `mesh/me`.
- What MQTT cannot hold (strings over 65,535 bytes or with a NUL) is left out, and the user property `mesh-lost` names
  it. `mesh-id`, `mesh-from` and `mesh-lost` are the mesh's to say: a client's own are not passed on, so a reader may
  believe them.
- A reader gets the lower of its own wish and the sender's. HTTP and MCP readers acknowledge by reading on.
- A retained value is cleared by an empty payload or a tombstone that asks to be retained; to Kafka that is a null value
  with `mesh-retain`, to MQTT an empty payload.
- What has expired before it is read is given to nobody, whatever it was said in. Kafka's consumers get it all the same,
  with the `expires-at` it had: their records are not opened, and a reader decides. In a retained value it is gone.
- A response topic below `mesh/me/` is made absolute on receipt (`mesh/to/{agent}/reply/…`), to mean the same to all.
- The attributes `partitionkey` and `time` of a CloudEvent are the message's key and its sender's clock as well, unless
  it says those itself. A batch of events is refused: 415.
"""

CALL_NOTE: Final = """
The caller is named first: MCP → HTTP is an MCP client that calls a skill which an HTTP client serves. A caller that
cannot say a deadline gets the mesh's (`agents.call_deadline_ms`, or `mcp.call_timeout_s`). An MCP client's own timeout
ends the request, and so cancels the call. An MCP server is one that the mesh has a link to; a call whose arguments are
no JSON object is refused before it is asked, and of a report of progress without a message the numbers are the part.
"""

FOOT: Final = """
MQTT 3.1.1 can refuse only a CONNECT and a SUBSCRIBE (0x80). A publish it may not make is acknowledged and dropped,
counted by reason, or ends the connection (`mqtt.denied_publish`); one that could not be stored ends the connection
without an acknowledgement, so the client keeps it. QoS 0 in MQTT 5 has no acknowledgement and is treated likewise.
A call by a verb hears its refusal as an error answer. MCP says a no as a tool error (`isError`, with the reason) or,
for a request that is wrong in itself, as JSON-RPC -32602; what the web listener refuses before MCP is read (login,
size, rate) is HTTP's, and so is a login that is refused before A2A is read. A2A names the reason in capitals in the
details of an error (`ErrorInfo`, domain `dragoman`). A call that is refused once it is a task ends it in the state of
the last column, with the reason in its status message.
"""
