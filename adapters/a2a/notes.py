"""What a task is beside its call: its context and what the user said. One row a task, in its call's own commit.

The rows live as long as the calls can be read; what is found without its call at the start is taken out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, final

import msgspec

from dragoman.broker.call import Call
from dragoman.broker.log.contract import Table, Ticket
from dragoman.broker.rows import Row, decode_row, encode_row

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dragoman.adapters.a2a.wire import JsonObject
    from dragoman.broker.broker import Broker
    from dragoman.broker.principal import Principal


class TaskRow(Row):
    """One task. ``message`` is JSON, empty if it was too large to keep; ``task`` the id its requester made for it."""

    agent: str = ""
    principal: str = ""
    context: str = ""
    message: bytes = b""
    task: str = ""


class Note(NamedTuple):
    """What is in memory of it; the message stays in the log."""

    agent: str
    principal: str
    context: str
    task: str = ""


@final
class Notes:
    """All tasks, by id and by whose they are."""

    def __init__(self, broker: Broker) -> None:
        self._log = broker.log
        self._calls = broker.calls
        self._notes: dict[str, Note] = {}
        self._owned: dict[tuple[str, str], dict[str, None]] = {}
        self._named: dict[tuple[str, str, str], str] = {}

    def start(self) -> None:
        """Takes up what the log remembers. Once, after the calls have."""
        known = {call.id for call in self._calls.all()}
        for key, value in list(self._log.rows(Table.TASKS)):
            task_id = key.decode()
            row = decode_row(value, TaskRow)
            if task_id in known:
                self._enter(task_id, Note(row.agent, row.principal, row.context, row.task))
            else:
                self._log.put(Table.TASKS, key, None)
        self._calls.when_forgotten(self._forget)

    def note(self, call: Call, agent: str, context: str, message: bytes, task: str = "") -> Ticket:
        """A new task; the ticket of its commit. To be called in the turn in which the call was started.

        ``task`` is the id its requester made for it: no other of the requester's tasks of that agent has it.
        """
        principal = call.principal.name
        self._enter(call.id, Note(agent, principal, context, task))
        row = TaskRow(agent=agent, principal=principal, context=context, message=message, task=task)
        return self._log.put(Table.TASKS, call.id.encode(), encode_row(row))

    def find(self, agent: str, principal: Principal, task_id: str) -> tuple[str, Note] | None:
        """The principal's own task of that agent, by the call's id or the requester's: the call's, and the note."""
        call_id = self._named.get((agent, principal.name, task_id), task_id)
        note = self._notes.get(call_id)
        mine = note is not None and note.agent == agent and note.principal == principal.name
        return (call_id, note) if mine and note is not None else None

    def get(self, task_id: str) -> Note | None:
        """The task, whosever it is."""
        return self._notes.get(task_id)

    def owned(self, agent: str, principal: Principal) -> Iterable[str]:
        """The principal's tasks of an agent as they are now, oldest first."""
        return list(self._owned.get((agent, principal.name), ()))

    def message(self, task_id: str) -> JsonObject | None:
        """What the user said; None if it was too large to keep."""
        value = self._log.get(Table.TASKS, task_id.encode())
        said = decode_row(value, TaskRow).message if value is not None else b""
        message: JsonObject | None = msgspec.json.decode(said) if said else None
        return message

    def _enter(self, task_id: str, note: Note) -> None:
        self._notes[task_id] = note
        self._owned.setdefault((note.agent, note.principal), {})[task_id] = None
        if note.task:
            self._named[(note.agent, note.principal, note.task)] = task_id

    def _forget(self, call: Call) -> None:
        note = self._notes.pop(call.id, None)
        if note is None:
            return
        if note.task:
            del self._named[(note.agent, note.principal, note.task)]
        owner = (note.agent, note.principal)
        del self._owned[owner][call.id]
        if not self._owned[owner]:
            del self._owned[owner]
        self._log.put(Table.TASKS, call.id.encode(), None)

    def check(self) -> None:
        """Asserts what must always hold. For tests; walks everything."""
        known = {call.id for call in self._calls.all()}
        assert self._notes.keys() <= known, "a task without its call"
        assert {key.decode() for key, _ in self._log.rows(Table.TASKS)} == self._notes.keys()
        named = {(note.agent, note.principal, note.task): task for task, note in self._notes.items() if note.task}
        assert named == self._named
        assert sum(len(ids) for ids in self._owned.values()) == len(self._notes)
