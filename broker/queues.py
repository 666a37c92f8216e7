"""Work groups whose messages are pushed to whoever is connected: MQTT's ``$queue``.

The group keeps and counts (``workgroup``); here is only who gets the next message. What a member has not
acknowledged when its connection ends counts as a delivery that failed and is somebody else's at once; what
it refuses comes again after the group's backoff. Who pulls from the same group over HTTP gets what is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from dragoman.broker.subscription import Feed, Subscription
from dragoman.broker.takers import Taker, Turns
from dragoman.routing.groups import Strategy
from dragoman.routing.names import is_exact
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.core import Core
    from dragoman.broker.session import Session
    from dragoman.broker.settings_groups import GroupSettings
    from dragoman.broker.workgroup import WorkGroup
    from dragoman.broker.workgroups import WorkGroups
    from dragoman.routing.message import Message

WISH = 1
"""The best delivery there is from a queue: each message is acknowledged, and may come again."""


@final
class Queue:
    """One group and those it pushes to."""

    __slots__ = ("_core", "_turns", "group", "workers")

    def __init__(self, core: Core, group: WorkGroup, strategy: Strategy) -> None:
        self._core = core
        self._turns = Turns(strategy)
        self.group = group
        self.workers: dict[Session, Taker] = {}
        group.push = self._push

    def _push(self, message: Message) -> bool | None:
        """See ``WorkGroup.push``."""
        # Asked for each message: rules may have changed since the worker came.
        workers = [taker for session, taker in self.workers.items() if self._core.may_follow(session, message.name)]
        if not workers:
            # It waits for somebody who may read it. Of an exact filter so does all behind it.
            return False if is_exact(self.group.filter) else None
        given = self._turns.give(workers, message)
        if given is None:
            # It counts, so that one that fits nobody is a dead letter in the end.
            self.group.fail(message.position, "larger than any worker takes")
        return given is not False

    @property
    def place(self) -> bytes:
        """None: there is nothing of QoS 2."""
        return b""

    def finish(self, message: Message) -> None:
        """See ``takers.Source``."""
        self.group.settle(message.position)

    def refuse(self, message: Message) -> None:
        """It comes again after the group's backoff."""
        self.group.fail(message.position, "refused")

    def take_back(self, message: Message) -> None:
        """It is somebody else's at once."""
        self.group.fail(message.position, "connection ended", delay_ms=0)


@final
class Queues:
    """Every queue that somebody is connected to."""

    def __init__(self, core: Core, groups: WorkGroups, settings: GroupSettings) -> None:
        self._core = core
        self._groups = groups
        self._settings = settings
        self._queues: dict[str, Queue] = {}
        self._of_session: dict[Session, dict[str, tuple[Queue, Taker]]] = {}
        self._numbers = 0

    def join(
        self, session: Session, name: str, filter_: str | None, *, wish: int, identifier: int, keep_retain: bool
    ) -> Refusal | None:
        """The session works for the queue from now on, or with new options. ``filter_`` None: there must be one."""
        known = self._groups.get(name)
        if filter_ is None and known is None:
            return Refusal(Reason.UNKNOWN_GROUP, f"there is no queue {name!r}; a filter after its name would make it")
        filter_ = known.filter if filter_ is None and known is not None else filter_
        assert filter_ is not None, "given, or that of the group"
        group = self._groups.open(session, name, filter_) if known is None or known.filter != filter_ else known
        if isinstance(group, Refusal):
            return group
        refusal = group.guard(session)
        if refusal is not None:
            return refusal
        queue = self._queues.get(name)
        if queue is None or queue.group is not group:
            queue = self._queues[name] = Queue(self._core, group, Strategy(self._settings.share_strategy))
        worker = queue.workers.get(session)
        if worker is None:
            if len(queue.workers) >= self._settings.share_members_max:
                detail = f"{len(queue.workers)} work for {name!r}, groups.share_members_max allows no more"
                return Refusal(Reason.QUOTA_EXCEEDED, detail)
            self._numbers += 1
            worker = Taker(queue, session.agent or f"#{self._numbers}", self._settings.share_inflight_max)
            worker.session = session
            queue.workers[session] = worker
            self._of_session.setdefault(session, {})[name] = queue, worker
        options = Subscription(session, filter_, wish=min(wish, WISH), identifier=identifier, keep_retain=keep_retain)
        if worker.feed is None:
            worker.feed = Feed(session, None, filter_)
        worker.feed.merge([options])
        worker.feed.group = worker
        worker.full = False
        group.wake()
        return None

    def leave(self, session: Session, name: str) -> None:
        """The session works there no more. What it holds it may still acknowledge."""
        found = self._of_session.get(session, {}).pop(name, None)
        if found is not None:
            self._out(session, name, *found)

    def gone(self, session: Session) -> None:
        """The session is detached."""
        for name, (queue, worker) in self._of_session.pop(session, {}).items():
            self._out(session, name, queue, worker)
            for message in list(worker.holds):
                worker.returned(message)

    def resume(self, session: Session) -> None:
        """The session has credit again."""
        for queue, worker in self._of_session.get(session, {}).values():
            if worker.full:
                worker.full = False
                queue.group.wake()

    def _out(self, session: Session, name: str, queue: Queue, worker: Taker) -> None:
        worker.session = None
        del queue.workers[session]
        if not queue.workers and self._queues.get(name) is queue:
            del self._queues[name]
            queue.group.push = None
