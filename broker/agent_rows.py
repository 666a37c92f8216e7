"""How agents with a leased card or a kept session are remembered over a restart."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from dragoman.broker.log.contract import Table
from dragoman.broker.presence import PRESENT, Agent, State, card_name
from dragoman.broker.rows import Row, decode_row, encode_row
from dragoman.routing.cards import Card, card_json, parse_card
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dragoman.broker.log.contract import Log


class AgentRow(Row):
    """One agent. ``declared`` and ``offered`` are cards as JSON."""

    agent: str = ""
    principal: str = ""
    state: str = "gone"
    since_ms: int = 0
    via: str = ""
    session_number: int = 0
    kept: tuple[str, ...] = ()
    limit: int | None = None
    declared: bytes | None = None
    offered: bytes | None = None
    lease_due_ms: int = 0


def agent_key(agent: str) -> bytes:
    """The row's key. Ids may be twice as long as a key."""
    raw = agent.encode()
    return b"=" + raw if len(raw) <= 256 else b"#" + blake2b(raw, digest_size=32).digest()


def save(log: Log, agent: Agent) -> None:
    """Writes the row, or takes it out if nothing of the agent outlives the process."""
    key = agent_key(agent.id)
    if not agent.kept and not agent.lease_due_ms:
        if agent.stored:
            agent.stored = False
            log.put(Table.AGENTS, key, None)
        return
    agent.stored = True
    offered = Card(agent=agent.id, name=card_name(agent.id), skills=agent.offered) if agent.offered else None
    row = AgentRow(
        agent=agent.id,
        principal=agent.principal_name,
        state=agent.state.value,
        since_ms=agent.since_ms,
        via=agent.via,
        session_number=agent.session_number,
        kept=agent.kept,
        limit=agent.limit,
        declared=_packed(agent.declared),
        offered=_packed(offered),
        lease_due_ms=agent.lease_due_ms,
    )
    log.put(Table.AGENTS, key, encode_row(row))


def forget(log: Log, agent: Agent) -> None:
    """Takes the row out, if there is one."""
    if agent.stored:
        agent.stored = False
        log.put(Table.AGENTS, agent_key(agent.id), None)


def load(log: Log, now_ms: int) -> Iterator[Agent]:
    """The agents the log remembers. Whoever was connected when the process ended is lost: its connection broke."""
    for _, value in list(log.rows(Table.AGENTS)):
        row = decode_row(value, AgentRow)
        agent = Agent(row.agent, row.principal, row.limit)
        agent.stored = True
        agent.state = State(row.state)
        agent.since_ms = row.since_ms
        if agent.state in PRESENT:
            agent.state = State.LOST
            agent.since_ms = now_ms
        agent.via = row.via
        agent.session_number = row.session_number
        agent.kept = row.kept
        agent.declared = _unpacked(row.declared, row.agent)
        offered = _unpacked(row.offered, row.agent)
        agent.offered = offered.skills if offered is not None else ()
        agent.lease_due_ms = row.lease_due_ms
        yield agent


def _packed(card: Card | None) -> bytes | None:
    return msgspec.json.encode(card_json(card)) if card is not None else None


def _unpacked(packed: bytes | None, agent: str) -> Card | None:
    if packed is None:
        return None
    card = parse_card(msgspec.json.decode(packed), agent)
    assert not isinstance(card, Refusal), f"a card we wrote does not read back: {card}"
    return card
