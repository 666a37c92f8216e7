"""Who is in a consumer group, who is expected, who leads, what all can work with, and who has been silent too long."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, final

from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.consumer_blobs import CONSUMER, subscribed
from dragoman.adapters.kafka.group_member import Joined, Joining, Member, Synced
from dragoman.adapters.kafka.group_rows import MemberRow

if TYPE_CHECKING:
    from dragoman.broker.clock import Clock
    from dragoman.broker.timers import Timer, Timers


@final
class Roster:
    """The members of one group. ``silent(member)`` is called when a session ends, ``missing()`` when nobody comes
    with an id that was handed out.
    """

    __slots__ = ("_clock", "_missing", "_silent", "_timers", "expected", "leader", "members", "static")

    def __init__(
        self, clock: Clock, timers: Timers, silent: Callable[[Member], None], missing: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._timers = timers
        self._silent = silent
        self._missing = missing
        self.members: dict[str, Member] = {}
        self.static: dict[str, Member] = {}
        self.leader: str | None = None
        #: ids handed out with which nobody has joined yet
        self.expected: dict[str, Timer] = {}

    # -- who -----------------------------------------------------------------------------------------

    def known(self, member_id: str, instance_id: str | None) -> ErrorCode:
        """Whether these ids, together, are a member's."""
        if instance_id is not None:
            member = self.static.get(instance_id)
            if member is None:
                return ErrorCode.UNKNOWN_MEMBER_ID
            if member.id != member_id:
                return ErrorCode.FENCED_INSTANCE_ID
        return ErrorCode.NONE if member_id in self.members else ErrorCode.UNKNOWN_MEMBER_ID

    def enter(self, member: Member) -> None:
        """A member is in. The first leads."""
        self.forget(member.id)
        self.members[member.id] = member
        if member.instance_id is not None:
            self.static[member.instance_id] = member
        if self.leader is None:
            self.leader = member.id

    def drop(self, member: Member) -> None:
        """A member is out, and so are told those who wait in its name."""
        member.answer_join(Joined(ErrorCode.UNKNOWN_MEMBER_ID, ""))
        member.answer_sync(Synced(ErrorCode.UNKNOWN_MEMBER_ID))
        if member.timer is not None:
            member.timer.cancel()
        del self.members[member.id]
        if member.instance_id is not None:
            del self.static[member.instance_id]
        if self.leader == member.id:
            self.leader = next(iter(self.members), None)

    def rename(self, member: Member, member_id: str) -> None:
        """A static member has restarted: it is the same one under a new id, and the old id is fenced off."""
        member.answer_join(Joined(ErrorCode.FENCED_INSTANCE_ID, member.id))
        member.answer_sync(Synced(ErrorCode.FENCED_INSTANCE_ID))
        del self.members[member.id]
        if self.leader == member.id:
            self.leader = member_id
        member.id = member_id
        self.members[member_id] = member

    @property
    def all_joined(self) -> bool:
        """Whether everybody has joined, and everybody who was told an id has come with it."""
        return not self.expected and all(member.joined for member in self.members.values())

    def elect(self) -> bool:
        """The leader goes on if it has joined, else the first who has takes over; False if nobody has."""
        leader = self.members.get(self.leader or "")
        if leader is None or not leader.joined:
            leader = next((member for member in self.members.values() if member.joined), None)
            if leader is None:
                return False
            self.leader = leader.id
        return True

    # -- what they can -------------------------------------------------------------------------------

    def common(self) -> list[str]:
        """The protocols all members can work with, in the order of the first one's liking."""
        first, *others = self.members.values()
        return [name for name, _ in first.protocols if all(member.supports(name) for member in others)]

    def choose(self) -> str:
        """The protocol with the most votes."""
        candidates = self.common()
        assert candidates, "members were let in that have no protocol in common"
        votes = dict.fromkeys(candidates, 0)
        for member in self.members.values():
            votes[member.vote(candidates)] += 1
        return max(candidates, key=votes.__getitem__)

    def rebalance_ms(self) -> int:
        """How long the slowest of them may take to come again."""
        return max((member.rebalance_ms for member in self.members.values()), default=0)

    def topics(self, protocol_type: str | None) -> frozenset[str]:
        """What they subscribe to, as far as that can be read."""
        if protocol_type != CONSUMER:
            return frozenset()
        told = (subscribed(data) for member in self.members.values() for _, data in member.protocols)
        return frozenset().union(*(topics for topics in told if topics is not None))

    # -- time ----------------------------------------------------------------------------------------

    def expect(self, member_id: str, ms: int) -> None:
        """An id is handed out; somebody is to join with it in time."""
        self.expected[member_id] = self._timers.after(ms, self._nobody_came, member_id)

    def forget(self, member_id: str) -> None:
        """Nobody is waited for any more under this id."""
        timer = self.expected.pop(member_id, None)
        if timer is not None:
            timer.cancel()

    def touch(self, member: Member) -> None:
        """It shows life: its session begins anew."""
        self.keep(member, member.session_ms)

    def keep(self, member: Member, ms: int) -> None:
        """It need not show life for so long."""
        # A heartbeat only moves the deadline; the timer, when it runs, looks whether it was moved.
        member.deadline_ms = self._clock.monotonic_ms() + ms
        timer = member.timer
        if timer is None or not timer.pending or timer.due_ms > member.deadline_ms:
            if timer is not None:
                timer.cancel()
            member.timer = self._timers.at(member.deadline_ms, self._due, member)

    def _due(self, member: Member) -> None:
        assert self.members.get(member.id) is member, "a member is watched that is none"
        if self._clock.monotonic_ms() < member.deadline_ms:
            member.timer = self._timers.at(member.deadline_ms, self._due, member)
        elif member.waits and not member.is_new:
            self.touch(member)
        else:
            self._silent(member)

    def _nobody_came(self, member_id: str) -> None:
        self.expected.pop(member_id, None)
        self._missing()

    def stop(self) -> None:
        """Nothing happens any more; who waits is told to look for a coordinator again."""
        for member_id in list(self.expected):
            self.forget(member_id)
        for member in self.members.values():
            if member.timer is not None:
                member.timer.cancel()
            member.answer_join(Joined(ErrorCode.COORDINATOR_NOT_AVAILABLE, member.id))
            member.answer_sync(Synced(ErrorCode.COORDINATOR_NOT_AVAILABLE))

    # -- rows ----------------------------------------------------------------------------------------

    def rows(self) -> tuple[MemberRow, ...]:
        """The members as the log keeps them."""
        return tuple(
            MemberRow(m.id, m.instance_id, m.client_id, m.host, m.session_ms, m.rebalance_ms, m.protocols, m.assignment)
            for m in self.members.values()
        )

    def restore(self, rows: tuple[MemberRow, ...], protocol_type: str, leader: str | None) -> None:
        """The members of the last process; each has a whole session to show life."""
        for row in rows:
            ask = Joining(
                row.id,
                row.instance_id,
                protocol_type,
                row.protocols,
                session_ms=row.session_ms,
                rebalance_ms=row.rebalance_ms,
                client_id=row.client_id,
                host=row.host,
            )
            member = Member(row.id, ask)
            member.assignment = row.assignment
            self.enter(member)
            self.touch(member)
        self.leader = leader

    def check(self) -> None:
        """Asserts what must always hold between two events. For tests."""
        assert (self.leader is None) == (not self.members)
        assert self.leader is None or self.leader in self.members, "the leader is no member"
        assert self.static == {m.instance_id: m for m in self.members.values() if m.instance_id is not None}
        assert not self.expected.keys() & self.members.keys()
        assert all(m.id == key for key, m in self.members.items())
        assert all(m.timer is not None and m.timer.pending for m in self.members.values()), "nobody watches a member"
        assert all(m.joined or m.join_then is None for m in self.members.values()), (
            "it waits for what it has not joined"
        )
