"""One message of a work group on its way to being finished, and the request for some of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias, final

from dragoman.broker.log.weight import weight

if TYPE_CHECKING:
    from dragoman.broker.session import Session
    from dragoman.broker.timers import Timer
    from dragoman.routing.message import Message
    from dragoman.routing.refusals import Refusal


class Stage(Enum):
    """Where a message of a group is."""

    READY = "ready"
    LEASED = "leased"
    PUSHED = "pushed"
    DELAYED = "delayed"
    DYING = "dying"


@final
class Job:
    """One message the group has taken from the log.

    ``count``   deliveries so far, also before a restart
    ``id``      of the delivery under way, good until its lease ends; "" = none
    ``holder``  the principal it is leased to
    """

    __slots__ = ("bytes", "count", "holder", "id", "lease_due_ms", "message", "stage", "timer")

    def __init__(self, message: Message, count: int) -> None:
        self.message = message
        self.bytes = weight(message)
        self.count = count
        self.stage = Stage.READY
        self.id = ""
        self.holder = ""
        self.lease_due_ms = 0
        self.timer: Timer | None = None

    def rest(self, stage: Stage) -> None:
        """Nobody holds it; what was to happen at a certain time will not."""
        self.stage = stage
        self.id = ""
        self.holder = ""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


@final
class Delivery:
    """A message given to a worker. ``count`` 1 = for the first time; ``lease_ms`` from now it is the worker's."""

    __slots__ = ("count", "id", "lease_ms", "message")

    def __init__(self, delivery_id: str, message: Message, count: int, lease_ms: int) -> None:
        self.id = delivery_id
        self.message = message
        self.count = count
        self.lease_ms = lease_ms


PullDone: TypeAlias = "Callable[[Sequence[Delivery] | Refusal], object]"
"""Called once: deliveries (none: the wait is over), or why the group says no."""


@final
class Pull:
    """A request that waits for messages."""

    __slots__ = ("lease_ms", "messages_max", "session", "then", "timer")

    def __init__(self, session: Session, messages_max: int, lease_ms: int, then: PullDone) -> None:
        self.session = session
        self.messages_max = messages_max
        self.lease_ms = lease_ms
        self.then = then
        self.timer: Timer | None = None
