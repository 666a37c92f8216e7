"""The offsets one group has committed: what is safe, what is on its way into the log, what is too old to keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, final

from dragoman.adapters.kafka.group_rows import PositionRow, position_key
from dragoman.broker.log.contract import DONE, Table
from dragoman.broker.rows import encode_row

if TYPE_CHECKING:
    from dragoman.broker.log.contract import Log, Ticket


class Place(NamedTuple):
    """A partition. Topics are named as Kafka clients are told of them."""

    topic: str
    partition: int


@final
class Committed:
    """How far a group has come in a partition. ``expires_ms`` is 0 unless the client said how long it holds."""

    __slots__ = ("expires_ms", "leader_epoch", "metadata", "offset", "time_ms")

    def __init__(
        self, offset: int, leader_epoch: int = -1, metadata: str = "", time_ms: int = 0, expires_ms: int = 0
    ) -> None:
        self.offset = offset
        self.leader_epoch = leader_epoch
        self.metadata = metadata
        self.time_ms = time_ms
        self.expires_ms = expires_ms


@final
class Offsets:
    """One group's. ``put`` first, ``settle`` when its ticket is; in between readers see what was there before."""

    __slots__ = ("_group", "_log", "_safe", "_under_way")

    def __init__(self, log: Log, group: str) -> None:
        self._log = log
        self._group = group
        self._safe: dict[Place, Committed] = {}
        self._under_way: dict[Place, list[Committed]] = {}

    def restore(self, row: PositionRow) -> None:
        """Takes up what the log kept."""
        self._safe[Place(row.topic, row.partition)] = Committed(
            row.offset, row.leader_epoch, row.metadata, row.time_ms, row.expires_ms
        )

    def __len__(self) -> int:
        """Partitions with an offset, safe or not."""
        return len(self._safe) + sum(place not in self._safe for place in self._under_way)

    def __contains__(self, place: Place) -> bool:
        return place in self._safe or place in self._under_way

    def get(self, place: Place) -> Committed | None:
        """What is safe."""
        return self._safe.get(place)

    def items(self) -> Iterator[tuple[Place, Committed]]:
        """All that is safe. Not to be held across turns."""
        return iter(self._safe.items())

    def put(self, commits: Iterable[tuple[Place, Committed]]) -> Ticket:
        """Commits offsets; several of one partition take effect in this order."""
        ticket = DONE
        for place, committed in commits:
            self._under_way.setdefault(place, []).append(committed)
            ticket = self._write(place, committed)
        return ticket

    def settle(self, commits: Iterable[tuple[Place, Committed]], *, safe: bool) -> None:
        """What was put is safe, or its commit has failed. What was deleted meanwhile stays so."""
        for place, committed in commits:
            waiting = self._under_way.get(place)
            if waiting is None or committed not in waiting:
                continue
            waiting.remove(committed)
            if safe:
                self._safe[place] = committed
            else:
                # The log keeps rows of failed commits for the next one; what was never committed must not be read.
                self._write(place, waiting[-1] if waiting else self._safe.get(place))
            if not waiting:
                del self._under_way[place]

    def delete(self, place: Place) -> Ticket:
        """Forgets a partition's offset."""
        self._safe.pop(place, None)
        self._under_way.pop(place, None)
        return self._write(place, None)

    def delete_where(self, wanted: Callable[[Place], bool]) -> None:
        """Forgets the offsets of all partitions that are ``wanted``."""
        for place in [place for place in {**self._safe, **self._under_way} if wanted(place)]:
            self.delete(place)

    def expire(self, now_ms: int, retention_ms: int, since_ms: int | None) -> int:
        """Forgets what nobody has needed for too long; how many.

        ``since_ms`` is since when the group has been without members; None while it has some, which keeps all but
        what its client has limited.
        """
        old = [
            place
            for place, committed in self._safe.items()
            if place not in self._under_way
            and (
                committed.expires_ms <= now_ms
                if committed.expires_ms
                else since_ms is not None and max(since_ms, committed.time_ms) + retention_ms <= now_ms
            )
        ]
        for place in old:
            self.delete(place)
        return len(old)

    def _write(self, place: Place, committed: Committed | None) -> Ticket:
        row = None
        if committed is not None:
            row = encode_row(
                PositionRow(
                    topic=place.topic,
                    partition=place.partition,
                    offset=committed.offset,
                    leader_epoch=committed.leader_epoch,
                    metadata=committed.metadata,
                    time_ms=committed.time_ms,
                    expires_ms=committed.expires_ms,
                )
            )
        return self._log.put(Table.POSITIONS, position_key(self._group, *place), row)
