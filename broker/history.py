"""What has changed in the directory: a revision, a bounded past, and those who want to hear of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, final

from dragoman.broker.counter import Counter

if TYPE_CHECKING:
    from dragoman.broker.log.contract import Log


class What(Enum):
    """The kind of a change."""

    STATE = "state"
    CARD = "card"
    REMOVED = "removed"


@final
class Change:
    """One change of one agent. What it changed to is asked of the directory; ``state`` is what was true then."""

    __slots__ = ("agent", "revision", "session_number", "state", "what")

    def __init__(self, revision: int, agent: str, what: What, state: str, session_number: int) -> None:
        self.revision = revision
        self.agent = agent
        self.what = what
        self.state = state
        self.session_number = session_number

    def __repr__(self) -> str:
        return f"Change({self.revision}, {self.agent!r}, {self.what.value}, {self.state})"


Watcher = Callable[[Change], None]


@final
class History:
    """Revisions rise through restarts; the past does not survive one, so older revisions are too old then."""

    def __init__(self, log: Log, later: Callable[..., object], length_max: int) -> None:
        self._counter = Counter(log, b"directory-revision")
        self._later = later
        self._past: deque[Change] = deque(maxlen=length_max)
        self._watchers: dict[int, Watcher] = {}
        self._watched = 0
        self._unsaid: list[Change] = []

    def start(self) -> None:
        """Once, after the log is open."""
        self._counter.start()

    @property
    def revision(self) -> int:
        """Of the newest change."""
        return self._counter.last

    def record(self, agent: str, what: What, state: str, session_number: int) -> int:
        """Notes a change; its revision. Watchers hear of it at the end of the turn."""
        change = Change(self._counter.next(), agent, what, state, session_number)
        self._past.append(change)
        if self._watchers:
            if not self._unsaid:
                self._later(self._say)
            self._unsaid.append(change)
        return change.revision

    def since(self, revision: int) -> list[Change] | None:
        """The changes after ``revision``, oldest first; None if they are no longer (or were never) known."""
        missed = self.revision - revision
        if not 0 <= missed <= len(self._past):
            return None
        return list(self._past)[len(self._past) - missed :]

    def watch(self, fn: Watcher) -> Callable[[], None]:
        """Calls ``fn`` for each change from now on, at the end of the turn it happens in; gives back how to stop that.

        Sessions are bounded, and whoever watches for one holds one watch.
        """
        self._watched += 1
        number = self._watched
        self._watchers[number] = fn

        def unwatch() -> None:
            self._watchers.pop(number, None)

        return unwatch

    def _say(self) -> None:
        changes, self._unsaid = self._unsaid, []
        for number, fn in list(self._watchers.items()):
            for change in changes:
                if number not in self._watchers:
                    break
                fn(change)
