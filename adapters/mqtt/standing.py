"""What a client's session is while nobody is connected for it: its filters, place, and promises half kept.

A standing outlives connections, and where the log is durable, the process. It knows no packets; the
connection (``session.py``) works on it and ``Standings`` keeps them all.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, final

from dragoman.adapters.mqtt.exclusive import Exclusives, is_exclusive
from dragoman.adapters.mqtt.promises import PLACED, Flight, Promises
from dragoman.adapters.mqtt.wills import Wills
from dragoman.broker.backlog import Bounds
from dragoman.broker.log.contract import Table, Ticket
from dragoman.broker.rows import Row, decode_row, encode_row
from dragoman.broker.session import KeptSession
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dragoman.adapters.mqtt.session import MqttSession
    from dragoman.adapters.mqtt.settings import MqttSettings
    from dragoman.adapters.mqtt.wills import Named
    from dragoman.broker.backlog import Backlog
    from dragoman.broker.broker import Broker
    from dragoman.broker.timers import Timer
    from dragoman.routing.message import Message
    from dragoman.routing.refusals import Refusal

NEVER_S: Final = 0xFFFF_FFFF
"""The session expiry interval that means never (§3.1.2.11.2)."""

KEY_BYTES_PLAIN: Final = 400
"""The longest client id that is a row's key itself; an id has no NUL, so a digest after one is never an id."""


class FilterRow(Row):
    """One subscription of a kept session. ``owed``: it has not been given all retained values there were.

    ``since``: what was said below this position was said under other options, ``before`` and ``before_no_local``.
    """

    qos: int = 0
    no_local: bool = False
    keep_retain: bool = False
    identifier: int = 0
    owed: bool = False
    since: int = 0
    before: int = 0
    before_no_local: bool = False

    def then(self, position: int) -> tuple[int, bool]:
        """QoS and No Local for what the log has at this position."""
        return (self.before, self.before_no_local) if position < self.since else (self.qos, self.no_local)

    def replace(self, old: FilterRow, low: int, end: int) -> None:
        """Takes the place of ``old``, from the position ``end`` on; what is below ``low`` waits no longer.

        Of several changes in a row the most generous holds for all that waits: nothing may be lost [MQTT-3.8.4-4].
        """
        if (self.qos, self.no_local) == (old.qos, old.no_local):
            self.since, self.before, self.before_no_local = old.since, old.before, old.before_no_local
        else:
            still = old.since > low
            self.since = end
            self.before = max(old.qos, old.before) if still else old.qos
            self.before_no_local = old.no_local and (old.before_no_local or not still)


class StandingRow(Row):
    """A kept session. ``gone_ms``: wall clock when its connection ended, 0 = it was connected.

    ``sent``: QoS 1 deliveries of positions below it may have gone out; known when nobody is connected.
    """

    principal: str = ""
    expiry_s: int = 0
    gone_ms: int = 0
    filters: dict[str, FilterRow] = {}
    agent: str = ""
    client_id: str = ""
    sent: int = 0


@final
class Standing:
    """One client's session.

    ``filters``   what it subscribes to, by filter as the client wrote it
    ``received``  QoS 2 packet ids taken and not yet released (§4.3.3): the other half of exactly once
    ``unsafe``    those whose commit was under way when their connection ended, and is still
    ``wait``      the last of all such commits: what a new connection is told of QoS 2 must not leave before it
    ``flights``   deliveries by packet id; ``ids`` finds the packet id of a log position
    ``unmet``     a restart has left deliveries whose messages the log may not give again
    ``owed``      retained values that an earlier connection has left, by filter
    ``landed``    positions of QoS 2 deliveries that are over, until the place that passes them is written
    ``sent``      QoS 1: what an earlier connection may have had before a restart is below this position
    ``backlog``   its place in the log, if it is kept at all
    ``changed``   what was said below this position may have been said under other options than today's
    """

    __slots__ = (
        "agent",
        "backlog",
        "changed",
        "client_id",
        "connection",
        "expiry_s",
        "filters",
        "flights",
        "gone_ms",
        "ids",
        "key",
        "landed",
        "last_id",
        "owed",
        "principal",
        "received",
        "sent",
        "timer",
        "unmet",
        "unsafe",
        "wait",
    )

    def __init__(self, client_id: str, principal: str) -> None:
        self.client_id = client_id
        self.key = _key(client_id)
        self.principal = principal
        self.agent = client_id
        self.expiry_s = 0
        self.gone_ms = 0
        self.filters: dict[str, FilterRow] = {}
        self.received: set[int] = set()
        self.unsafe: dict[int, Ticket] = {}
        self.wait = Ticket(0)
        self.flights: dict[int, Flight] = {}
        self.ids: dict[int, int] = {}
        self.landed: list[int] = []
        self.owed: dict[str, Iterator[Message]] = {}
        self.last_id = 0
        self.sent = 0
        self.changed = 0
        self.unmet = False
        self.backlog: Backlog | None = None
        self.connection: MqttSession | None = None
        self.timer: Timer | None = None

    @property
    def kept(self) -> bool:
        """Whether it stays when its connection ends."""
        return self.expiry_s > 0

    def next_id(self) -> int:
        """A free packet id below ``PLACED``. There are never so many deliveries, so there always is one."""
        packet_id = self.last_id
        while True:
            packet_id = packet_id % (PLACED - 1) + 1
            if packet_id not in self.flights:
                self.last_id = packet_id
                return packet_id

    def placed_id(self, position: int) -> int:
        """The packet id of a QoS 1 delivery from the log.

        It is the same after a crash without having been written, so that it can be sent again under it [4.4.0-1]
        and a late PUBACK is for no other message. If it is taken, another one, which has to be.
        """
        packet_id = PLACED + position % PLACED
        return packet_id if packet_id not in self.flights else self.next_id()

    def check(self) -> None:
        """What must always hold."""
        for position, packet_id in self.ids.items():
            assert self.flights[packet_id].position == position, (position, packet_id)
        assert not self.kept or self.backlog is not None, self.client_id


@final
class Standings:
    """Every session of this listener's clients, connected or kept. One per mesh, whatever the number of listeners."""

    def __init__(self, broker: Broker, settings: MqttSettings, named: Named) -> None:
        self._broker = broker
        self._settings = settings
        self.wills = Wills(broker, named, format_check=settings.payload_format_check, retry_s=settings.will_retry_s)
        self.promises = Promises(broker)
        self.exclusives = Exclusives()
        self._bounds = _bounds(settings)
        self.by_client: dict[str, Standing] = {}
        #: filters of all sessions, without and with ``$share/``
        self.filters = 0
        self.shared_filters = 0
        self.expired_total = 0

    # -- life ----------------------------------------------------------------------------------------

    def load(self) -> None:
        """Restores the kept sessions and all wills. Whoever was connected when the mesh died is away since now."""
        log = self._broker.log
        rows = [(key, decode_row(value, StandingRow)) for key, value in log.rows(Table.SESSIONS)]
        now_ms = self._broker.clock.now_ms()
        for _, row in rows:
            standing = Standing(row.client_id, row.principal)
            standing.expiry_s = row.expiry_s
            for filter_, kept in row.filters.items():
                self.keep_filter(standing, filter_, kept)
            standing.agent = row.agent
            standing.gone_ms = row.gone_ms or now_ms
            standing.sent = row.sent if row.gone_ms else int(log.end())
            self.by_client[standing.client_id] = standing
            self.promises.load(standing, self._open_backlog(standing))
            if not row.gone_ms:
                # It expires counted from here, and nothing more was sent, however often the mesh dies meanwhile.
                self.save(standing)
        # What is said from now on finds every reader in its place.
        loaded = list(self.by_client.values())
        self.wills.load({standing.client_id: standing.expiry_s for standing in loaded})
        for standing in loaded:
            if standing.kept:
                self._expire_later(standing)
            else:
                self.end(standing)

    def reload(self, settings: MqttSettings) -> None:
        """Takes over other settings, for the sessions that are kept too."""
        running, self._settings = self._settings, settings
        self.wills.format_check, self.wills.retry_ms = settings.payload_format_check, settings.will_retry_s * 1000
        self._bounds = _bounds(settings)
        if (self._bounds, settings.session_queue_policy) == (_bounds(running), running.session_queue_policy):
            return
        for standing in self.by_client.values():
            if standing.backlog is not None:
                self._bound(standing, standing.backlog)

    def _open_backlog(self, standing: Standing) -> Backlog:
        backlog = standing.backlog = self._broker.backlogs.open(b"mqtt:" + standing.key, _absent)
        backlog.saved = lambda: self.promises.saved(standing)
        if self._bounds is not None:
            self._bound(standing, backlog)
        return backlog

    def _bound(self, standing: Standing, backlog: Backlog) -> None:
        backlog.bound(self._bounds)
        backlog.dropped = lambda message: self.promises.let_go(standing, message.position)
        ends = self._settings.session_queue_policy == "end"
        backlog.overflowed = (lambda: self._overflowed(standing)) if ends else None

    def _overflowed(self, standing: Standing) -> None:
        """More waits for the session than may, and the policy is that it ends."""
        if standing.backlog is None:
            return
        self._broker.metrics.drop("session-queue-full", standing.backlog.waiting)
        if standing.connection is not None:
            why = "more waits for the session than mqtt.session_queue_messages_max or _bytes_max allow"
            standing.connection.close(Refusal(Reason.QUOTA_EXCEEDED, why))
        if standing.backlog is not None:
            self.end(standing)

    def open(self, client_id: str, principal: str, *, clean: bool, expiry_s: int) -> tuple[Standing, bool]:
        """The client's session for a new connection, and whether it was there before (Session Present)."""
        standing = self.by_client.get(client_id)
        if standing is not None and (clean or standing.principal != principal or not standing.kept):
            self.end(standing, kept_anew=expiry_s > 0)
            standing = None
        present = standing is not None
        if standing is None:
            standing = self.by_client[client_id] = Standing(client_id, principal)
        else:
            self.wills.resumed(standing.key)
        if standing.timer is not None:
            standing.timer.cancel()
            standing.timer = None
        standing.gone_ms = 0
        self.set_expiry(standing, expiry_s)
        return standing, present

    def listed(self) -> Iterator[KeptSession]:
        """The kept sessions, for the administration."""
        for standing in list(self.by_client.values()):
            if not standing.kept:
                continue
            backlog = standing.backlog
            expires_ms = None
            if standing.gone_ms and standing.expiry_s != NEVER_S:
                expires_ms = standing.gone_ms + standing.expiry_s * 1000
            yield KeptSession(
                standing.client_id,
                "mqtt",
                standing.principal,
                standing.agent,
                standing.connection,
                tuple(standing.filters),
                expires_ms,
                len(standing.flights),
                backlog is not None and backlog.behind,
                backlog.waiting if backlog is not None else 0,
                backlog.lost if backlog is not None else 0,
            )

    def forget(self, id_: str) -> bool:
        """Ends a kept session by the administration's will; its client, if it is connected, must have been told."""
        standing = self.by_client.get(id_)
        if standing is None or not standing.kept:
            return False
        assert standing.connection is None, "the session of a connection that goes on"
        self.end(standing)
        return True

    @property
    def full(self) -> bool:
        """Whether no further session may begin."""
        return len(self.by_client) >= self._settings.sessions_max

    def set_expiry(self, standing: Standing, expiry_s: int) -> None:
        """How long it stays after its connection, seconds; 0 = not at all, ``NEVER_S`` = for good."""
        standing.expiry_s = expiry_s
        if standing.kept and standing.backlog is None:
            self._open_backlog(standing)
        self.save(standing)

    def leave(self, standing: Standing) -> None:
        """Its connection is gone: it waits, or ends at once if it is not kept."""
        standing.connection = None
        self._return_shared(standing)
        if not standing.kept:
            self.end(standing)
            return
        assert standing.backlog is not None
        standing.backlog.offer = _absent
        standing.backlog.reader = None
        standing.backlog.turned = None
        standing.backlog.pause()
        for flight in standing.flights.values():
            flight.sent = False
            if flight.qos == 1:
                standing.sent = max(standing.sent, flight.position + 1)
        standing.gone_ms = self._broker.clock.now_ms()
        self.save(standing)
        self._expire_later(standing)

    def _return_shared(self, standing: Standing) -> None:
        """QoS 1 deliveries of shared subscriptions that were not acknowledged are for others now (§4.8.2)."""
        for packet_id, flight in list(standing.flights.items()):
            if flight.group is not None and flight.qos == 1 and flight.message is not None:
                del standing.flights[packet_id]
                flight.group.returned(flight.message)

    def end(self, standing: Standing, *, kept_anew: bool = False) -> Ticket:
        """The session is no more; the ticket of that. A will that waits for its delay waits no longer (§3.1.3.2.2).

        ``kept_anew``: another kept session of the client takes its place, so the agent's mail stays.
        """
        if standing.timer is not None:
            standing.timer.cancel()
        self.wills.session_over(standing.key)
        if self.by_client.get(standing.client_id) is standing:
            del self.by_client[standing.client_id]
            for filter_ in standing.filters:
                self._filter_gone(standing, filter_)
        if standing.backlog is None:
            return Ticket(0)
        ticket = self._forget(standing)
        self._broker.groups.ended(standing.agent)
        if not kept_anew:
            self._broker.post.expired(standing.agent, "mqtt")
        return ticket

    def _forget(self, standing: Standing) -> Ticket:
        assert standing.backlog is not None
        self._broker.backlogs.close(standing.backlog)
        standing.backlog = None
        self.promises.forget(standing)
        return self._broker.log.put(Table.SESSIONS, standing.key, None)

    def _expire_later(self, standing: Standing) -> None:
        if standing.expiry_s == NEVER_S:
            return
        left_ms = standing.gone_ms + standing.expiry_s * 1000 - self._broker.clock.now_ms()
        standing.timer = self._broker.timers.after(max(0, left_ms), self._expire, standing)

    def _expire(self, standing: Standing) -> None:
        self.expired_total += 1
        self.end(standing)

    # -- filters -------------------------------------------------------------------------------------

    def keep_filter(self, standing: Standing, filter_: str, row: FilterRow) -> None:
        """The client subscribes so, now or anew. Not written: see ``save``."""
        if filter_ not in standing.filters:
            self._count_filter(filter_, 1)
            if is_exclusive(filter_):
                self.exclusives.held(standing, filter_)
        standing.filters[filter_] = row
        standing.changed = max(standing.changed, row.since)

    def drop_filter(self, standing: Standing, filter_: str) -> bool:
        """It does so no longer; False if it never did. Not written: see ``save``."""
        standing.owed.pop(filter_, None)
        if standing.filters.pop(filter_, None) is None:
            return False
        self._filter_gone(standing, filter_)
        return True

    def _filter_gone(self, standing: Standing, filter_: str) -> None:
        self._count_filter(filter_, -1)
        if is_exclusive(filter_):
            self.exclusives.free(standing, filter_)

    def _count_filter(self, filter_: str, n: int) -> None:
        if filter_.startswith("$share/"):
            self.shared_filters += n
        else:
            self.filters += n

    # -- rows ----------------------------------------------------------------------------------------

    def save(self, standing: Standing) -> Ticket:
        """Writes a kept session's row; the ticket to wait for before telling the client."""
        if standing.backlog is None:
            return Ticket(0)
        row = StandingRow(
            principal=standing.principal,
            expiry_s=standing.expiry_s,
            gone_ms=standing.gone_ms,
            filters=standing.filters,
            agent=standing.agent,
            client_id=standing.client_id,
            sent=standing.sent,
        )
        return self._broker.log.put(Table.SESSIONS, standing.key, encode_row(row))


def _key(client_id: str) -> bytes:
    """What a session's rows are keyed by: the client id, or a digest where it is too long for a key."""
    raw = client_id.encode("utf-8", "surrogatepass")
    return raw if len(raw) <= KEY_BYTES_PLAIN else b"\0" + hashlib.blake2b(raw, digest_size=32).digest()


def _absent(message: Message) -> bool:
    return False


def _bounds(settings: MqttSettings) -> Bounds | None:
    """What may wait for a kept session; None = as much as the log holds."""
    bounds = Bounds(
        settings.session_queue_messages_max,
        settings.session_queue_bytes_max,
        settings.session_queue_s_max * 1000,
        settings.session_queue_policy == "drop_new",
    )
    return bounds if any(bounds[:3]) else None
