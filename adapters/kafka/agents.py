"""Agents that speak nothing but Kafka: registered by a record, asked by records, answering with records.

``{root}.agents``      key: the agent's id; value: its card, as in HTTP; null: it leaves. The header
                       ``mesh-asks`` names the topic it wants its calls in (``{id}.asks`` if absent)
a call arrives there   value: the arguments; headers ``mesh-skill``, ``mesh-call``, ``mesh-caller``,
                       ``correlation-id`` (the call), ``reply-to`` (``{root}.answer``), ``expires-at`` (the
                       deadline); a null value with ``mesh-cancel`` says that nobody waits for that call any more
``{root}.answer``      the answer: ``correlation-id`` as it came; ``mesh-status`` ``part`` or ``error`` if it is one

Such an agent is here as long as it fetches from its topic; a topic nobody fetches from makes it absent. What it was
asked waits for it and comes again when it is back; so do calls that are to outlive connections.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, final

import msgspec

from dragoman.broker.gate import Action
from dragoman.broker.log.contract import Table
from dragoman.broker.rows import Row, decode_row, encode_row
from dragoman.broker.verb_replies import Voice
from dragoman.routing.cards import Card, card_json, parse_card
from dragoman.routing.message import Envelope, Header, Message, Wish
from dragoman.routing.names import check_name, shown, to_level
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.adapters.kafka.realm import Realm
    from dragoman.adapters.kafka.session import KafkaSession
    from dragoman.broker.log.contract import Ticket
    from dragoman.broker.offers import Asked
    from dragoman.broker.principal import Principal
    from dragoman.broker.subscription import Feed

ASKS: Final = "mesh-asks"
SKILL: Final = "mesh-skill"
CALL: Final = "mesh-call"
CALLER: Final = "mesh-caller"
CANCEL: Final = "mesh-cancel"

PRESENT_MS: Final = 45_000
"""How long an agent is here after its last fetch: longer than any fetch waits, so that who polls is never away."""

AGENTS_MAX: Final = 10_000
"""Agents registered by record."""

_ROWS: Final = b"kafka-agent/"


class AgentRow(Row):
    """A registration: whose, with what card, asked where."""

    agent: str = ""
    principal: str = ""
    asks: str = ""
    card: bytes = b""


@final
class KafkaAgent:
    """One registered agent; the broker's session while it is here."""

    protocol: Final = "kafka"

    def __init__(self, agents: Agents, principal: Principal, agent: str, card: Card, asks: str) -> None:
        self._agents = agents
        self.principal = principal
        self.agent = agent
        self.card = card
        self.asks = asks
        self.here = False
        self.seen_ms = 0

    def arrive(self, principal: Principal) -> Refusal | None:
        """It is here, acting as ``principal``, and serves what its card says."""
        broker = self._agents.realm.broker
        self.principal = principal
        refusal = broker.attach(self)
        if refusal is not None:
            return refusal
        # Nothing of what it served before: all of that follows from the card.
        number = broker.directory.arrive(self, self.agent, keeps=False)
        if isinstance(number, Refusal):
            broker.detach(self)
            return number
        self.here = True
        refusal = self._declare()
        if refusal is not None:
            self.leave(clean=True)
            broker.directory.unregister(principal, self.agent)
        return refusal

    def _declare(self) -> Refusal | None:
        """Shows its card, which stays as long as it is registered, and serves the skills on it."""
        directory = self._agents.realm.broker.directory
        directory.keep(self.agent, self.protocol)
        revision = directory.register(self.principal, self.agent, self.card, lease_ms=None, via=self.protocol)
        if isinstance(revision, Refusal):
            return revision
        for skill in self.card.skills:
            offer = directory.offer(self, self.agent, skill, self._ask, self._cancelled)
            if isinstance(offer, Refusal):
                return offer
        return None

    def leave(self, *, clean: bool) -> None:
        """It is not here any more."""
        if self.here:
            self.here = False
            broker = self._agents.realm.broker
            broker.directory.depart(self, clean=clean, keeps=not clean)
            broker.detach(self)

    def _ask(self, call: Asked) -> bool:
        headers: tuple[Header, ...] = ((SKILL, call.skill.encode()), (CALL, call.id.encode()))
        if call.caller_agent:
            headers += ((CALLER, call.caller_agent.encode()),)
        envelope = Envelope(
            headers=headers,
            content_type=call.content_type,
            reply_to=self._agents.answers,
            correlation=call.id.encode(),
            expires_ms=call.deadline_ms,
            cause=call.cause,
        )
        return self._say(Message(self.asks, call.arguments, Wish.AT_LEAST_ONCE, "", False, envelope))

    def _cancelled(self, call: Asked) -> None:
        envelope = Envelope(headers=((CANCEL, call.id.encode()),), correlation=call.id.encode())
        self._say(Message(self.asks, None, Wish.AT_LEAST_ONCE, "", False, envelope))

    def _say(self, message: Message) -> bool:
        answer = self._agents.realm.broker.publish(Voice(self.principal, self.agent), message)
        return not isinstance(answer, Refusal)

    def deliver(self, feed: Feed, message: Message) -> bool:
        """It fetches; nothing is pushed to it."""
        return False

    def lost(self, feed: Feed, count: int) -> None:
        """It has no feeds."""

    def committed(self, ticket: Ticket) -> None:
        """Nobody waits for what is said for it."""

    def refused(self, ticket: Ticket, refusal: Refusal) -> None:
        """The log counts it; the call ends at its deadline."""

    def close(self, refusal: Refusal) -> None:
        """The mesh ends, or somebody sends it away; it is back with its next fetch."""
        self.leave(clean=False)


@final
class Agents:
    """The agents registered by record. They outlive connections and restarts."""

    def __init__(self, realm: Realm) -> None:
        self.realm = realm
        prefix = realm.broker.verbs.prefix
        self._register = prefix + "agents"
        self.answers = prefix + "answer"
        self._by_id: dict[str, KafkaAgent] = {}
        self._by_asks: dict[str, dict[str, KafkaAgent]] = {}
        for _, value in list(realm.core.log.rows(Table.META, _ROWS)):
            self._restore(decode_row(value, AgentRow))
        realm.broker.timers.after(PRESENT_MS // 2, self._sweep)

    def _restore(self, row: AgentRow) -> None:
        from dragoman.broker.principal import Principal

        card = parse_card(msgspec.json.decode(row.card), row.agent)
        if isinstance(card, Card):
            # Its rights are those of whoever fetches for it; until then it is not here and has none.
            self._enter(KafkaAgent(self, Principal(row.principal), row.agent, card, row.asks))

    def _enter(self, entry: KafkaAgent) -> None:
        self._by_id[entry.agent] = entry
        self._by_asks.setdefault(entry.asks, {})[entry.agent] = entry

    def _forget(self, entry: KafkaAgent) -> None:
        entry.leave(clean=True)
        del self._by_id[entry.agent]
        mine = self._by_asks[entry.asks]
        del mine[entry.agent]
        if not mine:
            del self._by_asks[entry.asks]

    # -- what records do -----------------------------------------------------------------------------

    def act(self, session: KafkaSession, message: Message) -> Ticket | Refusal:
        """Does what a record in a topic below ``{root}.`` says."""
        if message.name == self._register:
            return self._registered(session, message)
        envelope = message.envelope
        if message.name == self.answers and envelope is not None and envelope.correlation:
            message.name = f"{self.answers}/{to_level(envelope.correlation.decode('utf-8', 'replace'))}"
        if message.name.startswith(self.answers + "/"):
            return self._answered(session, message)
        return self.realm.broker.publish(session, message)

    def _answered(self, session: KafkaSession, message: Message) -> Ticket | Refusal:
        """Only the agent that was asked may answer: which of the principal's it was, the call knows."""
        broker = self.realm.broker
        call = broker.calls.get(session.principal, message.name[len(self.answers) + 1 :].partition("/")[0])
        if isinstance(call, Refusal):
            return call
        entry = self._by_id.get(call.agent)
        mine = entry is not None and entry.principal.name == session.principal.name
        return broker.publish(entry if entry is not None and mine and entry.here else session, message)

    def _registered(self, session: KafkaSession, message: Message) -> Ticket | Refusal:
        key = message.envelope.key if message.envelope is not None else None
        try:
            agent = (key or b"").decode()
        except UnicodeDecodeError:
            agent = ""
        if not agent:
            return Refusal(Reason.ARGUMENTS_INVALID, "the record's key is the agent's id, in UTF-8")
        known = self._by_id.get(agent)
        if known is not None and known.principal.name != session.principal.name:
            return Refusal(Reason.AGENT_TAKEN, f"agent {shown(agent)} belongs to another principal")
        if message.payload is None:
            return self._leaves(session, agent, known)
        card = _card(message.payload, agent)
        if isinstance(card, Refusal):
            return card
        verdict = self.realm.gate.check(session.principal, Action.REGISTER, agent, agent)
        if isinstance(verdict, Refusal):
            return verdict
        if known is None and len(self._by_id) >= AGENTS_MAX:
            return Refusal(Reason.QUOTA_EXCEEDED, f"{AGENTS_MAX} agents are registered by record, which is the limit")
        asks = self._asks(session, agent, message)
        if isinstance(asks, Refusal):
            return asks
        if known is not None:
            self._forget(known)
        entry = KafkaAgent(self, session.principal, agent, card, asks)
        return self._enters(session, entry)

    def _enters(self, session: KafkaSession, entry: KafkaAgent) -> Ticket | Refusal:
        self._enter(entry)
        refusal = self._present(entry, session.principal)
        if refusal is not None:
            self._forget(entry)
            self._write(session, entry.agent, None)
            return refusal
        row = AgentRow(
            agent=entry.agent,
            principal=session.principal.name,
            asks=entry.asks,
            card=msgspec.json.encode(card_json(entry.card)),
        )
        return self._write(session, entry.agent, row)

    def _write(self, session: KafkaSession, agent: str, row: AgentRow | None) -> Ticket:
        """The registration as it is to be after a restart; its record is answered when that is safe."""
        core = self.realm.core
        ticket = core.log.put(Table.META, _row_key(agent), None if row is None else encode_row(row))
        core.commits.tell(ticket, session)
        return ticket

    def _leaves(self, session: KafkaSession, agent: str, known: KafkaAgent | None) -> Ticket | Refusal:
        if known is None:
            return Refusal(Reason.UNKNOWN_AGENT, f"no agent {shown(agent)} was registered by record")
        self._forget(known)
        ticket = self._write(session, agent, None)
        return self.realm.broker.directory.unregister(session.principal, agent) or ticket

    def _asks(self, session: KafkaSession, agent: str, message: Message) -> str | Refusal:
        """The channel it wants its calls in; a topic from now on."""
        said = message.envelope.header(ASKS) if message.envelope is not None else None
        if said is None:
            name: str | Refusal = f"{to_level(agent)}/asks"
        else:
            name = self.realm.names.channel(said.decode("utf-8", "replace"))
        if isinstance(name, Refusal):
            return name
        if self.realm.broker.verbs.owns(name) or check_name(name) is not None:
            return Refusal(Reason.NAME_INVALID, f"calls cannot come in {shown(name)}: it is no channel")
        topic = self.realm.topics.ensure(session, name)
        return topic if isinstance(topic, Refusal) else name

    # -- presence ------------------------------------------------------------------------------------

    def fetched(self, session: KafkaSession, name: str) -> None:
        """Somebody fetches from a channel: agents of the same principal that are asked there are here."""
        for entry in list(self._by_asks.get(name, {}).values()):
            if entry.principal.name == session.principal.name:
                self._present(entry, session.principal)

    def _present(self, entry: KafkaAgent, principal: Principal) -> Refusal | None:
        entry.seen_ms = self.realm.core.monotonic_ms
        return None if entry.here else entry.arrive(principal)

    def _sweep(self) -> None:
        if self.realm.core.stopping:
            return
        self.realm.core.tick()
        for entry in self._by_id.values():
            if entry.here and self.realm.core.monotonic_ms - entry.seen_ms > PRESENT_MS:
                entry.leave(clean=False)
        self.realm.broker.timers.after(PRESENT_MS // 2, self._sweep)


def _card(payload: bytes, agent: str) -> Card | Refusal:
    try:
        fields = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Refusal(Reason.CARD_INVALID, f"the card is no JSON: {error}")
    return parse_card(fields, agent)


def _row_key(agent: str) -> bytes:
    return _ROWS + hashlib.blake2b(agent.encode(), digest_size=16).digest()
