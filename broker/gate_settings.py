"""What can be configured about the gate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dragoman.broker.rules import filter_problem
from dragoman.broker.settings_key import key, required

ACTION_WORDS: Final = (
    "publish",
    "read",
    "subscribe",
    "wildcard",
    "receive",
    "join",
    "call",
    "serve",
    "register",
    "create",
    "*",
)
"""What a rule may speak of. Administration is not among them: only an admin principal has it."""


def _filters_problem(value: object) -> str | None:
    assert isinstance(value, tuple)
    if not value:
        return "an empty list of filters matches nothing; leave the key out for every name"
    return next((problem for text in value if (problem := filter_problem(text)) is not None), None)


def _who_problem(value: object) -> str | None:
    assert isinstance(value, tuple)
    if not value or "" in value or "@" in value:
        return "name at least one principal, '@group' or '*' (everyone)"
    return None


def _actions_problem(value: object) -> str | None:
    assert isinstance(value, tuple)
    unknown = [word for word in value if word not in ACTION_WORDS]
    if unknown or not value:
        return f"{unknown or 'nothing'} is no action; the actions are {', '.join(ACTION_WORDS)}"
    return None


@dataclass(frozen=True, slots=True)
class RuleSettings:
    """One rule. Rules are asked in the order of the file; the first that speaks of who, action and name decides."""

    effect: str = required(example="deny", choices=("allow", "deny"), why="what this rule answers")
    who: tuple[str, ...] = key(
        ("*",),
        why="principals by name, '@group', 'anonymous' or '*' for everyone",
        check=_who_problem,
    )
    actions: tuple[str, ...] = key(
        ("*",),
        why="publish, read (= subscribe, receive), subscribe (and join), wildcard (subscribing with one), receive, "
        "join (only being a member), call, serve, register, create, or '*'",
        check=_actions_problem,
    )
    filters: tuple[str, ...] = key(
        ("#", "$mesh/#", "$SYS/#"),
        why="channel filters; %c is the agent id, %u the principal. call: agent/skill, serve: skill, register: agent",
        check=_filters_problem,
    )


@dataclass(frozen=True, slots=True)
class RateSettings:
    """A rate for some principals, instead of the common one. The first that names the principal decides."""

    who: tuple[str, ...] = required(
        example=("ann", "@ops"), check=_who_problem, why="principals by name, '@group' or '*'"
    )
    messages_per_s: int = key(0, unit="messages per second", low=0, why="0 = no limit")
    burst: int = key(1_000, unit="messages", low=1, why="how much may come at once after a pause")
    bytes_per_s: int = key(0, unit="bytes per second", low=0, why="of payload; 0 = no limit")
    bytes_burst: int = key(1 << 20, unit="bytes", low=1, why="how much may come at once after a pause")


@dataclass(frozen=True, slots=True)
class GateSettings:
    """Who may do what, how fast."""

    default: str = key(
        "allow",
        choices=("allow", "deny"),
        why="the answer when no rule speaks; a mesh with no rules has to work (mosquitto without an ACL file: allow)",
        live=True,
    )
    messages_per_s: int = key(
        0,
        unit="messages per second",
        low=0,
        why="per principal; 0 = no limit, since a plant's rate is not ours to guess",
        live=True,
    )
    burst: int = key(
        1_000, unit="messages", low=1, why="per principal; how much may come at once after a pause", live=True
    )
    bytes_per_s: int = key(0, unit="bytes per second", low=0, why="payload, per principal; 0 = no limit", live=True)
    bytes_burst: int = key(
        1 << 20, unit="bytes", low=1, why="per principal; how much may come at once after a pause", live=True
    )
    total_messages_per_s: int = key(
        0, unit="messages per second", low=0, why="all principals together; 0 = no limit", live=True
    )
    total_burst: int = key(
        10_000, unit="messages", low=1, why="all together; how much may come at once after a pause", live=True
    )
    total_bytes_per_s: int = key(
        0, unit="bytes per second", low=0, why="payload, all principals together; 0 = no limit", live=True
    )
    total_bytes_burst: int = key(
        16 << 20, unit="bytes", low=1, why="all together; how much may come at once after a pause", live=True
    )
    verdicts_max: int = key(
        65_536,
        unit="entries",
        low=1,
        why="remembered answers; forgotten all at once when full, about 200 bytes each",
        live=True,
    )
    rules: tuple[RuleSettings, ...] = key((), why="asked in this order, first match decides", live=True)
    rates: tuple[RateSettings, ...] = key(
        (), why="exceptions from messages_per_s and burst, first match decides", live=True
    )
