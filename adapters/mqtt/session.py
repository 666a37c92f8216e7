"""One MQTT connection: frames to broker and back. No socket, no clock of its own, synchronous.

Bytes go in by ``received``; what is to be sent gathers in ``out`` and is fetched once a turn by whoever
holds the socket. CONNECT is in ``handshake``, filters are in ``subscribing``, what outlives the
connection is in ``standing``; here is what happens per message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, final

from dragoman.adapters.mqtt import (
    codes,
    delivering,
    enhanced,
    flights,
    handshake,
    intake,
    mapping,
    order,
    pacing,
    subscribing,
)
from dragoman.adapters.mqtt.codec import Decoder
from dragoman.adapters.mqtt.codes import Code, ProtocolError
from dragoman.adapters.mqtt.encoders import (
    FORM_4,
    FORM_OWN,
    PINGRESP,
    encode_disconnect,
    encode_pubcomp,
    encode_publish,
)
from dragoman.adapters.mqtt.packets import (
    Auth,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Subscribe,
    Unsubscribe,
)
from dragoman.adapters.mqtt.phase import Phase
from dragoman.adapters.mqtt.properties import Properties
from dragoman.adapters.mqtt.standing import Standing
from dragoman.broker.log.contract import Ticket
from dragoman.broker.principal import ANONYMOUS, Principal
from dragoman.routing.message import Message
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from dragoman.adapters.mqtt.delivering import OwnFrames
    from dragoman.adapters.mqtt.listener_settings import ListenerSettings
    from dragoman.adapters.mqtt.realm import Realm
    from dragoman.adapters.mqtt.terms import Terms
    from dragoman.adapters.serving.entrance import Arrival
    from dragoman.broker.rates import Limiter
    from dragoman.broker.redirects import Redirect
    from dragoman.broker.route import Route
    from dragoman.broker.streams import Stream
    from dragoman.broker.subscription import Feed, Subscription

UNLIMITED: Final = 1 << 32
"""The packet size of a peer that names none: more than a packet can have."""

ROUTES_MAX: Final = 4_096
"""Topics whose way is remembered per connection; then all are forgotten and asked for again."""


REASON_OVERHEAD: Final = 16
"""The most that an acknowledgement or DISCONNECT holds beside its reason string."""


class Wire(Protocol):
    """Whoever holds the socket."""

    def wake(self) -> None:
        """There is something in ``out``, or the connection is to be closed once it is written."""

    def hold(self, held: bool) -> None:
        """Stop reading from the peer, or go on."""

    def accepted(self) -> None:
        """CONNACK goes out: from now on the keepalive holds instead of the connect deadline."""


Owed: TypeAlias = tuple[int, bytes, Callable[[Refusal], bytes | None], Callable[[], None] | None]
"""An answer in order: the ticket it waits for, the frame, the frame for a refusal (None = close), what to do after."""


@final
class MqttSession:
    """A connection's conversation. Implements ``broker.session.Session``."""

    __slots__ = (
        "_gate",
        "_gathering",
        "_held",
        "_in_bytes",
        "_in_count",
        "_out_bytes_max",
        "_out_count",
        "_out_frames",
        "_out_payload",
        "_payload_max",
        "_routes",
        "again",
        "agent",
        "arrival",
        "asked",
        "closing",
        "connect",
        "decoder",
        "early",
        "enhanced",
        "form",
        "generation",
        "inflight_max",
        "keepalive_ms",
        "last_seen_ms",
        "listener",
        "out",
        "out_bytes",
        "out_form",
        "overruns",
        "owed",
        "own",
        "own_frames",
        "pace",
        "packet_max",
        "paused",
        "peer",
        "phase",
        "principal",
        "queued",
        "realm",
        "resting",
        "rewrites",
        "settings",
        "standing",
        "starved",
        "streams",
        "subscriptions",
        "terms",
        "uncommitted",
        "version",
        "window",
        "wire",
    )

    protocol: Final = "mqtt"

    def __init__(self, realm: Realm, wire: Wire, listener: ListenerSettings, arrival: Arrival) -> None:
        self.realm = realm
        self.wire = wire
        self.listener = listener
        #: as they were when it began: what CONNACK says holds to the end
        self.settings, self.rewrites = realm.settings, realm.rewrites
        self.terms = realm.terms(listener)
        self.arrival = arrival
        self.peer = arrival.text
        self.phase = Phase.NEW
        self.version = 0
        self.form = FORM_4
        #: the form its deliveries have: never one that a message keeps, where topics have aliases
        self.out_form = FORM_4
        self.own_frames: OwnFrames | None = None
        #: what waits in its backlog, while that is behind
        self.queued: order.Queued | None = None
        self.principal: Principal = ANONYMOUS
        self.agent = ""
        self.decoder = _decoder(realm, self.terms)
        self.standing: Standing = Standing("", "")
        self.subscriptions: dict[str, Subscription] = {}
        self.streams: dict[str, Stream] = {}
        self.connect: Connect | None = None
        self.early: list[Packet] = []
        #: the authentication method of CONNECT and how far it has come, if CONNECT named one
        self.enhanced: enhanced.Enhanced | None = None
        self.keepalive_ms = 0
        self.last_seen_ms = 0
        self.inflight_max = self.settings.inflight_max
        self.packet_max = UNLIMITED
        self.out: list[bytes] = []
        self.out_bytes = 0
        self.owed: deque[Owed] = deque()
        self.paused = self.starved = self.closing = self._gathering = False
        self._gate = realm.gate
        self._out_bytes_max = self.settings.out_bytes_max
        self._payload_max = realm.core.settings.message_bytes_max
        self._in_count = self._in_bytes = 0
        # Of what is in ``out``: frames that did not go the fast way, the deliveries among them, payload bytes of all.
        self._out_frames = self._out_count = self._out_payload = 0
        self._held = order.Held()
        self._routes: dict[bytes, Route] = {}
        self.uncommitted = 0
        #: packet ids of the deliveries that a reconnect has yet to resend, and how many are unacknowledged on it
        self.again: dict[int, None] = {}
        self.window = 0
        #: limiters of this connection alone; those paid off by not reading; those each route asks (``pacing``)
        self.own: tuple[Limiter, ...] | None = None
        self.pace: tuple[Limiter, ...] = ()
        self.asked: tuple[Limiter, ...] = ()
        self.generation = -1
        self.resting = False
        #: publishes beyond Receive Maximum that the policy let through
        self.overruns = 0

    @property
    def listener_name(self) -> str:
        """Through which listener it came."""
        return self.listener.name

    # -- from the socket -----------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Takes bytes from the peer. Never raises for what the peer sent."""
        core = self.realm.core
        core.tick()
        self.last_seen_ms = core.monotonic_ms
        self.realm.counters.bytes_in += len(data)
        self._gathering = True
        packets = self.decoder.feed(data)
        self.realm.traffic.packets_in += len(packets)
        for packet in packets:
            if type(packet) is Publish and self.phase is Phase.OPEN:
                self._publish(packet)
            else:
                self.take(packet)
        if self._in_count:
            self._count_in()
        error = self.decoder.error
        held = self.phase is Phase.CHECKING and self.enhanced is None
        if error is not None and self.phase is not Phase.CLOSED and not held:
            self.fail(error)
        self._gathering = False
        if self.starved and not self.paused and self.phase is Phase.OPEN:
            self.go_on()
        if self.out or self.closing:
            self.wire.wake()

    def _count_in(self) -> None:
        """Counters are touched once a feed, not once a message."""
        metrics, traffic = self.realm.metrics, self.realm.traffic
        metrics.messages_in += self._in_count
        metrics.bytes_in += self._in_bytes
        traffic.publishes_in += self._in_count
        traffic.publish_bytes_in += self._in_bytes
        if self.pace:
            pacing.spend(self, self._in_count, self._in_bytes)
        self._in_count = 0
        self._in_bytes = 0

    def take(self, packet: Packet) -> None:
        """Does what one packet asks; nothing once the connection is closed."""
        if type(packet) is Publish and self.phase is Phase.OPEN:
            self._publish(packet)
            if not self._gathering:
                self._count_in()
        elif self.phase is not Phase.CLOSED:
            self._other(packet)

    def _other(self, packet: Packet) -> None:
        if self.phase is Phase.NEW:
            if isinstance(packet, Connect):
                handshake.begin(self, packet)
            else:
                self.fail(ProtocolError(Code.PROTOCOL_ERROR, "the first packet was not a CONNECT [3.1.0-1]"))
            return
        if self.phase is Phase.CHECKING:
            handshake.hold(self, packet)
            return
        match packet:
            case Puback():
                flights.acked(self, packet.packet_id, packet.code)
            case Pubrec():
                flights.received(self, packet.packet_id, packet.code)
            case Pubrel():
                ticket = self.realm.promises.release(self.standing, packet.packet_id)
                frame = encode_pubcomp(self.version, packet.packet_id)
                self.answer(ticket, frame, lambda _: frame)
            case Pubcomp():
                flights.completed(self, packet.packet_id)
            case Pingreq():
                self.send(PINGRESP)
            case Subscribe():
                subscribing.subscribe(self, packet)
            case Unsubscribe():
                subscribing.unsubscribe(self, packet)
            case Disconnect():
                handshake.goodbye(self, packet)
            case Auth():
                enhanced.again(self, packet)
            case _:
                self.fail(ProtocolError(Code.PROTOCOL_ERROR, f"a client does not send {type(packet).__name__} here"))

    # -- publishing ----------------------------------------------------------------------------------

    def _publish(self, packet: Publish) -> None:
        route = self._routes.get(packet.topic)
        if route is None or route.generation != self._gate.generation or not route.channel.open:
            found = self._find_route(packet)
            if found is None:
                self.realm.traffic.set_aside(packet)
                return
            route = found
        payload = packet.payload
        self._in_count += 1
        self._in_bytes += len(payload)
        if len(payload) > self._payload_max:
            intake.refuse(self, packet, intake.too_large(len(payload), self._payload_max))
            return
        if packet.qos:
            intake.publish(self, packet, route.name, route.publish, route.channel)
            return
        if packet.frame:
            message = Message(route.name, payload, 0, self.agent)
            message.wire = packet.frame
            message.wire_form = self.form
        else:
            said = intake.message(self, packet, route.name)
            if isinstance(said, Refusal):
                intake.refuse(self, packet, said)
                return
            message = said
        answer = route.channel.append(message) if route.direct else route.publish(self, message)
        if answer and isinstance(answer, Refusal):
            intake.refuse(self, packet, answer)

    def _find_route(self, packet: Publish) -> Route | None:
        """Asks the broker for a way; None: there is none, or it was a verb or a link's, and that has been seen to."""
        name = intake.topic(self, packet.topic)
        if isinstance(name, Refusal):
            intake.refuse(self, packet, name)
            return None
        if self.realm.broker.acts(name):
            intake.verb(self, packet, name)
            return None
        if self.own_frames is not None and self.own_frames.mesh:
            intake.linked(self, packet, name)
            return None
        if len(self._routes) >= ROUTES_MAX:
            self._routes.clear()
        if self._gate.generation != self.generation:
            self.generation = self._gate.generation
            pacing.begin(self)
        found = self.realm.broker.route(self, name, self.asked)
        if isinstance(found, Refusal):
            intake.refuse(self, packet, found)
            return None
        self._routes[packet.topic] = found
        return found

    # -- answers in order ----------------------------------------------------------------------------

    def answer(
        self,
        ticket: Ticket,
        frame: bytes,
        failed: Callable[[Refusal], bytes | None],
        after: Callable[[], None] | None = None,
    ) -> None:
        """Sends ``frame`` when ``ticket`` is safe and every earlier answer is out [4.6.0-2]; ``after`` runs then."""
        if not ticket and not self.owed:
            self.send(frame)
            if after is not None:
                after()
            return
        if ticket:
            self.realm.core.commits.tell(ticket, self)
        self.owed.append((ticket, frame, failed, after))

    def committed(self, ticket: Ticket) -> None:
        """Everything of ours up to ``ticket`` is safe: the answers that waited for it go out."""
        owed = self.owed
        while owed and owed[0][0] <= ticket:
            _, frame, _, after = owed.popleft()
            if frame:
                self.send(frame)
            if after is not None:
                after()
        if self._held:
            for frame in self._held.due(ticket):
                self.send(frame)
            order.choose(self)
        self._read_on()

    def refused(self, ticket: Ticket, refusal: Refusal) -> None:
        """Commit ``ticket`` failed: its answers say so; a 3.1.1 client is cut off, so it keeps its messages."""
        for at, (waits, _, failed, after) in enumerate(self.owed):
            if waits == ticket:
                frame = failed(refusal)
                if frame is None:
                    self.fail(ProtocolError(mapping.code_for(codes.DISCONNECT, refusal.reason), refusal.detail))
                    return
                self.owed[at] = (0, frame, intake.no_failure, after)
        self.committed(ticket)

    def send_after(self, ticket: Ticket, frame: bytes) -> None:
        """Sends a frame that must not leave before ``ticket`` is safe; in order with others that wait."""
        if ticket:
            self.realm.core.commits.tell(ticket, self)
        if ticket or self._held:
            self._held.put(ticket, frame)
            self.out_form = FORM_OWN
        else:
            self.send(frame)

    def owe_nothing(self) -> None:
        """The connection is over: nobody is left to answer. Its session remembers what is not safe yet."""
        if self.owed or self._held:
            intake.leave_open(self)
            last = max([owed[0] for owed in self.owed] + [held[0] for held in self._held.frames])
            self.realm.promises.wait_for(self.standing, Ticket(last))
        self.owed.clear()
        self._held.clear()

    def _read_on(self) -> None:
        if not self.owed:
            self.uncommitted = 0
            if not self.resting:
                self.wire.hold(False)
        if self.starved and not self.paused and not self._gathering and self.phase is Phase.OPEN:
            self.realm.core.loop.call_soon(self.go_on)

    # -- delivering ----------------------------------------------------------------------------------

    def deliver(self, feed: Feed, message: Message) -> bool:
        """Sends a message or answers False when the connection or its window is full."""
        if feed.plain and message.envelope is None and (message.wish == 0 or feed.wish == 0):
            if self.paused or self.out_bytes > self._out_bytes_max:
                self.starved = True
                return False
            if message.wire_form == self.out_form:
                frame = message.wire
            elif self.out_form == FORM_OWN:
                return delivering.deliver(self, feed, message)
            else:
                frame = encode_publish(self.version, message.name.encode(), message.payload or b"")
                message.wire = frame
                message.wire_form = self.form
            size = len(frame)
            if size > self.packet_max:
                delivering.pass_over(self, feed, message)
                return True
            out = self.out
            if not out and not self._gathering:
                self.wire.wake()
            out.append(frame)
            self.out_bytes += size
            if message.payload:
                self._out_payload += len(message.payload)
            return True
        return delivering.deliver(self, feed, message)

    def offer(self, message: Message) -> bool:
        """A message of our backlog: caught up, or read from the log."""
        return delivering.offer(self, message)

    @property
    def holds(self) -> bool:
        """Whether frames wait for a commit: what is sent now overtakes them."""
        return bool(self._held)

    @property
    def full(self) -> bool:
        """Whether the connection takes nothing more this turn."""
        return self.paused or self.out_bytes + self._held.bytes > self._out_bytes_max

    def go_on(self) -> None:
        """There is room again: the broker and the backlog go on where they stopped."""
        if self.phase is not Phase.OPEN or self.paused:
            return
        self.starved, self._gathering = False, True
        try:
            if flights.go_on(self):
                self.realm.broker.resume(self)
                for stream in list(self.streams.values()):
                    stream.resume()
            if self.standing.backlog is not None and not self.starved:
                self.standing.backlog.resume()
        finally:
            self._gathering = False  # the loop logs a fault and goes on: we must not stay mute
        if self.out:
            self.wire.wake()

    def lost(self, feed: Feed, count: int) -> None:
        """A gap. MQTT has no word for it: the broker counts it and lists it with the slow readers."""

    # -- sending and ending --------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """Adds a frame to what goes out this turn."""
        self.out.append(frame)
        self.out_bytes += len(frame)
        self._out_frames += 1
        if not self._gathering:
            self.wire.wake()

    def count_out(self, payload: bytes) -> None:
        """A frame on its way to ``send`` is a delivery of this payload."""
        self._out_count += 1
        self._out_payload += len(payload)

    def take_out(self) -> bytes:
        """What is to be written now, in one piece."""
        frames = len(self.out)
        data = b"".join(self.out) if frames != 1 else self.out[0]
        self.out.clear()
        self.out_bytes = 0
        self._count_out(frames, len(data))
        return data

    def _count_out(self, frames: int, size: int) -> None:
        """Counters are touched once a turn; what went the fast way is what is left of the frames."""
        realm = self.realm
        deliveries = frames - self._out_frames + self._out_count
        realm.counters.bytes_out += size
        realm.metrics.messages_out += deliveries
        realm.metrics.bytes_out += self._out_payload
        realm.traffic.packets_out += frames
        realm.traffic.publishes_out += deliveries
        realm.traffic.publish_bytes_out += self._out_payload
        self._out_frames = self._out_count = self._out_payload = 0

    def problem(self, refusal: Refusal) -> Properties | None:
        """A reason string, unless the client wants none (§3.1.2.11.7)."""
        return self.reason(refusal.detail) if handshake.wants_problems(self) else None

    def reason(self, detail: str) -> Properties | None:
        """A reason string, unless the packet would then be larger than the client takes (MQTT-3.14.2-3)."""
        text = detail[:1024]
        fits = len(text.encode()) + REASON_OVERHEAD <= self.packet_max
        return Properties(reason_string=text) if text and fits else None

    def fail(self, error: ProtocolError) -> None:
        """The peer broke the protocol, or there is no other way to say no: says why if it can, and closes."""
        self.realm.complain(error.detail, self)
        if self.phase is Phase.NEW or self.phase is Phase.CHECKING:
            handshake.break_off(self, error)
            return
        self.end(error.code, error.detail)

    def close(self, refusal: Refusal) -> None:
        """The mesh ends this connection."""
        if self.phase is Phase.OPEN:
            self.end(mapping.code_for(codes.DISCONNECT, refusal.reason), refusal.detail)
        else:
            handshake.reject(self, mapping.code_for(codes.CONNACK, refusal.reason), refusal.detail)

    def taken_over(self, *, resumed: bool) -> None:
        """Another connection has come with our client id [3.1.4-3]; ``resumed``: it goes on with the session."""
        if self.version == 5:
            self.send(encode_disconnect(5, Code.SESSION_TAKEN_OVER))
        self.closing = True
        handshake.leave(self, clean=False, resumed=resumed)
        self.wire.wake()

    def redirect(self, there: Redirect) -> None:
        """The mesh sends this client to another server; before 5.0 it is just closed."""
        if self.phase is Phase.OPEN:
            self.realm.redirected_total += 1
            self.end(handshake.direction(there), said=handshake.reference(self, there))

    def end(self, code: int, detail: str = "", said: Properties | None = None) -> None:
        """Closes an open connection from our side, with its will (§3.1.2.5)."""
        if self.phase is not Phase.OPEN:
            return
        if self.version == 5:
            self.send(encode_disconnect(5, code, said or self.reason(detail)))
        self.closing = True
        handshake.leave(self, clean=False)
        self.wire.wake()

    def gone(self) -> None:
        """The socket is closed, by whomever. Idempotent."""
        if self.phase is Phase.OPEN:
            handshake.leave(self, clean=False)
        self.phase = Phase.CLOSED
        self.out.clear()
        self.out_bytes = 0


def _decoder(realm: Realm, terms: Terms) -> Decoder:
    settings = realm.settings
    return Decoder(
        max_packet_bytes=settings.packet_bytes_max,
        max_connect_bytes=settings.connect_bytes_max,
        max_alias=settings.topic_alias_max,
        qos_max=terms.qos_max,
        retain=terms.retain,
        frames=not realm.rewrites.publishes,
    )
