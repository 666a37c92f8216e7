"""Who may not come in at all, until when and why. The one place that knows; three doors ask it.

- at accept, before a byte is read: the address (``adapters/serving/limits.py``);
- at login: the principal (``adapters/serving/credentials.py``);
- when a session attaches, whatever protocol it speaks: principal and client (``Broker.attach``).

A ban is a row, so it holds through restarts, and follows the wall clock. Whoever is inside when it begins
is turned out: the broker ends the sessions of a client or principal, each listener those of an address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, final

from dragoman.broker.log.contract import Table, Ticket
from dragoman.broker.principal import EMBEDDED, MESH
from dragoman.broker.rows import Row, decode_row, encode_row
from dragoman.routing.addresses import address_of
from dragoman.routing.names import AGENT_BYTES_MAX, shown
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.clock import Clock
    from dragoman.broker.log.contract import Log

CLIENT: Final = "client"
PRINCIPAL: Final = "principal"
ADDRESS: Final = "address"
KINDS: Final = (CLIENT, PRINCIPAL, ADDRESS)

REASON_BYTES_MAX: Final = 1_024
FOREVER: Final = 0

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class BanRow(Row):
    """A ban. ``until_ms``: wall clock, 0 = for good."""

    kind: str = ""
    who: str = ""
    reason: str = ""
    by: str = ""
    since_ms: int = 0
    until_ms: int = FOREVER


class Ban(NamedTuple):
    """Who is kept out. Times are wall clock; ``until_ms`` 0 = for good.

    ``kind`` and ``who``   "client": an agent id, which of an MQTT client is its client id; "principal": a user's
                           name; "address": a block such as ``192.0.2.0/24``
    ``by``                 the administrator whose word it is
    """

    kind: str
    who: str
    reason: str
    by: str
    since_ms: int
    until_ms: int

    def refusal(self) -> Refusal:
        """The no that it means. Says neither until when nor by whom: that is the administration's business."""
        why = f": {self.reason}" if self.reason else ""
        return Refusal(Reason.BANNED, f"{self.kind} {shown(self.who)} is banned{why}")


@final
class Bans:
    """All bans in force. What is asked at each connection is a look-up for each size of block there is."""

    def __init__(self, clock: Clock, log: Log, bans_max: int) -> None:
        self._clock = clock
        self._log = log
        self._bans_max = bans_max
        self._bans: dict[tuple[str, str], Ban] = {}
        self._blocks: dict[tuple[int, int], dict[int, Ban]] = {}
        self._followers: list[Callable[[Ban], None]] = []
        self.refused_total = 0

    def start(self) -> None:
        """Takes up what the log keeps."""
        for _, value in self._log.rows(Table.BANS):
            row = decode_row(value, BanRow)
            self._take(Ban(row.kind, row.who, row.reason, row.by, row.since_ms, row.until_ms))

    def follow(self, follower: Callable[[Ban], None]) -> None:
        """Calls it with each new ban, to turn out whom it can name."""
        self._followers.append(follower)

    def __len__(self) -> int:
        return len(self._bans)

    # -- what the doors ask ------------------------------------------------------------------------

    def client(self, client: str) -> Refusal | None:
        """Why this agent id or MQTT client id may not come in; None if it may."""
        return self._asked((CLIENT, client)) if self._bans and client else None

    def principal(self, name: str) -> Refusal | None:
        """Why this principal may not come in; None if it may."""
        return self._asked((PRINCIPAL, name)) if self._bans else None

    def address(self, host: str) -> Refusal | None:
        """Why nobody may come in from this address, as sockets give it; None if they may. "" is no address."""
        if not self._blocks or not host:
            return None
        address = address_of(host)
        if address is None:
            return None
        number = int(address)
        for (version, prefix), blocks in list(self._blocks.items()):
            if version == address.version:
                shift = address.max_prefixlen - prefix
                ban = blocks.get(number >> shift << shift)
                if ban is not None and (refusal := self._asked((ADDRESS, ban.who))) is not None:
                    return refusal
        return None

    def _asked(self, key: tuple[str, str]) -> Refusal | None:
        ban = self._bans.get(key)
        if ban is None:
            return None
        if self._over(ban):
            self._drop(ban)
            return None
        self.refused_total += 1
        return ban.refusal()

    # -- what the administration does --------------------------------------------------------------

    def add(self, kind: str, who: str, *, reason: str, by: str, duration_ms: int) -> tuple[Ban, Ticket] | Refusal:
        """Bans from now on, for ``duration_ms`` or (0) for good, and turns out who is inside. Replaces an earlier ban.

        The ticket is that of its row: before it is safe a crash would forget the ban.
        """
        known = _canonical(kind, who)
        if isinstance(known, Refusal):
            return known
        if len(reason.encode("utf-8", "surrogatepass")) > REASON_BYTES_MAX:
            return _unfit(f"a reason has at most {REASON_BYTES_MAX} bytes")
        if (kind, known) not in self._bans and len(self._bans) >= self._bans_max:
            self._forget_old()
            if len(self._bans) >= self._bans_max:
                return Refusal(
                    Reason.QUOTA_EXCEEDED, f"there are {self._bans_max} bans, broker.bans_max allows no more"
                )
        now_ms = self._clock.now_ms()
        ban = Ban(kind, known, reason, by, now_ms, now_ms + duration_ms if duration_ms else FOREVER)
        self._take(ban)
        row = BanRow(kind=kind, who=known, reason=reason, by=by, since_ms=ban.since_ms, until_ms=ban.until_ms)
        ticket = self._log.put(Table.BANS, _key(ban), encode_row(row))
        for follower in self._followers:
            follower(ban)
        return ban, ticket

    def remove(self, kind: str, who: str) -> Ticket | Refusal:
        """Lifts a ban; the ticket of that."""
        known = _canonical(kind, who)
        if isinstance(known, Refusal):
            return known
        ban = self._bans.get((kind, known))
        if ban is None or self._over(ban):
            return Refusal(Reason.GONE, f"{kind} {shown(known)} is not banned")
        return self._drop(ban)

    def listed(self) -> list[Ban]:
        """The bans in force, oldest first."""
        self._forget_old()
        return sorted(self._bans.values(), key=lambda ban: ban.since_ms)

    # -- within ------------------------------------------------------------------------------------

    def _over(self, ban: Ban) -> bool:
        return ban.until_ms != FOREVER and ban.until_ms <= self._clock.now_ms()

    def _forget_old(self) -> None:
        for ban in [ban for ban in self._bans.values() if self._over(ban)]:
            self._drop(ban)

    def _take(self, ban: Ban) -> None:
        self._bans[ban.kind, ban.who] = ban
        if ban.kind == ADDRESS:
            network = ipaddress.ip_network(ban.who)
            blocks = self._blocks.setdefault((network.version, network.prefixlen), {})
            blocks[int(network.network_address)] = ban

    def _drop(self, ban: Ban) -> Ticket:
        del self._bans[ban.kind, ban.who]
        if ban.kind == ADDRESS:
            network = ipaddress.ip_network(ban.who)
            size = (network.version, network.prefixlen)
            del self._blocks[size][int(network.network_address)]
            if not self._blocks[size]:
                del self._blocks[size]
        return self._log.put(Table.BANS, _key(ban), None)


def covers(ban: Ban, host: str) -> bool:
    """Whether it is a ban of an address block, and ``host`` is in it."""
    address = address_of(host) if ban.kind == ADDRESS else None
    return address is not None and address in ipaddress.ip_network(ban.who)


def _key(ban: Ban) -> bytes:
    """A digest, since a client id may be longer than a key."""
    return blake2b(f"{ban.kind}\0{ban.who}".encode("utf-8", "surrogatepass"), digest_size=32).digest()


def _canonical(kind: str, who: str) -> str | Refusal:
    """The one way to write whom a ban names."""
    assert kind in KINDS, kind
    if kind == ADDRESS:
        network = _network(who)
        if network is None:
            return _unfit(f"{shown(who)} is no address or block, such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/64")
        return str(network)
    if not who or "\0" in who or len(who.encode("utf-8", "surrogatepass")) > AGENT_BYTES_MAX:
        return _unfit(f"a {kind} has 1 to {AGENT_BYTES_MAX} bytes, none of them 0")
    if kind == PRINCIPAL and who in (EMBEDDED.name, MESH.name):
        return _unfit(f"{shown(who)} is the mesh itself")
    return who


def _network(text: str) -> Network | None:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.ip_network((mapped, network.prefixlen - 96))
    return network


def _unfit(detail: str) -> Refusal:
    return Refusal(Reason.ARGUMENTS_INVALID, detail)
