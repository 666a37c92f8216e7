"""Which skill is whose: skills on cards, and skills a live connection serves right now. Chooses nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar, final

from dragoman.broker.presence import PRESENT
from dragoman.routing.cards import skill_key

if TYPE_CHECKING:
    from dragoman.broker.presence import Agent
    from dragoman.broker.session import Session
    from dragoman.routing.cards import Card, Skill

K = TypeVar("K")


class Asked(Protocol):
    """What a server is handed: a call, as far as it may see it."""

    @property
    def id(self) -> str:
        """Names it in ``Calls.answer``."""

    @property
    def skill(self) -> str:
        """The skill asked for."""

    @property
    def caller_agent(self) -> str:
        """Who asks; "" if that is no agent."""

    @property
    def arguments(self) -> bytes:
        """As the caller gave them."""

    @property
    def content_type(self) -> str | None:
        """Of the arguments."""

    @property
    def deadline_ms(self) -> int:
        """Milliseconds since the epoch; an answer after that is refused."""

    @property
    def cause(self) -> str | None:
        """Id of the message the call follows."""


@final
class Offer:
    """A live connection serves a skill. Has what ``routing.groups.choose`` asks of a member.

    ``ask``        hands over a call; False = no room now, ask somebody else
    ``cancelled``  the call it was asked for has ended otherwise (cancelled, deadline)
    """

    __slots__ = ("agent", "ask", "cancelled", "session", "skill", "turn")

    def __init__(
        self,
        agent: Agent,
        session: Session,
        skill: Skill,
        ask: Callable[[Asked], bool],
        cancelled: Callable[[Asked], object] | None,
    ) -> None:
        self.agent = agent
        self.session = session
        self.skill = skill
        self.ask = ask
        self.cancelled = cancelled
        self.turn = 0

    @property
    def id(self) -> str:
        """The agent's id."""
        return self.agent.id

    @property
    def connected(self) -> bool:
        """An offer ends with its connection."""
        return self.agent.state in PRESENT

    @property
    def inflight(self) -> int:
        """Calls the agent works on, by whatever skill."""
        return self.agent.load

    @property
    def limit(self) -> int:
        """How many it takes."""
        limit = self.agent.limit
        return limit if limit is not None else self.agent.load + 1


@final
class SkillIndex:
    """Agents by the skills of their cards. ``entries`` is what its bound counts."""

    def __init__(self) -> None:
        self._by_key: dict[str, tuple[Skill, dict[str, None]]] = {}
        self._by_name: dict[str, dict[str, None]] = {}
        self.entries = 0

    def change(self, agent: Agent, card: Card | None) -> None:
        """The agent's card is this one from now on."""
        if agent.card is not None:
            for skill, key in zip(agent.card.skills, agent.keys, strict=True):
                _take(self._by_name, skill.name, agent.id)
                holders = self._by_key[key][1]
                del holders[agent.id]
                if not holders:
                    del self._by_key[key]
            self.entries -= len(agent.keys)
        agent.card = card
        skills = card.skills if card is not None else ()
        agent.keys = tuple([skill_key(skill) for skill in skills])
        for skill, key in zip(skills, agent.keys, strict=True):
            self._by_name.setdefault(skill.name, {})[agent.id] = None
            self._by_key.setdefault(key, (skill, {}))[1][agent.id] = None
        self.entries += len(agent.keys)

    def holders(self, name: str, key: str | None = None) -> Iterable[str]:
        """The agents whose card has the skill; only those with exactly these schemas if ``key`` is given."""
        if key is None:
            return self._by_name.get(name, {}).keys()
        known = self._by_key.get(key)
        return known[1].keys() if known is not None else ()

    def all(self) -> Iterator[tuple[str, Skill, Iterable[str]]]:
        """Every (skill, schema) with the agents that have it."""
        for key, (skill, agents) in self._by_key.items():
            yield key, skill, agents.keys()

    def check(self, agents: Iterable[Agent]) -> None:
        """Asserts what must always hold. For tests."""
        count = 0
        for agent in agents:
            skills = agent.card.skills if agent.card is not None else ()
            assert [skill_key(skill) for skill in skills] == list(agent.keys)
            count += len(skills)
            for skill, key in zip(skills, agent.keys, strict=True):
                assert agent.id in self._by_name[skill.name]
                assert agent.id in self._by_key[key][1]
        assert count == self.entries == sum(len(holders) for _, holders in self._by_key.values())
        assert all(self._by_name.values()), "a skill nobody has is forgotten"
        assert all(holders for _, holders in self._by_key.values()), "so is its schema"


@final
class Offers:
    """The live offers by skill and by session. Bounded by the directory."""

    def __init__(self) -> None:
        self._by_skill: dict[str, dict[Offer, None]] = {}
        self._by_session: dict[Session, dict[Offer, None]] = {}
        self.count = 0

    def add(self, offer: Offer) -> None:
        """A connection begins to serve."""
        self._by_skill.setdefault(offer.skill.name, {})[offer] = None
        self._by_session.setdefault(offer.session, {})[offer] = None
        self.count += 1

    def discard(self, offer: Offer) -> bool:
        """It serves no more; False if it did not."""
        mine = self._by_session.get(offer.session)
        if mine is None or offer not in mine:
            return False
        del mine[offer]
        if not mine:
            del self._by_session[offer.session]
        _take(self._by_skill, offer.skill.name, offer)
        self.count -= 1
        return True

    def of_session(self, session: Session) -> list[Offer]:
        """What a connection serves."""
        return list(self._by_session.get(session, ()))

    def of_skill(self, name: str) -> Iterable[Offer]:
        """Who serves a skill, in the order they began."""
        return self._by_skill.get(name, {}).keys()

    def of_agent(self, agent: Agent) -> list[Offer]:
        """What an agent's connections serve."""
        return [offer for session, _ in agent.connections for offer in self._by_session.get(session, ())]


def _take(table: dict[str, dict[K, None]], name: str, key: K) -> None:
    holders = table[name]
    del holders[key]
    if not holders:
        del table[name]
