"""Which agents there are, whose they are, and how long they stay. The directory decides what happens to them.

An agent belongs to the principal that used its id first, for as long as it is here. It leaves when nothing
holds it: no connection, no kept session or mailbox, no leased card, and it has been gone for a while.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, final

import msgspec

from dragoman.broker import agent_rows
from dragoman.broker.counter import Counter
from dragoman.broker.history import History, What
from dragoman.broker.offers import SkillIndex
from dragoman.broker.presence import Agent, State
from dragoman.broker.projection import ROOT
from dragoman.routing.cards import Card, card_json
from dragoman.routing.names import check_agent, shown, to_level
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.clock import Clock
    from dragoman.broker.log.contract import Log
    from dragoman.broker.principal import Principal
    from dragoman.broker.settings_agents import AgentSettings
    from dragoman.broker.timers import Timer, Timers

PRESENCE = ROOT + "presence/"
CARDS = ROOT + "agents/"

SWEPT_PER_TURN_MAX = 1_000

Tell = Callable[[str, bytes], object]
"""Says news on a ``$mesh/…`` name at the end of the turn; an empty payload says that it is no more."""


@final
class Roster:
    """The agents by id, the index of their skills, and the history of both. For the directory."""

    def __init__(
        self,
        clock: Clock,
        timers: Timers,
        log: Log,
        tell: Tell,
        later: Callable[..., object],
        settings: AgentSettings,
        declared: Mapping[str, str],
    ) -> None:
        self._clock = clock
        self._timers = timers
        self._log = log
        self._tell = tell
        self._settings = settings
        self._declared = declared
        self.agents: dict[str, Agent] = {}
        self.skills = SkillIndex()
        self.history = History(log, later, settings.history_max)
        self.session_numbers = Counter(log, b"agent-sessions")
        self._per_principal: dict[str, int] = {}
        self._fading: dict[str, int] = {}
        self._sweep_timer: Timer | None = None

    def start(self) -> None:
        """Takes up the agents the log remembers. Once, after the log is open."""
        self.session_numbers.start()
        self.history.start()
        for agent in agent_rows.load(self._log, self._clock.now_ms()):
            self.agents[agent.id] = agent
            self._per_principal[agent.principal_name] = self._per_principal.get(agent.principal_name, 0) + 1
            self.skills.change(agent, agent.merged_card())
            agent.told = True
            # What is so already is newer than all that was said before the restart, older than all that will be.
            agent.revision = self.history.revision
            if agent.lease_due_ms:
                self._arm_lease(agent)
            self.fade(agent)

    def reserve(self, declared: Mapping[str, str]) -> None:
        """The principal of each configured agent id, from now on. Who is in by an id already keeps it."""
        self._declared = declared

    def save(self, entry: Agent) -> None:
        """What must outlive the process of it has changed."""
        agent_rows.save(self._log, entry)

    # -- entering and leaving ------------------------------------------------------------------------

    def enter(self, principal: Principal, agent: str) -> Agent | Refusal:
        """The agent as the principal's own, new if need be."""
        refusal = check_agent(agent)
        if refusal is not None:
            return refusal
        entry = self.agents.get(agent)
        owner = self._declared.get(agent)
        if entry is not None and entry.principal_name == principal.name:
            return entry
        if owner is not None and owner != principal.name:
            return Refusal(Reason.AGENT_TAKEN, f"agent {shown(agent)} is declared as another principal's")
        if entry is not None:
            if owner is None or entry.connections:
                return Refusal(Reason.AGENT_TAKEN, f"agent {shown(agent)} belongs to another principal")
            # Somebody used the id before the configuration gave it away.
            self._remove(entry)
        refusal = self._full(principal)
        if refusal is not None:
            return refusal
        entry = Agent(agent, principal.name, self._settings.work_limit)
        entry.since_ms = self._clock.now_ms()
        self.agents[agent] = entry
        self._per_principal[principal.name] = self._per_principal.get(principal.name, 0) + 1
        return entry

    def _full(self, principal: Principal) -> Refusal | None:
        settings = self._settings
        if self._per_principal.get(principal.name, 0) >= settings.agents_per_principal_max:
            self._make_room(principal.name)
        if self._per_principal.get(principal.name, 0) >= settings.agents_per_principal_max:
            return Refusal(
                Reason.QUOTA_EXCEEDED,
                f"{principal.name} has {settings.agents_per_principal_max} agents, which is the limit",
                settings.linger_ms,
            )
        if len(self.agents) >= settings.agents_max:
            self._make_room(None)
        if len(self.agents) >= settings.agents_max:
            return Refusal(
                Reason.QUOTA_EXCEEDED, f"{settings.agents_max} agents are here, which is the limit", settings.linger_ms
            )
        return None

    def _make_room(self, principal_name: str | None) -> None:
        """Lets the longest gone leave early. Looks at a few only, so that refusing stays cheap."""
        for agent in islice(self._fading, 64):
            entry = self.agents[agent]
            if principal_name is None or entry.principal_name == principal_name:
                self._remove(entry)
                return

    def leave(self, entry: Agent, state: State) -> None:
        """It is not connected any more. That a connection broke is news only if it does not come back soon."""
        self.into(entry, state)
        if state is State.LOST and self._settings.flap_ms:
            self._timers.after(self._settings.flap_ms, self._still_lost, entry, entry.session_number)
        else:
            self.announce(entry)
        self.fade(entry)

    def _still_lost(self, entry: Agent, session_number: int) -> None:
        if self.agents.get(entry.id) is entry and entry.session_number == session_number and entry.state is State.LOST:
            self.announce(entry)

    def fade(self, entry: Agent) -> None:
        """Sees to it that one nothing holds is looked at again: all wait equally long, so the first is the next."""
        self._fading.pop(entry.id, None)
        if entry.connections or entry.kept or (entry.state is not State.LOST and entry.lease_due_ms):
            return
        self._fading[entry.id] = self._clock.monotonic_ms() + self._settings.linger_ms
        if self._sweep_timer is None:
            self._sweep_timer = self._timers.after(self._settings.linger_ms, self._sweep)

    def _sweep(self) -> None:
        self._sweep_timer = None
        now = self._clock.monotonic_ms()
        for _ in range(SWEPT_PER_TURN_MAX):
            agent = next(iter(self._fading), None)
            if agent is None:
                return
            if self._fading[agent] > now:
                break
            entry = self.agents[agent]
            del self._fading[agent]
            if entry.state is State.LOST:
                self.leave(entry, State.GONE)
                self.save(entry)
            else:
                self._remove(entry)
        if self._fading:
            self._sweep_timer = self._timers.at(next(iter(self._fading.values())), self._sweep)

    def _remove(self, entry: Agent) -> None:
        assert not entry.connections, f"{entry.id!r} is connected"
        self._fading.pop(entry.id, None)
        if entry.lease is not None:
            entry.lease.cancel()
        had_card = entry.card is not None
        self.skills.change(entry, None)
        del self.agents[entry.id]
        count = self._per_principal[entry.principal_name] - 1
        if count:
            self._per_principal[entry.principal_name] = count
        else:
            del self._per_principal[entry.principal_name]
        agent_rows.forget(self._log, entry)
        if entry.told:
            self.history.record(entry.id, What.REMOVED, State.GONE, entry.session_number)
            self._tell(PRESENCE + to_level(entry.id), b"")
        if had_card:
            self._tell(CARDS + to_level(entry.id), b"")

    # -- state ---------------------------------------------------------------------------------------

    def into(self, entry: Agent, state: State) -> None:
        """Sets its state, which is no news yet."""
        if entry.state is not state:
            entry.state = state
            entry.since_ms = self._clock.now_ms()

    def restate(self, entry: Agent) -> None:
        """Online or busy, for one that is connected."""
        if entry.connections:
            state = entry.verified(clean=False)
            if state is not entry.state:
                self.into(entry, state)
                self.announce(entry)

    def alive(self, entry: Agent) -> None:
        """A sign of life that is no connection."""
        if not entry.connections and entry.state is not State.ASLEEP:
            self.into(entry, State.ASLEEP)
            self.announce(entry)
        self.fade(entry)

    def announce(self, entry: Agent) -> None:
        """Says how it is."""
        entry.told = True
        entry.revision = self.history.record(entry.id, What.STATE, entry.state, entry.session_number)
        self._tell(PRESENCE + to_level(entry.id), entry.presence_json())

    # -- card and lease ------------------------------------------------------------------------------

    def recard(self, entry: Agent) -> None:
        """What it declares or serves has changed; says so if that changes its card."""
        card = entry.merged_card()
        if card == entry.card:
            return
        self.skills.change(entry, card)
        self.history.record(entry.id, What.CARD, entry.state, entry.session_number)
        self._tell(CARDS + to_level(entry.id), _card_bytes(card))

    def lease(self, entry: Agent, lease_ms: int | None) -> None:
        """Starts its lease anew; None = it has none. The caller saves."""
        if entry.lease is not None:
            entry.lease.cancel()
            entry.lease = None
        entry.lease_due_ms = 0
        if lease_ms is not None:
            entry.lease_due_ms = self._clock.now_ms() + max(1, min(lease_ms, self._settings.lease_max_ms))
            self._arm_lease(entry)

    def _arm_lease(self, entry: Agent) -> None:
        entry.lease = self._timers.after(entry.lease_due_ms - self._clock.now_ms(), self.drop_card, entry)

    def drop_card(self, entry: Agent) -> None:
        """The lease has ended, or the card was taken back."""
        self.lease(entry, None)
        entry.declared = None
        if entry.connections or entry.kept:
            self.recard(entry)
            self.save(entry)
        else:
            self._remove(entry)

    def presences(self, only: str | None, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        """For the projection."""
        for entry in self._some(only):
            name = PRESENCE + to_level(entry.id)
            if entry.told and wanted(name):
                yield name, entry.presence_json()

    def cards(self, only: str | None, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        """For the projection."""
        for entry in self._some(only):
            name = CARDS + to_level(entry.id)
            if entry.card is not None and wanted(name):
                yield name, _card_bytes(entry.card)

    def _some(self, only: str | None) -> Iterator[Agent]:
        """Agents as they are when reached; which there are is taken at once."""
        for agent in [only] if only is not None else list(self.agents):
            entry = self.agents.get(agent)
            if entry is not None:
                yield entry

    def unfade(self, entry: Agent) -> None:
        """Something holds it again."""
        self._fading.pop(entry.id, None)

    def check(self) -> None:
        """Asserts what must always hold. For tests; walks everything."""
        for entry in self.agents.values():
            entry.check()
            held = entry.connections or entry.kept or entry.lease_due_ms
            assert held or entry.id in self._fading, f"nothing holds {entry.id!r} and nothing will take it away"
        assert sum(self._per_principal.values()) == len(self.agents)
        assert all(not self.agents[agent].connections for agent in self._fading)
        self.skills.check(self.agents.values())


def _card_bytes(card: Card | None) -> bytes:
    return msgspec.json.encode(card_json(card)) if card is not None else b""
