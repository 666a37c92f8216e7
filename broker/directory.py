"""Who is here, what they can do, in what state. Decides presence, bindings, leases; knows no protocol.

An agent enters by a connection that speaks as it (``arrive``) or by a card (``register``); how long it
stays and whose it is, is the roster's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol, final

from dragoman.broker.gate import Action
from dragoman.broker.history import Change
from dragoman.broker.members import Members
from dragoman.broker.offers import Asked, Offer, Offers
from dragoman.broker.presence import PRESENT, Agent, State
from dragoman.broker.projection import Projection
from dragoman.broker.roster import CARDS, Roster, Tell
from dragoman.routing.cards import SKILLS_MAX, Card, Query, Skill, search
from dragoman.routing.names import check_agent, shown, to_level
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.clock import Clock
    from dragoman.broker.gate import Verdict
    from dragoman.broker.log.contract import Log
    from dragoman.broker.principal import Principal
    from dragoman.broker.session import Session
    from dragoman.broker.settings_agents import AgentSettings
    from dragoman.broker.timers import Timers


class Judge(Protocol):
    """What the rooms ask of the gate."""

    def check(self, principal: Principal, action: Action, resource: str, agent: str = "") -> Verdict | Refusal:
        """Whether the principal may."""


class Follower(Protocol):
    """Who must act when servers come and go: the calls."""

    def offered(self, offer: Offer) -> None:
        """A connection serves a skill from now on."""

    def departed(self, agent: Agent, session: Session) -> None:
        """A connection that spoke as the agent has ended; the agent's state says how it stands now."""

    def eased(self, agent: Agent) -> None:
        """The agent has room for a call again."""


@final
class Directory:
    """The live directory. ``start`` once, after the log is open."""

    def __init__(
        self,
        clock: Clock,
        timers: Timers,
        gate: Judge,
        log: Log,
        tell: Tell,
        later: Callable[..., object],
        settings: AgentSettings,
        declared: Mapping[str, str] | None = None,
    ) -> None:
        """``later(fn, *args)`` runs at the end of the turn; ``declared``: the principal of each configured agent id."""
        self._clock = clock
        self._gate = gate
        self._settings = settings
        self._roster = Roster(clock, timers, log, tell, later, settings, declared or {})
        self._agents = self._roster.agents
        self._skills = self._roster.skills
        self._members = Members(tell)
        self._offers = Offers()
        self._follower: Follower | None = None
        self.late_news_total = 0
        self.projection = Projection()
        self.projection.add("presence", self._roster.presences)
        self.projection.add("agents", self._roster.cards)
        self.projection.add("channels", self._members.projected)

    def start(self) -> None:
        """Takes up the agents the log remembers."""
        self._roster.start()

    def reserve(self, declared: Mapping[str, str]) -> None:
        """The principal of each configured agent id, from now on. Who is in by an id already keeps it."""
        self._roster.reserve(declared)

    def follow(self, follower: Follower) -> None:
        """Names who hears of servers coming and going."""
        assert self._follower is None
        self._follower = follower

    # -- connections ---------------------------------------------------------------------------------

    def arrive(self, session: Session, agent: str, *, keeps: bool) -> int | Refusal:
        """The connection speaks as ``agent`` from now on; its session number. ``keeps``: its session outlives it."""
        entry = self._roster.enter(session.principal, agent)
        if isinstance(entry, Refusal):
            return entry
        if not keeps and not entry.connections:
            entry.offered = ()
            self._roster.recard(entry)
        number = self._roster.session_numbers.next()
        entry.connect(session, number)
        entry.keep(session.protocol, keeps)
        self._roster.unfade(entry)
        self._roster.into(entry, entry.verified(clean=False))
        self._roster.announce(entry)
        self._roster.save(entry)
        return number

    def depart(self, session: Session, *, clean: bool, keeps: bool) -> None:
        """The connection has ended. ``clean``: it said goodbye; ``keeps``: its session goes on without it.

        News of a connection that no longer speaks as the agent is counted and changes nothing.
        """
        entry = self._agents.get(session.agent)
        if entry is None or not entry.disconnect(session):
            self.late_news_total += 1
            return
        entry.keep(session.protocol, keeps)
        for offer in self._offers.of_session(session):
            self._offers.discard(offer)
        if entry.connections:
            self._roster.restate(entry)
        else:
            self._roster.leave(entry, entry.verified(clean=clean))
        self._roster.save(entry)
        if self._follower is not None:
            self._follower.departed(entry, session)

    def keep(self, agent: str, source: str) -> None:
        """Something of a known agent goes on without a connection, such as its ``mailbox``."""
        entry = self._agents.get(agent)
        if entry is not None:
            entry.keep(source, True)
            self._roster.unfade(entry)
            self._roster.save(entry)

    def release(self, agent: str, source: str) -> None:
        """That is over: its session expired, its mailbox is closed. Nothing left means gone."""
        entry = self._agents.get(agent)
        if entry is None or source not in entry.kept:
            return
        entry.keep(source, False)
        if not entry.kept:
            live = {offer.skill.name for offer in self._offers.of_agent(entry)}
            entry.offered = tuple([skill for skill in entry.offered if skill.name in live])
            self._roster.recard(entry)
        if not entry.connections and not entry.kept:
            self._roster.leave(entry, State.GONE)
        self._roster.save(entry)

    # -- cards ---------------------------------------------------------------------------------------

    def register(
        self, principal: Principal, agent: str, card: Card, *, lease_ms: int | None, via: str
    ) -> int | Refusal:
        """Takes the card as what ``agent`` is; the directory's revision.

        With a lease it stays until that ends, connected or not. Without one it goes with the agent's
        connection and session; an agent that has neither gets the configured lease.
        """
        assert card.agent == agent, f"the card of {card.agent!r} is not that of {agent!r}"
        refusal = check_agent(agent) or self._refused(principal, Action.REGISTER, agent, agent)
        if refusal is not None:
            return refusal
        more = len(card.skills) - len(self._agents[agent].keys if agent in self._agents else ())
        if self._skills.entries + more > self._settings.skills_max:
            return Refusal(Reason.QUOTA_EXCEEDED, f"all cards together may have {self._settings.skills_max} skills")
        entry = self._roster.enter(principal, agent)
        if isinstance(entry, Refusal):
            return entry
        entry.declared = card
        if not entry.connections and lease_ms is None and not entry.kept:
            lease_ms = self._settings.card_lease_ms
        if not entry.connections:
            entry.via = via
        self._roster.lease(entry, lease_ms)
        self._roster.recard(entry)
        self._roster.alive(entry)
        self._roster.save(entry)
        return self.revision

    def renew(self, principal: Principal, agent: str, *, lease_ms: int | None = None) -> int | Refusal:
        """Starts the card's lease anew; the directory's revision. A sign of life of an agent without a connection."""
        entry = self._own(principal, agent)
        if isinstance(entry, Refusal):
            return entry
        if entry.declared is None:
            return Refusal(Reason.GONE, f"agent {shown(agent)} has no card; its lease has ended: register it again")
        self._roster.lease(entry, lease_ms if lease_ms is not None else self._settings.card_lease_ms)
        self._roster.alive(entry)
        self._roster.save(entry)
        return self.revision

    def unregister(self, principal: Principal, agent: str) -> Refusal | None:
        """Takes the agent's card away, and the agent too if nothing else holds it."""
        entry = self._own(principal, agent)
        if isinstance(entry, Refusal):
            return entry
        self._roster.drop_card(entry)
        return None

    def set_limit(self, agent: str, work_limit: int | None) -> Refusal | None:
        """How many calls the agent works on at once: 0 declares it busy, None means any number."""
        entry = self._agents.get(agent)
        if entry is None:
            return self._unknown(agent)
        if work_limit is not None and work_limit < 0:
            return Refusal(Reason.ARGUMENTS_INVALID, f"a work limit is 0 or more, not {work_limit}")
        entry.limit = work_limit
        self._roster.restate(entry)
        self._roster.save(entry)
        if self._follower is not None and entry.connections and entry.has_room:
            self._follower.eased(entry)
        return None

    def loaded(self, agent: Agent, delta: int, *, eased: bool = True) -> None:
        """The agent has so many calls more (or less) to work on. For the calls only."""
        had_room = agent.has_room
        agent.load += delta
        assert agent.load >= 0, f"{agent.id!r} has finished more calls than it was asked"
        self._roster.restate(agent)
        if eased and not had_room and agent.has_room and agent.connections and self._follower is not None:
            self._follower.eased(agent)

    # -- offers --------------------------------------------------------------------------------------

    def offer(
        self,
        session: Session,
        agent: str,
        skill: Skill,
        ask: Callable[[Asked], bool],
        cancelled: Callable[[Asked], object] | None = None,
    ) -> Offer | Refusal:
        """A live connection serves a skill until ``withdraw`` or its end. What its card lacks is added to the card."""
        entry = self._agents.get(agent)
        if entry is None or all(known is not session for known, _ in entry.connections):
            return Refusal(
                Reason.UNKNOWN_AGENT, f"to serve a skill, a connection speaks as an agent; {shown(agent)} it is not"
            )
        refusal = self._refused(session.principal, Action.SERVE, to_level(skill.name), agent)
        if refusal is not None:
            return refusal
        settings = self._settings
        new = entry.card is None or entry.card.skill(skill.name) is None
        if len(self._offers.of_session(session)) >= settings.offers_per_session_max:
            return Refusal(
                Reason.QUOTA_EXCEEDED, f"one connection serves at most {settings.offers_per_session_max} skills"
            )
        if self._offers.count >= settings.offers_max or (new and self._skills.entries >= settings.skills_max):
            return Refusal(Reason.QUOTA_EXCEEDED, f"at most {settings.offers_max} skills are served at once")
        if new and entry.card is not None and len(entry.card.skills) >= SKILLS_MAX:
            return Refusal(Reason.QUOTA_EXCEEDED, f"agent {shown(agent)} has {SKILLS_MAX} skills, which is the limit")
        offer = Offer(entry, session, skill, ask, cancelled)
        self._offers.add(offer)
        if new or skill not in entry.offered:
            entry.offered = (*[known for known in entry.offered if known.name != skill.name], skill)
            self._roster.recard(entry)
            self._roster.save(entry)
        if self._follower is not None:
            self._follower.offered(offer)
        return offer

    def withdraw(self, offer: Offer) -> None:
        """The connection serves the skill no more. Calls it was asked already it may still answer."""
        if not self._offers.discard(offer):
            return
        entry = offer.agent
        if all(other.skill.name != offer.skill.name for other in self._offers.of_agent(entry)):
            entry.offered = tuple([skill for skill in entry.offered if skill.name != offer.skill.name])
            self._roster.recard(entry)
            self._roster.save(entry)

    # -- looking -------------------------------------------------------------------------------------

    def get(self, agent: str) -> Agent | None:
        """The agent, if it is here. Who may see it is the caller's business (``sees``)."""
        return self._agents.get(agent)

    def all(self) -> list[Agent]:
        """Every agent, in no order that means anything. Who may see each is the caller's business (``sees``)."""
        return list(self._agents.values())

    def sees(self, principal: Principal, agent: str) -> bool:
        """Whether the principal may know of the agent: whether it may read ``$mesh/v1/agents/{agent}``."""
        return self._refused(principal, Action.READ, CARDS + to_level(agent), "") is None

    def find(self, principal: Principal, query: Query) -> list[Agent]:
        """The agents that fit and that the principal may see, best first, at most the configured number."""
        if query.id is not None:
            entry = self._agents.get(query.id)
            entries = [entry] if entry is not None else []
        elif query.skill is not None:
            entries = [self._agents[agent] for agent in self._skills.holders(query.skill)]
        else:
            entries = list(self._agents.values())
        found: list[Agent] = []
        for entry in search(entries, query):
            if len(found) >= self._settings.found_max:
                break
            if self.sees(principal, entry.id):
                found.append(entry)
        return found

    def skills(self, principal: Principal) -> list[tuple[str, Skill, list[str]]]:
        """(key, skill, agents) for each skill name and schema that agents have who are visible and not gone."""
        visible: dict[str, bool] = {}
        found: list[tuple[str, Skill, list[str]]] = []
        for key, skill, holders in self._skills.all():
            seen: list[str] = []
            for agent in holders:
                known = visible.get(agent)
                if known is None:
                    gone = self._agents[agent].state is State.GONE
                    known = visible[agent] = not gone and self.sees(principal, agent)
                if known:
                    seen.append(agent)
            if seen:
                found.append((key, skill, seen))
        return found

    def holders(self, skill: str, key: str | None = None) -> list[Agent]:
        """The agents whose card has the skill (of exactly these schemas, if ``key`` says which)."""
        return [self._agents[agent] for agent in self._skills.holders(skill, key)]

    def offers(self, skill: str, agent: Agent | None = None) -> list[Offer]:
        """Who serves the skill now; only the agent's own connections if one is given."""
        if agent is not None:
            return [offer for offer in self._offers.of_agent(agent) if offer.skill.name == skill]
        return list(self._offers.of_skill(skill))

    def served(self, session: Session) -> list[Offer]:
        """What a connection serves."""
        return self._offers.of_session(session)

    @property
    def revision(self) -> int:
        """Of the newest change."""
        return self._roster.history.revision

    def since(self, revision: int) -> list[Change] | None:
        """The changes after ``revision``, oldest first; None: too old, look at everything again."""
        return self._roster.history.since(revision)

    def watch(self, fn: Callable[[Change], None]) -> Callable[[], None]:
        """Calls ``fn`` at the end of each turn for what changed in it; gives back how to stop. Filter by ``sees``."""
        return self._roster.history.watch(fn)

    def projected(self, filter_: str) -> Iterator[tuple[str, bytes]]:
        """What ``$mesh/v1/…`` says now, as far as the filter matches. Who may read each is the caller's business."""
        return self.projection.find(filter_)

    # -- channels ------------------------------------------------------------------------------------

    def joined(self, channel: str, session: Session) -> None:
        """The session's agent has one more exact subscription to the channel."""
        if session.agent:
            self._members.joined(channel, session.agent, self._clock.now_ms())

    def left(self, channel: str, session: Session) -> None:
        """The session's agent has one exact subscription to the channel less."""
        if session.agent:
            self._members.left(channel, session.agent)

    def members(self, channel: str) -> list[tuple[str, int]]:
        """Who is in the channel, and since when (milliseconds since the epoch)."""
        return self._members.of(channel)

    def describe_channels(self, about: Callable[[str], dict[str, object]]) -> None:
        """Names who knows more of a channel than its members, for ``$mesh/v1/channels/{channel}``."""
        self._members.about = about

    # -- within --------------------------------------------------------------------------------------

    def _own(self, principal: Principal, agent: str) -> Agent | Refusal:
        entry = self._agents.get(agent)
        if entry is None:
            return self._unknown(agent)
        if entry.principal_name != principal.name:
            return Refusal(Reason.AGENT_TAKEN, f"agent {shown(agent)} belongs to another principal")
        return self._refused(principal, Action.REGISTER, agent, agent) or entry

    def _refused(self, principal: Principal, action: Action, resource: str, agent: str) -> Refusal | None:
        verdict = self._gate.check(principal, action, resource, agent)
        return verdict if isinstance(verdict, Refusal) else None

    @staticmethod
    def _unknown(agent: str) -> Refusal:
        return Refusal(Reason.UNKNOWN_AGENT, f"no agent {shown(agent)} is here")

    def check(self) -> None:
        """Asserts what must always hold. For tests; walks everything."""
        self._roster.check()
        offers = [offer for entry in self._agents.values() for offer in self._offers.of_agent(entry)]
        assert len(offers) == self._offers.count
        assert all(offer.agent.state in PRESENT for offer in offers)
