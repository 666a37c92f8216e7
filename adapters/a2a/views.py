"""A call as A2A shows it: task, status, artifacts and the items of a stream. Pure: a call in, JSON out."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, NamedTuple

import msgspec

from dragoman.adapters.a2a.wire import JsonObject
from dragoman.adapters.serving.json_in import shallow
from dragoman.broker.call import Call, CallEvent, CallState, Kind
from dragoman.routing.refusals import Reason, Refusal

OWN_AGENT: Final = "$mesh"
"""How the agent ``/a2a/mesh`` is called among the calls."""

WATCH: Final = "watch"

ANSWER: Final = "answer"
"""The id of the one artifact that an agent's parts and its final answer make."""

PARTIAL: Final = "partial"
"""In a part's metadata: a partial answer, told on the way, and not (of) the answer."""

SUBMITTED: Final = "TASK_STATE_SUBMITTED"
WORKING: Final = "TASK_STATE_WORKING"
COMPLETED: Final = "TASK_STATE_COMPLETED"
FAILED: Final = "TASK_STATE_FAILED"
CANCELED: Final = "TASK_STATE_CANCELED"
REJECTED: Final = "TASK_STATE_REJECTED"

STATES: Final = frozenset(
    (SUBMITTED, WORKING, COMPLETED, FAILED, CANCELED, REJECTED, "TASK_STATE_INPUT_REQUIRED", "TASK_STATE_AUTH_REQUIRED")
)

_OF_STATE: Final[dict[CallState, str]] = {
    CallState.WAITING: SUBMITTED,
    CallState.WORKING: WORKING,
    CallState.DONE: COMPLETED,
    CallState.FAILED: FAILED,
    CallState.CANCELLED: CANCELED,
    CallState.EXPIRED: FAILED,
}
assert _OF_STATE.keys() == set(CallState), "every state of a call is a state of a task"

_OF_REASON: Final[dict[Reason, str]] = {
    Reason.CANCELLED: CANCELED,
    Reason.NOT_AUTHORIZED: REJECTED,
    Reason.ARGUMENTS_INVALID: REJECTED,
    Reason.PAYLOAD_INVALID: REJECTED,
    Reason.NAME_INVALID: REJECTED,
    Reason.FILTER_INVALID: REJECTED,
    Reason.TOO_LARGE: REJECTED,
    Reason.QUOTA_EXCEEDED: REJECTED,
    Reason.UNSUPPORTED: REJECTED,
    Reason.UNKNOWN_SKILL: REJECTED,
    Reason.UNKNOWN_CHANNEL: REJECTED,
}
"""Whoever refuses for one of these has not begun the work."""

DEPTH_MAX: Final = 80
"""Levels of a data part. Readers built on protocol buffers give up at 100, and the response has some itself."""


class Found(NamedTuple):
    """A task: its call, its context, and the id its requester knows it by."""

    call: Call
    context: str
    id: str


def state_of(call: Call) -> str:
    """The task's state."""
    return _state(call.state, call.outcome.refusal if call.outcome is not None else None)


def state_for(reason: Reason) -> str:
    """The state of a task that was refused for it."""
    return _OF_REASON.get(reason, FAILED)


def changed_ms(call: Call) -> int:
    """When it came into that state."""
    return call.moved_ms


def timestamp(time_ms: int) -> str:
    """A time as ProtoJSON writes it."""
    seconds, thousandths = divmod(time_ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{thousandths:03}Z"


def task(found: Found, message: JsonObject | None, *, artifacts: bool = True) -> JsonObject:
    """The whole task. ``message``: what the user said, if history is asked for and it was kept."""
    call = found.call
    shown: JsonObject = {"id": found.id, "contextId": found.context, "status": _status(found)}
    if artifacts:
        shown["artifacts"] = _artifacts(call)
    if message is not None:
        shown["history"] = [{**message, "taskId": found.id, "contextId": found.context}]
    shown["metadata"] = {"skill": call.skill, "sequence": call.last_event, "deadline": timestamp(call.deadline_ms)}
    return shown


def born(found: Found, message: JsonObject | None) -> JsonObject:
    """The task as it was before anything had happened: where a stream begins that tells all of it."""
    status: JsonObject = {"state": SUBMITTED, "timestamp": timestamp(found.call.started_ms)}
    return {**task(found, message, artifacts=False), "status": status, "artifacts": []}


def items(found: Found, event: CallEvent, *, begun: bool, missed: int) -> Iterator[JsonObject]:
    """What one event of the call is in a stream.

    ``begun``: the reader has seen a piece of the answer; ``missed``: events before this one that are gone already.
    """
    call = found.call
    about = {"taskId": found.id, "contextId": found.context}
    if event.payload is not None:
        last = event.kind is Kind.FINAL or _whole_parts(call)
        update: JsonObject = {
            **about,
            "artifact": _artifact(call, event),
            "append": begun and not _whole_parts(call),
            "lastChunk": last,
        }
        if missed:
            update["metadata"] = {"missed": missed}
        yield {"artifactUpdate": update}
    if event.kind is not Kind.PART:
        yield {"statusUpdate": {**about, "status": _status_at(found, event)}}


def part_of(payload: bytes, content_type: str | None) -> JsonObject:
    """Bytes as a part: JSON as data, text as text, anything else as it is."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return {"raw": b64encode(payload).decode("ascii"), "mediaType": content_type or "application/octet-stream"}
    json_like = kind == "application/json" or kind.endswith("+json")
    if json_like or (not kind and text.lstrip()[:1] in ("{", "[")):
        try:
            value = msgspec.json.decode(payload)
        except (msgspec.DecodeError, RecursionError):
            pass
        else:
            if shallow(value, DEPTH_MAX):
                return {"data": value, "mediaType": content_type or "application/json"}
    if kind and not json_like and not kind.startswith("text/"):
        return {"raw": b64encode(payload).decode("ascii"), "mediaType": content_type}
    return {"text": text, "mediaType": content_type or "text/plain"}


# -- within ------------------------------------------------------------------------------------------


def _state(state: CallState, refusal: Refusal | None) -> str:
    if state is CallState.FAILED and refusal is not None:
        return state_for(refusal.reason)
    return _OF_STATE[state]


def _status(found: Found) -> JsonObject:
    call = found.call
    refusal = call.outcome.refusal if call.outcome is not None else None
    return _said(found, call.state, refusal, changed_ms(call))


def _status_at(found: Found, event: CallEvent) -> JsonObject:
    return _said(found, event.state, event.refusal, event.time_ms)


def _said(found: Found, state: CallState, refusal: Refusal | None, time_ms: int) -> JsonObject:
    status: JsonObject = {"state": _state(state, refusal), "timestamp": timestamp(time_ms)}
    if refusal is not None:
        status["message"] = {
            "messageId": f"{found.id}-end",
            "role": "ROLE_AGENT",
            "taskId": found.id,
            "contextId": found.context,
            "parts": [{"text": refusal.detail or refusal.reason.value}],
            "metadata": {"reason": refusal.reason.value},
        }
    return status


def _whole_parts(call: Call) -> bool:
    """Whether each part is a thing of its own, and not a piece of the answer."""
    return call.wanted == OWN_AGENT and call.skill == WATCH


def _artifact(call: Call, event: CallEvent) -> JsonObject:
    assert event.payload is not None
    name = f"message-{event.number}" if _whole_parts(call) and event.kind is Kind.PART else ANSWER
    part = part_of(event.payload, event.content_type)
    if event.kind is Kind.PART:
        part["metadata"] = {PARTIAL: True}
    return {"artifactId": name, "name": call.skill, "parts": [part]}


def _artifacts(call: Call) -> list[JsonObject]:
    found: dict[str, JsonObject] = {}
    for event in call.events:
        if event.payload is None:
            continue
        artifact = _artifact(call, event)
        known = found.setdefault(artifact["artifactId"], artifact)
        if known is not artifact:
            known["parts"] += artifact["parts"]
    return list(found.values())
