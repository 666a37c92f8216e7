"""A durable work group: several workers, each message to one of them until it is finished.

The group has one place in the log (its backlog) and takes from there a bounded window of messages.
A message taken is ready, leased to who pulled it, pushed to who listens, waiting before its next
delivery, or dying. Finished means acknowledged, expired, or said again as a dead letter. What was
published at most once (QoS 0) is not in the log and no work group sees it, unless the channel keeps all.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final, final

from dragoman.broker.dead_letters import DEAD_CHANNEL, DEAD_GROUP, letter_of
from dragoman.broker.group_rows import Counts, Terms
from dragoman.broker.inner_session import InnerSession
from dragoman.broker.jobs import Delivery, Job, Pull, PullDone, Stage
from dragoman.broker.log.contract import DONE, Ticket
from dragoman.broker.pump import Page
from dragoman.routing.groups import backoff_ms
from dragoman.routing.message import EMPTY
from dragoman.routing.names import is_exact, shown
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.principal import Principal
    from dragoman.broker.session import Session
    from dragoman.broker.workshop import Workshop
    from dragoman.routing.message import Message

logger: Final = logging.getLogger("dragoman")

_ID_BYTES: Final = 15
_REFILL: Final = 8
"""The window is filled again when an eighth of it is free, or nothing in it is ready."""


@final
class WorkGroup:
    """One group.

    ``owner``, ``agent``  who made it: the group takes no message these may not read. One of an exact filter waits for
                          that; one of a wildcard would hold up other channels, and is passed over and counted
    ``guard``             why a session may not pull here; None = it may
    ``each``              whether the session may have each message is asked; False: whom ``guard`` lets in has them all
    ``finished``          told of every message that is finished
    ``push``              offered ready messages first: True = taken, to be finished, failed or put back later;
                          False = nobody has room; None = not for anybody there, unlike those behind it
    """

    __slots__ = (
        "_backlog",
        "_bytes",
        "_counts",
        "_exact",
        "_ids",
        "_jobs",
        "_pulls",
        "_reader",
        "_ready",
        "_shop",
        "_told",
        "_waking",
        "agent",
        "closed",
        "each",
        "filter",
        "finished",
        "guard",
        "name",
        "own_dead_letters",
        "owner",
        "push",
        "terms",
        "ticket",
    )

    def __init__(
        self,
        shop: Workshop,
        key: bytes,
        name: str,
        filter_: str,
        terms: Terms,
        *,
        owner: Principal,
        agent: str,
        guard: Callable[[Session], Refusal | None],
        each: bool,
        own_dead_letters: bool,
    ) -> None:
        self._shop = shop
        self.name = name
        self.filter = filter_
        self.terms = terms
        self.owner = owner
        self.agent = agent
        self.guard = guard
        self.each = each
        self.own_dead_letters = own_dead_letters
        self.finished: Callable[[Message], object] | None = None
        self.push: Callable[[Message], bool | None] | None = None
        self.ticket: Ticket = DONE
        self.closed = False
        self._jobs: dict[int, Job] = {}
        self._bytes = 0
        self._ready: list[int] = []
        self._ids: dict[str, Job] = {}
        self._pulls: dict[Pull, None] = {}
        self._waking = False
        self._exact = is_exact(filter_)
        #: the generation of rules of which the log has been told that messages are passed over
        self._told = -1
        self._counts = Counts(shop.core.log, key)
        self._reader = InnerSession(owner, agent)
        self._backlog = shop.backlogs.open(key, self._offered)
        self._backlog.skipped = self._skipped

    def start(self) -> None:
        """Begins to take messages: from now on if the group is new, from its place if it is not."""
        self._backlog.watch(self.filter)
        self._backlog.resume()

    def close(self, refusal: Refusal, *, forget: bool) -> None:
        """Ends it: whoever waits is told why. ``forget``: nothing of it stays in the log."""
        self.closed = True
        for pull in list(self._pulls):
            self._answer(pull, refusal)
        for job in self._jobs.values():
            job.rest(Stage.DYING)
        if forget:
            self._counts.clear_all()
            self._shop.backlogs.close(self._backlog)
        self._jobs.clear()
        self._ids.clear()
        self._ready.clear()

    # -- what there is -------------------------------------------------------------------------------

    def statistics(self) -> dict[str, int]:
        """For people: how many messages are where, and whether more wait in the log."""
        stages = [job.stage for job in self._jobs.values()]
        return {
            "ready": stages.count(Stage.READY),
            "leased": stages.count(Stage.LEASED) + stages.count(Stage.PUSHED),
            "delayed": stages.count(Stage.DELAYED),
            "dying": stages.count(Stage.DYING),
            "waiting_pulls": len(self._pulls),
            "behind": int(self._backlog.behind),
        }

    @property
    def done_above(self) -> int:
        """Messages finished behind one that is not."""
        return self._backlog.done_count

    @property
    def oldest(self) -> Message | None:
        """The first message taken and not finished."""
        return next(iter(self._jobs.values())).message if self._jobs else None

    def check(self) -> None:
        """What must always hold. For tests."""
        assert self._bytes == sum(job.bytes for job in self._jobs.values())
        assert self._backlog.open_count >= len(self._jobs)
        for delivery_id, job in self._ids.items():
            assert job.id == delivery_id
            assert job.stage is Stage.LEASED
        leased = sum(job.stage is Stage.LEASED for job in self._jobs.values())
        assert leased == len(self._ids)
        ready = {position for position, job in self._jobs.items() if job.stage is Stage.READY}
        assert ready <= set(self._ready)

    # -- for workers ---------------------------------------------------------------------------------

    def pull(
        self, session: Session, messages_max: int, then: PullDone, *, wait_ms: int = 0, lease_ms: int | None = None
    ) -> Pull | Refusal | None:
        """Leases up to ``messages_max`` messages to the session's principal.

        ``then`` is called once: now if something is ready, or when something is, or with nothing after
        ``wait_ms``. First come, first served. While it waits the answer is the ``Pull``, for ``cancel``; it is
        cancelled by itself when the session detaches, and ``then`` is never called. After a Refusal neither.
        """
        settings = self._shop.settings
        refusal = self._no_entry(session)
        if refusal is None and messages_max < 1:
            refusal = Refusal(Reason.ARGUMENTS_INVALID, f"a pull asks for at least one message, not {messages_max}")
        if refusal is None and wait_ms > 0 and len(self._pulls) >= settings.pulls_max:
            detail = f"{len(self._pulls)} pulls wait in group {self.name!r}, groups.pulls_max allows no more"
            refusal = Refusal(Reason.BUSY, detail, retry_after_ms=1_000)
        if refusal is not None:
            return self._counted(refusal)
        self._shop.core.tick()
        lease_ms = self._bounded(self.terms.lease_ms if lease_ms is None else lease_ms)
        pull = Pull(session, min(messages_max, settings.pull_messages_max), lease_ms, then)
        if self._pulls and self._ready:
            # Those who wait were here first. What is left after that, they may not have.
            self._serve()
        deliveries = self._lease(pull)
        if deliveries or wait_ms <= 0:
            then(deliveries)
            return None
        self._pulls[pull] = None
        self._shop.waiting.setdefault(session, {})[pull] = self
        wait_ms = min(wait_ms, settings.pull_wait_max_ms)
        pull.timer = self._shop.timers.after(wait_ms, self._answer, pull, ())
        return pull

    def cancel(self, pull: Pull) -> None:
        """Whoever asked is no longer interested; ``then`` is not called. Harmless when it has been."""
        if pull in self._pulls:
            self._end_wait(pull)

    def ack(self, session: Session, ids: Iterable[str]) -> dict[str, Refusal]:
        """The work is done. Gives back those ids that were refused: unknown, late, or another principal's.

        Not awaited: the group's place goes with a commit soon after, and a crash before it delivers again.
        """
        refused: dict[str, Refusal] = {}
        for delivery_id in ids:
            job = self._held(session, delivery_id)
            if isinstance(job, Refusal):
                refused[delivery_id] = job
                continue
            self._shop.core.metrics.acked += 1
            self._finish(job)
        self._go_on()
        return refused

    def extend(self, session: Session, ids: Iterable[str], lease_ms: int) -> dict[str, Refusal]:
        """More time: each lease ends in ``lease_ms`` from now. Gives back the refused, like ``ack``."""
        refused: dict[str, Refusal] = {}
        for delivery_id in ids:
            job = self._held(session, delivery_id)
            if isinstance(job, Refusal):
                refused[delivery_id] = job
            else:
                self._hold(job, self._bounded(lease_ms))
        return refused

    def reject(self, session: Session, ids: Iterable[str], delay_ms: int | None = None) -> dict[str, Refusal]:
        """The work failed: delivered again after the group's backoff, or after ``delay_ms``. Else like ``ack``."""
        self._shop.core.tick()
        refused: dict[str, Refusal] = {}
        for delivery_id in ids:
            job = self._held(session, delivery_id)
            if isinstance(job, Refusal):
                refused[delivery_id] = job
            else:
                self._failed(job, "rejected", delay_ms)
        return refused

    def dead_letters(
        self, session: Session, offset: int | None, max_bytes: int, then: Callable[[Page | Refusal], object]
    ) -> None:
        """One page of this group's dead letters, from ``offset`` of their channel; ``then`` is called once."""
        refusal = self._no_entry(session)
        channel = self._shop.channels.find(self.terms.dead_letter)
        if refusal is None and not (self.own_dead_letters or self._shop.core.may_read(session, self.terms.dead_letter)):
            detail = f"{session.principal.name!r} may not read {self.terms.dead_letter!r}"
            refusal = Refusal(Reason.NOT_AUTHORIZED, detail)
        if refusal is not None:
            then(self._counted(refusal))
            return
        if channel is None:
            then(Page((), number=0, next_offset=0, first_offset=0, lost=0))
            return

        def arrived(page: Page) -> None:
            page.messages = [letter for letter in page.messages if self._shows(session, letter)]
            then(page)

        self._shop.core.pump.read(channel, offset, max_bytes, arrived)

    def _shows(self, session: Session, letter: Message) -> bool:
        """Whether a dead letter is this group's, and of a channel the session may read."""
        envelope = letter.envelope or EMPTY
        if envelope.header(DEAD_GROUP) != self.name.encode():
            return False
        channel = (envelope.header(DEAD_CHANNEL) or b"").decode()
        return not self.each or self._shop.core.may_read(session, channel)

    # -- for those who are pushed to -----------------------------------------------------------------

    def settle(self, position: int) -> None:
        """Who was pushed the message has acknowledged it."""
        job = self._jobs.get(position)
        if job is not None and job.stage is Stage.PUSHED:
            self._shop.core.metrics.acked += 1
            self._finish(job)
            self._go_on()

    def put_back(self, position: int) -> None:
        """Who was pushed the message is gone without a word. That does not count against the message."""
        job = self._jobs.get(position)
        if job is not None and job.stage is Stage.PUSHED:
            self._make_ready(job)

    def fail(self, position: int, why: str, delay_ms: int | None = None) -> None:
        """Who was pushed the message refused it, or is gone with it: that counts, like the end of a lease."""
        job = self._jobs.get(position)
        if job is not None and job.stage is Stage.PUSHED:
            self._shop.core.tick()
            job.count += 1
            self._failed(job, why, delay_ms)

    def wake(self) -> None:
        """There may be somebody to give messages to: looks at the end of the turn."""
        if not self._waking and not self.closed:
            self._waking = True
            self._shop.core.loop.call_soon(self._serve)

    # -- taking from the log -------------------------------------------------------------------------

    def _offered(self, message: Message) -> bool:
        settings = self._shop.settings
        barred = message.name != self.terms.dead_letter and not self._shop.core.may_follow(self._reader, message.name)
        if barred and self._exact:
            # What was acknowledged is not thrown away for a rule that may be lifted: it waits for other rules.
            return False
        job = Job(message, self._counts.earlier(message.position))
        full = self._jobs and self._bytes + job.bytes > settings.open_bytes_max
        if full or len(self._jobs) >= settings.open_max or self._backlog.done_count >= settings.exceptions_max:
            return False
        self._jobs[message.position] = job
        self._bytes += job.bytes
        if barred or message.name == self.terms.dead_letter:
            if barred:
                self._bar(message)
            job.stage = Stage.DYING
            # The backlog is still about to note that the message was taken.
            self._shop.core.loop.call_soon(self._skip, job)
        elif job.count >= self.terms.deliveries_max:
            job.stage = Stage.DYING
            self._shop.core.loop.call_soon(self._die, job, "delivered too often before a restart")
        else:
            heappush(self._ready, message.position)
            self.wake()
        return True

    def _bar(self, message: Message) -> None:
        """Nobody gets it from this group: its owner may not read it. The log hears of it once until rules change."""
        core = self._shop.core
        core.metrics.drop("group-owner-not-allowed")
        if self._told != core.gate.generation:
            self._told = core.gate.generation
            about = {"group": self.name, "principal": self.owner.name}
            logger.warning("group passes over %s: its owner may not read it", shown(message.name), extra=about)

    def _skipped(self, message: Message) -> None:
        if self.finished is not None:
            self.finished(message)

    def drop_expired(self) -> None:
        """Finishes what has expired and is with nobody, so that there is room for more."""
        self._shop.core.tick()
        self._ready = [position for position in self._ready if self._live(position) is not None]
        heapify(self._ready)
        self._go_on()

    def _skip(self, job: Job) -> None:
        if not self.closed:
            self._finish(job)
            self._go_on()

    def _go_on(self) -> None:
        """Takes more from the log if there is room again."""
        settings = self._shop.settings
        free = settings.open_max - len(self._jobs)
        if (
            self._backlog.behind
            and not self.closed
            and free > 0
            and self._bytes < settings.open_bytes_max
            and self._backlog.done_count < settings.exceptions_max
            # A read of the log for a single message would cost more than the message.
            and (not self._ready or free * _REFILL >= settings.open_max)
        ):
            self._backlog.resume()

    # -- giving --------------------------------------------------------------------------------------

    def _serve(self) -> None:
        self._waking = False
        if self.closed:
            return
        self._shop.core.tick()
        # Rules that let the owner read again wake the group.
        self._go_on()
        if self.push is not None:
            self._push(self.push)
        for pull in list(self._pulls):
            if not self._ready:
                return
            deliveries = self._lease(pull)
            if deliveries:
                self._answer(pull, deliveries)

    def _push(self, push: Callable[[Message], bool | None]) -> None:
        passed: list[int] = []
        while self._ready:
            position = heappop(self._ready)
            job = self._live(position)
            if job is None:
                continue
            # Before the push: whoever takes it may settle it at once.
            job.stage = Stage.PUSHED
            taken = push(job.message)
            if taken:
                continue
            job.stage = Stage.READY
            passed.append(position)
            if taken is False:
                break
        for position in passed:
            heappush(self._ready, position)

    def _live(self, position: int) -> Job | None:
        """The ready job at this position; one that has expired is finished instead."""
        job = self._jobs.get(position)
        if job is None or job.stage is not Stage.READY:
            return None
        if job.message.expired(self._shop.core.now_ms):
            self._shop.core.metrics.drop("expired")
            self._finish(job)
            return None
        return job

    def _lease(self, pull: Pull) -> list[Delivery]:
        """Leases what is ready to a pull, oldest first."""
        core = self._shop.core
        deliveries: list[Delivery] = []
        not_for_it: list[int] = []
        left = self._shop.settings.pull_bytes_max
        while self._ready and len(deliveries) < pull.messages_max:
            position = heappop(self._ready)
            job = self._live(position)
            if job is None:
                continue
            if self.each and not core.may_follow(pull.session, job.message.name):
                not_for_it.append(position)
                continue
            left -= job.bytes
            if deliveries and left < 0:
                not_for_it.append(position)
                break
            deliveries.append(self._deliver(job, pull))
        for position in not_for_it:
            heappush(self._ready, position)
        self._go_on()
        return deliveries

    def _deliver(self, job: Job, pull: Pull) -> Delivery:
        metrics = self._shop.core.metrics
        metrics.messages_out += 1
        metrics.bytes_out += len(job.message.payload or b"")
        job.count += 1
        if job.count > 1:
            metrics.redelivered += 1
            self._counts.write(job.message.position, job.count)
        job.id = secrets.token_urlsafe(_ID_BYTES)
        job.holder = pull.session.principal.name
        job.stage = Stage.LEASED
        self._ids[job.id] = job
        self._hold(job, pull.lease_ms)
        return Delivery(job.id, job.message, job.count, pull.lease_ms)

    def _hold(self, job: Job, lease_ms: int) -> None:
        if job.timer is not None:
            job.timer.cancel()
        job.timer = self._shop.timers.after(lease_ms, self._lease_ended, job)

    def _answer(self, pull: Pull, what: Iterable[Delivery] | Refusal) -> None:
        self._end_wait(pull)
        pull.then(what if isinstance(what, Refusal) else list(what))

    def _end_wait(self, pull: Pull) -> None:
        del self._pulls[pull]
        if pull.timer is not None:
            pull.timer.cancel()
        waiting = self._shop.waiting[pull.session]
        del waiting[pull]
        if not waiting:
            del self._shop.waiting[pull.session]

    # -- ends ----------------------------------------------------------------------------------------

    def _lease_ended(self, job: Job) -> None:
        self._shop.core.tick()
        self._failed(job, "lease ended", None)

    def _failed(self, job: Job, why: str, delay_ms: int | None) -> None:
        """A delivery came to nothing: again later, or never."""
        self._ids.pop(job.id, None)
        self._counts.write(job.message.position, job.count)
        terms = self.terms
        if job.count >= terms.deliveries_max:
            self._die(job, why)
            return
        job.rest(Stage.DELAYED)
        if delay_ms is None:
            delay_ms = backoff_ms(job.count, terms.backoff_ms, terms.backoff_max_ms)
        delay_ms = min(max(0, delay_ms), self._shop.settings.lease_max_ms)
        if not delay_ms:
            self._make_ready(job)
            return
        job.timer = self._shop.timers.after(delay_ms, self._make_ready, job)

    def _make_ready(self, job: Job) -> None:
        job.rest(Stage.READY)
        heappush(self._ready, job.message.position)
        self.wake()

    def _die(self, job: Job, why: str) -> None:
        if self.closed:
            return
        job.rest(Stage.DYING)
        message = job.message
        if (message.envelope or EMPTY).hops >= self._shop.settings.dead_hops_max:
            self._shop.core.metrics.drop("dead-letter-hops")
            self._finish(job)
            self._go_on()
            return
        self._shop.core.tick()
        letter = letter_of(message, self.name, self.terms.dead_letter, why, job.count)
        self._shop.dead_letters.bury(
            self.terms.dead_letter,
            letter,
            trimmed=self.own_dead_letters,
            then=lambda refusal: self._buried(job, why, refusal),
        )

    def _buried(self, job: Job, why: str, refusal: Refusal | None) -> None:
        if self.closed:
            return
        if refusal is None:
            self._finish(job)
            # The place goes out with the count, so that a crash from here on does not begin to count anew.
            self._shop.backlogs.flush()
            self._go_on()
            return
        job.timer = self._shop.timers.after(max(1_000, self.terms.backoff_max_ms), self._die, job, why)

    def _finish(self, job: Job) -> None:
        position = job.message.position
        del self._jobs[position]
        self._ids.pop(job.id, None)
        self._bytes -= job.bytes
        job.rest(Stage.DYING)
        self._counts.clear(position)
        self._backlog.finish(position)
        if self.finished is not None:
            self.finished(job.message)

    # -- within --------------------------------------------------------------------------------------

    def _no_entry(self, session: Session) -> Refusal | None:
        if self.closed:
            return Refusal(Reason.GONE, f"the group {self.name!r} is closed")
        return self.guard(session)

    def _held(self, session: Session, delivery_id: str) -> Job | Refusal:
        job = self._ids.get(delivery_id)
        if job is None or job.holder != session.principal.name:
            detail = (
                f"no delivery {delivery_id[:40]!r} of yours is under way in {self.name!r}: its lease may have ended"
            )
            return self._counted(Refusal(Reason.UNKNOWN_DELIVERY, detail))
        return job

    def _bounded(self, lease_ms: int) -> int:
        return max(1, min(lease_ms, self._shop.settings.lease_max_ms))

    def _counted(self, refusal: Refusal) -> Refusal:
        self._shop.core.metrics.refuse(refusal.reason)
        return refusal
