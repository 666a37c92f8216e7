"""What of groups, shares and mailboxes is in the log: terms and owners, kept members, counts of deliveries."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, final

from dragoman.broker.log.contract import Table, Ticket
from dragoman.broker.principal import EMBEDDED, Principal
from dragoman.broker.rows import Row, decode_row, encode_row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dragoman.broker.log.contract import Log

GROUP: Final = b"g"
SHARE: Final = b"s"
MAILBOX: Final = b"m"
_COUNT: Final = b"c"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a group promises its workers. ``dead_letter``: the channel its dead letters go to."""

    lease_ms: int
    deliveries_max: int
    backoff_ms: int
    backoff_max_ms: int
    dead_letter: str


class GroupRow(Row):
    """A work group and who made it."""

    name: str = ""
    filter: str = ""
    principal: str = ""
    groups: tuple[str, ...] = ()
    admin: bool = False
    agent: str = ""
    lease_ms: int = 0
    deliveries_max: int = 0
    backoff_ms: int = 0
    backoff_max_ms: int = 0
    dead_letter: str = ""

    def owner(self) -> Principal:
        """Whose permissions decide what the group takes."""
        if self.principal == EMBEDDED.name:
            return EMBEDDED
        return Principal(self.principal, frozenset(self.groups), admin=self.admin)

    def terms(self) -> Terms:
        """Its terms."""
        return Terms(
            lease_ms=self.lease_ms,
            deliveries_max=self.deliveries_max,
            backoff_ms=self.backoff_ms,
            backoff_max_ms=self.backoff_max_ms,
            dead_letter=self.dead_letter,
        )


def group_row(name: str, filter_: str, owner: Principal, agent: str, terms: Terms) -> GroupRow:
    """The row of a group."""
    return GroupRow(
        name=name,
        filter=filter_,
        principal=owner.name,
        groups=tuple(sorted(owner.groups)),
        admin=owner.admin,
        agent=agent,
        lease_ms=terms.lease_ms,
        deliveries_max=terms.deliveries_max,
        backoff_ms=terms.backoff_ms,
        backoff_max_ms=terms.backoff_max_ms,
        dead_letter=terms.dead_letter,
    )


class ShareRow(Row):
    """A shared subscription with members whose sessions are kept: agent → wish."""

    group: str = ""
    filter: str = ""
    members: dict[str, int] = {}


class MailboxRow(Row):
    """An agent's mailbox."""

    agent: str = ""


class CountRow(Row):
    """How often a message has been delivered."""

    count: int = 0


def digest(*texts: str) -> bytes:
    """A key of fixed size for any texts; lengths in front keep ("ab", "c") and ("a", "bc") apart."""
    whole = blake2b(digest_size=16)
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        whole.update(len(data).to_bytes(4, "big") + data)
    return whole.digest()


def rows_of(log: Log, kind: bytes) -> Iterator[bytes]:
    """The rows of one kind."""
    return iter([value for _, value in log.rows(Table.GROUPS, kind)])


def save(log: Log, kind: bytes, key: bytes, row: Row | None) -> Ticket:
    """Writes or deletes a row."""
    return log.put(Table.GROUPS, kind + key, encode_row(row) if row is not None else None)


@final
class Counts:
    """One group's counts of deliveries that are in the log: only of messages that were not finished at once."""

    __slots__ = ("_loaded", "_log", "_prefix", "_written")

    def __init__(self, log: Log, key: bytes) -> None:
        self._log = log
        self._prefix = _COUNT + blake2b(key, digest_size=16).digest()
        self._loaded: dict[int, int] = {}
        self._written: set[int] = set()
        for row_key, value in list(log.rows(Table.GROUPS, self._prefix)):
            position = int.from_bytes(row_key[-8:], "big")
            self._loaded[position] = decode_row(value, CountRow).count
            self._written.add(position)

    def __len__(self) -> int:
        """Rows there are; at most as many as messages open."""
        return len(self._written)

    def earlier(self, position: int) -> int:
        """How often the message was delivered before the restart."""
        return self._loaded.get(position, 0)

    def write(self, position: int, count: int) -> None:
        """Rides with the next commit."""
        self._written.add(position)
        self._log.put(Table.GROUPS, self._key(position), encode_row(CountRow(count=count)))

    def clear(self, position: int) -> None:
        """The message is finished."""
        if position in self._written:
            self._written.discard(position)
            self._loaded.pop(position, None)
            self._log.put(Table.GROUPS, self._key(position), None)

    def clear_all(self) -> None:
        """The group is no more."""
        for position in list(self._written):
            self.clear(position)

    def _key(self, position: int) -> bytes:
        return self._prefix + position.to_bytes(8, "big")
