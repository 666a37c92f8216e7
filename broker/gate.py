"""May they? The one place that decides it, for every protocol.

Rules are asked in the order of the configuration; the first that speaks of the principal, the action
and the name decides, and ``default`` decides where none speaks. What no rule can change:

- ``$mesh/…`` and ``$SYS/…`` are written by nobody. They may be read unless a rule denies it,
  even where ``default`` is ``deny``: clients rely on presence.
- ``$mail/…`` is where the mesh keeps mailboxes: nobody reads or writes there, they are asked for by their agent.
- Administration is for principals with ``admin``; no rule gives it.
- The embedding program is trusted like the process it is.

Subscribing to a wildcard is allowed when *some* of its channels may be subscribed to; then ``FOLLOW`` is asked for
each channel when the route is built, so a wildcard never shows what its reader may not have: what he could not
subscribe to by name, or may not receive.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Final, TypeAlias, final

from dragoman.broker.principal import EMBEDDED, MESH, Principal
from dragoman.broker.rates import Limiter, limiters_of
from dragoman.broker.rules import Rule, covers, matches, names, overlaps
from dragoman.routing.names import is_exact
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.gate_settings import GateSettings, RuleSettings


class Action(IntEnum):
    """What somebody wants to do.

    READ is being given messages, one page or value as well as all that come. FOLLOW is being given what a
    subscription brings: READ of the channel and SUBSCRIBE to it by name. WIDEN is SUBSCRIBE with a wildcard: nobody
    asks for it, ``check`` sees it in the filter.
    """

    PUBLISH = 0
    SUBSCRIBE = 1
    READ = 2
    JOIN = 3
    CALL = 4
    SERVE = 5
    REGISTER = 6
    CREATE = 7
    ADMIN = 8
    FOLLOW = 9
    WIDEN = 10


class Verdict(IntEnum):
    """An answer that is no refusal. INSPECT: ask again for each message. PENDING: somebody must approve first."""

    ALLOW = 0
    INSPECT = 1
    PENDING = 2


Answer: TypeAlias = Verdict | Refusal

_ALL: Final = sum(1 << action for action in Action if action is not Action.ADMIN)
_SUBSCRIBING: Final = 1 << Action.SUBSCRIBE | 1 << Action.WIDEN | 1 << Action.JOIN
_READING: Final = _SUBSCRIBING | 1 << Action.READ
_DENIES: Final[dict[str, int]] = {
    "publish": 1 << Action.PUBLISH,
    "read": _READING,
    "subscribe": _SUBSCRIBING,
    "wildcard": 1 << Action.WIDEN,
    "receive": 1 << Action.READ,
    "join": 1 << Action.JOIN,
    "call": 1 << Action.CALL,
    "serve": 1 << Action.SERVE,
    "register": 1 << Action.REGISTER,
    "create": 1 << Action.CREATE,
    "*": _ALL,
}
# Who may publish or subscribe must be able to make the channel by it; who may not is stopped before that is asked.
_ALLOWS: Final[dict[str, int]] = _DENIES | {
    "publish": 1 << Action.PUBLISH | 1 << Action.CREATE,
    "read": _READING | 1 << Action.CREATE,
    "subscribe": _SUBSCRIBING | 1 << Action.CREATE,
}
_OURS: Final = ("$mesh", "$SYS")
_PRIVATE: Final = "$mail"
_IN_CHANNELS: Final = (
    Action.PUBLISH,
    Action.SUBSCRIBE,
    Action.READ,
    Action.JOIN,
    Action.CREATE,
    Action.FOLLOW,
    Action.WIDEN,
)
_WORDS: Final = (
    "publish to",
    "subscribe to",
    "read",
    "join",
    "call",
    "serve",
    "register as",
    "create",
    "administer",
    "follow",
    "subscribe to",
)

assert len(_WORDS) == len(Action)


@final
class Gate:
    """Judges by rules. ``generation`` grows whenever answers may have changed: keep it beside a remembered answer."""

    __slots__ = ("_limiters", "_rules", "_settings", "_total", "_verdicts", "generation")

    def __init__(self, settings: GateSettings) -> None:
        self.generation = 0
        self._verdicts: dict[tuple[str, int, str, str], Answer] = {}
        # One a principal; principals come from the configuration, which bounds this.
        self._limiters: dict[str, tuple[Principal, tuple[Limiter, ...]]] = {}
        self._total = limiters_of(*_total(settings))
        self._install(settings)

    def replace(self, settings: GateSettings) -> None:
        """Takes new rules and rates. Connections keep their limiters, at the new rates."""
        self._install(settings)
        self.generation += 1
        self._verdicts.clear()

    def _install(self, settings: GateSettings) -> None:
        self._settings = settings
        self._rules = [_rule(number, rule) for number, rule in enumerate(settings.rules, start=1)]
        _change(self._total, _total(settings))
        for principal, limiters in self._limiters.values():
            _change(limiters, self._rate(principal))

    def check(self, principal: Principal, action: Action, resource: str, agent: str = "") -> Answer:
        """Whether ``principal``, speaking as ``agent``, may do ``action`` to ``resource``.

        ``resource`` is a channel name; a filter for SUBSCRIBE; ``agent/skill`` for CALL (``/skill`` when no agent is
        named: then ask again with the one chosen); a skill for SERVE; an agent id for REGISTER; "" for ADMIN. Agent
        ids and skills within it are one percent-encoded level.
        """
        if action == Action.ADMIN:
            return Verdict.ALLOW if principal.admin else self._no(principal, action, resource, "it is no administrator")
        if principal is MESH:
            return Verdict.ALLOW
        if resource.startswith(_PRIVATE) and action in _IN_CHANNELS and resource.split("/", 1)[0] == _PRIVATE:
            return self._no(principal, action, resource, "mail is read through its agent's mailbox alone")
        writing = action == Action.PUBLISH or action == Action.CREATE
        if writing and resource.startswith("$") and resource.split("/", 1)[0] in _OURS:
            return self._no(principal, action, resource, "the mesh alone writes there")
        if not self._rules and self._settings.default == "allow":
            return Verdict.ALLOW
        if principal is EMBEDDED:
            return Verdict.ALLOW
        remembered = (principal.name, action, resource, agent)
        answer = self._verdicts.get(remembered)
        if answer is None:
            answer = self._ask(principal, action, resource, agent)
            if len(self._verdicts) >= self._settings.verdicts_max:
                self._verdicts.clear()
            self._verdicts[remembered] = answer
        return answer

    def limiters(self, principal: Principal) -> tuple[Limiter, ...]:
        """What limits how fast the principal publishes: its own rates and the whole mesh's, those that are on.

        Ask again when ``generation`` has grown. The mesh itself and the program that embeds it have none.
        """
        if principal is MESH or principal is EMBEDDED:
            return ()
        known = self._limiters.get(principal.name)
        if known is None:
            rate = self._rate(principal)
            if rate[0] or rate[2]:
                known = self._limiters[principal.name] = (principal, limiters_of(*rate))
        own = known[1] if known is not None else ()
        return tuple(limiter for limiter in (*own, *self._total) if limiter.on)

    def _rate(self, principal: Principal) -> tuple[int, int, int, int]:
        for rate in self._settings.rates:
            if names(rate.who, principal):
                return rate.messages_per_s, rate.burst, rate.bytes_per_s, rate.bytes_burst
        settings = self._settings
        return settings.messages_per_s, settings.burst, settings.bytes_per_s, settings.bytes_burst

    def _ask(self, principal: Principal, action: Action, resource: str, agent: str) -> Answer:
        if action == Action.FOLLOW:
            answer = self._judge(principal, Action.READ, resource, agent)
            if isinstance(answer, Refusal):
                return answer
            action = Action.SUBSCRIBE
        elif action == Action.SUBSCRIBE and not is_exact(resource):
            action = Action.WIDEN
        return self._judge(principal, action, resource, agent)

    def _judge(self, principal: Principal, action: Action, resource: str, agent: str) -> Answer:
        levels = resource.split("/")
        bit = 1 << action
        some = False
        for rule in self._rules:
            if not rule.concerns(principal, bit):
                continue
            for pattern in rule.patterns:
                wanted = pattern.for_whom(principal, agent)
                if wanted is None:
                    continue
                if action != Action.WIDEN:
                    decided = matches(wanted, levels)
                else:
                    decided = covers(wanted, levels)
                    # A rule for a part of what a wildcard asks decides nothing yet: a deny for a part leaves the rest,
                    # an allow for a part is enough to let the reader in. FOLLOW judges each channel.
                    some = some or (rule.allow and overlaps(wanted, levels))
                if decided:
                    if rule.allow or some:
                        return Verdict.ALLOW
                    return self._no(principal, action, resource, f"{rule.text} denies it")
        if some or self._settings.default == "allow" or (bit & _READING and levels[0] in _OURS):
            return Verdict.ALLOW
        return self._no(principal, action, resource, "no rule allows it and the default is deny")

    def _no(self, principal: Principal, action: Action, resource: str, why: str) -> Refusal:
        what = f" {resource!r}" if resource else ""
        return Refusal(Reason.NOT_AUTHORIZED, f"{principal.name!r} may not {_WORDS[action]}{what}: {why}")


def _rule(number: int, settings: RuleSettings) -> Rule:
    allow = settings.effect == "allow"
    words = _ALLOWS if allow else _DENIES
    actions = 0
    for word in settings.actions:
        actions |= words[word]
    return Rule(allow=allow, who=settings.who, actions=actions, filters=settings.filters, text=f"gate rule {number}")


def _total(settings: GateSettings) -> tuple[int, int, int, int]:
    return (
        settings.total_messages_per_s,
        settings.total_burst,
        settings.total_bytes_per_s,
        settings.total_bytes_burst,
    )


def _change(limiters: Sequence[Limiter], rate: tuple[int, int, int, int]) -> None:
    messages, weight = limiters
    messages.change(rate[0], rate[1])
    weight.change(rate[2], rate[3])
