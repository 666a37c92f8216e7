"""Requests with exactly one final answer. Decides who is asked, who may answer, and when it is over.

A call goes to the agent it names, or to the least busy agent that serves the skill. If that agent
sleeps or has no room the call waits, until the deadline, and is asked when the agent is back; so a
waiting call is its own mail. Every call ends once: answered, refused, cancelled or expired; whatever
comes later is refused and counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from dragoman.broker.call import Address, Call, Caller, CallEvent, CallState, Kind, Outcome
from dragoman.broker.call_lanes import Lane, Lanes
from dragoman.broker.call_ledger import Ledger
from dragoman.broker.call_servers import Servers
from dragoman.broker.ids import fresh_id
from dragoman.broker.projection import ROOT
from dragoman.routing.groups import Strategy, choose
from dragoman.routing.names import shown
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dragoman.broker.clock import Clock
    from dragoman.broker.directory import Directory, Judge
    from dragoman.broker.log.contract import Log, Ticket
    from dragoman.broker.offers import Offer
    from dragoman.broker.presence import Agent
    from dragoman.broker.principal import Principal
    from dragoman.broker.roster import Tell
    from dragoman.broker.session import Session
    from dragoman.broker.settings_agents import AgentSettings
    from dragoman.broker.timers import Timers

__all__ = ["Address", "Call", "CallEvent", "CallState", "Caller", "Calls", "Kind", "Outcome"]

NEWS: Final = ROOT + "calls/"

ASKED_PER_TURN_MAX: Final = 256
"""Waiting calls looked at in one turn, when a server comes back to a long queue."""


@final
class Calls:
    """The calls of a mesh. ``start_up`` once, after the directory's ``start``."""

    def __init__(
        self,
        clock: Clock,
        timers: Timers,
        directory: Directory,
        gate: Judge,
        log: Log,
        tell: Tell,
        later: Callable[..., object],
        when_safe: Callable[[Ticket, Callable[[Refusal | None], None]], None],
        settings: AgentSettings,
    ) -> None:
        self._clock = clock
        self._timers = timers
        self._directory = directory
        self._servers = Servers(directory, gate)
        self._tell = tell
        self._later = later
        self._when_safe = when_safe
        self._settings = settings
        self._ledger = Ledger(clock, timers, log, later, settings)
        self._asked: dict[Session, dict[str, Call]] = {}
        self._waiting = Lanes()
        self._pumping: set[Lane] = set()
        self._turn = 0
        self.orphan: Callable[[Call, Outcome], object] | None = None
        """Takes the answer to a call whose caller did not live to hear it, if it left an address."""
        self.started_total = 0
        self.failed_total = 0
        self.late_total = 0
        self.duplicate_total = 0
        directory.follow(self)
        directory.projection.add("calls", self._projected)

    def start_up(self) -> None:
        """Takes up what the log remembers: pending calls wait for their servers, or time out."""
        now_ms = self._clock.now_ms()
        for call in self._ledger.restore():
            call.due_ms = self._clock.monotonic_ms() + call.deadline_ms - now_ms
            call.timer = self._timers.at(call.due_ms, self._tick, call)
            self._waiting.wait(call)

    # -- for callers ---------------------------------------------------------------------------------

    def start(
        self,
        caller: Caller,
        *,
        agent: str | None,
        skill: str,
        arguments: bytes,
        content_type: str | None = None,
        deadline_ms: int | None = None,
        cause: str | None = None,
        dedupe: str | None = None,
        durable: bool = False,
        key: str | None = None,
        address: Address | None = None,
    ) -> Call | Refusal:
        """Asks ``agent``, or with None whoever serves the skill best; answers come to ``caller``.

        ``deadline_ms`` from now, cut to the configured maximum. ``dedupe``: the caller's own reference; the same
        one again is the same call, and its answers go to the newest asker. ``key``: only servers of
        exactly this (skill, schemas). ``durable``: the call outlives every connection.
        """
        session = caller.session
        if dedupe is not None:
            known = self._ledger.known(session.principal, session.agent, dedupe)
            if known is not None:
                return self._again(known, caller, agent, skill)
        refusal = self._ledger.refuses(session.principal, arguments)
        if refusal is not None:
            return refusal
        now_ms = self._clock.now_ms()
        call = Call(
            fresh_id(now_ms),
            session.principal,
            session.agent,
            agent,
            skill,
            arguments,
            content_type=content_type,
            key=key,
            cause=cause,
            dedupe=dedupe,
            durable=durable,
            address=address,
        )
        refusal = self._servers.refusal(call)
        if refusal is not None:
            return refusal
        wait_ms = self._settings.call_deadline_ms if deadline_ms is None else deadline_ms
        return self._enter(call, caller, now_ms, max(0, min(wait_ms, self._settings.call_deadline_max_ms)))

    def _enter(self, call: Call, caller: Caller, now_ms: int, wait_ms: int) -> Call | Refusal:
        call.caller = caller
        call.started_ms = call.moved_ms = now_ms
        call.deadline_ms = now_ms + wait_ms
        call.due_ms = self._clock.monotonic_ms() + wait_ms
        waiting = self._waiting.length(call.lane)
        if waiting >= self._settings.calls_waiting_per_skill_max:
            return Refusal(
                Reason.BUSY, f"{waiting} calls of {shown(call.skill)} wait already, which is the limit", 1_000
            )
        self._ledger.enter(call)
        self.started_total += 1
        if call.durable:
            self._ledger.record(call)
        call.timer = self._timers.after(min(wait_ms, self._settings.call_durable_after_ms), self._tick, call)
        self._settle(call)
        return call

    def cancel(self, session: Session, call_id: str) -> Refusal | None:
        """The caller does not want the answer any more; the server is told."""
        call = self._ledger.calls.get(call_id)
        if call is None:
            return _unknown(call_id)
        asker = call.principal.name == session.principal.name and call.caller_agent == session.agent
        if not asker and not session.principal.admin:
            return Refusal(Reason.NOT_AUTHORIZED, f"call {shown(call_id)} is not yours to cancel")
        if not call.open:
            return _over(call)
        self._tell_server(call)
        self._finish(call, CallState.CANCELLED, Outcome(refusal=Refusal(Reason.CANCELLED, "the caller cancelled it")))
        return None

    def named(self, session: Session, reference: str) -> Call | None:
        """The session's own call of that reference (its ``dedupe``)."""
        return self._ledger.known(session.principal, session.agent, reference)

    def get(self, principal: Principal, call_id: str) -> Call | Refusal:
        """The call with its events, for its caller, its server's principal and administrators."""
        call = self._ledger.calls.get(call_id)
        if call is None:
            return _unknown(call_id)
        server = self._directory.get(call.agent or call.wanted or "")
        mine = principal.name == call.principal.name or (server is not None and server.principal_name == principal.name)
        return call if mine or principal.admin else _unknown(call_id)

    def watch(self, call_id: str, fn: Callable[[CallEvent], object]) -> Callable[[], None] | Refusal:
        """Calls ``fn`` with each further event at the end of its turn; gives back how to stop. ``get`` says who may."""
        call = self._ledger.calls.get(call_id)
        return self._ledger.watch(call, fn) if call is not None else _unknown(call_id)

    def all(self) -> Iterable[Call]:
        """Every call that can be read, pending or ended, in no order that means anything."""
        return self._ledger.calls.values()

    def when_forgotten(self, fn: Callable[[Call], object]) -> None:
        """Calls ``fn`` for each call that can no longer be read, so that what was noted beside it goes with it."""
        assert self._ledger.forgotten is None, "one room keeps notes beside calls"
        self._ledger.forgotten = fn

    @property
    def pending(self) -> int:
        """Calls without an answer yet."""
        return self._ledger.pending

    # -- for servers ---------------------------------------------------------------------------------

    def answer(
        self,
        session: Session,
        call_id: str,
        payload: bytes,
        *,
        content_type: str | None = None,
        partial: bool = False,
        error: Refusal | str | None = None,
    ) -> Refusal | None:
        """The server's answer: a part of it, the whole, or that it failed. Only the agent that was asked may."""
        call = self._ledger.calls.get(call_id)
        if call is None:
            self.late_total += 1
            return _unknown(call_id)
        if not session.agent or session.agent != call.agent:
            return Refusal(Reason.NOT_AUTHORIZED, f"call {shown(call_id)} was not asked of you")
        if not call.open:
            if call.ending in (CallState.EXPIRED, CallState.CANCELLED):
                self.late_total += 1
            else:
                self.duplicate_total += 1
            return _over(call)
        if partial and error is None:
            self._part(call, payload, content_type)
            return None
        if error is None:
            self._finish(call, CallState.DONE, Outcome(payload, content_type))
        else:
            refusal = error if isinstance(error, Refusal) else Refusal(Reason.FAILED, error)
            self._finish(call, CallState.FAILED, Outcome(refusal=refusal))
        return None

    def serve_within(self, offers: list[Offer]) -> None:
        """The mesh itself serves these, as an agent that only calls know. What waits for them is asked."""
        self._servers.serve_within(offers)
        for offer in offers:
            self.offered(offer)

    # -- servers come and go ---------------------------------------------------------------------------

    def offered(self, offer: Offer) -> None:
        """A connection serves a skill: what waits for it is asked at the end of the turn."""
        self._wake((offer.agent.id, offer.skill.name))
        self._wake(("", offer.skill.name))

    def eased(self, agent: Agent) -> None:
        """The agent has room for a call again."""
        if not self._waiting:
            return
        for session, _ in agent.connections:
            for offer in self._directory.served(session):
                self.offered(offer)

    def departed(self, agent: Agent, session: Session) -> None:
        """A server's connection has ended: what it was asked waits for it or fails."""
        for call in self._asked.pop(session, {}).values():
            self._release(call)
            if call.durable or agent.kept:
                self._settle(call)
            else:
                detail = f"agent {shown(agent.id)} was disconnected before it answered"
                self._finish(call, CallState.FAILED, Outcome(refusal=Refusal(Reason.AGENT_UNREACHABLE, detail)))

    # -- asking --------------------------------------------------------------------------------------

    def _settle(self, call: Call) -> None:
        """Asks somebody, or lets the call wait."""
        if self._ask(call) or not call.open:
            return
        call.state = CallState.WAITING
        self._waiting.wait(call)
        self._moved(call)

    def _ask(self, call: Call) -> bool:
        """Asks the least busy server that takes it; False if none does now."""
        candidates = self._servers.candidates(call)
        while call.open:
            offer = choose(Strategy.LEAST_INFLIGHT, candidates)
            if offer is None:
                return False
            self._turn += 1
            offer.turn = self._turn
            self._assign(call, offer)
            # A server in this very process may answer from within.
            if offer.ask(call):
                if call.open:
                    self._moved(call)
                return True
            if call.offer is offer:
                self._release(call, refused=True)
                call.state = CallState.WAITING
            candidates.remove(offer)
        return True

    def _assign(self, call: Call, offer: Offer) -> None:
        call.offer = offer
        call.agent = offer.agent.id
        call.state = CallState.WORKING
        self._asked.setdefault(offer.session, {})[call.id] = call
        self._directory.loaded(offer.agent, +1)

    def _moved(self, call: Call) -> None:
        """It is in another state, and goes on."""
        self._ledger.note(call, self._ledger.event(call, Kind.STATE))
        if call.recorded or call.state is CallState.WAITING:
            self._ledger.record(call)
        self._tell(NEWS + call.id, call.news_json())

    def _release(self, call: Call, *, refused: bool = False) -> None:
        """Nobody works on the call any more. ``refused``: nobody ever did, so no room has become free."""
        offer = call.offer
        if offer is None:
            return
        call.offer = None
        mine = self._asked.get(offer.session)
        if mine is not None:
            mine.pop(call.id, None)
            if not mine:
                del self._asked[offer.session]
        self._directory.loaded(offer.agent, -1, eased=not refused)

    def _wake(self, lane: Lane) -> None:
        if lane in self._waiting and lane not in self._pumping:
            self._pumping.add(lane)
            self._later(self._pump, lane)

    def _pump(self, lane: Lane) -> None:
        """Asks for those who wait, the longest first, until nobody has room."""
        self._pumping.discard(lane)
        waiting = self._waiting.first(lane, ASKED_PER_TURN_MAX)
        for call in waiting:
            if not call.open or self._ask(call):
                self._waiting.leave(call)
            elif self._servers.candidates(call):
                return
            # Nobody it may ask is here: those behind it may ask others.
        if len(waiting) == ASKED_PER_TURN_MAX and not self._waiting.holds(waiting[0]):
            self._wake(lane)

    # -- ends ----------------------------------------------------------------------------------------

    def _tick(self, call: Call) -> None:
        if self._clock.monotonic_ms() >= call.due_ms:
            self._tell_server(call)
            waited_ms = call.deadline_ms - call.started_ms
            refusal = Refusal(Reason.DEADLINE_PASSED, f"no answer within {waited_ms} ms")
            self._finish(call, CallState.EXPIRED, Outcome(refusal=refusal))
            return
        self._ledger.record(call)
        call.timer = self._timers.at(call.due_ms, self._tick, call)

    def _part(self, call: Call, payload: bytes, content_type: str | None) -> None:
        self._ledger.note(call, self._ledger.event(call, Kind.PART, payload, content_type))
        if call.caller is not None:
            self._later(call.caller.part, call, payload, content_type)

    def _finish(self, call: Call, state: CallState, outcome: Outcome) -> None:
        """The end is set now, and told when it is safe: nobody hears what a crash takes back."""
        assert call.open, f"call {call.id} ends twice"
        call.ending = state
        call.ended_ms = self._clock.now_ms()
        if call.timer is not None:
            call.timer.cancel()
            call.timer = None
        self._release(call)
        self._waiting.leave(call)
        event = self._ledger.last(call, outcome)
        # Where the commit fails the answer is told all the same: there is one, though no record of it.
        self._when_safe(self._ledger.record_end(call, event), lambda _: self._ended(call, event, outcome))

    def _ended(self, call: Call, event: CallEvent, outcome: Outcome) -> None:
        call.outcome = outcome
        call.state = event.state
        self._ledger.note(call, event)
        if outcome.refusal is not None:
            self.failed_total += 1
        self._tell(NEWS + call.id, call.news_json())
        self._tell(NEWS + call.id, b"")
        self._deliver(call, outcome)
        self._ledger.end(call)

    def _deliver(self, call: Call, outcome: Outcome) -> None:
        caller, call.caller = call.caller, None
        if caller is not None:
            call.told = self._session_number(caller.session)
            self._later(caller.final, call, outcome)
        elif call.address is not None and self.orphan is not None:
            self._later(self.orphan, call, outcome)

    def _again(self, call: Call, caller: Caller, agent: str | None, skill: str) -> Call | Refusal:
        """The same reference again: the same call. Answers go to the newest asker, the final one once to each."""
        if call.wanted != agent or call.skill != skill:
            return Refusal(Reason.CONFLICT, f"the reference {shown(call.dedupe or '')} names another call of yours")
        number = self._session_number(caller.session)
        if call.outcome is None:
            call.caller = caller
        elif not number or number != call.told:
            call.told = number
            self._later(caller.final, call, call.outcome)
        return call

    def _session_number(self, session: Session) -> int:
        """Tells connections apart without holding on to them; 0 if it speaks as no agent."""
        agent = self._directory.get(session.agent)
        if agent is None:
            return 0
        return next((number for known, number in agent.connections if known is session), 0)

    def _tell_server(self, call: Call) -> None:
        offer = call.offer
        if offer is not None and offer.cancelled is not None:
            offer.cancelled(call)

    def _projected(self, only: str | None, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        for call_id in [only] if only is not None else list(self._ledger.calls):
            call = self._ledger.calls.get(call_id)
            if call is not None and call.pending and wanted(NEWS + call_id):
                yield NEWS + call_id, call.news_json()

    def check(self) -> None:
        """Asserts what must always hold. For tests; walks everything."""
        self._ledger.check()
        for call in self._ledger.calls.values():
            if call.pending:
                assert not call.open or (call.state is CallState.WORKING) == (call.offer is not None)
                assert call.offer is None or self._asked[call.offer.session][call.id] is call
                assert call.offer is not None or self._waiting.holds(call) == call.open
        assert all(self._asked.values())


def _unknown(call_id: str) -> Refusal:
    return Refusal(Reason.UNKNOWN_CALL, f"no call {shown(call_id)} is known (any more)")


def _over(call: Call) -> Refusal:
    reasons = {CallState.EXPIRED: Reason.DEADLINE_PASSED, CallState.CANCELLED: Reason.CANCELLED}
    state = call.ending or call.state
    return Refusal(reasons.get(state, Reason.CONFLICT), f"call {call.id} has ended: {state.value}")
