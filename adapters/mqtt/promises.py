"""QoS promises half kept, and their rows: what was taken in and not released, what was sent and not finished.

They outlive connections, and where the log is durable, the process. What a client is told of them is told when no
crash can take it back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from dragoman.adapters.mqtt import flights
from dragoman.broker.log.contract import Table, Ticket
from dragoman.broker.rows import Row, decode_message, decode_row, encode_message, encode_row

if TYPE_CHECKING:
    from dragoman.adapters.mqtt.standing import Standing
    from dragoman.broker.backlog import Backlog
    from dragoman.broker.broker import Broker
    from dragoman.broker.subscription import ShareMember
    from dragoman.routing.message import Message
    from dragoman.routing.refusals import Refusal

PLACED: Final = 0x8000
"""Packet ids from here on follow from the position of what a QoS 1 delivery sends: a restart finds them again."""

_IN: Final = b"i"
_OUT: Final = b"o"
_BESIDE: Final = b"b"
_SENT: Final = b"p"
_SENT_QOS_1: Final = b"q"
_RELEASED: Final = b"r"
_LANDED: Final = b"d"


class BesideRow(Row):
    """A delivery that is not the session's backlog's: at QoS 2 of a share, a stream or a retained value, at QoS 1 of
    a retained value. QoS 1 of a share is another member's when its connection ends, so it is after a crash.

    ``message``  as it was sent, so that it can be sent again under its id; empty: it ends by PUBREL
    ``place``    the reader that would give the message again, to whomever; empty: none
    ``turn``     rises with each such row that is written: they go on in that order [MQTT-4.6.0-1, 4.6.0-4]
    """

    turn: int = 0

    message: bytes = b""
    place: bytes = b""
    retain: bool = False
    identifiers: tuple[int, ...] = ()
    qos: int = 2


@final
class Flight:
    """A QoS 1 or 2 delivery under way. ``position`` 0: not the session's backlog's.

    ``beside``    it is not, and a row of its own holds it; one without lives and dies with the process
    ``message``   None after a restart, until the log has given it again
    ``retain``, ``identifiers``   how it was sent, to be sent again the same way
    ``released``  QoS 2: the receiver has it
    ``sent``      on the connection there is now, so it counts in its window
    """

    __slots__ = ("beside", "group", "identifiers", "message", "position", "qos", "released", "retain", "sent")

    def __init__(
        self,
        message: Message | None,
        qos: int,
        position: int,
        retain: bool = False,
        identifiers: tuple[int, ...] = (),
    ) -> None:
        self.message = message
        self.qos = qos
        self.position = position
        self.retain = retain
        self.identifiers = identifiers
        self.beside = False
        self.released = False
        self.sent = False
        self.group: ShareMember | None = None


@final
class Promises:
    """The rows of every session's promises."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._turn = 0

    def load(self, standing: Standing, backlog: Backlog) -> None:
        """Takes up what the log kept of a session's promises."""
        prefix = _row_key(standing, b"")
        beside: list[tuple[int, BesideRow]] = []
        for key, value in self._broker.log.rows(Table.INFLIGHT, prefix):
            kind, number = key[len(prefix) : len(prefix) + 1], int.from_bytes(key[len(prefix) + 1 :], "big")
            if kind == _IN:
                standing.received.add(number)
                continue
            if kind == _BESIDE:
                beside.append((number, decode_row(value, BesideRow)))
                continue
            packet_id, state = int.from_bytes(value[:2], "big"), value[2:]
            if state in (_RELEASED, _LANDED):
                backlog.settled(number)
            if state == _LANDED:
                standing.landed.append(number)
                continue
            flight = Flight(None, 1 if state == _SENT_QOS_1 else 2, number)
            flight.released = state == _RELEASED
            standing.flights[packet_id] = flight
            standing.ids[number] = packet_id
            standing.unmet = standing.unmet or not flight.released
        self._load_beside(standing, beside)

    def _load_beside(self, standing: Standing, beside: list[tuple[int, BesideRow]]) -> None:
        """Those go on at once, in their order; nobody else is given what they hold."""
        for packet_id, row in sorted(beside, key=lambda pair: pair[1].turn):
            flight = standing.flights[packet_id] = Flight(None, row.qos, 0, row.retain, row.identifiers)
            flight.beside = True
            self._turn = max(self._turn, row.turn)
            if row.message:
                flight.message = decode_message(row.message)
                self._broker.backlogs.done(row.place, flight.message.position)
            else:
                flight.released = True

    def forget(self, standing: Standing) -> None:
        """The session is no more, and nothing of it is owed."""
        log = self._broker.log
        for packet_id in standing.received:
            log.put(Table.INFLIGHT, _row_key(standing, _IN, packet_id), None)
        for packet_id, flight in standing.flights.items():
            if packet_id < PLACED and flight.position:
                log.put(Table.INFLIGHT, _row_key(standing, _OUT, flight.position), None)
            elif flight.beside:
                log.put(Table.INFLIGHT, _row_key(standing, _BESIDE, packet_id), None)
        self._forget_landed(standing)

    # -- taken in ------------------------------------------------------------------------------------

    def receive(self, standing: Standing, packet_id: int) -> None:
        """A QoS 2 publish was taken in: its id is pinned in the same commit."""
        standing.received.add(packet_id)
        if standing.backlog is not None:
            self._broker.log.put(Table.INFLIGHT, _row_key(standing, _IN, packet_id), b"1")

    def left_open(self, standing: Standing, packet_id: int, ticket: Ticket) -> None:
        """The connection of a QoS 2 publish has ended before its commit; sent again, it is answered by how that ends.

        If it fails, the publish was never taken in.
        """

        def settled(refusal: Refusal | None) -> None:
            del standing.unsafe[packet_id]
            if refusal is not None:
                self.release(standing, packet_id)

        if packet_id not in standing.unsafe:
            standing.unsafe[packet_id] = ticket
            self._broker.when_safe(ticket, settled)

    def wait_for(self, standing: Standing, ticket: Ticket) -> None:
        """The connection has ended while this commit was under way: until then the next one says nothing final."""

        def settled(_: Refusal | None) -> None:
            if standing.wait == ticket:
                standing.wait = Ticket(0)

        if standing.backlog is not None and ticket > standing.wait:
            standing.wait = ticket
            self._broker.when_safe(ticket, settled)

    def release(self, standing: Standing, packet_id: int) -> Ticket:
        """The client has let go of a QoS 2 id it published with; the ticket to wait for before it may use it anew."""
        if packet_id not in standing.received:
            return standing.wait
        standing.received.discard(packet_id)
        if standing.backlog is None:
            return Ticket(0)
        return self._broker.log.put(Table.INFLIGHT, _row_key(standing, _IN, packet_id), None)

    # -- sent ----------------------------------------------------------------------------------------

    def fly(self, standing: Standing, packet_id: int, flight: Flight) -> Ticket:
        """A delivery begins or moves on; the ticket must be safe before its PUBLISH or PUBREL leaves.

        Nothing is written for a QoS 1 delivery whose packet id follows from its position.
        """
        if standing.backlog is None or packet_id >= PLACED:
            return Ticket(0)
        if not flight.position:
            return self._fly_beside(standing, packet_id, flight) if flight.beside else Ticket(0)
        state = _SENT_QOS_1 if flight.qos == 1 else _RELEASED if flight.released else _SENT
        return self._mark(standing, flight.position, packet_id, state)

    def _fly_beside(self, standing: Standing, packet_id: int, flight: Flight) -> Ticket:
        self._turn += 1
        row = BesideRow(turn=self._turn, qos=flight.qos)
        if flight.released:
            self._over_there(flight)
        else:
            assert flight.message is not None, "what comes back without its message is released"
            row.message = encode_message(flight.message)
            row.place = b"" if flight.group is None else flight.group.place
            row.retain, row.identifiers = flight.retain, flight.identifiers
            if row.place:
                # It is the session's alone from now on: one that stays away does not hold up the share's place.
                finish = self._broker.backlogs.finish
                self._broker.core.loop.call_soon(finish, row.place, flight.message.position)
        return self._broker.log.put(Table.INFLIGHT, _row_key(standing, _BESIDE, packet_id), encode_row(row))

    def _over_there(self, flight: Flight) -> None:
        """Who would give the message again writes that it is done, before the row here no longer says so."""
        if flight.group is not None and flight.group.place and flight.message is not None:
            self._broker.backlogs.done(flight.group.place, flight.message.position)

    def _mark(self, standing: Standing, position: int, packet_id: int, state: bytes) -> Ticket:
        value = packet_id.to_bytes(2, "big") + state
        return self._broker.log.put(Table.INFLIGHT, _row_key(standing, _OUT, position), value)

    def landed(self, standing: Standing, packet_id: int) -> None:
        """A delivery is complete: id and place are free.

        That a QoS 2 delivery is complete is kept until the reader's place says so too: in between,
        a crash would make it a new message.
        """
        flight = standing.flights.pop(packet_id)
        if not flight.position:
            if flight.beside and standing.backlog is not None:
                if not flight.released:
                    self._over_there(flight)
                self._broker.log.put(Table.INFLIGHT, _row_key(standing, _BESIDE, packet_id), None)
            return
        standing.ids.pop(flight.position, None)
        if standing.backlog is not None:
            if flight.qos == 2:
                self._mark(standing, flight.position, packet_id, _LANDED)
                standing.landed.append(flight.position)
            elif packet_id < PLACED:
                self._broker.log.put(Table.INFLIGHT, _row_key(standing, _OUT, flight.position), None)
            standing.backlog.finish(flight.position)

    # -- what a restart has left without its message -----------------------------------------------

    def let_go(self, standing: Standing, position: int) -> None:
        """A message is gone that a restart had left a delivery waiting for."""
        packet_id = standing.ids.get(position)
        if packet_id is not None and not standing.flights[packet_id].released:
            self._give_up(standing, packet_id, standing.flights[packet_id])

    def _forget_landed(self, standing: Standing) -> None:
        """The place that passes what has landed is in this very commit: its rows need not say so any more."""
        for position in standing.landed:
            self._broker.log.put(Table.INFLIGHT, _row_key(standing, _OUT, position), None)
        standing.landed.clear()

    def saved(self, standing: Standing) -> None:
        """The session's place has been put into the open commit."""
        self._forget_landed(standing)
        backlog = standing.backlog
        if standing.unmet and backlog is not None and not backlog.behind:
            standing.unmet = False
            for packet_id, flight in list(standing.flights.items()):
                if flight.message is None and not flight.released:
                    self._give_up(standing, packet_id, flight)

    def _give_up(self, standing: Standing, packet_id: int, flight: Flight) -> None:
        """The log had all it has, but not this message: expired, no longer subscribed to, beyond a limit.

        A receiver that has it waits for PUBREL, and one that has not answers a PUBREL as well: so it ends for both.
        """
        if flight.qos == 1:
            self.landed(standing, packet_id)
            return
        flight.released = True
        ticket = self.fly(standing, packet_id, flight)
        if standing.connection is not None:
            flights.release(standing.connection, packet_id, ticket)


def _row_key(standing: Standing, kind: bytes, number: int | None = None) -> bytes:
    """Rows of one session stand together; the length in front keeps one id from being another's prefix.

    ``number`` is a packet id of the client's (``_IN``) or of ours (``_BESIDE``), or a position.
    """
    head = len(standing.key).to_bytes(2, "big") + standing.key + kind
    return head if number is None else head + number.to_bytes(8, "big")
