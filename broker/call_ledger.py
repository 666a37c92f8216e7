"""Which calls there are: found by id and by reference, counted against their bounds, remembered, forgotten in time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, final

from dragoman.broker import call_rows
from dragoman.broker.call import Call, CallEvent, CallState, Kind, Outcome
from dragoman.broker.log.contract import DONE, Ticket
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.clock import Clock
    from dragoman.broker.log.contract import Log
    from dragoman.broker.principal import Principal
    from dragoman.broker.settings_agents import AgentSettings
    from dragoman.broker.timers import Timer, Timers

Reference = tuple[str, str, str]
"""Principal, agent and the caller's own word for a call."""

SWEPT_PER_TURN_MAX = 1_000


@final
class Ledger:
    """Pending calls, and finished ones for as long as they can be read. Decides nothing about answers."""

    def __init__(
        self, clock: Clock, timers: Timers, log: Log, later: Callable[..., object], settings: AgentSettings
    ) -> None:
        self._clock = clock
        self._timers = timers
        self._log = log
        self._later = later
        self._settings = settings
        self.calls: dict[str, Call] = {}
        self._references: dict[Reference, str] = {}
        self._per_principal: dict[str, int] = {}
        self._kept: dict[str, int] = {}
        self._sweep_timer: Timer | None = None
        self._watched = 0
        self.pending = 0
        self.bytes = 0
        self.forgotten: Callable[[Call], object] | None = None
        """Hears of each call that can no longer be read, in the commit that takes it out."""

    def restore(self) -> list[Call]:
        """Takes up what the log remembers; the calls still pending. Once, after the log is open."""
        pending: list[Call] = []
        for call in call_rows.load(self._log):
            self.bytes += call.bytes
            self.calls[call.id] = call
            if call.dedupe is not None:
                self._references[_reference(call, call.dedupe)] = call.id
            if call.outcome is None:
                self._count(call.principal, +1)
                call.state = CallState.WAITING
                pending.append(call)
            else:
                self._keep(call, max(0, self._settings.call_kept_ms - (self._clock.now_ms() - call.ended_ms)))
        return pending

    def refuses(self, principal: Principal, arguments: bytes) -> Refusal | None:
        """Why no further call of this principal can be taken; None if it can."""
        settings = self._settings
        if len(arguments) > settings.call_arguments_max:
            detail = f"the arguments have {len(arguments)} bytes, at most {settings.call_arguments_max} are allowed"
            return Refusal(Reason.TOO_LARGE, detail)
        if self._per_principal.get(principal.name, 0) >= settings.calls_per_principal_max:
            detail = f"{principal.name} waits for {settings.calls_per_principal_max} answers, which is the limit"
            return Refusal(Reason.QUOTA_EXCEEDED, detail, 1_000)
        if self.pending >= settings.calls_max:
            return Refusal(Reason.QUOTA_EXCEEDED, f"{settings.calls_max} calls are pending, which is the limit", 1_000)
        while self._kept and self.bytes + len(arguments) > settings.calls_bytes_max:
            self.drop(self.calls[next(iter(self._kept))])
        if self.bytes + len(arguments) > settings.calls_bytes_max:
            return Refusal(
                Reason.BUSY, f"pending calls fill {settings.calls_bytes_max} bytes, which is the limit", 1_000
            )
        return None

    def known(self, principal: Principal, agent: str, dedupe: str) -> Call | None:
        """The caller's own call of that reference."""
        call_id = self._references.get((principal.name, agent, dedupe))
        return self.calls[call_id] if call_id is not None else None

    def enter(self, call: Call) -> None:
        """A new call."""
        self.calls[call.id] = call
        self.bytes += call.bytes
        if call.dedupe is not None:
            self._references[_reference(call, call.dedupe)] = call.id
        self._count(call.principal, +1)

    def end(self, call: Call) -> None:
        """The call has its final answer. It stays for a while if somebody could ask for it."""
        self._count(call.principal, -1)
        if (call.recorded or call.dedupe is not None) and self._settings.call_kept_ms:
            self._keep(call, self._settings.call_kept_ms)
        else:
            self.drop(call)

    def drop(self, call: Call) -> None:
        """Forgets a call, on disk too."""
        del self.calls[call.id]
        self._kept.pop(call.id, None)
        self.bytes -= call.bytes
        if call.dedupe is not None:
            self._references.pop(_reference(call, call.dedupe), None)
        if call.recorded:
            call_rows.forget(self._log, call)
        if self.forgotten is not None:
            self.forgotten(call)

    def note(self, call: Call, event: CallEvent) -> None:
        """Something happened to the call. Recorded if the call is; told to who watches at the end of the turn.

        The end of a recorded call was recorded when it came (``record_end``), and is noted once that is safe.
        """
        before = call.bytes
        # When all calls together are at their bound, a call keeps only its newest event.
        full = self.bytes + event.size > self._settings.calls_bytes_max
        dropped = call.note(event, 1 if full else self._settings.call_events_max, self._settings.call_events_bytes_max)
        self.bytes += call.bytes - before
        if call.recorded:
            call_rows.forget_events(self._log, call, [old for old in dropped if old is not event])
            if event.kind is not Kind.FINAL:
                call_rows.save_event(self._log, call, event)
        if call.watchers:
            for fn in list(call.watchers.values()):
                self._later(fn, event)

    def event(self, call: Call, kind: Kind, payload: bytes | None = None, content_type: str | None = None) -> CallEvent:
        """The next event of a call, not yet noted."""
        call.last_event += 1
        now_ms = self._clock.now_ms()
        if kind is not Kind.PART:
            call.moved_ms = now_ms
        return CallEvent(call.last_event, kind, call.state, now_ms, payload, content_type)

    def last(self, call: Call, outcome: Outcome) -> CallEvent:
        """The last event of a call that has just been given its end, not yet noted."""
        assert call.ending is not None, "what ends it is set first"
        call.last_event += 1
        call.moved_ms = call.ended_ms
        payload, content_type, refusal = outcome.payload, outcome.content_type, outcome.refusal
        return CallEvent(call.last_event, Kind.FINAL, call.ending, call.ended_ms, payload, content_type, refusal)

    def record_end(self, call: Call, event: CallEvent) -> Ticket:
        """Records the end; the ticket to wait for before anybody is told, since a crash must not take it back."""
        if not call.recorded:
            return DONE
        call_rows.save_event(self._log, call, event)
        return call_rows.save(self._log, call)

    def record(self, call: Call) -> None:
        """Makes the call a record in the log, or brings its row up to date."""
        if not call.recorded:
            call.recorded = True
            for event in call.events:
                call_rows.save_event(self._log, call, event)
        call_rows.save(self._log, call)

    def watch(self, call: Call, fn: Callable[[CallEvent], object]) -> Callable[[], None] | Refusal:
        """Calls ``fn`` with each further event, at the end of its turn; gives back how to stop."""
        if call.watchers is None:
            call.watchers = {}
        if len(call.watchers) >= self._settings.call_watchers_max:
            detail = f"{self._settings.call_watchers_max} watch the call, which is the limit"
            return Refusal(Reason.QUOTA_EXCEEDED, detail)
        self._watched += 1
        number = self._watched
        watchers = call.watchers
        watchers[number] = fn

        def unwatch() -> None:
            watchers.pop(number, None)

        return unwatch

    def check(self) -> None:
        """Asserts what must always hold. For tests; walks everything."""
        pending = [call for call in self.calls.values() if call.pending]
        assert len(pending) == self.pending == sum(self._per_principal.values())
        assert self.bytes == sum(call.bytes for call in self.calls.values())
        for call in self.calls.values():
            assert call.bytes == len(call.arguments) + 500 + sum(event.size for event in call.events)
            assert call.pending == (call.id not in self._kept)
            assert call.open or call.offer is None
        assert all(call_id in self.calls for call_id in self._references.values())

    # -- within --------------------------------------------------------------------------------------

    def _count(self, principal: Principal, by: int) -> None:
        self.pending += by
        count = self._per_principal.get(principal.name, 0) + by
        if count:
            self._per_principal[principal.name] = count
        else:
            del self._per_principal[principal.name]

    def _keep(self, call: Call, for_ms: int) -> None:
        self._kept[call.id] = self._clock.monotonic_ms() + for_ms
        while len(self._kept) > self._settings.calls_kept_max:
            self.drop(self.calls[next(iter(self._kept))])
        if self._sweep_timer is None and self._kept:
            self._sweep_timer = self._timers.after(for_ms, self._sweep)

    def _sweep(self) -> None:
        """The oldest end first; after a restart some may stay a little longer than they must."""
        self._sweep_timer = None
        now = self._clock.monotonic_ms()
        for _ in range(SWEPT_PER_TURN_MAX):
            oldest = next(iter(self._kept), None)
            if oldest is None:
                return
            if self._kept[oldest] > now:
                break
            self.drop(self.calls[oldest])
        if self._kept:
            self._sweep_timer = self._timers.at(next(iter(self._kept.values())), self._sweep)


def _reference(call: Call, dedupe: str) -> Reference:
    return call.principal.name, call.caller_agent, dedupe
