"""One consumer group of the classic protocol: which generation it is in, and who of its members has which share.

A state machine without a loop or a socket of its own: requests come in, answers go out through callbacks, time comes
from the broker's timers. It knows nothing of offsets and of other groups, and nothing of what members tell each other.

What is told to members is in the log before: a generation before anybody hears its number, so that a restart never
hands it out again, and assignments before anybody works by them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, final

from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.consumer_blobs import CONSUMER, NOTHING_ASSIGNED, subscribed
from dragoman.adapters.kafka.group_admission import has_room, join_fault
from dragoman.adapters.kafka.group_member import Joined, Joining, JoinThen, Member, Synced, Syncing, SyncThen
from dragoman.adapters.kafka.group_roster import Roster
from dragoman.adapters.kafka.group_rows import GroupRow
from dragoman.adapters.kafka.group_state import NEXT, Shop, State
from dragoman.broker.ids import fresh_id

if TYPE_CHECKING:
    from dragoman.broker.timers import Timer
    from dragoman.routing.refusals import Refusal

NEW_MEMBER_MS: Final = 300_000
"""Longest that a member which has not been told its id is waited with: its client may be gone without a trace."""

_CLIENT_ID_CHARS: Final = 255


@final
class Group:
    """A group. Its members rejoin for each new generation; the leader then says who gets what."""

    __slots__ = (
        "_assigning",
        "_delay_left_ms",
        "_newcomers",
        "_phase_timer",
        "_shop",
        "_unsynced",
        "generation",
        "name",
        "owner",
        "protocol",
        "protocol_type",
        "roster",
        "since_ms",
        "state",
    )

    def __init__(self, shop: Shop, name: str, owner: str) -> None:
        self._shop = shop
        self.name = name
        self.owner = owner
        self.roster = Roster(shop.clock, shop.timers, self._remove, self._try_complete)
        self.state = State.EMPTY
        self.generation = 0
        self.protocol_type: str | None = None
        self.protocol: str | None = None
        #: wall clock, when it became empty
        self.since_ms = shop.clock.now_ms()
        #: ids of members that have not asked for their share of this generation
        self._unsynced: set[str] = set()
        #: of the phase under way, joining or sharing out
        self._phase_timer: Timer | None = None
        #: while an empty group waits for its first members to come: how much longer it may; None otherwise
        self._delay_left_ms: int | None = None
        self._newcomers = False
        self._assigning = False

    # -- requests ------------------------------------------------------------------------------------

    def join(self, ask: Joining, then: JoinThen) -> Member | None:
        """A member comes or comes again. The member if its answer waits; say ``gone`` if its connection ends first."""
        settings = self._shop.settings
        error = join_fault(ask, self.roster, self.protocol_type, settings)
        if error is not ErrorCode.NONE:
            then(Joined(error, ask.member_id))
            return None
        if not has_room(ask.member_id, self.roster, settings, rebalancing=self.state is State.PREPARING):
            self.roster.forget(ask.member_id)
            known = self.roster.members.get(ask.member_id)
            if known is not None:
                self._remove(known)
            then(Joined(ErrorCode.GROUP_MAX_SIZE_REACHED, ""))
            return None
        member = self._join_known(ask, then) if ask.member_id else self._join_new(ask, then)
        return member if member is not None and member.join_then is then else None

    def sync(self, ask: Syncing, then: SyncThen) -> Member | None:
        """A member asks for its assignment. The member if its answer waits; say ``gone`` if its connection ends."""
        error = self._sync_fault(ask)
        if error is not ErrorCode.NONE:
            then(Synced(error))
            return None
        member = self.roster.members[ask.member_id]
        self._unsynced.discard(member.id)
        if not self._unsynced:
            self._disarm()
        if self.state is State.STABLE:
            self.roster.touch(member)
            then(self._share(member))
            return None
        assert self.state is State.COMPLETING, f"a member synchronises in {self.state}"
        member.answer_sync(Synced(ErrorCode.REBALANCE_IN_PROGRESS))
        member.sync_then = then
        if member.id == self.roster.leader and not self._assigning:
            self._assign(ask)
        return member if member.sync_then is then else None

    def heartbeat(self, member_id: str, instance_id: str | None, generation: int) -> ErrorCode:
        """A member shows life, and hears whether it has to join again."""
        error = self._fault(member_id, instance_id, generation)
        if error is not ErrorCode.NONE:
            return error
        self.roster.touch(self.roster.members[member_id])
        return ErrorCode.REBALANCE_IN_PROGRESS if self.state is State.PREPARING else ErrorCode.NONE

    def leave(self, member_id: str, instance_id: str | None) -> ErrorCode:
        """A member goes for good; an administrator names a static one by its instance id alone."""
        if member_id in self.roster.expected:
            self.roster.forget(member_id)
            self._try_complete()
            return ErrorCode.NONE
        if not member_id and instance_id in self.roster.static:
            member_id = self.roster.static[instance_id].id
        error = self.roster.known(member_id, instance_id)
        if error is ErrorCode.NONE:
            self._remove(self.roster.members[member_id])
        return error

    def may_commit(self, member_id: str, instance_id: str | None, generation: int) -> ErrorCode:
        """Whether offsets may be committed by this member now. It shows life by it."""
        if self.state is State.EMPTY and generation < 0:
            return ErrorCode.NONE
        error = self._fault(member_id, instance_id, generation)
        if error is not ErrorCode.NONE:
            return error
        self.roster.touch(self.roster.members[member_id])
        return ErrorCode.REBALANCE_IN_PROGRESS if self.state is State.COMPLETING else ErrorCode.NONE

    def gone(self, member: Member, then: JoinThen | SyncThen) -> None:
        """The connection that waited with ``then`` has ended. Its member has until its session's end to come again."""
        if member.join_then is then:
            member.join_then = None
        elif member.sync_then is then:
            member.sync_then = None
        else:
            return
        member.is_new = False
        self.roster.touch(member)

    # -- life ----------------------------------------------------------------------------------------

    def restore(self, row: GroupRow) -> None:
        """Goes on where the last process stopped: everybody who was told a generation may go on with it."""
        assert self.state is State.EMPTY, "restored twice"
        self.generation = row.generation
        self.protocol_type = row.protocol_type
        self.protocol = row.protocol
        self.since_ms = row.since_ms
        self.roster.restore(row.members, row.protocol_type or "", row.leader)
        if row.members:
            self.state = State.STABLE if row.stable else State.COMPLETING
            if not row.stable:
                self._await_syncs()

    def row(self, *, stable: bool) -> GroupRow:
        """The group as the log keeps it."""
        return GroupRow(
            name=self.name,
            owner=self.owner,
            generation=self.generation,
            protocol_type=self.protocol_type,
            protocol=self.protocol,
            leader=self.roster.leader,
            stable=stable,
            since_ms=self.since_ms,
            members=self.roster.rows(),
        )

    @property
    def unused(self) -> bool:
        """Whether nobody is in it or about to be."""
        return self.state is State.EMPTY and not self.roster.expected

    def end(self) -> None:
        """The group is deleted. Only when it is empty."""
        self._to(State.DEAD)
        self.roster.stop()

    def stop(self) -> None:
        """The mesh stops: whoever waits is told to look for a coordinator again."""
        self._disarm()
        self.roster.stop()

    def check(self) -> None:
        """Asserts what must always hold between two events. For tests."""
        self.roster.check()
        members = self.roster.members
        assert self.state not in (State.EMPTY, State.DEAD) or not members
        assert self.state not in (State.COMPLETING, State.STABLE) or (members and self.protocol)
        assert self._unsynced <= set(members)
        assert self.state in (State.COMPLETING, State.STABLE) or not self._unsynced
        assert not self._assigning or self.state is State.COMPLETING
        assert self.state is State.COMPLETING or all(m.sync_then is None for m in members.values())
        assert self.state is State.PREPARING or self._delay_left_ms is None
        armed = self._phase_timer is not None and self._phase_timer.pending
        assert armed == (self.state is State.PREPARING or bool(self._unsynced)), f"{self.state}: who ends this phase?"

    # -- who may -------------------------------------------------------------------------------------

    def _fault(self, member_id: str, instance_id: str | None, generation: int) -> ErrorCode:
        error = self.roster.known(member_id, instance_id)
        if error is ErrorCode.NONE and generation != self.generation:
            return ErrorCode.ILLEGAL_GENERATION
        return error

    def _sync_fault(self, ask: Syncing) -> ErrorCode:
        error = self._fault(ask.member_id, ask.instance_id, ask.generation)
        if error is not ErrorCode.NONE:
            return error
        if ask.protocol_type not in (None, self.protocol_type) or ask.protocol not in (None, self.protocol):
            return ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        if self.state is State.PREPARING:
            return ErrorCode.REBALANCE_IN_PROGRESS
        if self.roster.members[ask.member_id].joined:
            # It has not been told this generation yet, it guesses.
            return ErrorCode.ILLEGAL_GENERATION
        if sum(map(len, ask.assignments.values())) > self._shop.settings.assignments_bytes_max:
            return ErrorCode.POLICY_VIOLATION
        return ErrorCode.NONE

    # -- coming --------------------------------------------------------------------------------------

    def _join_new(self, ask: Joining, then: JoinThen) -> Member | None:
        member_id = f"{(ask.instance_id or ask.client_id)[:_CLIENT_ID_CHARS]}-{fresh_id(self._shop.clock.now_ms())}"
        if ask.instance_id is not None and ask.instance_id in self.roster.static:
            return self._replace(self.roster.static[ask.instance_id], member_id, ask, then)
        if ask.instance_id is None and ask.known_only:
            self.roster.expect(member_id, ask.session_ms)
            then(Joined(ErrorCode.MEMBER_ID_REQUIRED, member_id))
            return None
        return self._add(member_id, ask, then)

    def _join_known(self, ask: Joining, then: JoinThen) -> Member | None:
        if ask.member_id in self.roster.expected and ask.instance_id is None:
            return self._add(ask.member_id, ask, then)
        error = self.roster.known(ask.member_id, ask.instance_id)
        if error is not ErrorCode.NONE:
            then(Joined(error, ask.member_id))
            return None
        member = self.roster.members[ask.member_id]
        changed = member.protocols != ask.protocols
        leads = self.state is State.STABLE and member.id == self.roster.leader
        if changed or leads or self.state is State.PREPARING:
            self._park(member, then)
            member.update(ask)
            self._rebalance()
            return member
        self.roster.touch(member)
        if member.joined:
            # Its generation is on its way into the log.
            self._park(member, then)
        else:
            # It has not heard the answer it asks for again, or makes sure.
            then(self._outcome(member))
        return member

    def _add(self, member_id: str, ask: Joining, then: JoinThen) -> Member:
        if not self.roster.members:
            self.protocol_type = ask.protocol_type
        member = Member(member_id, ask)
        member.is_new = True
        self.roster.enter(member)
        self.roster.keep(member, NEW_MEMBER_MS)
        self._park(member, then)
        self._newcomers = True
        self._rebalance()
        return member

    def _park(self, member: Member, then: JoinThen) -> None:
        # Whoever asked before has given up waiting, or is told that it should.
        member.answer_join(Joined(ErrorCode.REBALANCE_IN_PROGRESS, member.id))
        member.join_then = then
        member.joined = True

    def _replace(self, member: Member, member_id: str, ask: Joining, then: JoinThen) -> Member:
        """A static member is back. Unless that changes anything for the others, it goes on where it was."""
        led_by = self.roster.leader
        subscribed_before = subscribed(member.metadata(self.protocol))
        if member.id in self._unsynced:
            self._unsynced.remove(member.id)
            self._unsynced.add(member_id)
        self.roster.rename(member, member_id)
        member.update(ask)
        member.is_new = False
        self.roster.touch(member)
        self._park(member, then)
        unchanged = self.roster.choose() == self.protocol and (
            self.protocol_type != CONSUMER or subscribed(member.metadata(self.protocol)) == subscribed_before
        )
        if self.state is State.STABLE and unchanged:
            ticket = self._shop.save(self.row(stable=True))
            self._shop.when_safe(ticket, partial(self._replaced, member, then, ask.can_skip, led_by))
        else:
            self._rebalance()
        return member

    def _replaced(
        self, member: Member, then: JoinThen, can_skip: bool, led_by: str | None, refusal: Refusal | None
    ) -> None:
        if self.state is not State.STABLE or (member.join_then is not then and member.join_then is not None):
            # A rebalance has begun and counts it as joined, or it has come yet again.
            return
        self.roster.touch(member)
        if refusal is not None:
            member.answer_join(Joined(ErrorCode.COORDINATOR_NOT_AVAILABLE, member.id))
            return
        outcome = self._outcome(member)
        if can_skip:
            outcome.skip_assignment = member.id == self.roster.leader
        else:
            # An older leader would assign, and nobody would hear of it: it is told that the one it was leads.
            outcome.leader = led_by or ""
            outcome.members = ()
        member.answer_join(outcome)

    # -- rebalancing ---------------------------------------------------------------------------------

    def _remove(self, member: Member) -> None:
        self._unsynced.discard(member.id)
        self.roster.drop(member)
        self._rebalance()

    def _rebalance(self) -> None:
        """Sees to it that a rebalance is under way, and ends its first phase if everybody is there."""
        if self.state is not State.PREPARING:
            self._unsynced.clear()
            self._assigning = False
            if self.state is State.COMPLETING:
                self._answer_syncs(ErrorCode.REBALANCE_IN_PROGRESS)
            begins = self.state is State.EMPTY
            self._to(State.PREPARING)
            if begins:
                delay_ms = self._shop.settings.initial_delay_ms
                self._delay_left_ms = max(self.roster.rebalance_ms() - delay_ms, 0)
                self._newcomers = False
                self._arm(delay_ms, self._delayed)
            else:
                self._arm(self.roster.rebalance_ms(), self._complete)
        self._try_complete()

    def _delayed(self) -> None:
        """An empty group has waited for company; while more comes it waits on, within the rebalance timeout."""
        left = self._delay_left_ms
        assert left is not None, "no initial delay is under way"
        if self._newcomers and left:
            self._newcomers = False
            delay_ms = min(left, self._shop.settings.initial_delay_ms)
            self._delay_left_ms = left - delay_ms
            self._arm(delay_ms, self._delayed)
        else:
            self._complete()

    def _try_complete(self) -> None:
        if self.state is State.PREPARING and self._delay_left_ms is None and self.roster.all_joined:
            self._complete()

    def _complete(self) -> None:
        """The joining phase is over: whoever is there makes the next generation."""
        roster = self.roster
        for member in [m for m in roster.members.values() if not m.joined and m.instance_id is None]:
            roster.drop(member)
        self._delay_left_ms = None
        if roster.members and not roster.elect():
            # Only static members are left, none of which has come: they have until their sessions' end.
            self._arm(roster.rebalance_ms(), self._complete)
            return
        self._disarm()
        self.generation += 1
        for member in roster.members.values():
            member.assignment = b""
        if roster.members:
            self.protocol = roster.choose()
            self._to(State.COMPLETING)
        else:
            self.protocol = None
            self._to(State.EMPTY)
            self.since_ms = self._shop.clock.now_ms()
        self._shop.when_safe(self._shop.save(self.row(stable=False)), partial(self._completed, self.generation))

    def _completed(self, generation: int, refusal: Refusal | None) -> None:
        if generation != self.generation or self.state is not State.COMPLETING:
            # Another rebalance began meanwhile: who waits has joined that one.
            return
        for member in [member for member in self.roster.members.values() if member.joined]:
            self.roster.touch(member)
            member.is_new = False
            if refusal is None:
                member.answer_join(self._outcome(member))
            else:
                member.answer_join(Joined(ErrorCode.COORDINATOR_NOT_AVAILABLE, member.id))
        if refusal is None:
            self._await_syncs()
        else:
            self._rebalance()

    def _outcome(self, member: Member) -> Joined:
        """The generation as this member is told of it."""
        told: tuple[tuple[str, str | None, bytes], ...] = ()
        if member.id == self.roster.leader:
            told = tuple((m.id, m.instance_id, m.metadata(self.protocol)) for m in self.roster.members.values())
        return Joined(
            ErrorCode.NONE,
            member.id,
            generation=self.generation,
            protocol_type=self.protocol_type,
            protocol=self.protocol,
            leader=self.roster.leader or "",
            members=told,
        )

    # -- sharing out ---------------------------------------------------------------------------------

    def _await_syncs(self) -> None:
        self._unsynced = set(self.roster.members)
        self._arm(self.roster.rebalance_ms(), self._syncs_overdue)

    def _syncs_overdue(self) -> None:
        """Members that joined and never asked for their share are gone."""
        for member_id in list(self._unsynced):
            self.roster.drop(self.roster.members[member_id])
        self._rebalance()

    def _assign(self, ask: Syncing) -> None:
        for member in self.roster.members.values():
            member.assignment = ask.assignments.get(member.id, b"")
        self._assigning = True
        self._shop.when_safe(self._shop.save(self.row(stable=True)), partial(self._assigned, self.generation))

    def _assigned(self, generation: int, refusal: Refusal | None) -> None:
        if generation != self.generation or self.state is not State.COMPLETING:
            return
        self._assigning = False
        if refusal is not None:
            self._answer_syncs(ErrorCode.COORDINATOR_NOT_AVAILABLE)
            self._rebalance()
            return
        self._to(State.STABLE)
        for member in self.roster.members.values():
            if member.sync_then is not None:
                self.roster.touch(member)
                member.answer_sync(self._share(member))

    def _answer_syncs(self, error: ErrorCode) -> None:
        for member in self.roster.members.values():
            member.assignment = b""
            if member.sync_then is not None:
                self.roster.touch(member)
                member.answer_sync(Synced(error))

    def _share(self, member: Member) -> Synced:
        nothing = NOTHING_ASSIGNED if self.protocol_type == CONSUMER else b""
        return Synced(ErrorCode.NONE, member.assignment or nothing, self.protocol_type, self.protocol)

    # -- phases --------------------------------------------------------------------------------------

    def _arm(self, ms: int, fn: Callable[[], None]) -> None:
        self._disarm()
        self._phase_timer = self._shop.timers.after(ms, fn)

    def _disarm(self) -> None:
        if self._phase_timer is not None:
            self._phase_timer.cancel()
            self._phase_timer = None

    def _to(self, state: State) -> None:
        assert state in NEXT[self.state], f"from {self.state} to {state}"
        self.state = state
