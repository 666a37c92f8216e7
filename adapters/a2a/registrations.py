"""Discovery of A2A over MQTT: the directory seen as retained cards, and cards published there as registrations.

A card an agent publishes itself is kept and given on as it was written; that of any other agent is made from the
directory. Whether the agent is there is our word in either case, never the publisher's: ``a2a-status`` with the source
``broker``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

import msgspec

from dragoman.adapters.a2a import cards
from dragoman.adapters.a2a.mesh_skills import OWN
from dragoman.adapters.a2a.places import DISCOVERY, Places
from dragoman.broker.gate import Action
from dragoman.broker.history import Change, What
from dragoman.broker.inner_session import InnerSession
from dragoman.broker.log.contract import DONE, Ticket
from dragoman.broker.presence import PRESENT, Agent
from dragoman.broker.principal import MESH
from dragoman.routing.cards import Card, parse_card
from dragoman.routing.message import EMPTY, NEVER, Envelope, Header, Message, Wish
from dragoman.routing.names import is_exact, matches, shown
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dragoman.broker.broker import Broker
    from dragoman.broker.principal import Principal
    from dragoman.broker.session import Session

STATUS: Final = "a2a-status"
SOURCE: Final = "a2a-status-source"

CARD_BYTES_MAX: Final = 64 * 1024

LEASE_MS: Final = 1 << 53
"""A retained card stays until it is taken back: as long as the directory leases anything."""

_REQUIRED: Final[dict[str, type]] = {
    "name": str,
    "description": str,
    "version": str,
    "supportedInterfaces": list,
    "capabilities": dict,
    "defaultInputModes": list,
    "defaultOutputModes": list,
    "skills": list,
}
"""What the schema of an Agent Card wants, and what it is."""

_KINDS: Final[dict[type, str]] = {str: "text", list: "a list", dict: "an object"}


class Native(NamedTuple):
    """What is known of an agent that published its card itself: how it wants to be asked."""

    card: Card
    streams: bool
    takes_json: bool


@final
class Registrations:
    """The discovery topics. ``start`` once, after the directory's."""

    def __init__(self, broker: Broker, places: Places, own_card: Card, url: str) -> None:
        """``url`` is where MQTT clients reach us: what cards say of agents that speak something else."""
        self._broker = broker
        self._places = places
        self._own_card = own_card
        self._reached = cards.interfaces(url, cards.MQTT)
        self._native: dict[str, Native] = {}
        self._online: set[str] = set()
        self._fresh: set[str] = set()
        #: hears of each agent that has published another card, or taken its card back
        self.when_registered: Callable[[str], object] = lambda agent: None

    def start(self) -> None:
        """Takes up the cards that are retained, and follows the directory from now on."""
        for name in list(self._broker.core.commits.names.find(DISCOVERY + "#")):
            agent = self._places.agent_at(name[len(DISCOVERY) :])
            held = self._held(name)
            native = _checked(held.payload or b"", agent) if agent is not None and held is not None else None
            if agent is not None and isinstance(native, Native):
                self._native[agent] = native
        self._broker.directory.watch(self._changed)

    def native(self, agent: str) -> Native | None:
        """What the agent published here; None if it did not, or has another card since."""
        native = self._native.get(agent)
        entry = self._broker.directory.get(agent) if native is not None else None
        return native if entry is not None and native is not None and entry.declared == native.card else None

    # -- publishing ----------------------------------------------------------------------------------

    def publish(self, session: Session, message: Message) -> Ticket | Refusal:
        """A card published registers its agent, an empty payload takes it back."""
        refusal = self._refused(session, message)
        if refusal is not None:
            return refusal
        agent = session.agent
        if not message.payload:
            return self._unregister(session, message)
        if _says_offline(message) and self.native(agent) is not None:
            # Its will or its goodbye: no news of what it is, and where it is we know ourselves.
            return DONE
        native = _checked(message.payload, agent)
        if isinstance(native, Refusal):
            return native
        directory = self._broker.directory
        expires_ms = message.envelope.expires_ms if message.envelope is not None else NEVER
        lease_ms = LEASE_MS if expires_ms == NEVER else max(1, expires_ms - self._broker.core.now_ms)
        entry = directory.get(agent)
        if entry is None or not entry.connected:
            return Refusal(Reason.AGENT_UNREACHABLE, f"agent {shown(agent)} is not connected: its card is not taken")
        registered = directory.register(session.principal, agent, native.card, lease_ms=lease_ms, via=session.protocol)
        if isinstance(registered, Refusal):
            return registered
        self._native[agent] = native
        self._fresh.add(agent)
        self._broker.later(self._fresh.discard, agent)
        self.when_registered(agent)
        envelope = _with_status(message.envelope or EMPTY, online=True)
        return self._keep(session, message.name, message.payload, envelope)

    def _refused(self, session: Session, message: Message) -> Refusal | None:
        place = message.name[len(DISCOVERY) :]
        agent = self._places.agent_at(place)
        if agent is None or agent == OWN:
            detail = f"no agent's card is at {shown(message.name)}: say {DISCOVERY}{{org}}/{{unit}}/{{agent}}"
            return Refusal(Reason.ARGUMENTS_INVALID, detail)
        verdict = self._broker.gate.check(session.principal, Action.PUBLISH, message.name, session.agent)
        if isinstance(verdict, Refusal):
            return verdict
        if not session.agent or agent != session.agent:
            detail = f"only the client {shown(agent)} publishes a card at {shown(place)}, and you are {session.agent!r}"
            return Refusal(Reason.NOT_AUTHORIZED, detail)
        if not message.retain:
            return Refusal(Reason.NOT_AUTHORIZED, "a card is published retained: it stays until it is said anew")
        return None

    def _unregister(self, session: Session, message: Message) -> Ticket | Refusal:
        self._native.pop(session.agent, None)
        self.when_registered(session.agent)
        entry = self._broker.directory.get(session.agent)
        if entry is not None and entry.declared is not None:
            refusal = self._broker.directory.unregister(session.principal, session.agent)
            if refusal is not None:
                return refusal
        self._fresh.add(session.agent)
        self._broker.later(self._fresh.discard, session.agent)
        return self._keep(session, message.name, b"", None)

    def _keep(self, session: Session, name: str, payload: bytes, envelope: Envelope | None) -> Ticket | Refusal:
        """Says it in the channel, which keeps it. Ourselves, since the gate has been asked for what it is."""
        said = Message(name, payload, Wish.AT_LEAST_ONCE, session.agent, True, envelope)
        answer = self._broker.say(InnerSession(MESH, session.agent), said)
        if answer and not isinstance(answer, Refusal):
            self._broker.core.commits.tell(answer, session)
        return answer

    # -- told ----------------------------------------------------------------------------------------

    def _changed(self, change: Change) -> None:
        """Something about an agent has changed: says so where it is a change of what is seen here."""
        agent = change.agent
        entry = self._broker.directory.get(agent)
        if entry is None or entry.card is None:
            self._online.discard(agent)
            if change.what is not What.STATE and agent not in self._fresh:
                self._gone(agent)
            return
        online = entry.state in PRESENT
        was_online = agent in self._online
        if online:
            self._online.add(agent)
        else:
            self._online.discard(agent)
        if change.what is What.STATE and online == was_online:
            return
        if change.what is What.CARD and agent in self._fresh:
            return
        native = self._native.get(agent)
        if native is not None and native.card != entry.declared:
            # It has been registered by other means since; what it said here is no longer so.
            self._gone(agent)
        name = DISCOVERY + self._places.of(agent)
        if self._broker.channels.find(name) is not None or self._broker.core.filters.match(name):
            message = self._message(entry, name)
            self._broker.news.tell(name, message.payload or b"", (message.envelope or EMPTY).headers)

    def _gone(self, agent: str) -> None:
        name = DISCOVERY + self._places.of(agent)
        self._native.pop(agent, None)
        self.when_registered(agent)
        if self._held(name) is not None:
            self._broker.say(InnerSession(MESH), Message(name, b"", Wish.AT_LEAST_ONCE, "", True))
        else:
            self._broker.news.tell(name, b"")

    # -- read ----------------------------------------------------------------------------------------

    def retained(self, filter_: str) -> Iterator[Message]:
        """The cards that match, as they are when they are reached."""
        if is_exact(filter_):
            agent = self._places.agent_at(filter_[len(DISCOVERY) :]) if filter_.startswith(DISCOVERY) else None
            ids = [agent] if agent is not None else []
        else:
            ids = [OWN, *[entry.id for entry in self._broker.directory.all() if entry.card and entry.id != OWN]]
        for agent in ids:
            name = DISCOVERY + self._places.of(agent)
            if not matches(filter_, name):
                continue
            if agent == OWN:
                yield self._made(OWN, self._own_card, name, online=True)
                continue
            entry = self._broker.directory.get(agent)
            if entry is not None and entry.card is not None:
                yield self._message(entry, name)

    def permits(self, principal: Principal, name: str) -> bool:
        """Whether the principal may know of the agent there."""
        agent = self._places.agent_at(name[len(DISCOVERY) :])
        return agent is None or agent == OWN or self._broker.directory.sees(principal, agent)

    def _message(self, entry: Agent, name: str) -> Message:
        online = entry.state in PRESENT
        held = self._held(name) if self.native(entry.id) is not None else None
        if held is None:
            return self._made(entry.id, entry.card, name, online=online)
        envelope = _with_status(held.envelope or EMPTY, online=online)
        message = Message(name, held.payload, held.wish, held.sender, True, envelope)
        message.time_ms = held.time_ms
        return message

    def _held(self, name: str) -> Message | None:
        """The card as its agent published it."""
        channel = self._broker.channels.find(name)
        held = channel.retained if channel is not None else None
        return None if held is None or held.expired(self._broker.core.now_ms) else held

    def _made(self, agent: str, card: Card | None, name: str, *, online: bool) -> Message:
        payload = cards.show(agent, card, self._reached, anonymous=True).body
        envelope = _with_status(Envelope(content_type="application/json", text=True), online=online)
        message = Message(name, payload, Wish.AT_LEAST_ONCE, "", True, envelope)
        message.time_ms = self._broker.core.now_ms
        return message


def _says_offline(message: Message) -> bool:
    return message.envelope is not None and message.envelope.header(STATUS) == b"offline"


def _with_status(envelope: Envelope, *, online: bool) -> Envelope:
    """The same with our word on whether the agent is there, instead of anybody's."""
    said = envelope.respelt(envelope.reply_to)
    others = tuple([header for header in envelope.headers if header[0] not in (STATUS, SOURCE)])
    status: tuple[Header, ...] = ((STATUS, b"online" if online else b"offline"), (SOURCE, b"broker"))
    said.headers = (*others, *status)
    return said


def _checked(payload: bytes, agent: str) -> Native | Refusal:
    if len(payload) > CARD_BYTES_MAX:
        return Refusal(Reason.TOO_LARGE, f"a card has at most {CARD_BYTES_MAX} bytes, not {len(payload)}")
    try:
        given: Any = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Refusal(Reason.CARD_INVALID, f"the card is no JSON: {error}")
    if not isinstance(given, dict):
        return Refusal(Reason.CARD_INVALID, "a card is a JSON object")
    for member, kind in _REQUIRED.items():
        if not isinstance(given.get(member), kind):
            return Refusal(Reason.CARD_INVALID, f"the card's {member} is {_KINDS[kind]}, and is needed")
    card = parse_card(given, agent)
    if isinstance(card, Refusal):
        return card
    modes = [mode for mode in given["defaultInputModes"] if isinstance(mode, str)]
    takes_json = any(mode in ("application/json", "application/*", "*/*") for mode in modes)
    return Native(card, given["capabilities"].get("streaming") is True, takes_json)
