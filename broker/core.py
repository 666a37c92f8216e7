"""What channels, commits and pump share: the broker's own ground floor. Holds state, decides nothing.

``Broker`` is the face that adapters see; this is what its rooms see of each other, so that none of
them needs to know the face.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from dragoman.broker.gate import Action
from dragoman.routing.names import check_filter, shown
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.bundles import Bundles
    from dragoman.broker.clock import Clock
    from dragoman.broker.commits import Commits
    from dragoman.broker.gate import Gate
    from dragoman.broker.log.contract import Log
    from dragoman.broker.log.ring import RingBudget
    from dragoman.broker.metrics import Metrics
    from dragoman.broker.principal import Principal
    from dragoman.broker.pump import Pump
    from dragoman.broker.retention import Retention
    from dragoman.broker.session import Session
    from dragoman.broker.settings import BrokerSettings
    from dragoman.broker.subscription import Subscription
    from dragoman.routing.filters import FilterTrie
    from dragoman.routing.message import Message


class TimerHandle(Protocol):
    """What ``call_later`` gives back."""

    def cancel(self) -> None:
        """Takes the call back."""


class Loop(Protocol):
    """The three things the broker asks of an event loop. asyncio's fits; tests drive one by hand."""

    def call_soon(self, callback: Callable[..., object], *args: object) -> object:
        """Calls at the end of this turn."""

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: object) -> object:
        """The same, from another thread."""

    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> TimerHandle:
        """Calls after ``delay`` seconds."""


class Reader(Protocol):
    """A durable reader: raises what matching channels keep, and hears of their logged messages in commit order."""

    @property
    def low(self) -> int:
        """Everything below this position is done with."""

    def visible(self, message: Message) -> None:
        """A logged message has become visible."""

    def missed(self, messages: Sequence[Message]) -> None:
        """These are gone from the log, whether it has had them or not."""

    def __hash__(self) -> int:
        """It is itself."""


class Core:
    """Shared by the broker's rooms. ``generation`` grows whenever a channel's feeds or keeping could change.

    ``now_ms`` and ``monotonic_ms`` are the times of this turn, set by ``tick`` when work comes in; reading
    the clock for each message would be a tenth of its cost.
    """

    __slots__ = (
        "bundles",
        "clock",
        "commits",
        "filters",
        "gate",
        "generation",
        "log",
        "loop",
        "lost",
        "metrics",
        "monotonic_ms",
        "now_ms",
        "owned",
        "permits",
        "pump",
        "readers",
        "retention",
        "rings",
        "settings",
        "stopping",
    )

    def __init__(
        self, settings: BrokerSettings, clock: Clock, log: Log, gate: Gate, loop: Loop, metrics: Metrics
    ) -> None:
        from dragoman.broker.bundles import Bundles
        from dragoman.broker.commits import Commits
        from dragoman.broker.log.ring import RingBudget
        from dragoman.broker.pump import Pump
        from dragoman.broker.retention import Retention
        from dragoman.routing.filters import FilterTrie

        self.settings = settings
        self.clock = clock
        self.log = log
        self.gate = gate
        self.loop = loop
        self.metrics = metrics
        self.now_ms = clock.now_ms()
        self.monotonic_ms = clock.monotonic_ms()
        self.generation = 0
        #: nothing may begin any more that needs the log
        self.stopping = False
        #: whether rooms let (principal, agent) into a channel; what is no room lets everybody in
        self.permits: Callable[[Principal, str, str], bool] = _everybody
        #: whether a name or filter asks the mesh to do something, so that it is no channel's
        self.owned: Callable[[str], bool] = _nothing
        #: hears of each gap that a session is told of, and of how many messages
        self.lost: Callable[[Session, int], None] = _unheard
        self.filters: FilterTrie[Subscription] = FilterTrie()
        self.readers: FilterTrie[Reader] = FilterTrie()
        self.bundles: Bundles = Bundles(metrics)
        self.rings: RingBudget = RingBudget(settings.ring_bytes_max)
        self.pump: Pump = Pump(self)
        self.commits: Commits = Commits(self)
        self.retention: Retention = Retention(self)

    def tick(self) -> None:
        """Sets the time of this turn. Called wherever work enters: a socket, a timer, the embedding API."""
        self.now_ms = self.clock.now_ms()
        self.monotonic_ms = self.clock.monotonic_ms()

    def changed(self) -> None:
        """Filters, durable readers or rules have changed: channels compute their feeds anew on next use."""
        self.generation += 1

    def may_read(self, session: Session, name: str) -> bool:
        """Whether gate and rooms let the session have what this channel holds, by asking for it."""
        return self._may(session, Action.READ, name)

    def may_follow(self, session: Session, name: str) -> bool:
        """Whether they let it have what is said in this channel, as long as it listens."""
        return self._may(session, Action.FOLLOW, name)

    def refusal(self, session: Session, action: Action, resource: str) -> Refusal | None:
        """Why rooms, schemes or rules do not let it do that."""
        if not self.permits(session.principal, session.agent, resource):
            return Refusal(Reason.NOT_AUTHORIZED, f"the room {shown(resource)} is not open to you, or not open at all")
        verdict = self.gate.check(session.principal, action, resource, session.agent)
        return verdict if isinstance(verdict, Refusal) else None

    def no_reader(self, session: Session, filter_: str) -> Refusal | None:
        """Why it may not read the channels that match, by whatever kind of subscription to them."""
        refusal = check_filter(filter_)
        if refusal is None and self.owned(filter_):
            refusal = Refusal(Reason.FILTER_INVALID, f"{shown(filter_)} asks the mesh to do something: nothing is kept")
        return refusal or self.refusal(session, Action.SUBSCRIBE, filter_)

    def _may(self, session: Session, action: Action, name: str) -> bool:
        return self.permits(session.principal, session.agent, name) and not isinstance(
            self.gate.check(session.principal, action, name, session.agent), Refusal
        )


def _unheard(session: Session, count: int) -> None:
    pass


def _nothing(name: str) -> bool:
    return False


def _everybody(principal: Principal, agent: str, name: str) -> bool:
    return True
