"""Who listens to verbs: connections that serve a skill, and those that hear what concerns their own agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, final

from dragoman.broker.subscription import Subscription
from dragoman.broker.verb_outlets import Outlets
from dragoman.routing.cards import parse_card
from dragoman.routing.message import Envelope, Message, Wish
from dragoman.routing.names import check_filter, from_level, matches, shown
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.calls import Calls
    from dragoman.broker.directory import Directory
    from dragoman.broker.offers import Asked, Offer
    from dragoman.broker.session import Session
    from dragoman.broker.settings_agents import AgentSettings


@final
class Listeners:
    """The verb subscriptions. For the verbs."""

    def __init__(
        self, directory: Directory, calls: Calls, later: Callable[..., object], settings: AgentSettings
    ) -> None:
        self._directory = directory
        self._calls = calls
        self._later = later
        self._settings = settings
        self._prefix = settings.verb_root + "/"
        self._me = self._prefix + "me/"
        self.inbox = self._me + "in"
        self.outlets = Outlets(settings.verb_waiting_max, settings.verb_waiting_bytes_max)
        self._offers: dict[Subscription, Offer] = {}
        self.on_inbox: Callable[[Session], object] | None = None

    def subscribe(
        self, session: Session, filter_: str, *, wish: int = 0, identifier: int = 0
    ) -> Subscription | Refusal:
        """Begins to serve a skill, or to listen to what concerns the session's own agent."""
        refusal = check_filter(filter_)
        if refusal is not None:
            return refusal
        if not session.agent:
            return nobody(filter_)
        if self.outlets.count(session) >= self._settings.verb_subscriptions_max:
            detail = f"one connection has at most {self._settings.verb_subscriptions_max} verb subscriptions"
            return Refusal(Reason.QUOTA_EXCEEDED, detail)
        subscription = Subscription(session, filter_, wish=wish, identifier=identifier, exact=False)
        levels = filter_[len(self._prefix) :].split("/")
        if levels[0] == "serve" and len(levels) == 3 and levels[2] == "+" and levels[1] not in ("+", "#"):
            return self._serve(session, subscription, levels[1])
        if levels[0] != "me" or len(levels) < 2 or levels[1] not in ("#", "+", "in", "reply", "cancel"):
            detail = f"{shown(filter_)} is not one of {self._prefix}serve/{{skill}}/+, {self._me}in, {self._me}#"
            return Refusal(Reason.FILTER_INVALID, detail)
        self.outlets.open(subscription)
        if self.on_inbox is not None and matches(filter_, self.inbox):
            self._later(self.on_inbox, session)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> bool:
        """Ends it; False if it is none of ours."""
        if not self.outlets.close(subscription):
            return False
        offer = self._offers.pop(subscription, None)
        if offer is not None:
            self._directory.withdraw(offer)
        return True

    def detach(self, session: Session) -> None:
        """The session has ended, and with it what it listened to.

        Its offers end with ``Directory.depart``: withdrawn here, a sleeper's skills would leave its card.
        """
        for subscription in self.outlets.detach(session):
            self._offers.pop(subscription, None)

    def resume(self, session: Session) -> None:
        """The session has credit again. Not from within ``deliver``."""
        if self.outlets.resume(session):
            agent = self._directory.get(session.agent)
            if agent is not None:
                self._calls.eased(agent)

    def _serve(self, session: Session, subscription: Subscription, level: str) -> Subscription | Refusal:
        name = from_level(level)
        if isinstance(name, Refusal):
            return name
        # The card's own rules say what a skill may be called.
        minimal = parse_card({"name": "server", "skills": [{"name": name}]}, session.agent)
        if isinstance(minimal, Refusal):
            return Refusal(Reason.FILTER_INVALID, minimal.detail)
        agent = self._directory.get(session.agent)
        known = agent.card.skill(name) if agent is not None and agent.card is not None else None

        def ask(call: Asked) -> bool:
            message = self._request(f"{self._prefix}serve/{level}/{call.id}", call)
            return self.outlets.offer(session, message, subscription)

        def cancelled(call: Asked) -> None:
            self.outlets.give(session, Message(f"{self._me}cancel/{call.id}", b"", Wish.AT_LEAST_ONCE))

        self.outlets.open(subscription)
        offer = self._directory.offer(session, session.agent, known or minimal.skills[0], ask, cancelled)
        if isinstance(offer, Refusal):
            self.outlets.close(subscription)
            return offer
        self._offers[subscription] = offer
        return subscription

    def _request(self, name: str, call: Asked) -> Message:
        """A call as its server receives it: answering the response topic answers the call."""
        envelope = Envelope(
            content_type=call.content_type,
            reply_to=f"{self._prefix}answer/{call.id}",
            correlation=call.id.encode(),
            expires_ms=call.deadline_ms,
            cause=call.cause,
        )
        return Message(name, call.arguments, Wish.AT_LEAST_ONCE, call.caller_agent, False, envelope)

    def hand(self, agent: str, message: Message) -> bool:
        """Gives a message named ``{root}/me/…`` to every connection of the agent that listens; whether any did."""
        known = self._directory.get(agent)
        if known is None:
            return False
        heard = [self.outlets.give(session, message) for session, _ in known.connections]
        return any(heard)


def nobody(what: str) -> Refusal:
    """For a connection that speaks as no agent."""
    return Refusal(Reason.NOT_AUTHORIZED, f"{what}: for agents only, and this connection speaks as none")
