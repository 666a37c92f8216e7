"""The states of a consumer group, and what all groups of a mesh work with."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Final, final

from dragoman.adapters.kafka.group_rows import GroupRow

if TYPE_CHECKING:
    from dragoman.adapters.kafka.group_settings import GroupSettings
    from dragoman.broker.clock import Clock
    from dragoman.broker.log.contract import Ticket
    from dragoman.broker.timers import Timers
    from dragoman.routing.refusals import Refusal


class State(Enum):
    """Where a group is between two generations. The values are what clients see."""

    EMPTY = "Empty"
    PREPARING = "PreparingRebalance"
    COMPLETING = "CompletingRebalance"
    STABLE = "Stable"
    DEAD = "Dead"


NEXT: Final[dict[State, frozenset[State]]] = {
    State.EMPTY: frozenset((State.PREPARING, State.DEAD)),
    State.PREPARING: frozenset((State.COMPLETING, State.EMPTY)),
    State.COMPLETING: frozenset((State.STABLE, State.PREPARING)),
    State.STABLE: frozenset((State.PREPARING,)),
    State.DEAD: frozenset(),
}

"""What may follow what; the rest is a fault of ours."""

assert set(NEXT) == set(State)


@final
class Shop:
    """What all groups of a mesh work with. ``when_safe(ticket, fn)`` calls ``fn`` once, now or later."""

    __slots__ = ("clock", "save", "settings", "timers", "when_safe")

    def __init__(
        self,
        clock: Clock,
        timers: Timers,
        settings: GroupSettings,
        save: Callable[[GroupRow], Ticket],
        when_safe: Callable[[Ticket, Callable[[Refusal | None], None]], None],
    ) -> None:
        self.clock = clock
        self.timers = timers
        self.settings = settings
        self.save = save
        self.when_safe = when_safe
