"""What a call is: a request with exactly one final answer, and what has happened to it so far."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Protocol, final

import msgspec

from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from dragoman.broker.offers import Offer
    from dragoman.broker.principal import Principal
    from dragoman.broker.session import Session
    from dragoman.broker.timers import Timer


class CallState(Enum):
    """``waiting`` for a server to come back or to have room, ``working``, or one of four ends."""

    WAITING = "waiting"
    WORKING = "working"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


PENDING = (CallState.WAITING, CallState.WORKING)


class Kind(Enum):
    """What an event of a call is."""

    STATE = "state"
    PART = "part"
    FINAL = "final"


@final
class Outcome:
    """The one final answer: a payload, or why there is none."""

    __slots__ = ("content_type", "payload", "refusal")

    def __init__(
        self, payload: bytes | None = None, content_type: str | None = None, refusal: Refusal | None = None
    ) -> None:
        assert (payload is None) != (refusal is None), "an outcome is an answer or a refusal"
        self.payload = payload
        self.content_type = content_type
        self.refusal = refusal


@final
class CallEvent:
    """One thing that happened. Numbers rise by one from 1 within a call; a gap means that old parts were dropped."""

    __slots__ = ("content_type", "kind", "number", "payload", "refusal", "state", "time_ms")

    def __init__(
        self,
        number: int,
        kind: Kind,
        state: CallState,
        time_ms: int,
        payload: bytes | None = None,
        content_type: str | None = None,
        refusal: Refusal | None = None,
    ) -> None:
        self.number = number
        self.kind = kind
        self.state = state
        self.time_ms = time_ms
        self.payload = payload
        self.content_type = content_type
        self.refusal = refusal

    @property
    def size(self) -> int:
        """Bytes it counts against the bounds."""
        return len(self.payload or b"") + 100


class Caller(Protocol):
    """Who asked. Both are called at the end of the turn: parts in order, then ``final`` exactly once."""

    @property
    def session(self) -> Session:
        """The connection that asks; its principal and agent are judged."""

    def part(self, call: Call, payload: bytes, content_type: str | None) -> None:
        """A partial answer."""

    def final(self, call: Call, outcome: Outcome) -> None:
        """The answer, or why there is none."""


Address = tuple[str, bytes | None]
"""Where an answer goes when nobody who asked is left: a channel name and a correlation."""


@final
class Call:
    """One call. ``Calls`` alone writes it.

    ``wanted``       the agent it was asked of, None = whoever serves the skill; ``agent`` who was asked last
    ``key``          the exact (skill, schemas) asked for; None = any of that name
    ``deadline_ms``  milliseconds since the epoch
    ``moved_ms``     when it came into its state, likewise; events of that may be dropped, this stays
    ``durable``      the caller wants it to outlive connections; ``recorded`` it is a record in the log
    ``told``         session number of the connection that got the final answer
    ``address``      where the answer goes if the caller's process did not live to hear it
    """

    __slots__ = (
        "address",
        "agent",
        "arguments",
        "bytes",
        "caller",
        "caller_agent",
        "cause",
        "content_type",
        "deadline_ms",
        "dedupe",
        "due_ms",
        "durable",
        "ended_ms",
        "ending",
        "events",
        "id",
        "key",
        "last_event",
        "moved_ms",
        "offer",
        "outcome",
        "principal",
        "recorded",
        "skill",
        "started_ms",
        "state",
        "timer",
        "told",
        "wanted",
        "watchers",
    )

    def __init__(
        self,
        call_id: str,
        principal: Principal,
        caller_agent: str,
        wanted: str | None,
        skill: str,
        arguments: bytes,
        *,
        content_type: str | None = None,
        key: str | None = None,
        cause: str | None = None,
        dedupe: str | None = None,
        durable: bool = False,
        address: Address | None = None,
    ) -> None:
        self.id = call_id
        self.principal = principal
        self.caller_agent = caller_agent
        self.wanted = wanted
        self.skill = skill
        self.key = key
        self.arguments = arguments
        self.content_type = content_type
        self.cause = cause
        self.dedupe = dedupe
        self.durable = durable
        self.address = address
        self.state = CallState.WAITING
        self.agent = ""
        self.started_ms = 0
        self.moved_ms = 0
        self.deadline_ms = 0
        self.ended_ms = 0
        self.due_ms = 0
        self.recorded = False
        self.bytes = len(arguments) + 500
        self.events: deque[CallEvent] = deque()
        self.last_event = 0
        self.outcome: Outcome | None = None
        self.ending: CallState | None = None
        self.caller: Caller | None = None
        self.offer: Offer | None = None
        self.timer: Timer | None = None
        self.told = 0
        self.watchers: dict[int, Callable[[CallEvent], object]] | None = None

    @property
    def pending(self) -> bool:
        """Whether the final answer is still to come, for whoever waits for it."""
        return self.outcome is None

    @property
    def open(self) -> bool:
        """Whether it can still be answered. A recorded call that has been is pending until its end is safe."""
        return self.ending is None

    @property
    def lane(self) -> tuple[str, str]:
        """Those who wait in one lane wait for the same servers: (agent or "", skill)."""
        return self.wanted or "", self.skill

    def note(self, event: CallEvent, count_max: int, bytes_max: int) -> list[CallEvent]:
        """Appends an event; the oldest ones that had to go for it. The newest always stays."""
        self.events.append(event)
        self.bytes += event.size
        dropped: list[CallEvent] = []
        held = self.bytes - len(self.arguments) - 500
        while len(self.events) > 1 and (len(self.events) > count_max or held > bytes_max):
            oldest = self.events.popleft()
            self.bytes -= oldest.size
            held -= oldest.size
            dropped.append(oldest)
        return dropped

    def news_json(self) -> bytes:
        """What ``$mesh/v1/calls/{id}`` says. No arguments and no answers: those are the caller's."""
        news: dict[str, object] = {
            "state": self.state.value,
            "skill": self.skill,
            "agent": self.agent or self.wanted or "",
            "caller": self.caller_agent or self.principal.name,
            "started": self.started_ms,
            "deadline": self.deadline_ms,
        }
        if self.outcome is not None and self.outcome.refusal is not None:
            news["error"] = self.outcome.refusal.reason.value
        return msgspec.json.encode(news)
