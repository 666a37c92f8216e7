"""Consumer groups on a clock, a log and a broker that do nothing on their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.group import Group
from dragoman.adapters.kafka.group_member import Joined, Joining, Member, Synced, Syncing
from dragoman.adapters.kafka.group_settings import GroupSettings
from dragoman.adapters.kafka.group_state import State
from dragoman.adapters.kafka.groups import Groups
from dragoman.adapters.kafka.offsets import Committed, Place
from dragoman.broker.clock import ManualClock
from dragoman.broker.log.contract import DONE, Table, Ticket
from dragoman.broker.timers import Timers
from dragoman.routing.refusals import Reason, Refusal

OK = ErrorCode.NONE
ORDERS = Place("orders", 0)
STOCK = Place("stock", 0)
DISK = Refusal(Reason.STORAGE_FAILED, "the disk said no")


class Rows:
    """The rows of a log; ``kept`` is what a crash leaves."""

    def __init__(self, kept: dict[tuple[Table, bytes], bytes] | None = None) -> None:
        self.kept = dict(kept or {})
        self.seen = dict(self.kept)
        self.ticket = 1
        self.dirty: dict[tuple[Table, bytes], bytes | None] = {}

    def put(self, table: Table, key: bytes, value: bytes | None) -> Ticket:
        assert 0 < len(key) <= 511
        self.dirty[table, key] = value
        if value is None:
            self.seen.pop((table, key), None)
        else:
            self.seen[table, key] = value
        return Ticket(self.ticket)

    def get(self, table: Table, key: bytes) -> bytes | None:
        return self.seen.get((table, key))

    def rows(self, table: Table, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return iter(sorted((k, v) for (t, k), v in self.seen.items() if t is table and k.startswith(prefix)))


class _Never:
    def cancel(self) -> None: ...


class Mesh:
    """What ``Groups`` asks of a broker."""

    def __init__(self, clock: ManualClock, log: Rows) -> None:
        self.clock = clock
        self.log = log
        self.timers = Timers(clock, lambda *_: _Never(), log)  # type: ignore[arg-type]
        self.waiters: list[Callable[[Refusal | None], None]] = []

    def when_safe(self, ticket: Ticket, then: Callable[[Refusal | None], None]) -> None:
        if ticket == DONE:
            then(None)
            return
        assert ticket == self.log.ticket, "nothing older waits"
        self.waiters.append(then)

    def end_commit(self, refusal: Refusal | None = None) -> bool:
        """One commit's fate."""
        log = self.log
        if not log.dirty:
            return False
        if refusal is None:
            for key, value in log.dirty.items():
                if value is None:
                    log.kept.pop(key, None)
                else:
                    log.kept[key] = value
            log.dirty = {}
        log.ticket += 1
        waiters, self.waiters = self.waiters, []
        for then in waiters:
            then(refusal)
        return True


class Answer:
    """One request's answer, which comes at most once."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.member: Member | None = None
        self.group: Group | None = None

    def __call__(self, answer: Any) -> None:
        assert not self.got, f"answered twice: {self.got} and {answer}"
        self.got.append(answer)

    @property
    def waits(self) -> bool:
        return not self.got

    @property
    def value(self) -> Any:
        [answer] = self.got
        return answer

    @property
    def error(self) -> ErrorCode:
        return self.value.error

    def gone(self) -> None:
        """The connection ends."""
        assert self.group is not None
        assert self.member is not None
        self.group.gone(self.member, self)


class World:
    """One process of the mesh. Commits happen by themselves unless ``slow``."""

    def __init__(
        self, *, clock: ManualClock | None = None, log: Rows | None = None, slow: bool = False, **settings: Any
    ) -> None:
        self.given = settings
        self.settings = GroupSettings(**{"initial_delay_ms": 100, "session_ms_min": 10, **settings})
        self.clock = clock or ManualClock()
        self.log = log or Rows()
        self.mesh = Mesh(self.clock, self.log)
        self.slow = slow
        self.topics = {"orders": 4, "stock": 1}
        self.groups = Groups(self.mesh, self.settings, self._exists)  # type: ignore[arg-type]
        self.turn()

    def _exists(self, topic: str, partition: int) -> bool:
        return 0 <= partition < self.topics.get(topic, 0)

    def crashed(self) -> World:
        """The next process: what was committed is there."""
        return World(clock=ManualClock(self.clock.now_ms()), log=Rows(self.log.kept), slow=self.slow, **self.given)

    # -- time ----------------------------------------------------------------------------------------

    def turn(self) -> None:
        """To the end of the loop's turn: what is due now, what is committed now."""
        while self.mesh.timers.run_due():
            pass
        while not self.slow and self.mesh.end_commit():
            pass
        self.groups.check()

    def commit(self, refusal: Refusal | None = None) -> None:
        assert self.mesh.end_commit(refusal), "nothing waits for a commit"
        self.groups.check()

    def wait(self, ms: int) -> None:
        """Lets time pass, a timer at a time."""
        end = self.clock.monotonic_ms() + ms
        self.turn()
        while True:
            due = [timer.due_ms for timer in self.mesh.timers._heap if timer.pending and timer.due_ms <= end]
            if not due:
                break
            self.clock.advance(max(0, min(due) - self.clock.monotonic_ms()))
            self.turn()
        self.clock.advance(end - self.clock.monotonic_ms())

    # -- requests ------------------------------------------------------------------------------------

    @property
    def group(self) -> Group:
        group = self.groups.find("g")
        assert group is not None
        return group

    @property
    def state(self) -> State:
        return self.group.state

    def join(self, member_id: str = "", instance: str | None = None, *, name: str = "g", **how: Any) -> Answer:
        """A join; ``protocols`` as a list of names or (name, metadata)."""
        protocols = tuple((p, b"m") if isinstance(p, str) else p for p in how.pop("protocols", ("range",)))
        ask = Joining(
            member_id,
            instance,
            how.pop("type", "test"),
            protocols,
            session_ms=how.pop("session_ms", 1_000),
            rebalance_ms=how.pop("rebalance_ms", 3_000),
            client_id=how.pop("client_id", "client"),
            host="10.0.0.1",
            **how,
        )
        answer = Answer()
        waits = self.groups.join(name, ask, answer, "alice")
        assert (waits is not None) == answer.waits
        if waits is not None:
            answer.group, answer.member = waits
        self.turn()
        return answer

    def sync(
        self,
        member_id: str,
        generation: int,
        shares: dict[str, bytes] | None = None,
        instance: str | None = None,
        **how: Any,
    ) -> Answer:
        answer = Answer()
        group = self.groups.find("g")
        if group is None:
            answer(Synced(ErrorCode.UNKNOWN_MEMBER_ID))
            return answer
        answer.group = group
        answer.member = group.sync(Syncing(member_id, instance, generation, shares or {}, **how), answer)
        assert (answer.member is not None) == answer.waits
        self.turn()
        return answer

    def heartbeat(self, member_id: str, generation: int, instance: str | None = None) -> ErrorCode:
        error = self.group.heartbeat(member_id, instance, generation)
        self.turn()
        return error

    def leave(self, member_id: str, instance: str | None = None) -> ErrorCode:
        error = self.group.leave(member_id, instance)
        self.turn()
        return error

    def commit_offset(
        self,
        offset: int = 5,
        *,
        member_id: str = "",
        instance: str | None = None,
        generation: int = -1,
        place: Place = ORDERS,
        name: str = "g",
        **how: Any,
    ) -> Answer:
        answer = Answer()
        committed = Committed(offset, time_ms=self.clock.now_ms(), **how)
        self.groups.commit(name, (member_id, instance, generation), [(place, committed)], answer, "alice")
        self.turn()
        return answer

    def offset(self, place: Place = ORDERS, name: str = "g") -> int | None:
        offsets = self.groups.offsets(name)
        committed = offsets.get(place) if offsets is not None else None
        return None if committed is None else committed.offset

    # -- whole stories -------------------------------------------------------------------------------

    def stable(self, count: int = 1, **how: Any) -> list[Joined]:
        """So many members in a stable group, the leader first, each with its own id as its share."""
        joins = [self.join(**how) for _ in range(count)]
        self.wait(self.settings.initial_delay_ms * (count + 1))
        return self.shared(joins)

    def shared(self, joins: list[Answer]) -> list[Joined]:
        """Everybody who has joined synchronises; the leader first in what is given back."""
        joined: list[Joined] = sorted((j.value for j in joins), key=lambda j: j.member_id != j.leader)
        shares = {j.member_id: j.member_id.encode() for j in joined}
        syncs = [self.sync(j.member_id, j.generation, shares if j.member_id == j.leader else None) for j in joined]
        assert [s.error for s in syncs] == [OK] * len(joins)
        assert [s.value.assignment for s in syncs] == [j.member_id.encode() for j in joined]
        assert self.state is State.STABLE
        return joined
