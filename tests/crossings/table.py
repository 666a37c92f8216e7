"""The crossings table: what each protocol can say and show of a message, and what a call keeps on its way.

The one source of ``docs/crossings.md`` (``python -m tests.crossings.table`` writes it) and of the tests, which walk
every cell with real clients: what the sender's protocol says and the receiver's shows must arrive, nothing else may.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from dragoman.adapters.mqtt.codes import return_code
from dragoman.adapters.mqtt.mapping import CODES
from dragoman.adapters.serving.problems import STATUS
from dragoman.routing.refusals import Reason

PAGE: Final = Path(__file__).parents[2] / "docs" / "crossings.md"

PROTOCOLS: Final = ("mqtt3", "mqtt5", "http", "mcp")
NAMES: Final = {"mqtt3": "MQTT 3.1.1", "mqtt5": "MQTT 5", "http": "HTTP", "mcp": "MCP"}


class Spelling(NamedTuple):
    """How a protocol says a field when publishing, and how it shows it to a reader. "" = it cannot."""

    says: str
    shows: str


NO: Final = Spelling("", "")
MESSAGE: Final[dict[str, dict[str, Spelling]]] = {
    "text payload": {
        "mqtt3": Spelling("payload", "payload"),
        "mqtt5": Spelling("payload", "payload"),
        "http": Spelling("body", "`payload`"),
        "mcp": Spelling("`text`", "`text`"),
    },
    "binary payload": {
        "mqtt3": Spelling("payload", "payload"),
        "mqtt5": Spelling("payload", "payload"),
        "http": Spelling("body", "`payload_base64`"),
        "mcp": Spelling("`base64`", "`base64`"),
    },
    "empty payload": {
        "mqtt3": Spelling("payload", "payload"),
        "mqtt5": Spelling("payload", "payload"),
        "http": Spelling("body", '`payload`: ""'),
        "mcp": Spelling('`text`: ""', '`text`: ""'),
    },
    "retained": {
        "mqtt3": Spelling("RETAIN", "RETAIN on replay"),
        "mqtt5": Spelling("RETAIN", "RETAIN on replay"),
        "http": Spelling("`?retain=true`", "`?retained=true`"),
        "mcp": Spelling("`retain`", "the resource's content"),
    },
    "headers": {
        "mqtt3": NO,
        "mqtt5": Spelling("user properties", "user properties"),
        "http": Spelling("`Mesh-H-{name}`", "`headers`"),
        "mcp": Spelling("`headers`", "`headers`"),
    },
    "repeated headers": {
        "mqtt3": NO,
        "mqtt5": Spelling("user properties, in order", "user properties, in order"),
        "http": Spelling("`Mesh-H-{name}`, in order", "`headers`, in order"),
        "mcp": Spelling("", "`headers`, in order"),
    },
    "content type": {
        "mqtt3": NO,
        "mqtt5": Spelling("Content Type", "Content Type"),
        "http": Spelling("`Content-Type`", "`content_type`"),
        "mcp": Spelling("`content_type`", "`content_type`"),
    },
    "reply-to": {
        "mqtt3": NO,
        "mqtt5": Spelling("Response Topic", "Response Topic"),
        "http": Spelling("`Mesh-Reply-To`", "`reply_to`"),
        "mcp": Spelling("`reply_to`", "`reply_to`"),
    },
    "correlation": {
        "mqtt3": NO,
        "mqtt5": Spelling("Correlation Data", "Correlation Data"),
        "http": Spelling("`Mesh-Correlation`", "`correlation`"),
        "mcp": Spelling("`correlation`", "`correlation`"),
    },
    "expiry": {
        "mqtt3": NO,
        "mqtt5": Spelling("Message Expiry Interval", "Message Expiry Interval, what is left"),
        "http": Spelling("`Mesh-Expires-Ms`", "`expires_ms`"),
        "mcp": Spelling("`expires_s`", "`expires_ms`"),
    },
    "key": {
        "mqtt3": NO,
        "mqtt5": Spelling("user property `mesh-key`", "user property `mesh-key`"),
        "http": Spelling("`Mesh-Key`", "`key`"),
        "mcp": Spelling("`key`", "`key`"),
    },
    "cause": {
        "mqtt3": NO,
        "mqtt5": Spelling("user property `mesh-cause`", "user property `mesh-cause`"),
        "http": Spelling("`Mesh-Cause`", "`cause`"),
        "mcp": Spelling("`cause`", "`cause`"),
    },
    "CloudEvents attributes": {
        "mqtt3": NO,
        "mqtt5": Spelling("user properties (MQTT binding)", "user properties"),
        "http": Spelling("`ce-*` headers, or the whole event", "`ce-*` headers"),
        "mcp": Spelling("`headers`", "`headers`"),
    },
    "id and offset": {
        "mqtt3": NO,
        "mqtt5": NO,
        "http": Spelling("given by the mesh", "`id`, `offset`"),
        "mcp": Spelling("given by the mesh", "`id`, `offset`"),
    },
    "sender": {
        "mqtt3": Spelling("client id", ""),
        "mqtt5": Spelling("client id", ""),
        "http": Spelling("", "`from`"),
        "mcp": Spelling("", "`sender`"),
    },
}
"""Field → protocol → spelling."""

GIVEN: Final = frozenset({"id and offset"})
"""What the mesh gives every message, whoever says it: it crosses wherever it can be shown."""

SERVERS: Final = ("mqtt3", "mqtt5", "http")
"""MCP clients only ask: whoever connects to an MCP endpoint is a client."""

CALL: Final[dict[str, dict[str, Spelling]]] = {
    "arguments": {
        "mqtt3": Spelling("payload of `mesh/call/{agent}/{skill}/{ref}`", "payload on `mesh/serve/{skill}/{call}`"),
        "mqtt5": Spelling("payload of `mesh/call/{agent}/{skill}`", "payload on `mesh/serve/{skill}/{call}`"),
        "http": Spelling("`arguments` of `POST /v1/calls`", "`arguments` of an ask"),
        "mcp": Spelling("`tools/call` arguments", ""),
    },
    "result": {
        "mqtt3": Spelling("`mesh/me/reply/{ref}`", "`mesh/answer/{call}`"),
        "mqtt5": Spelling("Response Topic, `mesh-status`: ok", "Response Topic or `mesh/answer/{call}`"),
        "http": Spelling("`result`", "`POST /v1/calls/{call}/answer`"),
        "mcp": Spelling("text content, structured content for objects", ""),
    },
    "error": {
        "mqtt3": Spelling('`{"error": …}`', "`mesh/answer/{call}/error`"),
        "mqtt5": Spelling("`mesh-status`: error", "`mesh/answer/{call}/error`"),
        "http": Spelling("a problem document", "`?error=`"),
        "mcp": Spelling("`isError`", ""),
    },
    "partial answers": {
        "mqtt3": Spelling("`mesh/me/reply/{ref}/{n}`", "`mesh/answer/{call}/part/{n}`"),
        "mqtt5": Spelling("`mesh-status`: part", "`mesh/answer/{call}/part/{n}`"),
        "http": Spelling("events of the call", "`?partial=true`"),
        "mcp": Spelling("progress notifications, if a progress token was given", ""),
    },
}
"""What of a call → protocol → how its caller sees it (``says``) and how its server does it (``shows``)."""


class Cell(NamedTuple):
    """One crossing of one field."""

    source: str
    target: str
    field: str

    @property
    def crosses(self) -> bool:
        """Whether it has to arrive."""
        spelling = MESSAGE[self.field]
        return bool((self.field in GIVEN or spelling[self.source].says) and spelling[self.target].shows)


PUBLISH_CELLS: Final = [Cell(a, b, field) for a in PROTOCOLS for b in PROTOCOLS for field in MESSAGE]
CALL_CELLS: Final = [Cell(a, b, field) for a in PROTOCOLS for b in SERVERS for field in CALL]


def render() -> str:
    """The page."""
    lines = [HEAD.strip(), ""]
    lines += ["## How each protocol spells a message", ""]
    lines += _table(
        ["", *(NAMES[p] for p in PROTOCOLS)],
        [[field, *(_both(MESSAGE[field][p]) for p in PROTOCOLS)] for field in MESSAGE],
    )
    lines += [
        "",
        "## What arrives",
        "",
        "● arrives as it was · ○ the sender's protocol cannot say it · – the reader's cannot show it",
        "",
    ]
    pairs = [(a, b) for a in PROTOCOLS for b in PROTOCOLS]
    rows = [[f"{NAMES[a]} → {NAMES[b]}", *(_mark(Cell(a, b, field)) for field in MESSAGE)] for a, b in pairs]
    lines += _table(["", *MESSAGE], rows)
    lines += ["", "## How each protocol asks and serves", ""]
    lines += _table(
        ["", *(f"{NAMES[p]} asks" for p in PROTOCOLS), *(f"{NAMES[p]} serves" for p in SERVERS)],
        [[what, *(CALL[what][p].says for p in PROTOCOLS), *(CALL[what][p].shows for p in SERVERS)] for what in CALL],
    )
    lines += ["", "All four cross between every caller and every server above.", "", "## How a no is said", ""]
    lines += _table(
        ["reason", "MQTT 5", "MQTT 3.1.1 CONNACK", "HTTP"],
        [
            [f"`{r.value}`", f"0x{CODES[r]:02X} {CODES[r].text}", f"{int(return_code(CODES[r]))}", str(int(STATUS[r]))]
            for r in Reason
        ],
    )
    lines += ["", FOOT.strip(), ""]
    return "\n".join(lines)


def _both(spelling: Spelling) -> str:
    if spelling.says == spelling.shows:
        return spelling.says or "–"
    return f"says: {spelling.says or '–'}; shows: {spelling.shows or '–'}"


def _mark(cell: Cell) -> str:
    if cell.crosses:
        return "●"
    return "–" if not MESSAGE[cell.field][cell.target].shows else "○"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


HEAD: Final = """
# Crossings

What survives when a message or a call goes from one protocol to another, how it is spelt there, and what is lost.
Written from `tests/crossings/table.py`; the tests walk every cell of it with real clients against a running mesh.

The payload is always the sender's bytes. A message that stays in its protocol leaves as it came: MQTT 5 properties
go on byte for byte and in order. What MQTT 3.1.1 has no place for is kept beside the message, so a reader of another
protocol still gets it from a sender that could say it.
"""

FOOT: Final = """
MQTT 3.1.1 can refuse only a CONNECT and a SUBSCRIBE (0x80). A publish it may not make is acknowledged and dropped,
counted by reason, or ends the connection (`mqtt.denied_publish`); one that could not be stored ends the connection
without an acknowledgement, so the client keeps it. MCP says a no as a tool error (`isError`, with the reason) or, for
a request that is wrong in itself, as JSON-RPC -32602.

## What is spelt specially

- A header whose bytes are not UTF-8 goes to MQTT 5 as base64 under `{name};b64`, one without a value as `{name};null`.
- A tombstone (no payload) arrives in MQTT with an empty payload and the user property `mesh-null`.
- `hops` travels as `mesh-hops`, the delivery wish as QoS; a reader gets the lower of its own wish and the sender's.
- A response topic below `mesh/me/` is made absolute on receipt (`mesh/to/{agent}/reply/…`), to mean the same to all.
"""

if __name__ == "__main__":
    PAGE.write_text(render(), "utf-8")
