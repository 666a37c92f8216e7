"""Shared subscriptions: several members, each message pushed to one of them. MQTT's ``$share``.

A share is a party of its own that subscribes once and chooses a member per message. What a member that
went has not acknowledged goes to another (QoS 1) or stays with it until it returns (QoS 2, MQTT-4.8.2-6).
While a share has a member whose session is kept, it has a place in the log, so that messages wait
when nobody is connected; without one it is as live as its members.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, final

from dragoman.broker.group_rows import SHARE, ShareRow, digest, rows_of, save
from dragoman.broker.inner_session import InnerSession
from dragoman.broker.log.contract import Table
from dragoman.broker.principal import MESH
from dragoman.broker.rows import decode_row
from dragoman.broker.subscription import Feed, Subscription
from dragoman.broker.takers import Taker, Turns
from dragoman.routing.groups import Strategy
from dragoman.routing.names import is_exact
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.backlog import Backlog
    from dragoman.broker.backlogs import Backlogs
    from dragoman.broker.core import Core
    from dragoman.broker.session import Session
    from dragoman.broker.settings_groups import GroupSettings
    from dragoman.routing.message import Message

READERS_CACHED_MAX: Final = 1_024
"""Names whose permitted members are remembered by one share."""


@final
class Share:
    """One shared subscription: a group name and a filter."""

    __slots__ = (
        "_allowed",
        "_allowed_at",
        "_backlog",
        "_backlogs",
        "_core",
        "_durable_from",
        "_reader",
        "_returned",
        "_settings",
        "_subscription",
        "_turns",
        "_waking",
        "filter",
        "group",
        "key",
        "members",
    )

    def __init__(self, core: Core, backlogs: Backlogs, settings: GroupSettings, group: str, filter_: str) -> None:
        self._core = core
        self._backlogs = backlogs
        self._settings = settings
        self._turns = Turns(Strategy(settings.share_strategy))
        self.group = group
        self.filter = filter_
        self.key = digest(group, filter_)
        self.members: dict[str, Taker] = {}
        self._returned: deque[Message] = deque()
        self._backlog: Backlog | None = None
        self._durable_from = 0
        self._waking = False
        self._allowed: dict[str, list[Taker]] = {}
        self._allowed_at = (-1, -1)
        self._reader = InnerSession(MESH, "", self._heard)
        self._subscription = Subscription(self._reader, filter_, wish=2, exact=False)
        core.filters.add(filter_, self._subscription)
        core.changed()

    # -- members -------------------------------------------------------------------------------------

    def settle_members(self) -> None:
        """Members have changed: what is kept changes with them, and somebody may have room now."""
        self._allowed.clear()
        kept = {member.id: member.feed.wish if member.feed else 0 for member in self.members.values() if member.kept}
        if kept and self._backlog is None:
            self._open_backlog(restored=False)
        if self._backlog is not None:
            row = ShareRow(group=self.group, filter=self.filter, members=kept)
            save(self._core.log, SHARE, self.key, row if kept else None)
        self.wake()

    def restore(self, row: ShareRow) -> None:
        """After a restart: all kept members are away."""
        for member_id in row.members:
            member = self.members[member_id] = Taker(self, member_id, self._settings.share_inflight_max)
            member.kept = True
        self._open_backlog(restored=True)

    def _open_backlog(self, *, restored: bool) -> None:
        """From now on messages wait in the log. Once there, it stays for as long as there are members."""
        log = self._core.log
        key = b"share:" + self.key
        self._durable_from = 0 if restored else int(log.end())
        if not restored:
            # A crash between the last kept member's end and the share's may have left an old place.
            log.put(Table.CURSORS, key, None)
        self._backlog = self._backlogs.open(key, self._offered)
        self._backlog.watch(self.filter)
        self._backlog.resume()

    def away(self, member: Taker) -> None:
        """A member's connection is gone. QoS 1 goes to others; QoS 2 stays with it if its session does."""
        member.session = None
        member.feed = None
        member.full = False
        for message, qos in list(member.holds.items()):
            if qos == 1:
                member.returned(message)

    def out(self, member: Taker) -> None:
        """No longer a member. A connected one may still acknowledge what it holds."""
        if self.members.get(member.id) is member:
            del self.members[member.id]
        member.kept = False
        for message, qos in list(member.holds.items()):
            if qos == 2:
                # Completed with it or never: it is nobody else's any more [MQTT-4.8.2-5].
                if member.session is None:
                    self._core.metrics.drop("share-session-ended")
                member.settled(message)

    def close(self) -> None:
        """Nobody is left: nothing is kept."""
        self._core.filters.remove(self.filter, self._subscription)
        self._core.pump.drop(self._reader)
        self._core.changed()
        if self._backlog is not None:
            self._backlogs.close(self._backlog)
            self._backlog = None
            save(self._core.log, SHARE, self.key, None)
        self._core.metrics.drop("share-without-member", len(self._returned))
        self._returned.clear()

    # -- messages ------------------------------------------------------------------------------------

    def _heard(self, feed: Feed, message: Message) -> bool:
        """A message has become visible."""
        if self._backlog is not None and message.position and message.position >= self._durable_from:
            return True
        if message.expired(self._core.now_ms):
            # A session would skip it without a word, and its member would hold it for ever.
            self._core.metrics.drop("expired")
            return True
        if self._connected():
            return self._give_in_turn(message)
        self._core.metrics.drop("share-without-member")
        return True

    def _connected(self) -> bool:
        return any(member.session is not None for member in self.members.values())

    def _offered(self, message: Message) -> bool:
        """The backlog's message: caught up, or read from the log."""
        return not self._core.pump.waits(self._reader) and self._give_in_turn(message)

    def _give_in_turn(self, message: Message) -> bool:
        """What was taken back goes first: it is older."""
        return self._give_returned() and self._give(message)

    def _give_returned(self) -> bool:
        while self._returned:
            message = self._returned[0]
            if message.expired(self._core.now_ms):
                self._core.metrics.drop("expired")
                self.finish(message)
            elif self._give(message):
                self._core.metrics.redelivered += 1
            else:
                return False
            self._returned.popleft()
        return True

    def _give(self, message: Message) -> bool:
        """To one of the members. False: nobody can have it now."""
        members = self._readers(message.name)
        if not members:
            if not self._connected():
                return False
            # None of those who are here may read it: the others' messages do not wait for it.
            self._core.metrics.drop("share-not-readable")
            self._later_finish(message)
            return True
        given = self._turns.give(members, message)
        if given is None:
            self._core.metrics.drop("larger-than-receiver-takes")
            self._later_finish(message)
        return given is not False

    def _readers(self, name: str) -> list[Taker]:
        """The connected members that may read the channel."""
        core = self._core
        if self._allowed_at != (core.generation, core.gate.generation) or len(self._allowed) >= READERS_CACHED_MAX:
            self._allowed_at = (core.generation, core.gate.generation)
            self._allowed.clear()
        found = self._allowed.get(name)
        if found is None:
            found = [m for m in self.members.values() if m.session is not None and core.may_follow(m.session, name)]
            self._allowed[name] = found
        return found

    def finish(self, message: Message) -> None:
        """The message is done with."""
        if self._backlog is not None and message.position:
            self._later_finish(message)
        if (
            self._returned
            or (self._backlog is not None and self._backlog.behind)
            or self._core.pump.waits(self._reader)
        ):
            self.wake()

    def _later_finish(self, message: Message) -> None:
        """At the end of the turn, when the backlog has noted that it was taken."""
        if self._backlog is not None and message.position:
            self._core.loop.call_soon(self._backlog.finish, message.position)

    def refuse(self, message: Message) -> None:
        """It is not offered to another [MQTT-4.8.2-6]."""
        self.finish(message)

    def take_back(self, message: Message) -> None:
        """The message is for somebody else. Durable shares hold no more of these than their backlog has open."""
        if not self.members:
            self._core.metrics.drop("share-without-member")
            return
        if self._backlog is None and len(self._returned) >= self._settings.share_returned_max:
            self._core.metrics.drop("share-returned-full")
            return
        self._returned.append(message)
        self.wake()

    def wake(self) -> None:
        """Somebody may have room: goes on at the end of the turn, when whoever is going is gone."""
        if not self._waking:
            self._waking = True
            self._core.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._waking = False
        if not any(m.connected and m.inflight < m.limit for m in self.members.values()):
            return
        self._core.tick()
        if not self._give_returned():
            return
        # What lags as a live feed is older than what waits in the log.
        self._core.pump.resume(self._reader)
        if self._backlog is not None and not self._core.pump.waits(self._reader):
            self._backlog.resume()

    # -- for people and tests ------------------------------------------------------------------------

    @property
    def place(self) -> bytes:
        """The key of its backlog; empty if it has none."""
        return b"" if self._backlog is None else self._backlog.key

    @property
    def durable(self) -> bool:
        """Whether messages wait for it in the log."""
        return self._backlog is not None

    def statistics(self) -> dict[str, int]:
        """How many members there are, and how many messages are with them or waiting for room."""
        return {
            "members": len(self.members),
            "connected": sum(member.connected for member in self.members.values()),
            "inflight": sum(member.inflight for member in self.members.values()),
            "returned": len(self._returned),
            "durable": int(self.durable),
        }


@final
class Shares:
    """All shared subscriptions, and whose members are where."""

    def __init__(self, core: Core, backlogs: Backlogs, settings: GroupSettings) -> None:
        self._core = core
        self._backlogs = backlogs
        self._settings = settings
        self._shares: dict[tuple[str, str], Share] = {}
        self._of_session: dict[Session, dict[Share, Taker]] = {}
        self._of_agent: dict[str, dict[Share, Taker]] = {}
        self._nameless = 0

    def start(self) -> None:
        """Goes on with the shares whose members' sessions are kept."""
        for value in rows_of(self._core.log, SHARE):
            row = decode_row(value, ShareRow)
            share = self._enter(row.group, row.filter)
            share.restore(row)
            for member in share.members.values():
                self._of_agent.setdefault(member.id, {})[share] = member

    def join(
        self,
        session: Session,
        group: str,
        filter_: str,
        *,
        wish: int,
        identifier: int,
        keep_retain: bool,
        kept: bool,
    ) -> Refusal | None:
        """See ``WorkGroups.share``; the gate has spoken."""
        settings = self._settings
        share = self._shares.get((group, filter_))
        if share is None:
            if len(self._shares) >= settings.shares_max:
                detail = f"there are {len(self._shares)} shared subscriptions, groups.shares_max allows no more"
                return Refusal(Reason.QUOTA_EXCEEDED, detail)
            share = self._enter(group, filter_)
        member = self._of_session.get(session, {}).get(share)
        if member is None:
            member = share.members.get(session.agent) if session.agent else None
            if member is not None and member.session is not None:
                self._unlink(member.session, share)
                share.away(member)
            if member is None:
                if len(share.members) >= settings.share_members_max:
                    detail = f"{len(share.members)} share {filter_!r}, groups.share_members_max allows no more"
                    return Refusal(Reason.QUOTA_EXCEEDED, detail)
                member = self._new_member(share, session)
        subscription = Subscription(
            session, filter_, wish=wish, keep_retain=keep_retain, identifier=identifier, exact=is_exact(filter_)
        )
        feed = Feed(session, None, filter_)
        feed.merge([subscription])
        feed.group = member
        member.session = session
        member.feed = feed
        member.kept = kept and wish > 0
        member.full = False
        self._of_session.setdefault(session, {})[share] = member
        share.settle_members()
        return None

    def leave(self, session: Session, group: str, filter_: str) -> None:
        """The session unsubscribes, perhaps where it is away: it was resumed without that it could come back there."""
        share = self._shares.get((group, filter_))
        if share is None:
            return
        if share in self._of_session.get(session, ()):
            self._out(share, self._unlink(session, share))
            return
        member = self._of_agent.get(session.agent, {}).get(share)
        if member is not None and member.session is None:
            self._out(share, member)

    def gone(self, session: Session) -> None:
        """The session is detached. Kept members are away, the others are members no longer."""
        for share in list(self._of_session.get(session, ())):
            member = self._unlink(session, share)
            share.away(member)
            if member.kept:
                share.settle_members()
            else:
                self._out(share, member)

    def ended(self, agent: str) -> None:
        """A kept session is over."""
        for share, member in list(self._of_agent.get(agent, {}).items()):
            member.kept = False
            if member.session is None:
                self._out(share, member)
            else:
                share.settle_members()

    def resume(self, session: Session) -> None:
        """The session has credit again."""
        for share, member in self._of_session.get(session, {}).items():
            if member.full:
                member.full = False
                share.wake()

    def list(self) -> Iterable[Share]:
        """All shares."""
        return self._shares.values()

    # -- within --------------------------------------------------------------------------------------

    def _enter(self, group: str, filter_: str) -> Share:
        share = Share(self._core, self._backlogs, self._settings, group, filter_)
        self._shares[group, filter_] = share
        return share

    def _new_member(self, share: Share, session: Session) -> Taker:
        self._nameless += 1
        member_id = session.agent or f"#{self._nameless}"
        member = share.members[member_id] = Taker(share, member_id, self._settings.share_inflight_max)
        if session.agent:
            self._of_agent.setdefault(session.agent, {})[share] = member
        return member

    def _unlink(self, session: Session, share: Share) -> Taker:
        mine = self._of_session[session]
        member = mine.pop(share)
        if not mine:
            del self._of_session[session]
        return member

    def _out(self, share: Share, member: Taker) -> None:
        share.out(member)
        mine = self._of_agent.get(member.id)
        if mine is not None:
            mine.pop(share, None)
            if not mine:
                del self._of_agent[member.id]
        if share.members:
            share.settle_members()
        elif self._shares.get((share.group, share.filter)) is share:
            del self._shares[share.group, share.filter]
            share.close()
