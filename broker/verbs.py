"""Verbs: what a client that can only publish and subscribe does to use the mesh. Decides what each topic means.

``{root}`` is a setting, ``mesh`` by default; agents, skills and ids are one percent-encoded level each.

    publish    {root}/call/{agent}/{skill}          call; the answer goes to the response topic, with its correlation
               {root}/call/{agent}/{skill}/{ref}    call; the answer comes to {root}/me/reply/{ref}, its parts to
                                                    {root}/me/reply/{ref}/{n}. The agent - is whoever serves the skill
                                                    best (an agent of that very name is spelt %2D). Who is no
                                                    agent itself calls with a response topic, and cancels by ref
               {root}/to/{agent}                    say something to an agent; it hears it on {root}/me/in
               {root}/to/{agent}/reply/{ref}        answer it: {root}/me/reply/{ref} of that agent, from anywhere
               {root}/me/card                       this is my card (empty: I have none)
               {root}/me/state                      {"limit": n}: how many calls I take at once; 0 = none, null = any
               {root}/me/cancel/{ref}               I do not want that answer any more
               {root}/answer/{call}[/part/{n}]      the answer to a call I was asked, or a part of it
               {root}/answer/{call}/error           it failed; the payload says why
    subscribe  {root}/serve/{skill}/+               I serve this skill; calls come as {root}/serve/{skill}/{call}
               {root}/me/in, {root}/me/reply/+, {root}/me/#    what is said to me, answered to me, both;
                                                    {root}/me/cancel/{call}: nobody waits for that answer any more

Verbs are no channels: nothing is kept, no wildcard over channels receives them, and ``me`` is whoever says it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

import msgspec

from dragoman.broker import verb_replies
from dragoman.broker.gate import Action
from dragoman.broker.log.contract import DONE, Ticket
from dragoman.broker.verb_listeners import Listeners, nobody
from dragoman.broker.verb_replies import STATUS, Asker, Voice
from dragoman.routing.cards import parse_card
from dragoman.routing.message import EMPTY, NEVER, Envelope, Message
from dragoman.routing.names import check_name, from_level, shown, to_level
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.call import Call, Outcome
    from dragoman.broker.calls import Calls
    from dragoman.broker.clock import Clock
    from dragoman.broker.directory import Directory, Judge
    from dragoman.broker.principal import Principal
    from dragoman.broker.session import Session
    from dragoman.broker.settings_agents import AgentSettings
    from dragoman.broker.subscription import ShareMember, Subscription

CARD_BYTES_MAX: Final = 64 * 1024
STATE_BYTES_MAX: Final = 1_024
REFERENCE_CHARS_MAX: Final = 256
ERROR_CHARS_MAX: Final = 1_000

ANYBODY: Final = "-"
"""The agent level that names nobody in particular."""


@final
class Verbs:
    """The verbs of a mesh."""

    def __init__(
        self,
        clock: Clock,
        directory: Directory,
        calls: Calls,
        gate: Judge,
        later: Callable[..., object],
        publish: Callable[[Session, Message], Ticket | Refusal],
        settings: AgentSettings,
    ) -> None:
        """``publish`` says something in an ordinary channel: answers go where their caller asked for them."""
        self._clock = clock
        self._directory = directory
        self._calls = calls
        self._gate = gate
        self._later = later
        self._publish = publish
        self._settings = settings
        self._prefix = settings.verb_root + "/"
        self._me = self._prefix + "me/"
        self._listeners = Listeners(directory, calls, later, settings)
        self.unheard_total = 0
        """Answers that reached nobody: their caller neither listens nor has a mailbox."""
        self.mail: Callable[[str, Message], Ticket | Refusal | None] | None = None
        """Takes what is said to an agent, and answers it cannot be given now; None: it has no mailbox."""
        calls.orphan = self._orphan

    @property
    def response_information(self) -> str:
        """Where answers can be had (MQTT 5 Response Information)."""
        return self._me + "reply/"

    @property
    def prefix(self) -> str:
        """What the name of every verb begins with."""
        return self._prefix

    @property
    def inbox(self) -> str:
        """The name under which an agent hears what is said to it."""
        return self._listeners.inbox

    @property
    def dropped_total(self) -> int:
        """Deliveries given up because too much waited for their session."""
        return self._listeners.outlets.dropped_total

    def owns(self, name: str) -> bool:
        """Whether a name or filter is a verb's, so that no channel may have it."""
        return name.startswith(self._prefix) or name == self._settings.verb_root

    def absolute(self, session: Session, envelope: Envelope) -> Envelope:
        """The envelope with a response topic that means the same to everybody: ``me`` is its sender.

        For every message on receipt whose ``reply_to`` begins with ``{root}/me/``; others come back as they are.
        """
        reply = envelope.reply_to
        if reply is None or not reply.startswith(self._me) or not session.agent:
            return envelope
        to_me = self._to_me(session)
        return envelope.respelt(to_me if reply == self.inbox else f"{to_me}/{reply[len(self._me) :]}")

    def _heard(self, session: Session, envelope: Envelope | None) -> Envelope:
        """The envelope of what is said to an agent. Not the sender's own bytes: they do not say who it was."""
        if envelope is None:
            return EMPTY
        said = self.absolute(session, envelope)
        return said.respelt(said.reply_to) if said.raw_form else said

    # -- publishing ----------------------------------------------------------------------------------

    def publish(self, session: Session, message: Message) -> Ticket | Refusal:
        """Does what the verb ``message.name`` says."""
        assert self.owns(message.name), message.name
        levels = message.name[len(self._prefix) :].split("/")
        match levels:
            case ["call", agent, skill]:
                return self._call(session, message, agent, skill, None)
            case ["call", agent, skill, ref]:
                return self._call(session, message, agent, skill, ref)
            case ["to", agent]:
                return self._to(session, message, agent)
            case ["to", agent, "reply", *rest] if rest:
                return self._answer_to(session, message, agent, "/".join(rest))
            case ["answer", call_id]:
                return self._answer(session, message, call_id, self._status(message))
            case ["answer", call_id, "part", _]:
                return self._answer(session, message, call_id, b"part")
            case ["answer", call_id, "error"]:
                return self._answer(session, message, call_id, b"error")
            case ["me", what, *rest]:
                return self._about_me(session, message, what, rest)
        return _no_verb(message.name)

    def _call(self, session: Session, message: Message, agent: str, skill: str, ref: str | None) -> Ticket | Refusal:
        envelope = message.envelope
        if ref is not None and (len(ref) > REFERENCE_CHARS_MAX or not ref):
            return Refusal(Reason.NAME_INVALID, f"a call's reference has 1 to {REFERENCE_CHARS_MAX} characters")
        to_me = ref is not None and bool(session.agent)
        if to_me:
            reply, correlation = f"{self._me}reply/{ref}", None
        elif envelope is None or envelope.reply_to is None:
            if not session.agent:
                return nobody("calls without a response topic")
            detail = f"a call needs a response topic, or a reference: {message.name}/{{ref}}"
            return Refusal(Reason.ARGUMENTS_INVALID, detail)
        else:
            correlation = envelope.correlation
            reply = envelope.reply_to
            if session.agent and reply.startswith(self._to_me(session) + "/reply/"):
                # Made absolute on receipt; it is the caller's own all the same.
                reply = self._me + reply[len(self._to_me(session)) + 1 :]
            if reply.startswith(self._me) and not session.agent:
                return nobody("calls, with an answer to itself")
            refusal = check_name(reply) or self._may_reply(session, reply)
            if refusal is not None:
                return refusal
        asker = Asker(session, reply, correlation, to_me, self._send)
        call = self._start(asker, message, agent, skill, ref)
        if not isinstance(call, Refusal):
            return DONE
        self._later(self._send, session, session.agent, verb_replies.error(reply, call, correlation))
        # By its reference the caller hears what was wrong; a response topic means it can hear a code as well.
        return DONE if to_me else call

    def _start(self, asker: Asker, message: Message, agent: str, skill: str, ref: str | None) -> Call | Refusal:
        wanted = None if agent == ANYBODY else from_level(agent)
        named = from_level(skill)
        if isinstance(wanted, Refusal):
            return wanted
        if isinstance(named, Refusal):
            return named
        envelope = message.envelope
        deadline_ms = None
        if envelope is not None and envelope.expires_ms != NEVER:
            deadline_ms = max(0, envelope.expires_ms - self._clock.now_ms())
        return self._calls.start(
            asker,
            agent=wanted,
            skill=named,
            arguments=message.payload or b"",
            content_type=envelope.content_type if envelope is not None else None,
            deadline_ms=deadline_ms,
            cause=envelope.cause if envelope is not None else None,
            dedupe=ref,
            address=(asker.reply, asker.correlation),
        )

    def _to(self, session: Session, message: Message, level: str) -> Ticket | Refusal:
        agent = from_level(level)
        if isinstance(agent, Refusal):
            return agent
        refusal = self._refused(session.principal, message.name, session.agent)
        if refusal is not None:
            return refusal
        envelope = self._heard(session, message.envelope)
        mail = Message(self.inbox, message.payload, message.wish, session.agent, False, envelope)
        if self._directory.get(agent) is None:
            return Refusal(Reason.UNKNOWN_AGENT, f"no agent {shown(agent)} is here")
        return self._hand_or_mail(agent, mail)

    def _answer_to(self, session: Session, message: Message, level: str, rest: str) -> Ticket | Refusal:
        """An absolute response topic, come back."""
        agent = from_level(level)
        if isinstance(agent, Refusal):
            return agent
        refusal = self._refused(session.principal, message.name, session.agent)
        if refusal is not None:
            return refusal
        if self._directory.get(agent) is None:
            return Refusal(Reason.UNKNOWN_AGENT, f"no agent {shown(agent)} is here")
        envelope = self._heard(session, message.envelope)
        reply = Message(f"{self._me}reply/{rest}", message.payload, message.wish, session.agent, False, envelope)
        return self._hand_or_mail(agent, reply)

    def _answer(self, session: Session, message: Message, call_id: str, status: bytes) -> Ticket | Refusal:
        payload = message.payload or b""
        error = payload.decode("utf-8", "replace")[:ERROR_CHARS_MAX] or "it failed" if status == b"error" else None
        refusal = self._calls.answer(
            session,
            call_id,
            payload,
            content_type=message.envelope.content_type if message.envelope is not None else None,
            partial=status == b"part",
            error=error,
        )
        return refusal or DONE

    @staticmethod
    def _status(message: Message) -> bytes:
        return (message.envelope.header(STATUS) if message.envelope is not None else None) or b"ok"

    # -- me ------------------------------------------------------------------------------------------

    def _about_me(self, session: Session, message: Message, what: str, rest: list[str]) -> Ticket | Refusal:
        if what == "cancel" and len(rest) == 1:
            known = self._calls.named(session, rest[0])
            return self._calls.cancel(session, known.id if known is not None else rest[0]) or DONE
        if not session.agent:
            return nobody(f"{self._me}{what}")
        match what, rest:
            case "card", []:
                return self._card(session, message)
            case "state", []:
                return self._state(session, message.payload or b"")
        return _no_verb(message.name)

    def _card(self, session: Session, message: Message) -> Ticket | Refusal:
        payload = message.payload or b""
        if not payload:
            return self._directory.unregister(session.principal, session.agent) or DONE
        if len(payload) > CARD_BYTES_MAX:
            return Refusal(Reason.TOO_LARGE, f"a card has at most {CARD_BYTES_MAX} bytes, not {len(payload)}")
        fields = _json(payload, Reason.CARD_INVALID)
        card = fields if isinstance(fields, Refusal) else parse_card(fields, session.agent)
        if isinstance(card, Refusal):
            return card
        expires_ms = message.envelope.expires_ms if message.envelope is not None else NEVER
        lease_ms = max(1, expires_ms - self._clock.now_ms()) if expires_ms != NEVER else None
        answer = self._directory.register(
            session.principal, session.agent, card, lease_ms=lease_ms, via=session.protocol
        )
        return answer if isinstance(answer, Refusal) else DONE

    def _state(self, session: Session, payload: bytes) -> Ticket | Refusal:
        fields = _json(payload[: STATE_BYTES_MAX + 1], Reason.PAYLOAD_INVALID)
        if isinstance(fields, Refusal):
            return fields
        limit = fields.get("limit", False) if isinstance(fields, dict) else False
        if isinstance(limit, bool) or not (limit is None or isinstance(limit, int)):
            detail = 'a state is {"limit": n} with n calls at once, 0 for none or null for any number'
            return Refusal(Reason.PAYLOAD_INVALID, detail)
        return self._directory.set_limit(session.agent, limit) or DONE

    # -- subscribing ---------------------------------------------------------------------------------

    def subscribe(
        self, session: Session, filter_: str, *, wish: int = 0, identifier: int = 0
    ) -> Subscription | Refusal:
        """Begins to serve a skill, or to listen to what concerns the session's own agent."""
        return self._listeners.subscribe(session, filter_, wish=wish, identifier=identifier)

    def unsubscribe(self, subscription: Subscription) -> bool:
        """Ends it; False if it is none of ours."""
        return self._listeners.unsubscribe(subscription)

    def detach(self, session: Session) -> None:
        """The session has ended, and with it what it listened to."""
        self._listeners.detach(session)

    def waits(self, session: Session) -> bool:
        """Whether something waits for the session's credit."""
        return self._listeners.outlets.waits(session)

    def resume(self, session: Session) -> None:
        """The session has credit again. Not from within ``deliver``."""
        self._listeners.resume(session)

    def hand(self, agent: str, message: Message) -> bool:
        """Gives a message named ``{root}/me/…`` to every connection of the agent that listens; whether any did."""
        return self._listeners.hand(agent, message)

    def push(self, session: Session, message: Message, group: ShareMember) -> bool:
        """Gives mail to one session; ``group`` hears how that ended. False: no credit, or it does not listen."""
        return self._listeners.outlets.push(session, message, group)

    def when_listening(self, fn: Callable[[Session], object]) -> None:
        """Calls ``fn`` at the end of the turn in which a session begins to listen to its inbox."""
        self._listeners.on_inbox = fn

    # -- coming out ----------------------------------------------------------------------------------

    def _hand_or_mail(self, agent: str, message: Message) -> Ticket | Refusal:
        """What is for an inbox goes through its mailbox, if there is one, and so is kept; answers go straight."""
        if message.name != self.inbox and self.hand(agent, message):
            return DONE
        posted = self.mail(agent, message) if self.mail is not None else None
        if posted is not None:
            return posted
        if message.name == self.inbox and self.hand(agent, message):
            return DONE
        return Refusal(Reason.AGENT_UNREACHABLE, f"agent {shown(agent)} does not listen to {shown(message.name)} now")

    def _send(self, session: Session, agent: str, message: Message) -> None:
        """An answer on its way to its caller, or to the channel its caller named."""
        self._emit(session.principal, agent, message)

    def _orphan(self, call: Call, outcome: Outcome) -> None:
        """The answer to a call from before a restart."""
        assert call.address is not None
        reply, correlation = call.address
        self._emit(call.principal, call.caller_agent, verb_replies.answer(reply, call, outcome, correlation))

    def _emit(self, principal: Principal, agent: str, message: Message) -> None:
        if message.name.startswith(self._me):
            answer = self._hand_or_mail(agent, message)
        else:
            voice = Voice(principal, message.sender)
            answer = self.publish(voice, message) if self.owns(message.name) else self._publish(voice, message)
        if isinstance(answer, Refusal):
            self.unheard_total += 1

    def _to_me(self, session: Session) -> str:
        return f"{self._prefix}to/{to_level(session.agent)}"

    def _may_reply(self, session: Session, reply: str) -> Refusal | None:
        """An answer goes only where its caller could have spoken itself, and never into a further call."""
        if reply.startswith(self._me):
            return None
        if self.owns(reply) and not reply.startswith(self._prefix + "to/"):
            return Refusal(Reason.ARGUMENTS_INVALID, f"answers cannot go to {shown(reply)}")
        return self._refused(session.principal, reply, session.agent)

    def _refused(self, principal: Principal, name: str, agent: str) -> Refusal | None:
        verdict = self._gate.check(principal, Action.PUBLISH, name, agent)
        return verdict if isinstance(verdict, Refusal) else None


def _json(payload: bytes, reason: Reason) -> object:
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Refusal(reason, f"the payload is no JSON: {error}")


def _no_verb(name: str) -> Refusal:
    return Refusal(Reason.NAME_INVALID, f"{shown(name)} is no verb to publish; see the list of verbs")
