"""Work groups whose messages are pushed to whoever is connected: MQTT's ``$queue``.

The group keeps and counts (``workgroup``); here is only who gets the next message. What a member has not
acknowledged when its connection ends counts as a delivery that failed and is somebody else's at once; what
it refuses comes again after the group's backoff. Who pulls from the same group over HTTP gets what is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from dragoman.broker.subscription import Feed, Subscription
from dragoman.routing.groups import Strategy, choose, key_of
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
class Worker:
    """One session at one queue: what ``choose`` asks of it, and ``subscription.ShareMember`` for its session.

    ``full``   it took nothing when last offered something; until it says that it has credit again
    ``holds``  messages it has and has not acknowledged
    """

    __slots__ = ("_limit", "connected", "feed", "full", "holds", "id", "queue", "session", "turn")

    def __init__(self, queue: Queue, session: Session, number: int, limit: int) -> None:
        self.queue = queue
        self.session = session
        self.id = session.agent or f"#{number}"
        self.connected = True
        self.feed = Feed(session, None, queue.group.filter)
        self.full = False
        self.turn = 0
        self.holds: set[Message] = set()
        self._limit = limit

    @property
    def inflight(self) -> int:
        """Messages it holds."""
        return len(self.holds)

    @property
    def limit(self) -> int:
        """How many it may hold; 0 while it has no credit."""
        return 0 if self.full else self._limit

    @property
    def place(self) -> bytes:
        """None: there is nothing of QoS 2."""
        return b""

    def settled(self, message: Message) -> None:
        """Its client has acknowledged the message, or its session has a counted reason to skip it."""
        if message in self.holds:
            self.holds.discard(message)
            self.queue.group.settle(message.position)

    def refused(self, message: Message) -> None:
        """Its client has said no to the message."""
        if message in self.holds:
            self.holds.discard(message)
            self.queue.group.fail(message.position, "refused")

    def unfit(self, message: Message) -> bool:
        """Its client cannot take so large a message: another is asked, in the same breath."""
        self.holds.discard(message)
        self.queue.unfit = True
        return True

    def returned(self, message: Message) -> None:
        """Its connection ended before that."""
        if message in self.holds:
            self.holds.discard(message)
            self.queue.group.fail(message.position, "connection ended", delay_ms=0)


@final
class Queue:
    """One group and those it pushes to."""

    __slots__ = ("_core", "_strategy", "_turn", "group", "unfit", "workers")

    def __init__(self, core: Core, group: WorkGroup, strategy: Strategy) -> None:
        self._core = core
        self._strategy = strategy
        self._turn = 0
        #: whether the worker just asked cannot take so large a message
        self.unfit = False
        self.group = group
        self.workers: dict[Session, Worker] = {}
        group.push = self._push

    def _push(self, message: Message) -> bool | None:
        """See ``WorkGroup.push``."""
        workers = list(self.workers.values())
        if self.group.each:
            workers = [worker for worker in workers if self._core.may_read(worker.session, message.name)]
            if not workers:
                return None
        key = key_of(self._strategy, message)
        while True:
            worker = choose(self._strategy, workers, key)
            if worker is None:
                return False
            self.unfit = False
            if not self._give(worker, message):
                worker.full = True
            elif not self.unfit:
                return True
            else:
                workers = [other for other in workers if other is not worker]
                if not workers:
                    # It counts, so that one that fits nobody is a dead letter in the end.
                    self.group.fail(message.position, "larger than any worker takes")
                    return True

    def _give(self, worker: Worker, message: Message) -> bool:
        # Before the push: a session that has to skip the message settles it at once.
        worker.holds.add(message)
        if not worker.feed.deliver(worker.feed, message):
            worker.holds.discard(message)
            return False
        self._turn += 1
        worker.turn = self._turn
        if not min(worker.feed.wish, message.wish):
            worker.settled(message)
        return True


@final
class Queues:
    """Every queue that somebody is connected to."""

    def __init__(self, core: Core, groups: WorkGroups, settings: GroupSettings) -> None:
        self._core = core
        self._groups = groups
        self._settings = settings
        self._queues: dict[str, Queue] = {}
        self._of_session: dict[Session, dict[str, Worker]] = {}
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
            worker = Worker(queue, session, self._numbers, self._settings.share_inflight_max)
            queue.workers[session] = worker
            self._of_session.setdefault(session, {})[name] = worker
        options = Subscription(session, filter_, wish=min(wish, WISH), identifier=identifier, keep_retain=keep_retain)
        worker.feed.merge([options])
        worker.feed.group = worker
        worker.full = False
        group.wake()
        return None

    def leave(self, session: Session, name: str) -> None:
        """The session works there no more. What it holds it may still acknowledge."""
        worker = self._of_session.get(session, {}).pop(name, None)
        if worker is not None:
            self._out(name, worker)

    def gone(self, session: Session) -> None:
        """The session is detached."""
        for name, worker in self._of_session.pop(session, {}).items():
            self._out(name, worker)
            for message in list(worker.holds):
                worker.returned(message)

    def resume(self, session: Session) -> None:
        """The session has credit again."""
        for worker in self._of_session.get(session, {}).values():
            if worker.full:
                worker.full = False
                worker.queue.group.wake()

    def _out(self, name: str, worker: Worker) -> None:
        queue = worker.queue
        worker.connected = False
        del queue.workers[worker.session]
        if not queue.workers and self._queues.get(name) is queue:
            del self._queues[name]
            queue.group.push = None
