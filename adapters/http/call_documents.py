"""Calls as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from dragoman.adapters.http.documents import Document, Request, text_or_base64
from dragoman.adapters.serving import problems
from dragoman.adapters.serving.json_in import read_json

if TYPE_CHECKING:
    from dragoman.broker.call import Call, CallEvent
    from dragoman.broker.offers import Asked

_JSON = ("", "application/json")


class CallRequest(Request):
    """What is asked. Without ``agent`` whoever serves the skill best is asked. ``durable``: it outlives connections."""

    skill: str
    agent: str | None = None
    arguments: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"{}"))
    deadline_ms: int | None = None
    cause: str | None = None
    durable: bool = False


class CallEventDocument(Document):
    """One thing that happened to a call. A gap in the numbers means that old parts were dropped."""

    number: int
    kind: str
    state: str
    time_ms: int
    part: object = msgspec.UNSET
    payload: str | None = None
    payload_base64: str | None = None
    content_type: str | None = None


class CallDocument(Document):
    """A call. ``result`` is its answer where that is JSON, otherwise ``payload``; ``problem`` is why there is none.

    ``state`` is waiting, working, done, failed, cancelled or expired.
    """

    id: str
    skill: str
    state: str
    started_ms: int
    deadline_ms: int
    agent: str = ""
    ended_ms: int = 0
    result: object = msgspec.UNSET
    payload: str | None = None
    payload_base64: str | None = None
    content_type: str | None = None
    problem: problems.Problem | None = None
    events: list[CallEventDocument] = []


class AskDocument(Document):
    """What a serving agent is asked. The answer goes to ``/v1/calls/{call}/answer`` before the deadline."""

    call: str
    skill: str
    deadline_ms: int
    caller: str = ""
    arguments: object = msgspec.UNSET
    payload: str | None = None
    payload_base64: str | None = None
    content_type: str | None = None
    cause: str | None = None

    @classmethod
    def of(cls, call: Asked) -> AskDocument:
        """A call as its server sees it."""
        value, text, base64 = _value(call.arguments, call.content_type)
        return cls(
            call=call.id,
            skill=call.skill,
            deadline_ms=call.deadline_ms,
            caller=call.caller_agent,
            arguments=value,
            payload=text,
            payload_base64=base64,
            content_type=call.content_type,
            cause=call.cause,
        )


def call_document(call: Call) -> CallDocument:
    """A call with everything that is still known of it."""
    outcome = call.outcome
    payload, content_type = (outcome.payload, outcome.content_type) if outcome is not None else (None, None)
    value, text, base64 = _value(payload, content_type)
    return CallDocument(
        id=call.id,
        skill=call.skill,
        state=call.state.value,
        started_ms=call.started_ms,
        deadline_ms=call.deadline_ms,
        agent=call.agent or call.wanted or "",
        ended_ms=call.ended_ms,
        result=value,
        payload=text,
        payload_base64=base64,
        content_type=content_type,
        problem=None if outcome is None or outcome.refusal is None else problems.describe(outcome.refusal),
        events=[event_document(event) for event in call.events if event.kind.value != "final"],
    )


def event_document(event: CallEvent) -> CallEventDocument:
    """One event of a call."""
    value, text, base64 = _value(event.payload, event.content_type)
    return CallEventDocument(
        number=event.number,
        kind=event.kind.value,
        state=event.state.value,
        time_ms=event.time_ms,
        part=value,
        payload=text,
        payload_base64=base64,
        content_type=event.content_type,
    )


def _value(payload: bytes | None, content_type: str | None) -> tuple[object, str | None, str | None]:
    """(JSON value, text, base64) of an answer: one of them, or none if there is no payload."""
    if payload is None:
        return msgspec.UNSET, None, None
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind in _JSON or kind.endswith("+json"):
        try:
            return read_json(payload, object), None, None
        except msgspec.DecodeError:
            pass  # what it was said to be it is not, or nobody could read it: as it came
    return msgspec.UNSET, *text_or_base64(payload)
