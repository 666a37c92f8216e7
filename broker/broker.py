"""The broker: publish, subscribe, read. The one API that adapters and embedders use for channels.

Everything runs on the loop's thread and answers at once; what must wait for a commit answers with a
ticket. The rooms beside it (directory, calls, groups…) are its attributes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, final

from dragoman.broker.backlogs import Backlogs
from dragoman.broker.bans import CLIENT, PRINCIPAL, Ban, Bans
from dragoman.broker.calls import Calls
from dragoman.broker.channel import Channel, Keep
from dragoman.broker.channels import Channels
from dragoman.broker.core import Core, Loop
from dragoman.broker.dedupe import Dedupe
from dragoman.broker.delayed import LEVEL as DELAYED
from dragoman.broker.delayed import Delayed
from dragoman.broker.directory import Directory
from dragoman.broker.gate import Action, Verdict
from dragoman.broker.log.contract import DONE, Ticket
from dragoman.broker.mailbox import Mailboxes
from dragoman.broker.news import JSON, OURS, News
from dragoman.broker.post import Post
from dragoman.broker.principal import EMBEDDED
from dragoman.broker.probes import add_probes
from dragoman.broker.producers import Producers
from dragoman.broker.pump import Page
from dragoman.broker.redirects import Redirects
from dragoman.broker.retention import Limits
from dragoman.broker.rooms import Rooms
from dragoman.broker.route import Route
from dragoman.broker.scheme import Schemes
from dragoman.broker.settings_groups import GroupSettings
from dragoman.broker.slow import SlowReaders
from dragoman.broker.streams import Stream
from dragoman.broker.subscription import Place, Start, Subscription
from dragoman.broker.timers import Timers
from dragoman.broker.topics import Topics
from dragoman.broker.verbs import Verbs
from dragoman.broker.workgroups import WorkGroups
from dragoman.routing.message import Message, Wish
from dragoman.routing.names import check_filter, check_name, is_exact, shown
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from dragoman.broker.clock import Clock
    from dragoman.broker.gate import Gate
    from dragoman.broker.log.contract import Log
    from dragoman.broker.metrics import Metrics
    from dragoman.broker.rates import Limiter
    from dragoman.broker.session import KeptSessions, Session
    from dragoman.broker.settings import BrokerSettings
    from dragoman.broker.settings_agents import AgentSettings

GROUPS: Final = GroupSettings()


@final
class Broker:
    """Channels and delivery for every protocol. ``start`` before, ``stop`` after anything else, once each."""

    def __init__(
        self,
        settings: BrokerSettings,
        agents: AgentSettings,
        groups: GroupSettings = GROUPS,
        *,
        clock: Clock,
        log: Log,
        gate: Gate,
        loop: Loop,
        metrics: Metrics,
        declared: Mapping[str, str] | None = None,
    ) -> None:
        """``declared``: the principal of each agent id the configuration reserves."""
        self.core = Core(settings, clock, log, gate, loop, metrics)
        self.settings, self.clock, self.log = settings, clock, log
        self.gate = gate
        self.metrics = metrics
        self.channels = Channels(self.core)
        self.backlogs = Backlogs(self.core, self.channels)
        self.slow = SlowReaders(self.core, self.backlogs)
        self.core.lost = self.slow.lost
        self.dedupe = Dedupe(self.core)
        self.producers = Producers(self.core)
        self.topics = Topics(self.core, self.channels, self.declare, self.core.refusal)
        self.bans = Bans(clock, log, settings.bans_max)
        self.timers = Timers(clock, loop.call_later, log, agents.timers_durable_max)
        self.redirects = Redirects(self.timers, clock, self.sessions)
        self.news = News(self.core, self.channels)
        tell, later = self.news.tell, self.later
        self.directory = Directory(clock, self.timers, gate, log, tell, later, agents, declared)
        self.rooms = Rooms(
            clock, self.timers, self.directory, gate, log, tell, later, self._room_closed, self.core.changed, agents
        )
        self.news.enter("$mesh", self.directory.projected, Wish.AT_LEAST_ONCE, JSON)
        self.schemes = Schemes(self.core, self.news, self.rooms.permits)
        self.directory.describe_channels(self.rooms.about)
        self.calls = Calls(clock, self.timers, self.directory, gate, log, tell, later, self.when_safe, agents)
        self.groups = WorkGroups(self.core, self.backlogs, self.channels, self.timers, groups)
        self.verbs = Verbs(clock, self.directory, self.calls, gate, self.later, self.publish, agents)
        self.core.owned = self.verbs.owns
        self.mailboxes = Mailboxes(
            self.groups.shop,
            groups,
            inbox=self.verbs.inbox,
            keep=self.directory.keep,
            release=self.directory.release,
        )
        self.post = Post(self.directory, self.verbs, self.mailboxes)
        self.delayed = Delayed(
            self.core, self.timers, self.bans, self.core.refusal, self.acts, self.say, self.when_safe
        )
        self.schemes.enter(DELAYED, self.delayed)
        add_probes(metrics, self.core, self.calls, self.verbs, self.slow, self.bans, self.delayed)
        #: what each protocol keeps for absent clients; an adapter that keeps some adds itself
        self.kept_sessions: dict[str, KeptSessions] = {}
        self._sessions: dict[Session, dict[Subscription, None]] = {}
        self._waiters: dict[Ticket, list[Callable[[Refusal | None], None]]] = {}
        self._stopping = False

    # -- life ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Opens the log and restores what it holds. Raises ``LogError`` with a sentence for the operator."""
        self.log.open(self._committed, self._refused)
        promised = self.channels.load()
        self.dedupe.load()
        self.producers.load()
        self.topics.load()
        self.bans.start()
        self.bans.follow(self._turn_out)
        self.directory.start()
        self.rooms.start()
        self.calls.start_up()
        self.groups.start()
        self.mailboxes.start()
        await self.safe(promised)
        # Last, so that no deadline passes before the adapters have their readers in place.
        self.timers.start()
        self.delayed.start()
        channels, slow = self.channels, self.slow
        for part in (self.backlogs.advance, channels.sweep, slow.look, self.dedupe.trim, self.producers.trim):
            self.timers.after(self.settings.sweep_ms, self._sweep, part)

    def say_goodbye(self) -> None:
        """Takes no new work and ends every session in its own protocol's words. Before ``stop``; idempotent."""
        # First the goodbyes: what a session leaves behind, such as a will, is still said.
        for session in list(self._sessions):
            session.close(Refusal(Reason.SHUTTING_DOWN, "the mesh is shutting down"))
        self._stopping = self.core.stopping = True
        # Who waits for work is told too, or its connection would hold up the listeners.
        self.mailboxes.stop()
        self.groups.stop()

    async def stop(self) -> None:
        """Makes everything safe and closes the log. After the listeners are done."""
        self.say_goodbye()
        self.backlogs.settle()
        self.timers.stop()
        self.channels.settle()
        await self.log.close()

    async def safe(self, ticket: Ticket) -> None:
        """Returns when the ticket is committed. Raises ``RefusedError`` if its commit failed."""
        from dragoman.routing.refusals import RefusedError

        if ticket == DONE:
            return
        done: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(ticket, []).append(lambda r: None if done.done() else done.set_result(r))
        refusal = await done
        if refusal is not None:
            raise RefusedError(refusal)

    def when_safe(self, ticket: Ticket, then: Callable[[Refusal | None], None]) -> None:
        """Calls ``then`` once: with None when the ticket is committed, else with why its commit failed."""
        if ticket == DONE:
            then(None)
        else:
            self._waiters.setdefault(ticket, []).append(then)

    def _committed(self, ticket: Ticket) -> None:
        self.dedupe.committed(ticket)
        self.producers.committed(ticket)
        self.core.commits.committed(ticket)
        for t in sorted(t for t in self._waiters if t <= ticket):
            for tell in self._waiters.pop(t):
                tell(None)

    def _refused(self, ticket: Ticket, refusal: Refusal) -> None:
        self.metrics.commits_failed += 1
        self.dedupe.refused(ticket)
        self.producers.refused(ticket)
        self.core.commits.refused(ticket, refusal)
        for tell in self._waiters.pop(ticket, ()):
            tell(refusal)

    def _sweep(self, part: Callable[[], None]) -> None:
        if self._stopping:
            return
        # First: if it fails, the loop says so, and there is a next time.
        self.timers.after(self.settings.sweep_ms, self._sweep, part)
        self.core.tick()
        part()

    # -- sessions ------------------------------------------------------------------------------------

    def attach(self, session: Session) -> Refusal | None:
        """A session begins. Every session exactly once, before anything else it asks."""
        assert session not in self._sessions, f"{session!r} is attached already"
        refusal = self._ending() or self.bans.principal(session.principal.name) or self.bans.client(session.agent)
        if refusal is not None:
            return refusal
        if len(self._sessions) >= self.settings.sessions_max:
            return Refusal(
                Reason.QUOTA_EXCEEDED,
                f"{len(self._sessions)} sessions are connected and broker.sessions_max allows no more",
                retry_after_ms=1_000,
            )
        self._sessions[session] = {}
        self.metrics.sessions += 1
        return None

    def detach(self, session: Session) -> None:
        """A session is really gone: its subscriptions end, nobody waits for its answers. Idempotent."""
        subscriptions = self._sessions.get(session)
        if subscriptions is None:
            return
        self.groups.gone(session)
        self.post.detach(session)
        # First the verbs: a skill unsubscribed is a skill withdrawn, and a sleeper keeps its skills.
        self.verbs.detach(session)
        for subscription in list(subscriptions):
            self.unsubscribe(subscription)
        del self._sessions[session]
        self.core.pump.drop(session)
        self.slow.drop(session)
        self.core.commits.forget(session)
        self.metrics.sessions -= 1

    def _turn_out(self, ban: Ban) -> None:
        """Ends the sessions of a client or principal that has just been banned; addresses are the listeners' matter."""
        for session in list(self._sessions):
            name = {CLIENT: session.agent, PRINCIPAL: session.principal.name}.get(ban.kind)
            if name == ban.who:
                session.close(ban.refusal())

    def sessions(self) -> Iterable[Session]:
        """Everyone attached now."""
        return self._sessions.keys()

    def subscriptions(self, session: Session) -> Collection[Subscription]:
        """What the session subscribes to now."""
        return self._sessions.get(session, {}).keys()

    # -- publishing ----------------------------------------------------------------------------------

    def route(self, session: Session, name: str, limiters: tuple[Limiter, ...] | None = None) -> Route | Refusal:
        """The session's way into a channel: name and gate are checked once, the channel exists from now on.

        ``limiters``: what is asked per message; None = the gate's for the session's principal.
        """
        refusal = self._ending() or check_name(name) or self.core.refusal(session, Action.PUBLISH, name)
        if refusal is not None:
            return self._no(refusal)
        channel = self._open(session, name)
        if isinstance(channel, Refusal):
            return self._no(channel)
        verdict = self.gate.check(session.principal, Action.PUBLISH, name, session.agent)
        if limiters is None:
            limiters = self.gate.limiters(session.principal)
        return Route(self.core, channel, limiters, verdict is Verdict.INSPECT)

    def publish(self, session: Session, message: Message, dedupe: tuple[str, str] | None = None) -> Ticket | Refusal:
        """Says something in the channel ``message.name``. ``DONE``, a ticket, or a counted Refusal; never raises.

        ``dedupe`` is (source, key): if that was published before, nothing is said again and the
        message gets the original's number and offset.
        """
        self.core.tick()
        if self.verbs.owns(message.name):
            return self._said(session, message, self.verbs.publish(session, message))
        scheme = self.schemes.taking(message.name)
        if scheme is not None:
            message.sender = session.agent
            return scheme.publish(session, message)
        return self.say(session, message, dedupe)

    def say(self, session: Session, message: Message, dedupe: tuple[str, str] | None = None) -> Ticket | Refusal:
        """The same in the channel of that name, whatever publishing there means."""
        if len(message.payload or b"") > self.settings.message_bytes_max:
            return self._no(
                Refusal(
                    Reason.TOO_LARGE,
                    f"the payload has {len(message.payload or b'')} bytes, "
                    f"broker.message_bytes_max is {self.settings.message_bytes_max}",
                )
            )
        route = self.route(session, message.name)
        if isinstance(route, Refusal):
            return route
        if dedupe is not None:
            known = self.dedupe.original(*dedupe, message)
            if known is not None:
                self.metrics.duplicates += 1
                if known:
                    self.core.commits.tell(known, session)
                return known
        message.sender = session.agent
        if message.envelope is not None:
            message.envelope = self.verbs.absolute(session, message.envelope)
        answer = route.publish(session, message)
        if isinstance(answer, Refusal):
            return answer
        self.metrics.messages_in += 1
        self.metrics.bytes_in += len(message.payload or b"")
        if dedupe is not None:
            self.dedupe.remember(*dedupe, message, answer)
        return answer

    def acts(self, name: str) -> bool:
        """Whether publishing to this name asks the mesh for something, so that it is no message in a channel."""
        return self.verbs.owns(name) or self.schemes.taking(name) is not None

    def _said(self, session: Session, message: Message, answer: Ticket | Refusal) -> Ticket | Refusal:
        """Counts what a verb did, and sees to it that its session hears of the ticket."""
        if isinstance(answer, Refusal):
            return self._no(answer)
        self.metrics.messages_in += 1
        self.metrics.bytes_in += len(message.payload or b"")
        if answer:
            self.core.commits.tell(answer, session)
        return answer

    @property
    def saturated(self) -> bool:
        """So much waits for the disk that no durable producer should be read."""
        return self.log.uncommitted_bytes() > self.settings.uncommitted_bytes_max

    def later(self, fn: Callable[..., object], *args: object) -> None:
        """Calls ``fn`` at the end of this turn."""
        self.core.loop.call_soon(fn, *args)

    # -- subscribing ---------------------------------------------------------------------------------

    def subscribe(
        self,
        session: Session,
        filter_: str,
        *,
        wish: int = 0,
        no_local: bool = False,
        keep_retain: bool = False,
        identifier: int = 0,
        start: Start | Place = Start.NEW,
        retained: bool = True,
    ) -> Subscription | Refusal:
        """An interest in a channel or in all that match a filter.

        ``retained``: the retained values that match are given first, through ``deliver``, as credit
        allows. ``start``: where an exact subscription begins; a place in an older creation of the
        channel is a gap. What comes afterwards is pushed; see ``Session.deliver``.
        """
        verb = self.verbs.owns(filter_)
        refusal = self._ending() or (check_filter(filter_) if verb else self.core.no_reader(session, filter_))
        if refusal is not None:
            return self._no(refusal)
        mine = self._sessions[session]
        if len(mine) >= self.settings.subscriptions_per_session_max:
            return self._no(
                Refusal(
                    Reason.QUOTA_EXCEEDED,
                    f"the session has {len(mine)} subscriptions, broker.subscriptions_per_session_max allows no more",
                )
            )
        if verb:
            heard = self.verbs.subscribe(session, filter_, wish=wish, identifier=identifier)
            if isinstance(heard, Refusal):
                return self._no(heard)
            mine[heard] = None
            self.metrics.subscriptions += 1
            return heard
        self.core.tick()
        exact = is_exact(filter_)
        options = {"no_local": no_local, "keep_retain": keep_retain, "exact": exact}
        subscription = Subscription(session, filter_, wish=wish, identifier=identifier, **options)
        subscription.since = self.core.commits.retained_turn
        if exact:
            channel = self._open(session, filter_)
            if isinstance(channel, Refusal):
                return self._no(channel)
            first = channel.subscribed(subscription)
            if first:
                self._join(channel.name, session)
            if start is not Start.NEW:
                self.core.pump.start(channel, session, start)
        else:
            self.core.filters.add(filter_, subscription)
            self.core.changed()
        mine[subscription] = None
        self.metrics.subscriptions += 1
        self.schemes.subscribed(subscription)
        if retained:
            self.replay(subscription)
        return subscription

    def stream(
        self, session: Session, filter_: str, from_ms: int, *, wish: int, identifier: int = 0
    ) -> Stream | Refusal:
        """A reader of what is kept, from a time on; to be begun, resumed and closed by whoever asks for it.

        It goes on its own credit: call its ``resume`` whenever the session's returns.
        """
        refusal = self._ending() or self.core.no_reader(session, filter_)
        if refusal is not None:
            return self._no(refusal)
        return Stream(self.core, self.channels, session, filter_, from_ms, wish=wish, identifier=identifier)

    def replay(self, subscription: Subscription) -> None:
        """Gives the retained values that match, through ``deliver``, as credit allows. Verbs have none."""
        if self.verbs.owns(subscription.filter):
            return
        self.core.pump.replay(subscription, self.retained_for(subscription))

    def change(
        self, subscription: Subscription, *, wish: int, no_local: bool, keep_retain: bool, identifier: int
    ) -> None:
        """Gives a subscription new options without losing a message (MQTT-3.8.4-3)."""
        subscription.changed = subscription.changed or (wish, no_local) != (subscription.wish, subscription.no_local)
        subscription.wish = wish
        subscription.no_local = no_local
        subscription.keep_retain = keep_retain
        subscription.identifier = identifier
        subscription.since = self.core.commits.retained_turn
        if self.verbs.owns(subscription.filter):
            return
        if subscription.exact:
            self.channels.by_name[subscription.filter].stale()
        else:
            self.core.changed()

    def unsubscribe(self, subscription: Subscription) -> None:
        """Ends an interest. Its feeds end with it, unless another subscription of the session matches."""
        session = subscription.session
        mine = self._sessions.get(session)
        if mine is None or subscription not in mine:
            return
        del mine[subscription]
        self.metrics.subscriptions -= 1
        if self.verbs.unsubscribe(subscription):
            return
        self.schemes.unsubscribed(subscription)
        self.core.pump.end_replay(subscription)
        if subscription.exact:
            channel = self.channels.by_name[subscription.filter]
            if channel.unsubscribed(subscription):
                self.directory.left(channel.name, session)
        else:
            self.core.filters.remove(subscription.filter, subscription)
            self.core.changed()

    def resume(self, session: Session) -> None:
        """The session has credit again. Not to be called from within ``deliver``."""
        self.core.tick()
        self.core.pump.resume(session)
        self.verbs.resume(session)
        self.groups.resume(session)
        self.post.resume(session)

    # -- reading -------------------------------------------------------------------------------------

    def read(
        self, session: Session, name: str, offset: int | None, max_bytes: int, then: Callable[[Page | Refusal], None]
    ) -> None:
        """Reads one page of a channel from ``offset`` (None = the oldest); ``then`` is called once, now or later."""
        refusal = check_name(name) or self.core.refusal(session, Action.READ, name)
        channel = self.channels.find(name)
        if refusal is None and channel is None:
            refusal = Refusal(Reason.UNKNOWN_CHANNEL, f"there is no channel {name!r} now; the first publish creates it")
        if refusal is not None:
            then(self._no(refusal))
            return
        assert channel is not None
        self.core.tick()
        self.core.pump.read(channel, offset, max_bytes, then)

    def retained_of(self, name: str) -> Message | None:
        """The channel's retained value, kept or worked out. The gate is the caller's business (``may_read``)."""
        scheme = self.schemes.taking(name)
        if scheme is not None:
            return next(scheme.retained(name), None)
        projection = self.news.projection(name)
        if projection is not None:
            return next(projection.find(name), None)
        channel = self.channels.find(name)
        if channel is None or channel.retained is None or channel.retained.expired(self.clock.now_ms()):
            return None
        return channel.retained

    def last_of(self, name: str) -> Message | None:
        """The newest visible message. The gate is the caller's business (``may_read``)."""
        channel = self.channels.find(name)
        if channel is None:
            return None
        last = channel.last
        if last is None and channel.tail is not None:
            opened = self.core.bundles.messages(channel.tail)
            last = opened[-1] if opened else None
        return None if last is None or last.expired(self.clock.now_ms()) else last

    def may_read(self, session: Session, name: str) -> bool:
        """Whether the session may have what this channel holds, by asking for it."""
        return self.core.may_read(session, name)

    def may_follow(self, session: Session, name: str) -> bool:
        """Whether it may have what is said there, as long as it listens."""
        return self.core.may_follow(session, name)

    def retained_for(self, subscription: Subscription) -> Iterator[Message]:
        """The retained values a subscription gets, looked up as there is credit; none that it hears as said."""
        for message in self.schemes.retained(subscription.filter, self.retained_of):
            channel = self.channels.find(message.name)
            newer = channel is not None and channel.retained is message and channel.retained_at > subscription.since
            if newer and (message.wish or subscription in self._sessions.get(subscription.session, ())):
                # It was heard, or waits for the session if that lost its connection.
                continue
            if self.core.may_follow(subscription.session, message.name):
                yield message

    # -- durable channels ----------------------------------------------------------------------------

    def declare(
        self,
        session: Session,
        name: str,
        keep: Keep,
        *,
        retention_ms: int | None = None,
        retention_bytes: int | None = None,
        retention_messages: int | None = None,
    ) -> Channel | Refusal:
        """Asks a channel to keep what is said in it, within these limits and no others. Created if need be."""
        refusal = self._ending() or check_name(name) or self._undeclarable(session, name)
        if refusal is None:
            refusal = self.core.refusal(session, Action.CREATE, name)
        if refusal is not None:
            return self._no(refusal)
        channel = self._open(session, name)
        if isinstance(channel, Refusal):
            return self._no(channel)
        self.channels.declare(channel, keep, Limits(retention_ms, retention_bytes, retention_messages))
        channel.refresh()
        return channel

    def _undeclarable(self, session: Session, name: str) -> Refusal | None:
        """Verbs are no channels, and what is kept below ``$``, such as mail, follows rules of its own."""
        if self.verbs.owns(name):
            return Refusal(Reason.NAME_INVALID, f"{shown(name)} is a verb, not a channel: it keeps nothing")
        if name.startswith("$") and session.principal is not EMBEDDED:
            return Refusal(Reason.NOT_AUTHORIZED, f"the mesh alone says what {shown(name)} keeps: it begins with $")
        return None

    # -- within --------------------------------------------------------------------------------------

    def _open(self, session: Session, name: str) -> Channel | Refusal:
        channel = self.channels.find(name)
        if channel is not None:
            return channel
        refusal = None if name.startswith(OURS) else self.core.refusal(session, Action.CREATE, name)
        return refusal or self.channels.open(name, session.principal.name)

    def _ending(self) -> Refusal | None:
        return Refusal(Reason.SHUTTING_DOWN, "the mesh is shutting down") if self._stopping else None

    def _join(self, name: str, session: Session) -> None:
        """An exact subscription makes its agent a member, unless a rule keeps it from being seen as one."""
        if self.core.refusal(session, Action.JOIN, name) is None:
            self.directory.joined(name, session)

    def _room_closed(self, name: str) -> None:
        """A room is over: everybody's subscriptions to it and below end, its channels with them."""
        below = name + "/"
        for subscriptions in self._sessions.values():
            for subscription in list(subscriptions):
                if subscription.filter == name or subscription.filter.startswith(below):
                    self.unsubscribe(subscription)
        for channel in [c for n, c in self.channels.by_name.items() if n == name or n.startswith(below)]:
            self.channels.close(channel)

    def _no(self, refusal: Refusal) -> Refusal:
        self.metrics.refuse(refusal.reason)
        return refusal
