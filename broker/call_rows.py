"""How calls are remembered: one row a call, one row an event, so that a long stream of parts is written once each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman.broker.call import Call, CallEvent, CallState, Kind, Outcome
from dragoman.broker.log.contract import Table
from dragoman.broker.principal import ANONYMOUS, EMBEDDED, Principal
from dragoman.broker.rows import Row, decode_row, encode_row
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dragoman.broker.log.contract import Log, Ticket


_PRINCIPALS = {principal.name: principal for principal in (ANONYMOUS, EMBEDDED)}


class CallRow(Row):
    """A call without its events. The principal is kept as far as the gate's rules speak of it."""

    principal: str = ""
    groups: tuple[str, ...] = ()
    caller_agent: str = ""
    wanted: str | None = None
    skill: str = ""
    key: str | None = None
    arguments: bytes = b""
    content_type: str | None = None
    cause: str | None = None
    dedupe: str | None = None
    durable: bool = False
    address: tuple[str, bytes | None] | None = None
    state: str = "waiting"
    agent: str = ""
    started_ms: int = 0
    deadline_ms: int = 0
    ended_ms: int = 0
    moved_ms: int = 0


class EventRow(Row):
    """One event of a call."""

    number: int = 0
    kind: str = "state"
    state: str = "waiting"
    time_ms: int = 0
    payload: bytes | None = None
    content_type: str | None = None
    reason: str | None = None
    detail: str = ""


def save(log: Log, call: Call) -> Ticket:
    """Writes the call's own row; an end that is not told yet is in it."""
    row = CallRow(
        principal=call.principal.name,
        groups=tuple(sorted(call.principal.groups)),
        caller_agent=call.caller_agent,
        wanted=call.wanted,
        skill=call.skill,
        key=call.key,
        arguments=call.arguments,
        content_type=call.content_type,
        cause=call.cause,
        dedupe=call.dedupe,
        durable=call.durable,
        address=call.address,
        state=(call.ending or call.state).value,
        agent=call.agent,
        started_ms=call.started_ms,
        deadline_ms=call.deadline_ms,
        ended_ms=call.ended_ms,
        moved_ms=call.moved_ms,
    )
    return log.put(Table.CALLS, call.id.encode(), encode_row(row))


def save_event(log: Log, call: Call, event: CallEvent) -> None:
    """Writes one event's row."""
    row = EventRow(
        number=event.number,
        kind=event.kind.value,
        state=event.state.value,
        time_ms=event.time_ms,
        payload=event.payload,
        content_type=event.content_type,
        reason=event.refusal.reason.value if event.refusal is not None else None,
        detail=event.refusal.detail if event.refusal is not None else "",
    )
    log.put(Table.CALLS, _event_key(call, event), encode_row(row))


def forget_events(log: Log, call: Call, events: Iterable[CallEvent]) -> None:
    """Takes events out."""
    for event in events:
        log.put(Table.CALLS, _event_key(call, event), None)


def forget(log: Log, call: Call) -> None:
    """Takes the call out, with all its events."""
    forget_events(log, call, call.events)
    log.put(Table.CALLS, call.id.encode(), None)


def load(log: Log) -> Iterator[Call]:
    """The calls the log remembers, each with its events; pending ones wait to be asked again."""
    call: Call | None = None
    for key, value in list(log.rows(Table.CALLS)):
        call_id, slash, _ = key.decode().partition("/")
        if slash:
            # An event sorts right after its call.
            assert call is not None, f"an event of no call: {key!r}"
            assert call.id == call_id, f"an event of {call_id} below {call.id}"
            _restore(call, decode_row(value, EventRow))
            continue
        if call is not None:
            yield call
        call = _call(call_id, decode_row(value, CallRow))
    if call is not None:
        yield call


def _call(call_id: str, row: CallRow) -> Call:
    call = Call(
        call_id,
        _PRINCIPALS.get(row.principal) or Principal(row.principal, frozenset(row.groups)),
        row.caller_agent,
        row.wanted,
        row.skill,
        row.arguments,
        content_type=row.content_type,
        key=row.key,
        cause=row.cause,
        dedupe=row.dedupe,
        durable=row.durable,
        address=row.address,
    )
    call.recorded = True
    call.state = CallState(row.state)
    call.ending = call.state if row.ended_ms else None
    call.agent = row.agent
    call.started_ms = row.started_ms
    call.deadline_ms = row.deadline_ms
    call.ended_ms = row.ended_ms
    call.moved_ms = row.moved_ms or row.ended_ms or row.started_ms
    return call


def _restore(call: Call, row: EventRow) -> None:
    refusal = Refusal(Reason(row.reason), row.detail) if row.reason is not None else None
    kind = Kind(row.kind)
    event = CallEvent(row.number, kind, CallState(row.state), row.time_ms, row.payload, row.content_type, refusal)
    call.events.append(event)
    call.bytes += event.size
    call.last_event = row.number
    if kind is Kind.FINAL:
        call.outcome = Outcome(row.payload, row.content_type, refusal)


def _event_key(call: Call, event: CallEvent) -> bytes:
    return f"{call.id}/{event.number:012d}".encode()
