"""What can be configured about agents, rooms, calls and verbs. Every collection of these rooms has its bound here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dragoman.broker.settings_key import key

_MINUTE_MS: Final = 60_000
_HOUR_MS: Final = 60 * _MINUTE_MS
_DAY_MS: Final = 24 * _HOUR_MS
_MIB: Final = 1024 * 1024


def _root_problem(value: object) -> str | None:
    assert isinstance(value, str)
    if not value or value.startswith("$") or any(sign in value for sign in "/+#\0"):
        return "one topic level: not empty, no /, + or #, not beginning with $"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """The directory, ad-hoc rooms, calls and verbs."""

    agents_max: int = key(
        250_000,
        unit="agents",
        low=1,
        why="one with a card takes about 1 KB; the longest gone leave early before anyone is refused",
    )
    agents_per_principal_max: int = key(
        100_000, unit="agents", low=1, why="high, since all anonymous MQTT clients are one principal"
    )
    flap_ms: int = key(
        2_000,
        unit="ms",
        low=0,
        why="how long the news of a broken connection waits for the agent to return; the state is true at once",
    )
    linger_ms: int = key(
        _MINUTE_MS,
        unit="ms",
        low=1,
        why="how long one that is gone can still be looked up, and one lost without a session is waited for",
    )
    work_limit: int | None = key(
        None, unit="calls", low=0, why="calls an agent that does not say works on at once; none = any number"
    )
    card_lease_ms: int = key(
        _HOUR_MS,
        unit="ms",
        low=1,
        why="the lease of a card that an agent without a connection registers without naming one",
    )
    lease_max_ms: int = key(30 * _DAY_MS, unit="ms", low=1, why="longer leases of cards and rooms are cut to this")
    skills_max: int = key(2_000_000, unit="skills", low=1, why="skills of all cards; each is an entry of the index")
    history_max: int = key(10_000, unit="changes", low=0, why="changes of the directory that a watch can resume over")
    offers_max: int = key(500_000, unit="offers", low=1, why="skills served by live connections, in all")
    offers_per_session_max: int = key(1_000, unit="offers", low=1, why="far beyond what one program serves")
    found_max: int = key(10_000, unit="agents", low=1, why="what one query may return")

    rooms_max: int = key(100_000, unit="rooms", low=0, why="ad-hoc rooms, in all")
    rooms_per_principal_max: int = key(
        1_000, unit="rooms", low=0, why="rooms may be opened by models, which repeat themselves"
    )
    room_invites_max: int = key(1_000, unit="agents", low=0, why="a larger audience wants a named channel and a rule")
    room_lease_ms: int = key(_HOUR_MS, unit="ms", low=1, why="the lease of a room opened without naming one")

    calls_max: int = key(50_000, unit="calls", low=1, why="calls without an answer yet, in all")
    calls_per_principal_max: int = key(5_000, unit="calls", low=1, why="one principal's share of them")
    calls_bytes_max: int = key(
        256 * _MIB, unit="bytes", low=1, why="arguments, partial answers and answers of all calls in memory"
    )
    call_arguments_max: int = key(
        8 * _MIB, unit="bytes", low=1, why="arguments of one call; larger things go through a channel"
    )
    call_deadline_ms: int = key(
        _MINUTE_MS, unit="ms", low=1, why="for a call that names no deadline; MCP clients wait 60 s too"
    )
    call_deadline_max_ms: int = key(7 * _DAY_MS, unit="ms", low=1, why="longer deadlines are cut to this")
    call_durable_after_ms: int = key(
        5_000, unit="ms", low=0, why="a call without an answer for this long becomes a record in the log"
    )
    call_kept_ms: int = key(5 * _MINUTE_MS, unit="ms", low=0, why="how long a finished call's record can be read")
    calls_kept_max: int = key(100_000, unit="calls", low=0, why="records of finished calls; the oldest leave first")
    call_events_max: int = key(
        256, unit="events", low=2, why="events kept of one call; the oldest partial answers leave first"
    )
    call_events_bytes_max: int = key(_MIB, unit="bytes", low=1, why="the same in bytes; the final answer always stays")
    call_watchers_max: int = key(64, unit="watchers", low=1, why="of one call")
    calls_waiting_per_skill_max: int = key(
        10_000, unit="calls", low=0, why="calls that wait for one skill's servers to come back or to have room"
    )

    verb_root: str = key(
        "mesh", check=_root_problem, why="first level of verb topics; a plant may use the word already"
    )
    verb_waiting_max: int = key(
        1_000, unit="messages", low=0, why="what waits for one verb subscription while its connection has no credit"
    )
    verb_waiting_bytes_max: int = key(8 * _MIB, unit="bytes", low=0, why="the same in bytes")
    verb_subscriptions_max: int = key(1_000, unit="subscriptions", low=1, why="verb subscriptions of one connection")

    timers_durable_max: int = key(1_000_000, unit="timers", low=1, why="deadlines that outlive a restart")
