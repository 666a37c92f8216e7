"""How far somebody has read a task. No queue: it keeps a number and reads the call's events from there.

The snapshot and the number are taken in one turn, so that nothing is told twice and nothing in between is missed.
A reader that was slower than the call's bound of events is told how many it missed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, final

from dragoman.adapters.a2a import views

if TYPE_CHECKING:
    from dragoman.adapters.a2a.tasks import Tasks
    from dragoman.adapters.a2a.views import Found
    from dragoman.adapters.a2a.wire import JsonObject
    from dragoman.broker.call import CallEvent

BEGUN: Final = "artifactUpdate"


class Item(NamedTuple):
    """One thing told, and the number of the event it tells of."""

    number: int
    told: JsonObject


@final
class Reading:
    """One reader of one task: ``first``, then what ``take`` gives until it is ``over``."""

    def __init__(self, task: Found, snapshot: JsonObject, *, after: int) -> None:
        self._task = task
        self._after = after
        self._begun = any(artifact["artifactId"] == views.ANSWER for artifact in snapshot["artifacts"])
        #: the end has been told
        self.over = task.call.outcome is not None and after == task.call.last_event
        self.first = Item(after, {"task": snapshot})

    def take(self) -> list[Item]:
        """All that has happened since."""
        call = self._task.call
        items = [item for event in call.events if event.number > self._after for item in self._items(event)]
        if call.outcome is not None and self._after == call.last_event:
            self.over = True
        return items

    def _items(self, event: CallEvent) -> list[Item]:
        missed = event.number - self._after - 1
        self._after = event.number
        told = list(views.items(self._task, event, begun=self._begun, missed=missed))
        self._begun = self._begun or any(BEGUN in item for item in told)
        return [Item(event.number, item) for item in told]


def from_birth(tasks: Tasks, task: Found, history_length: int | None) -> Reading:
    """First the task as it began; as it is, if not all of that can be told any more."""
    born = tasks.born(task, history_length)
    return from_now(tasks, task) if born is None else Reading(task, born, after=0)


def from_now(tasks: Tasks, task: Found) -> Reading:
    """First the task as it is."""
    return Reading(task, tasks.shown(task), after=task.call.last_event)
