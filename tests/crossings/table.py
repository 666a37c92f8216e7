"""The crossings table: what each protocol can say and show of a message, and what a call keeps on its way.

The one source of ``docs/crossings.md`` (``python -m tests.crossings.table`` writes it) and of the tests, which walk
every cell with real clients: what the sender's protocol says and the receiver's shows must arrive, nothing else may.
A protocol is added by its column in every row; a cell without a client that walks it is red.
"""

from __future__ import annotations

from typing import Final, NamedTuple

PROTOCOLS: Final = ("mqtt3", "mqtt5", "kafka", "http", "mcp", "a2a")
NAMES: Final = {"mqtt3": "MQTT 3.1.1", "mqtt5": "MQTT 5", "kafka": "Kafka", "http": "HTTP", "mcp": "MCP", "a2a": "A2A"}

SERVERS: Final = ("mqtt3", "mqtt5", "kafka", "http", "mcp", "a2a")
"""Who connects to the endpoints of MCP and A2A only asks; their servers serve over links that the mesh opens."""


class Spelling(NamedTuple):
    """How a protocol says a fact and how it shows it. "" = it cannot."""

    says: str
    shows: str


Row = dict[str, Spelling]


def _same(text: str) -> Spelling:
    return Spelling(text, text)


def _user(name: str) -> Spelling:
    return _same(f"user property `{name}`")


def _header(name: str) -> Spelling:
    return _same(f"header `{name}`")


NO: Final = Spelling("", "")
HEADERS: Final = Spelling("`Mesh-H-{name}`", "`headers`; raw `Mesh-H-{name}`")
PAYLOAD: Final = _same("payload")

MESSAGE: Final[dict[str, Row]] = {
    "text payload": {
        "mqtt3": PAYLOAD,
        "mqtt5": PAYLOAD,
        "kafka": _same("value"),
        "http": Spelling("body", "`payload`; raw: body"),
        "mcp": _same("`text`"),
    },
    "binary payload": {
        "mqtt3": PAYLOAD,
        "mqtt5": PAYLOAD,
        "kafka": _same("value"),
        "http": Spelling("body", "`payload_base64`; raw: body"),
        "mcp": _same("`base64`"),
    },
    "empty payload": {
        "mqtt3": PAYLOAD,
        "mqtt5": PAYLOAD,
        "kafka": _same("value of no bytes"),
        "http": Spelling("body", '`payload`: ""; raw: 200'),
        "mcp": _same('`text`: ""'),
    },
    "tombstone": {
        "mqtt3": NO,
        "mqtt5": _same("empty payload, user property `mesh-null`"),
        "kafka": _same("null value"),
        "http": Spelling("`?tombstone=true`", "`tombstone`; raw: 204"),
        "mcp": _same("`tombstone`"),
    },
    "UTF-8 mark": {
        "mqtt3": NO,
        "mqtt5": _same("Payload Format Indicator"),
        "kafka": NO,
        "http": Spelling("`charset=utf-8`", ""),
        "mcp": Spelling("payload in `text`", ""),
    },
    "retained value": {
        "mqtt3": Spelling("RETAIN", "RETAIN, to newcomers"),
        "mqtt5": Spelling("RETAIN", "RETAIN, to newcomers"),
        "kafka": Spelling("header `mesh-retain`", ""),
        "http": _same("`?retained=true`")._replace(says="`?retain=true`"),
        "mcp": Spelling("`retain`", "the resource"),
    },
    "retain flag": {
        "mqtt3": Spelling("RETAIN", ""),
        "mqtt5": Spelling("RETAIN", "RETAIN, with Retain As Published"),
        "kafka": _header("mesh-retain"),
        "http": Spelling("`?retain=true`", "`retain`; raw: –"),
        "mcp": Spelling("`retain`", "`retained`"),
    },
    "at most once": {
        "mqtt3": _same("QoS 0"),
        "mqtt5": _same("QoS 0"),
        "kafka": NO,
        "http": Spelling("`?wish=0`", ""),
        "mcp": Spelling("`durable`: false", ""),
    },
    "exactly once": {
        "mqtt3": _same("QoS 2"),
        "mqtt5": _same("QoS 2"),
        "kafka": NO,
        "http": Spelling("`?wish=2`", ""),
        "mcp": NO,
    },
    "headers": {
        "mqtt3": NO,
        "mqtt5": _same("user properties"),
        "kafka": _same("headers"),
        "http": HEADERS,
        "mcp": _same("`headers`"),
    },
    "header of bytes": {
        "mqtt3": NO,
        "mqtt5": _user("{name};b64"),
        "kafka": _same("headers"),
        "http": Spelling("`Mesh-H-{name}`, percent-encoded", "`value_base64`; raw: percent-encoded"),
        "mcp": _same("`value_base64`"),
    },
    "header without value": {
        "mqtt3": NO,
        "mqtt5": _user("{name};null"),
        "kafka": _same("null value of a header"),
        "http": Spelling("`Mesh-N-{name}`", "no `value`; raw `Mesh-N-{name}`"),
        "mcp": _same("no `value`"),
    },
    "header named as ours": {
        "mqtt3": NO,
        "mqtt5": _user("mesh-h-mesh-…"),
        "kafka": _header("mesh-h-mesh-…"),
        "http": HEADERS,
        "mcp": _same("`headers`"),
    },
    "content type": {
        "mqtt3": NO,
        "mqtt5": _same("Content Type"),
        "kafka": _header("content-type"),
        "http": Spelling("`Content-Type`", "`content_type`; raw `Content-Type`"),
        "mcp": _same("`content_type`"),
    },
    "key": {
        "mqtt3": NO,
        "mqtt5": _user("mesh-key"),
        "kafka": _same("key"),
        "http": Spelling("`Mesh-Key`", "`key`; raw `Mesh-Key`"),
        "mcp": _same("`key`"),
    },
    "binary key": {
        "mqtt3": NO,
        "mqtt5": _user("mesh-key;b64"),
        "kafka": _same("key"),
        "http": Spelling("`Mesh-Key`, percent-encoded", "`key_base64`; raw `Mesh-Key`"),
        "mcp": _same("`key_base64`"),
    },
    "reply-to": {
        "mqtt3": NO,
        "mqtt5": _same("Response Topic"),
        "kafka": _same("header `reply-to`, a topic"),
        "http": Spelling("`Mesh-Reply-To`", "`reply_to`; raw `Mesh-Reply-To`"),
        "mcp": _same("`reply_to`"),
    },
    "reply to me": {
        "mqtt3": NO,
        "mqtt5": Spelling("Response Topic `mesh/me/reply/r`", "Response Topic `mesh/to/{agent}/reply/r`"),
        "kafka": Spelling("", "header `reply-to`, the topic `mesh.to.{agent}.reply.r`"),
        "http": Spelling("`Mesh-Reply-To`, as an agent", "`reply_to`"),
        "mcp": Spelling("`reply_to`, as an agent", "`reply_to`"),
    },
    "correlation": {
        "mqtt3": NO,
        "mqtt5": _same("Correlation Data"),
        "kafka": _header("correlation-id"),
        "http": Spelling("`Mesh-Correlation`", "`correlation`; raw `Mesh-Correlation`"),
        "mcp": _same("`correlation`"),
    },
    "binary correlation": {
        "mqtt3": NO,
        "mqtt5": _same("Correlation Data"),
        "kafka": _header("correlation-id"),
        "http": Spelling("`Mesh-Correlation`, percent-encoded", "`correlation_base64`; raw `Mesh-Correlation`"),
        "mcp": _same("`correlation_base64`"),
    },
    "expiry": {
        "mqtt3": NO,
        "mqtt5": Spelling("Message Expiry Interval", "Message Expiry Interval: what is left"),
        "kafka": _same("header `expires-at`: absolute"),
        "http": Spelling("`Mesh-Expires-Ms`: from now", "`expires_ms`: absolute; raw `Mesh-Expires-Ms`: left"),
        "mcp": Spelling("`expires_s`: from now", "`expires_ms`: absolute"),
    },
    "sender": {
        "mqtt3": Spelling("client id", ""),
        "mqtt5": Spelling("client id", "user property `mesh-from`"),
        "kafka": Spelling("", "header `mesh-from`"),
        "http": Spelling("credentials and `Mesh-Agent`", "`from`; raw `Mesh-From`"),
        "mcp": Spelling("credentials and `Mesh-Agent`", "`sender`"),
    },
    "sender's clock": {
        "mqtt3": NO,
        "mqtt5": _user("mesh-sent-ms"),
        "kafka": Spelling("timestamp", "timestamp, header `mesh-sent-ms`"),
        "http": Spelling("`Mesh-Sent-Ms`", "`sent_ms`; raw `Mesh-Sent-Ms`"),
        "mcp": Spelling("", "`sent_ms`"),
    },
    "mesh's clock": {
        "mqtt3": NO,
        "mqtt5": NO,
        "kafka": NO,
        "http": Spelling("given by the mesh", "`time_ms`; raw `Mesh-Time-Ms`"),
        "mcp": Spelling("given by the mesh", "`time_ms`"),
    },
    "id": {
        "mqtt3": NO,
        "mqtt5": Spelling("given by the mesh", "user property `mesh-id`"),
        "kafka": Spelling("given by the mesh", "header `mesh-id`"),
        "http": Spelling("given by the mesh", "`id`; raw `Mesh-Id`"),
        "mcp": Spelling("given by the mesh", "`id`"),
    },
    "cause": {
        "mqtt3": NO,
        "mqtt5": _user("mesh-cause"),
        "kafka": _header("mesh-cause"),
        "http": Spelling("`Mesh-Cause`", "`cause`; raw `Mesh-Cause`"),
        "mcp": _same("`cause`"),
    },
    "hops": {
        "mqtt3": NO,
        "mqtt5": _user("mesh-hops"),
        "kafka": _header("mesh-hops"),
        "http": Spelling("`Mesh-Hops`", "`hops`; raw `Mesh-Hops`"),
        "mcp": Spelling("", "`hops`"),
    },
    "trace context": {
        "mqtt3": NO,
        "mqtt5": _same("user properties `traceparent`, `tracestate`"),
        "kafka": _same("headers `traceparent`, `tracestate`"),
        "http": Spelling("`traceparent`, `tracestate`", "`headers`; raw `traceparent`, `tracestate`"),
        "mcp": Spelling("the request's `_meta`, or `headers`", "`headers`"),
    },
    "CloudEvent, binary": {
        "mqtt3": NO,
        "mqtt5": _same("user properties named as the attributes"),
        "kafka": _same("headers `ce_{attribute}`"),
        "http": Spelling("`ce-{attribute}`", "`headers`; raw `ce-{attribute}`"),
        "mcp": _same("`headers` named as the attributes"),
    },
    "CloudEvent, structured": {
        "mqtt3": Spelling("", ""),
        "mqtt5": _same("payload and Content Type"),
        "kafka": _same("value and header `content-type`"),
        "http": Spelling("body and `Content-Type`; attributes become headers too", "payload and content type"),
        "mcp": _same("`text` and `content_type`"),
    },
}
"""Field → protocol → spelling."""

A2A_OTHERWISE: Final[dict[str, Spelling]] = {
    "retained value": Spelling("`retain`", "`retained` of `read`"),
    "trace context": Spelling("the message's metadata, or `headers`", "`headers`"),
}
for _field, _row in MESSAGE.items():
    # The mesh's own agent takes and gives messages as data parts, in the words that MCP's tools have.
    _row["a2a"] = A2A_OTHERWISE.get(_field, _row["mcp"])

GIVEN: Final = frozenset({"id", "mesh's clock"})
"""What the mesh gives every message, whoever says it: it crosses wherever it can be shown."""

VERBATIM: Final = "a message that stays in its protocol goes on byte for byte, and so without what we would add"
EXCEPTIONS: Final[dict[tuple[str, str, str], str]] = {
    (source, "mqtt5", field): VERBATIM for source in ("mqtt3", "mqtt5") for field in ("sender", "id")
} | {("kafka", "kafka", "id"): VERBATIM}
"""(source, target, field) → why it does not cross although one says it and the other could show it."""

ASKED: Final[dict[str, Row]] = {
    "arguments": {
        "mqtt3": Spelling("payload of `mesh/call/{agent}/{skill}/{ref}`", "payload on `mesh/serve/{skill}/{call}`"),
        "mqtt5": Spelling("payload of `mesh/call/{agent}/{skill}`", "payload on `mesh/serve/{skill}/{call}`"),
        "kafka": Spelling("value in `mesh.call.{agent}.{skill}`", "value in the topic it named"),
        "http": Spelling("`arguments` of `POST /v1/calls`", "`arguments` of an ask"),
        "mcp": _same("arguments of `tools/call`"),
    },
    "binary arguments": {
        "mqtt3": PAYLOAD,
        "mqtt5": PAYLOAD,
        "kafka": _same("value"),
        "http": Spelling("", "`payload_base64`"),
        "mcp": NO,
    },
    "deadline": {
        "mqtt3": NO,
        "mqtt5": Spelling("Message Expiry Interval", "Message Expiry Interval: what is left"),
        "kafka": _same("header `expires-at`: absolute"),
        "http": Spelling("`deadline_ms`: from now", "`deadline_ms`: absolute"),
        "mcp": NO,
    },
    "cancel": {
        "mqtt3": Spelling("`mesh/me/cancel/{ref}`", "`mesh/me/cancel/{call}`"),
        "mqtt5": Spelling("`mesh/me/cancel/{ref}`, if it called with one", "`mesh/me/cancel/{call}`"),
        "kafka": Spelling("`mesh.me.cancel.{ref}`, if it called with one", "null value, header `mesh-cancel`"),
        "http": Spelling("`DELETE /v1/calls/{call}`", "event `cancel`"),
        "mcp": _same("the end of the request's stream; `notifications/cancelled` in a session"),
    },
    "caller": {
        "mqtt3": Spelling("client id", ""),
        "mqtt5": Spelling("client id", "user property `mesh-from`"),
        "kafka": Spelling("", "header `mesh-caller`"),
        "http": Spelling("credentials and `Mesh-Agent`", "`caller`"),
        "mcp": Spelling("credentials and `Mesh-Agent`", ""),
    },
    "cause": {
        "mqtt3": NO,
        "mqtt5": _user("mesh-cause"),
        "kafka": _header("mesh-cause"),
        "http": _same("`cause`"),
        "mcp": NO,
    },
}
"""What goes from the caller (``says``) to the server (``shows``)."""

A2A_ASKS: Final[dict[str, Spelling]] = {
    "arguments": _same("a data part; metadata `skill`"),
    "binary arguments": _same("a raw part"),
    "deadline": _same("metadata `deadline_ms`: from now"),
    "cancel": _same("`CancelTask`"),
    "caller": Spelling("credentials and `Mesh-Agent`", ""),
    "cause": Spelling("", "metadata `cause`"),
}
for _field, _row in ASKED.items():
    _row["a2a"] = A2A_ASKS[_field]

ANSWERED: Final[dict[str, Row]] = {
    "result": {
        "mqtt3": Spelling("`mesh/answer/{call}`", "`mesh/me/reply/{ref}`"),
        "mqtt5": Spelling("the Response Topic, `mesh/answer/{call}`", "Response Topic, `mesh-status`: ok"),
        "kafka": Spelling(
            "record in `mesh.answer`, `correlation-id`", "record in the `reply-to` topic, `mesh-status`: ok"
        ),
        "http": Spelling("`POST /v1/calls/{call}/answer`", "`result`"),
        "mcp": _same("text content; structured content for objects"),
    },
    "binary result": {
        "mqtt3": PAYLOAD,
        "mqtt5": PAYLOAD,
        "kafka": _same("value"),
        "http": Spelling("body", "`payload_base64`"),
        "mcp": _same("an image, audio or resource block"),
    },
    "its content type": {
        "mqtt3": NO,
        "mqtt5": _same("Content Type"),
        "kafka": _header("content-type"),
        "http": Spelling("`Content-Type`", "`content_type`"),
        "mcp": _same("`mimeType` of the block"),
    },
    "error": {
        "mqtt3": Spelling("`mesh/answer/{call}/error`", '`{"error": {"code", "message"}}`'),
        "mqtt5": Spelling("`mesh/answer/{call}/error`", "`mesh-status`: error, `mesh-error`: the reason"),
        "kafka": Spelling("`mesh-status`: error", "`mesh-status`: error, `mesh-error`: the reason"),
        "http": Spelling("`?error=`", "a problem document"),
        "mcp": _same("`isError`"),
    },
    "partial answers": {
        "mqtt3": Spelling("`mesh/answer/{call}/part/{n}`", "`mesh/me/reply/{ref}/{n}`"),
        "mqtt5": Spelling("`mesh/answer/{call}/part/{n}`", "Response Topic, `mesh-status`: part"),
        "kafka": _same("`mesh-status`: part"),
        "http": Spelling("`?partial=true`", "events of the call"),
        "mcp": Spelling("progress notifications", "progress notifications, if a token was given"),
    },
}
"""What goes from the server (``says``) to the caller (``shows``)."""

A2A_ANSWERS: Final[dict[str, Spelling]] = {
    "result": _same("the task's artifact: a data part, or text"),
    "binary result": _same("a raw part"),
    "its content type": _same("`mediaType` of the part"),
    "error": Spelling("`TASK_STATE_FAILED` with a message", "`TASK_STATE_FAILED`, metadata `reason`"),
    "partial answers": _same("chunks of the artifact"),
}
for _field, _row in ANSWERED.items():
    _row["a2a"] = A2A_ANSWERS[_field]

CALL: Final = {**ASKED, **ANSWERED}


class Cell(NamedTuple):
    """One crossing of one field. ``source`` speaks first: the sender, or the caller."""

    source: str
    target: str
    field: str


class Crossing(NamedTuple):
    """A cell and what the table says of it. ``mark`` is one of ``MARKS``."""

    cell: Cell
    mark: str

    @property
    def crosses(self) -> bool:
        """Whether it has to arrive; otherwise it must not."""
        return self.mark == CROSSES


CROSSES: Final = "●"
MARKS: Final = {
    CROSSES: "arrives as it was",
    "○": "the one protocol cannot say it",
    "–": "the other cannot show it",
    "≡": VERBATIM,
}


def publishing(cell: Cell) -> Crossing:
    """What becomes of a field of a message."""
    said = bool(MESSAGE[cell.field][cell.source].says) or cell.field in GIVEN
    shown = bool(MESSAGE[cell.field][cell.target].shows)
    return Crossing(cell, "–" if not shown else "○" if not said else "≡" if cell in EXCEPTIONS else CROSSES)


def calling(cell: Cell) -> Crossing:
    """What becomes of a part of a call."""
    caller, server = CALL[cell.field][cell.source], CALL[cell.field][cell.target]
    said, shown = (caller.says, server.shows) if cell.field in ASKED else (server.says, caller.shows)
    return Crossing(cell, "–" if not shown else "○" if not said else CROSSES)


PUBLISHING: Final = [publishing(Cell(a, b, field)) for a in PROTOCOLS for b in PROTOCOLS for field in MESSAGE]
CALLING: Final = [calling(Cell(a, b, field)) for a in PROTOCOLS for b in SERVERS for field in CALL]

if __name__ == "__main__":
    from tests.crossings.page import PAGE, render

    PAGE.write_text(render(), "utf-8")
