"""All consumer groups of a mesh and the offsets they commit: making, keeping, forgetting. Loaded when it is made.

Knows no request of the protocol and no gate: ``group_apis`` asks here what it has found to be allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, final

from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.group import Group
from dragoman.adapters.kafka.group_member import Joined
from dragoman.adapters.kafka.group_rows import (
    CLASSIC,
    POSITIONS_KEY_BYTES,
    GroupRow,
    PositionRow,
    group_key,
    positions_key,
)
from dragoman.adapters.kafka.group_state import Shop, State
from dragoman.adapters.kafka.offsets import Committed, Offsets, Place
from dragoman.broker.log.contract import DONE, Table, Ticket
from dragoman.broker.rows import decode_row, encode_row

if TYPE_CHECKING:
    from dragoman.adapters.kafka.group_member import Joining, JoinThen, Member
    from dragoman.adapters.kafka.group_settings import GroupSettings
    from dragoman.broker.broker import Broker
    from dragoman.routing.refusals import Refusal

SWEPT_PER_TURN: Final = 10_000
"""Committed offsets looked at in one turn of the loop."""

Commit = tuple[Place, Committed]


class MemberReport(NamedTuple):
    """A member, for people."""

    id: str
    instance_id: str | None
    client_id: str
    host: str
    leads: bool
    assignment_bytes: int


class GroupReport(NamedTuple):
    """A group, for people. ``offsets``: what it has committed; how far it lags behind is the reader's to say."""

    name: str
    owner: str
    state: str
    generation: int
    protocol_type: str
    protocol: str
    members: tuple[MemberReport, ...]
    offsets: tuple[tuple[str, int, int], ...]


@final
class Groups:
    """The groups of one mesh. Made after the broker has started; ``stop`` before it stops."""

    def __init__(self, broker: Broker, settings: GroupSettings, exists: Callable[[str, int], bool]) -> None:
        """``exists``: whether a topic, by the name clients are told, has such a partition."""
        self.settings = settings
        self._exists = exists
        self._log = broker.log
        self._clock = broker.clock
        self._timers = broker.timers
        self._when_safe = broker.when_safe
        self._stopped = False
        self._shop = Shop(broker.clock, broker.timers, settings, self._save, self._while_running)
        self._groups: dict[str, Group] = {}
        self._offsets: dict[str, Offsets] = {}
        self._load()
        self._timers.after(settings.sweep_ms, self._sweep, ())

    # -- groups --------------------------------------------------------------------------------------

    def find(self, name: str) -> Group | None:
        """The group of that name."""
        return self._groups.get(name)

    def all(self) -> Iterator[Group]:
        """Every group, in no order. Not to be held across turns."""
        return iter(self._groups.values())

    def join(self, name: str, ask: Joining, then: JoinThen, owner: str) -> tuple[Group, Member] | None:
        """A member comes; a group nobody knows is made for one that is new. Group and member if the answer waits."""
        group = self._groups.get(name)
        made = group is None
        if group is None:
            if ask.member_id:
                then(Joined(ErrorCode.UNKNOWN_MEMBER_ID, ask.member_id))
                return None
            group = self._make(name, owner)
            if group is None:
                then(Joined(ErrorCode.POLICY_VIOLATION, ""))
                return None
        member = group.join(ask, then)
        if made and group.unused:
            del self._groups[name]
        return None if member is None else (group, member)

    def delete(self, name: str, then: Callable[[ErrorCode], None]) -> None:
        """Deletes a group without members and all it has committed."""
        group = self._groups.get(name)
        if group is None or group.state is not State.EMPTY:
            then(ErrorCode.GROUP_ID_NOT_FOUND if group is None else ErrorCode.NON_EMPTY_GROUP)
            return
        self._when_safe(self._forget(group), lambda refusal: then(_outcome(refusal)))

    # -- offsets -------------------------------------------------------------------------------------

    def offsets(self, name: str) -> Offsets | None:
        """What a group has committed; None if that is nothing."""
        return self._offsets.get(name)

    def commit(
        self,
        name: str,
        member: tuple[str, str | None, int],
        commits: Sequence[Commit],
        then: Callable[[list[ErrorCode]], None],
        owner: str,
    ) -> None:
        """Commits offsets for a member (id, instance id, generation), or for nobody in particular in a group without.

        ``then`` gets one code for each, when what was taken is in the log.
        """
        group = self._groups.get(name)
        if group is not None:
            error = group.may_commit(*member)
        else:
            error = ErrorCode.NONE if member[2] < 0 else ErrorCode.ILLEGAL_GENERATION
        errors: list[ErrorCode] = [error] * len(commits) if error is not ErrorCode.NONE else self._judge(name, commits)
        taken = [commit for commit, fault in zip(commits, errors, strict=True) if fault is ErrorCode.NONE]
        if taken and group is None:
            group = self._make(name, owner)
            if group is None:
                then([ErrorCode.POLICY_VIOLATION] * len(commits))
                return
        if not taken:
            then(errors)
            return
        assert group is not None
        if self._log.get(Table.COORDINATED, group_key(name)) is None:
            self._save(group.row(stable=False))
        offsets = self._offsets.setdefault(name, Offsets(self._log, name))
        self._when_safe(offsets.put(taken), partial(self._committed, offsets, taken, errors, then))

    def _judge(self, name: str, commits: Sequence[Commit]) -> list[ErrorCode]:
        offsets = self._offsets.get(name)
        room = self.settings.offsets_max - (len(offsets) if offsets is not None else 0)
        errors: list[ErrorCode] = []
        for place, committed in commits:
            new = offsets is None or place not in offsets
            if not self._exists(place.topic, place.partition):
                errors.append(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
            elif len(committed.metadata.encode()) > self.settings.metadata_bytes_max:
                errors.append(ErrorCode.OFFSET_METADATA_TOO_LARGE)
            elif new and room <= 0:
                errors.append(ErrorCode.POLICY_VIOLATION)
            else:
                room -= new
                errors.append(ErrorCode.NONE)
        return errors

    def _committed(
        self,
        offsets: Offsets,
        taken: Sequence[Commit],
        errors: list[ErrorCode],
        then: Callable[[list[ErrorCode]], None],
        refusal: Refusal | None,
    ) -> None:
        offsets.settle(taken, safe=refusal is None)
        outcome = _outcome(refusal)
        then([outcome if error is ErrorCode.NONE else error for error in errors])

    def delete_offsets(
        self, name: str, places: Sequence[Place], then: Callable[[ErrorCode, list[ErrorCode]], None]
    ) -> None:
        """Forgets what a group has committed in these partitions, but in topics its members read.

        ``then`` gets a code for the group and, if that is none, one for each partition.
        """
        group = self._groups.get(name)
        if group is None:
            then(ErrorCode.GROUP_ID_NOT_FOUND, [])
            return
        read = group.roster.topics(group.protocol_type)
        if group.state is not State.EMPTY and not read:
            then(ErrorCode.NON_EMPTY_GROUP, [])
            return
        offsets = self._offsets.get(name)
        errors: list[ErrorCode] = []
        ticket = DONE
        for place in places:
            if place.topic in read:
                errors.append(ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC)
                continue
            errors.append(ErrorCode.NONE)
            if offsets is not None and place in offsets:
                ticket = offsets.delete(place)
        self._when_safe(ticket, lambda refusal: then(_outcome(refusal), errors if refusal is None else []))

    def on_topic_deleted(self, topic: str) -> None:
        """A topic, by the name clients are told, is no more: nobody has come anywhere in it."""
        for offsets in self._offsets.values():
            offsets.delete_where(lambda place: place.topic == topic)

    # -- life ----------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Tells everybody who waits. Groups go on after the restart."""
        self._stopped = True
        for group in self._groups.values():
            group.stop()

    def report(self) -> list[GroupReport]:
        """Every group, for people."""
        return [self._report(group) for group in self._groups.values()]

    def check(self) -> None:
        """Asserts what must always hold between two events. For tests; walks everything."""
        for name, group in self._groups.items():
            assert group.name == name
            group.check()
        assert self._offsets.keys() <= self._groups.keys(), "offsets of no group"

    def _report(self, group: Group) -> GroupReport:
        roster = group.roster
        offsets = self._offsets.get(group.name)
        return GroupReport(
            name=group.name,
            owner=group.owner,
            state=group.state.value,
            generation=group.generation,
            protocol_type=group.protocol_type or "",
            protocol=group.protocol or "",
            members=tuple(
                MemberReport(m.id, m.instance_id, m.client_id, m.host, m.id == roster.leader, len(m.assignment))
                for m in roster.members.values()
            ),
            offsets=tuple((*place, committed.offset) for place, committed in offsets.items()) if offsets else (),
        )

    def _load(self) -> None:
        names: dict[bytes, str] = {}
        kept = set()
        for key, value in list(self._log.rows(Table.COORDINATED)):
            kept.add(key[len(CLASSIC) :])
            if not key.startswith(CLASSIC):
                continue
            row = decode_row(value, GroupRow)
            group = Group(self._shop, row.name, row.owner)
            group.restore(row)
            self._groups[row.name] = group
            names[positions_key(row.name)] = row.name
        for key, value in list(self._log.rows(Table.POSITIONS)):
            group_part = key[:POSITIONS_KEY_BYTES]
            name = names.get(group_part)
            if name is not None:
                self._offsets.setdefault(name, Offsets(self._log, name)).restore(decode_row(value, PositionRow))
            elif group_part not in kept:
                self._log.put(Table.POSITIONS, key, None)

    def _make(self, name: str, owner: str) -> Group | None:
        if len(self._groups) >= self.settings.groups_max:
            return None
        group = self._groups[name] = Group(self._shop, name, owner)
        return group

    def _while_running(self, ticket: Ticket, then: Callable[[Refusal | None], None]) -> None:
        # What the last commit makes safe is for the next process: in this one nobody waits, and no timer may be set.
        self._when_safe(ticket, lambda refusal: None if self._stopped else then(refusal))

    def _save(self, row: GroupRow) -> Ticket:
        return self._log.put(Table.COORDINATED, group_key(row.name), encode_row(row))

    def _forget(self, group: Group) -> Ticket:
        group.end()
        del self._groups[group.name]
        offsets = self._offsets.pop(group.name, None)
        if offsets is not None:
            offsets.delete_where(lambda place: True)
        return self._log.put(Table.COORDINATED, group_key(group.name), None)

    def _sweep(self, left: Iterable[str]) -> None:
        """Forgets old offsets, and groups that have neither members nor offsets. In portions."""
        names = list(left) or list(self._groups)
        now_ms = self._clock.now_ms()
        looked = 0
        while names and looked < SWEPT_PER_TURN:
            group = self._groups.get(names.pop())
            if group is None:
                continue
            offsets = self._offsets.get(group.name)
            looked += 1 + (len(offsets) if offsets is not None else 0)
            if offsets is not None:
                since_ms = group.since_ms if group.state is State.EMPTY else None
                offsets.expire(now_ms, self.settings.offsets_retention_ms, since_ms)
                if not len(offsets):
                    del self._offsets[group.name]
            idle = group.unused and group.since_ms + self.settings.sweep_ms <= now_ms
            if idle and group.name not in self._offsets:
                self._forget(group)
        self._timers.after(0 if names else self.settings.sweep_ms, self._sweep, names)


def _outcome(refusal: Refusal | None) -> ErrorCode:
    """What a client is told of a write: it may try again where the log could not take it."""
    return ErrorCode.NONE if refusal is None else ErrorCode.COORDINATOR_NOT_AVAILABLE
