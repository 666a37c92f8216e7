"""One Kafka connection's conversation: requests in, answers out in the order of the requests. Socket-free.

Requests are handled as they come, so that what they say is said in order; who has to wait, for a commit or
for news, answers later, and its answer holds back those behind it (Kafka's clients expect no other order).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, final

from dragoman.adapters.kafka import codec
from dragoman.adapters.kafka.apis import ApiKey
from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.adapters.kafka.handlers import HANDLERS
from dragoman.adapters.kafka.produce import too_large
from dragoman.adapters.kafka.wire import WireError
from dragoman.adapters.serving.credentials import Credentials
from dragoman.adapters.serving.logins import Login
from dragoman.broker.principal import ANONYMOUS, Principal
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from dragoman.adapters.kafka.realm import Realm
    from dragoman.broker.log.contract import Ticket
    from dragoman.broker.route import Route
    from dragoman.broker.subscription import Feed
    from dragoman.routing.message import Message

OPEN_TO_STRANGERS: Final = frozenset((ApiKey.API_VERSIONS, ApiKey.SASL_HANDSHAKE, ApiKey.SASL_AUTHENTICATE))
"""What may be asked before anybody knows who asks."""

OWED_BYTES_MAX: Final = 1 << 20
"""Answers not written yet; beyond, the next request waits. One answer can be larger, and goes alone."""

_FETCH: Final = ApiKey.FETCH.to_bytes(2, "big")

ROUTES_MAX: Final = 4_096
"""Ways into channels remembered for one connection."""

Then = Callable[[Refusal | None], None]


class Wire(Protocol):
    """The connection as its session sees it."""

    def wake(self) -> None:
        """There is something to write."""

    def hold(self, held: bool) -> None:
        """Stops or goes on reading."""

    def take_up(self) -> None:
        """Requests that had to wait can be handled: soon, ``resumed`` is to be called until it is None."""

    def accepted(self) -> None:
        """The peer has shown who it is."""

    def abort(self) -> None:
        """Cuts the connection."""


@final
class Ask:
    """One request. Answered exactly once, now or later; ``on_gone`` is called instead if the connection ends first."""

    __slots__ = ("_out", "answered", "client", "correlation", "key", "on_gone", "request", "session", "size", "version")

    def __init__(self, session: KafkaSession, head: codec.RequestHead, request: object, size: int) -> None:
        self.session = session
        self.key = head.api_key
        self.version = head.api_version
        self.correlation = head.correlation_id
        self.client = head.client_id or ""
        self.request = request
        self.size = size
        self.answered = False
        self.on_gone: Callable[[], None] | None = None
        self._out: list[bytes | memoryview] = []

    def answer(self, response: object) -> None:
        """Gives the response, a shape of this API."""
        assert not self.answered, f"request {self.correlation} is answered twice"
        head = codec.response_head(self.key, self.version, self.correlation)
        body = codec.encode_response(self.key, self.version, response)
        length = len(head) + sum(map(len, body))
        self._done([length.to_bytes(4, "big") + head, *body])

    def nothing(self) -> None:
        """This request gets no response (Produce with acks 0)."""
        self._done([])

    def error(self, code: int) -> None:
        """Says no in the shape of this API."""
        self.answer(codec.error_response(self.key, self.request, code))

    def _done(self, out: list[bytes | memoryview]) -> None:
        self.answered = True
        self.on_gone = None
        self._out = out
        self.session.answered(sum(map(len, out)))

    @property
    def out(self) -> list[bytes | memoryview]:
        """The answer's bytes."""
        return self._out


@final
class KafkaSession:
    """The broker's view of one connection, and the connection's view of the broker. ``begin`` once, ``gone`` once."""

    protocol: Final = "kafka"

    def __init__(
        self, realm: Realm, wire: Wire, *, peer: str, host: str, reached: tuple[str, int], loopback: bool
    ) -> None:
        self.realm = realm
        self.peer = peer
        self.host = host
        self.reached = reached
        self.loopback = loopback
        self.principal: Principal = ANONYMOUS
        self.agent = ""
        self.client = ""
        self.closing = False
        self.admitted = False
        self.complained_of = False
        self.seen_ms = realm.core.clock.monotonic_ms()
        #: the SASL mechanism that was agreed on, until it has been used
        self.mechanism: str | None = None
        #: the login under way, if the mechanism goes to and fro
        self.login: Login | None = None
        self._wire = wire
        self._asks: deque[Ask] = deque()
        self._busy = False
        self._later: deque[memoryview] = deque()
        self._out: list[bytes | memoryview] = []
        self._owed = 0
        self._routes: dict[str, Route] = {}
        self._waiting: dict[Ticket, list[Then]] = {}
        self._paused = False
        self._unsafe_bytes = 0
        self._turns: deque[Callable[[], None]] = deque()
        self._turn_taken = False

    # -- who it is -----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Who needs no credentials is in at once."""
        self.realm.authenticator.check(Credentials(None, None, None, self.loopback), self._admit_stranger)

    def _admit_stranger(self, outcome: Principal | Refusal) -> None:
        if isinstance(outcome, Principal):
            self.admit(outcome)

    def admit(self, principal: Principal) -> Refusal | None:
        """From now on the connection acts as ``principal``."""
        self.principal = principal
        self._routes.clear()
        if not self.admitted:
            refusal = self.realm.broker.attach(self)
            if refusal is not None:
                return refusal
            self.admitted = True
        self._wire.accepted()
        return None

    @property
    def address(self) -> tuple[str, int]:
        """Where clients are told to connect: what is configured, else where this one has found us."""
        advertised = self.realm.advertised
        return self.reached if advertised is None else (advertised.host, advertised.port)

    @property
    def idle(self) -> bool:
        """Whether nothing it asked for is under way."""
        return not self._asks and not self._busy

    @property
    def request_bytes_max(self) -> int:
        """How large a request may be."""
        settings = self.realm.settings
        return settings.request_bytes_max if self.admitted else settings.stranger_bytes_max

    # -- requests ------------------------------------------------------------------------------------

    def arrived(self, nbytes: int) -> None:
        """So many bytes were read."""
        self.seen_ms = self.realm.core.clock.monotonic_ms()
        self.realm.counters.bytes_in += nbytes

    def postpones(self, request: memoryview) -> bool:
        """Whether a whole request, without its length, has to wait; else it is to be given to ``received`` now."""
        if not self._later and not self._must_wait(request):
            return False
        self._later.append(request)
        self._regulate()
        return True

    def resumed(self) -> memoryview | None:
        """The next request that had to wait and need not any more: to be given to ``received`` now."""
        if not self._later or self._must_wait(self._later[0]):
            return None
        return self._later.popleft()

    def _must_wait(self, request: memoryview) -> bool:
        """Whether answers in front of it are too much already. Of fetches one is under way: each may be megabytes."""
        if self._busy or self._paused or self._owed > OWED_BYTES_MAX:
            return True
        fetch = request[:2] == _FETCH
        return fetch and any(ask.key == ApiKey.FETCH and not ask.answered for ask in self._asks)

    def received(self, request: memoryview, *, emptied: bool = False) -> None:
        """Handles a request. ``emptied``: a produce request that was too large, with nothing left of its records."""
        if self.closing:
            return
        self.realm.core.tick()
        try:
            head = codec.request_head(request)
        except WireError as error:
            # Without its head there is nothing an answer could be an answer to.
            self._cut(f"malformed request: {error}")
            return
        self.client = head.client_id or self.client
        if not self.admitted and head.api_key not in OPEN_TO_STRANGERS:
            self._cut("asked before it has shown who it is")
            return
        self._handle(head, request, emptied=emptied)
        self._regulate()

    def _handle(self, head: codec.RequestHead, request: memoryview, *, emptied: bool) -> None:
        if not codec.serves(head.api_key, head.api_version):
            ask = Ask(self, head, None, len(request))
            self._asks.append(ask)
            if not codec.speaks(head.api_key, head.api_version):
                self._cut(f"asks for API {head.api_key} version {head.api_version}, which is not offered")
                return
            ask.error(ErrorCode.UNSUPPORTED_VERSION)
            return
        try:
            shape = codec.decode_request(head.api_key, head.api_version, request[head.length :])
        except WireError as error:
            self.realm.complain("request refused", str(error), self)
            ask = Ask(self, head, None, len(request))
            self._asks.append(ask)
            ask.error(ErrorCode.INVALID_REQUEST)
            return
        ask = Ask(self, head, shape, len(request))
        self._asks.append(ask)
        if emptied:
            too_large(ask)
        else:
            HANDLERS[head.api_key](ask)

    def failed(self) -> None:
        """What was received last met a fault of ours: its request is answered with that, and the connection goes on."""
        if self._asks and not self._asks[-1].answered:
            self._asks[-1].error(ErrorCode.UNKNOWN_SERVER_ERROR)
        self._turn_taken = False
        self._regulate()

    def _cut(self, why: str) -> None:
        self.realm.complain("connection cut", why, self)
        self.closing = True
        self._wire.wake()

    def busy(self, busy: bool) -> None:
        """While a password is checked, what follows waits."""
        self._busy = busy
        self._regulate()

    # -- answers -------------------------------------------------------------------------------------

    def answered(self, size: int) -> None:
        """An answer is there; it goes out when those before it have."""
        asks = self._asks
        self._owed += size
        while asks and asks[0].answered:
            self._out.extend(asks.popleft().out)
        if self._out:
            self._wire.wake()
        self._regulate()

    def take_out(self) -> list[bytes | memoryview]:
        """What is to be written now."""
        out, self._out = self._out, []
        size = sum(map(len, out))
        self._owed -= size
        self.realm.counters.bytes_out += size
        if self._later:
            self._regulate()
        return out

    def backed_up(self, paused: bool) -> None:
        """The peer does not read what was written; or it does again."""
        self._paused = paused
        self._regulate()
        self._next_turn()

    def in_turn(self, begin: Callable[[], None]) -> None:
        """Calls ``begin`` when it is its turn, one after the other; ``turn_over`` ends it.

        For answers that may be large: what a client asks for ahead of what it reads costs no memory.
        """
        self._turns.append(begin)
        self._next_turn()

    def turn_over(self) -> None:
        """The next one may begin, once what was answered is with the socket."""
        self.realm.core.loop.call_soon(self._take_turns)

    def _take_turns(self) -> None:
        self._turn_taken = False
        self._next_turn()

    def _next_turn(self) -> None:
        if self._turns and not self._turn_taken and not self._paused and not self.closing:
            self._turn_taken = True
            self._turns.popleft()()

    def _regulate(self) -> None:
        """A connection is read while it may add to what is under way."""
        realm = self.realm
        if self._later and not self._must_wait(self._later[0]):
            self._wire.take_up()
        self._wire.hold(
            self._paused
            or bool(self._later)
            or self._busy
            or len(self._asks) >= realm.settings.asks_max
            or self._unsafe_bytes > realm.core.settings.uncommitted_session_bytes_max
            or (self._unsafe_bytes > 0 and realm.broker.saturated)
        )

    # -- publishing ----------------------------------------------------------------------------------

    def route(self, name: str) -> Route | Refusal:
        """The way into a channel, judged once and remembered."""
        route = self._routes.get(name)
        if route is not None and route.valid:
            return route
        answer = self.realm.broker.route(self, name)
        if isinstance(answer, Refusal):
            self._routes.pop(name, None)
            return answer
        if len(self._routes) >= ROUTES_MAX:
            self._routes.clear()
        self._routes[name] = answer
        return answer

    def when_safe(self, ticket: Ticket, size: int, then: Then) -> None:
        """Calls ``then`` when a ticket of ours is committed or refused; ``size`` bytes wait for it."""
        self._unsafe_bytes += size

        def settled(refusal: Refusal | None) -> None:
            self._unsafe_bytes -= size
            then(refusal)

        self._waiting.setdefault(ticket, []).append(settled)

    # -- the broker's side ---------------------------------------------------------------------------

    def deliver(self, feed: Feed, message: Message) -> bool:
        """A Kafka client fetches; nothing is pushed to it."""
        return False

    def lost(self, feed: Feed, count: int) -> None:
        """It has no feeds."""

    def committed(self, ticket: Ticket) -> None:
        """Produce requests up to this ticket are safe."""
        for t in sorted(t for t in self._waiting if t <= ticket):
            for then in self._waiting.pop(t):
                then(None)
        self._regulate()

    def refused(self, ticket: Ticket, refusal: Refusal) -> None:
        """Produce requests of this ticket have failed."""
        for then in self._waiting.pop(ticket, ()):
            then(refusal)
        self._regulate()

    def close(self, refusal: Refusal) -> None:
        """The mesh ends the connection. Kafka has no word for it: what is answered goes out, then it closes."""
        self.closing = True
        self._wire.wake()

    def gone(self) -> None:
        """The connection is closed."""
        self.closing = True
        for ask in self._asks:
            if ask.on_gone is not None:
                ask.on_gone()
        self._asks.clear()
        self._later.clear()
        self._turns.clear()
        self._waiting.clear()
        if self.admitted:
            self.realm.broker.detach(self)
