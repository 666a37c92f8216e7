"""What A2A asks for, whichever binding it came by: send, get, list, cancel. A task is a durable call.

Decides who may see a task: its own principal, under the agent it was asked of; to everybody else there is none.
"""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from heapq import nlargest
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn, TypeAlias, final
from uuid import uuid4

import msgspec

from dragoman.adapters.a2a import views
from dragoman.adapters.a2a.arguments import Asked, asked_of
from dragoman.adapters.a2a.errors import A2aError, Fault, invalid, no_task, refused
from dragoman.adapters.a2a.mesh_skills import PUBLISH, Publish
from dragoman.adapters.a2a.session import A2aSession, Asker
from dragoman.adapters.a2a.views import Found
from dragoman.adapters.a2a.wire import GetRequest, JsonObject, ListRequest, Message, SendRequest, check_message
from dragoman.routing.refusals import Refusal
from dragoman.routing.words import traced

if TYPE_CHECKING:
    from dragoman.adapters.a2a.notes import Notes
    from dragoman.adapters.a2a.settings import A2aSettings
    from dragoman.broker.broker import Broker
    from dragoman.broker.call import Call
    from dragoman.broker.log.contract import Ticket
    from dragoman.broker.principal import Principal
    from dragoman.routing.cards import Skill

PAGE: Final = 50
PAGE_MAX: Final = 100
LOOKED_AT_PER_TURN_MAX: Final = 1_000
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Place: TypeAlias = tuple[int, str]
"""Where a task is in a list: when it came into its state, and its id."""


class Party(NamedTuple):
    """Who asks, as which agent of its own ("" for none), and whom: ``agent`` is the address, ``wanted`` its id.

    ``trace``: the W3C trace context of the request.
    """

    principal: Principal
    speaks_as: str
    agent: str
    wanted: str
    skills: tuple[Skill, ...]
    trace: dict[str, str]


@final
class Tasks:
    """The operations on tasks."""

    def __init__(self, broker: Broker, settings: A2aSettings, notes: Notes) -> None:
        self._broker = broker
        self._settings = settings
        self._notes = notes
        self._unsafe: dict[str, Ticket] = {}
        self._waiting: set[asyncio.Event] = set()
        self._stopped = False

    def stop(self) -> None:
        """Lets nobody wait any longer: whoever does is answered with the task as it is."""
        self._stopped = True
        for news in self._waiting:
            news.set()

    # -- sending -------------------------------------------------------------------------------------

    async def start(self, party: Party, request: SendRequest, *, named: bool = False) -> Found:
        """The task of a message, safe in the log. The same messageId again is the same task.

        ``named``: its requester has named it, as ``taskId``, and the same name again is the same task.
        """
        settings, message = self._settings, request.message
        check_message(message, parts_max=settings.parts_max, metadata_bytes_max=settings.metadata_bytes_max)
        configuration = request.configuration
        if configuration is not None and configuration.task_push_notification_config is not None:
            raise A2aError(Fault.PUSH_NOTIFICATION_NOT_SUPPORTED, "this mesh sends no push notifications")
        _history_length(configuration.history_length if configuration is not None else None)
        if message.task_id:
            begun = self._begun(party, message) if named else self._refuse_turn(party, message)
            if begun is not None:
                await self._safe(begun.call)
                return begun
        try:
            asked, kept = asked_of(request, party.skills), self._kept(message)
        except RecursionError:
            raise invalid("message", "nested too deeply") from None
        if party.wanted == views.OWN_AGENT and asked.skill == PUBLISH:
            asked = _traced(asked, {**party.trace, **(request.metadata or {}), **(message.metadata or {})})
        call = self._broker.calls.start(
            Asker(A2aSession(party.principal, party.speaks_as)),
            agent=party.wanted,
            skill=asked.skill,
            arguments=asked.arguments,
            content_type=asked.content_type,
            deadline_ms=asked.deadline_ms if asked.deadline_ms is not None else settings.deadline_ms,
            # Ids are printable, so that no two pairs of agent and id are one reference.
            dedupe=None if named else f"a2a:{party.agent}\n{message.message_id}",
            durable=True,
        )
        if isinstance(call, Refusal):
            raise refused(call)
        known = self._notes.get(call.id)
        context = known.context if known is not None else message.context_id or str(uuid4())
        name = (message.task_id if named else None) or call.id
        if known is None and not isinstance(self._broker.calls.get(party.principal, call.id), Refusal):
            task = name if named else ""
            self._commit(call.id, self._notes.note(call, party.agent, context, kept, task))
        await self._safe(call)
        return Found(call, context, name)

    async def _safe(self, call: Call) -> None:
        """Whoever repeats the message meanwhile is told no sooner."""
        ticket = self._unsafe.get(call.id)
        if ticket is not None:
            await self._broker.safe(ticket)

    def _begun(self, party: Party, message: Message) -> Found | None:
        """The task of that name, if there is one already."""
        assert message.task_id
        known = self._notes.find(party.agent, party.principal, message.task_id)
        if known is None:
            return None
        task = self.find(party, message.task_id)
        if message.context_id and message.context_id != task.context:
            raise invalid("message.contextId", "is not the context of that task")
        return task

    def _commit(self, task_id: str, ticket: Ticket) -> None:
        def settled(refusal: Refusal | None) -> None:
            del self._unsafe[task_id]

        self._unsafe[task_id] = ticket
        self._broker.when_safe(ticket, settled)

    def _refuse_turn(self, party: Party, message: Message) -> NoReturn:
        """A message for a task there is already: calls cannot be told more once they are asked."""
        assert message.task_id
        task = self.find(party, message.task_id)
        if message.context_id and message.context_id != task.context:
            raise invalid("message.contextId", "is not the context of that task")
        said = "takes no further messages" if task.call.pending else "has ended"
        detail = f"the task {said}; send a new message in its context, naming it in referenceTaskIds"
        raise A2aError(Fault.UNSUPPORTED_OPERATION, detail)

    def _kept(self, message: Message) -> bytes:
        said = msgspec.json.encode(message)
        return said if len(said) <= self._settings.message_kept_bytes_max else b""

    async def ended(self, call: Call, within_s: float | None = None) -> None:
        """Waits for the task's end, at most so long; without a word, as long as a request may be held."""
        if not call.pending:
            return
        most_s = self._settings.send_wait_max_s if within_s is None else within_s
        with self.watched(call) as news, suppress(TimeoutError):
            self._waiting.add(news)
            try:
                async with asyncio.timeout(most_s):
                    while call.pending and not self._stopped:
                        news.clear()
                        await news.wait()
            finally:
                self._waiting.discard(news)

    @contextmanager
    def watched(self, call: Call) -> Iterator[asyncio.Event]:
        """Sets the event whenever something has happened to the call. Raises A2aError."""
        news = asyncio.Event()
        if not call.pending:
            yield news
            return
        unwatch = self._broker.calls.watch(call.id, lambda event: news.set())
        if isinstance(unwatch, Refusal):
            raise refused(unwatch)
        try:
            yield news
        finally:
            unwatch()

    # -- looking -------------------------------------------------------------------------------------

    def find(self, party: Party, task_id: str) -> Found:
        """The party's own task of this agent. Raises A2aError."""
        known = self._notes.find(party.agent, party.principal, task_id)
        call = self._broker.calls.get(party.principal, known[0]) if known is not None else None
        if known is None or call is None or isinstance(call, Refusal):
            raise no_task(task_id)
        return Found(call, known[1].context, task_id)

    def get(self, party: Party, request: GetRequest) -> JsonObject:
        """The task as it is."""
        _history_length(request.history_length)
        return self.shown(self.find(party, request.id), request.history_length)

    def shown(self, task: Found, history_length: int | None = None, *, artifacts: bool = True) -> JsonObject:
        """A task as JSON. The history of a task is the one message that began it."""
        message = self._notes.message(task.call.id) if history_length != 0 else None
        return views.task(task, message, artifacts=artifacts)

    def born(self, task: Found, history_length: int | None) -> JsonObject | None:
        """The task before anything had happened to it; None if not all of that can be told any more."""
        events = task.call.events
        if events and events[0].number != 1:
            return None
        return views.born(task, self._notes.message(task.call.id) if history_length != 0 else None)

    async def page(self, party: Party, request: ListRequest) -> JsonObject:
        """The party's tasks of this agent, what changed last first."""
        _history_length(request.history_length)
        size = PAGE if request.page_size is None else request.page_size
        if not 1 <= size <= PAGE_MAX:
            raise invalid("pageSize", f"1 to {PAGE_MAX}, not {size}")
        after = _read_token(request.page_token) if request.page_token else None
        places = await self._wanted(party, request)
        newest = nlargest(size + 1, places if after is None else [place for place in places if place < after])
        page = newest[:size]
        # While others had their turn some may have been forgotten.
        found = [(self._notes.get(task_id), self._broker.calls.get(party.principal, task_id)) for _, task_id in page]
        return {
            "tasks": [
                self.shown(
                    Found(call, note.context, note.task or call.id),
                    request.history_length,
                    artifacts=request.include_artifacts is True,
                )
                for note, call in found
                if note is not None and not isinstance(call, Refusal)
            ],
            "nextPageToken": _token(page[-1]) if len(newest) > size else "",
            "pageSize": size,
            "totalSize": len(places),
        }

    async def _wanted(self, party: Party, request: ListRequest) -> list[Place]:
        status = request.status
        if status in ("", "TASK_STATE_UNSPECIFIED"):
            status = None
        if status is not None and status not in views.STATES:
            raise invalid("status", f"the name of a state, such as {views.WORKING}, not {status[:80]!r}")
        since_ms = _time_ms(request.status_timestamp_after) if request.status_timestamp_after else 0
        places: list[Place] = []
        for number, task_id in enumerate(self._notes.owned(party.agent, party.principal), start=1):
            if number % LOOKED_AT_PER_TURN_MAX == 0:
                await asyncio.sleep(0)
            note, call = self._notes.get(task_id), self._broker.calls.get(party.principal, task_id)
            if note is None or isinstance(call, Refusal):
                continue
            if request.context_id and note.context != request.context_id:
                continue
            if status is not None and views.state_of(call) != status:
                continue
            if views.changed_ms(call) >= since_ms:
                places.append((views.changed_ms(call), task_id))
        return places

    # -- ending --------------------------------------------------------------------------------------

    async def cancel(self, party: Party, task_id: str) -> JsonObject:
        """Takes the task back; whoever works on it is told. The answer comes when that is safe."""
        task = self.find(party, task_id)
        if task.call.open:
            session = A2aSession(party.principal, task.call.caller_agent)
            refusal = self._broker.calls.cancel(session, task.call.id)
            assert refusal is None, f"an open call of one's own can be cancelled: {refusal}"
            await self.ended(task.call)
            return self.shown(task)
        await self.ended(task.call)
        raise A2aError(Fault.TASK_NOT_CANCELABLE, f"the task has ended: {views.state_of(task.call)}")


def _traced(asked: Asked, metadata: JsonObject) -> Asked:
    """A publish with the trace context of its request as headers of the message."""
    try:
        given = msgspec.json.decode(asked.arguments)
        msgspec.convert(given, Publish)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError):
        return asked  # it will be refused where it is done
    present = {word: value for word, value in given.items() if value is not None}
    return asked._replace(arguments=msgspec.json.encode(traced(present, metadata)))


def _history_length(length: int | None) -> None:
    if length is not None and length < 0:
        raise invalid("historyLength", f"0 or more, not {length}")


def _token(place: Place) -> str:
    time_ms, task_id = place
    return urlsafe_b64encode(f"{time_ms}:{task_id}".encode()).decode().rstrip("=")


def _read_token(token: str) -> Place:
    try:
        text = urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
        time_ms, colon, task_id = text.partition(":")
        if colon and len(time_ms) < 20 and time_ms.isascii() and time_ms.isdigit():
            return int(time_ms), task_id
    except (Base64Error, ValueError):
        pass
    raise invalid("pageToken", "is not one that ListTasks gave")


def _time_ms(text: str) -> int:
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is not None:
            # Rounded up, since times are told to the millisecond and the filter is inclusive.
            return -(-(time - EPOCH) // timedelta(milliseconds=1))
    except (ValueError, OverflowError):
        pass
    raise invalid("statusTimestampAfter", "a time such as 2026-01-31T08:00:00Z")
