"""How many connections there may be, before anybody has said who they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from dragoman.broker.clock import SystemClock
from dragoman.broker.rates import Limiter
from dragoman.routing.addresses import address_block, is_loopback
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.adapters.serving.settings import LimitSettings
    from dragoman.broker.bans import Bans
    from dragoman.broker.clock import Clock

RETRY_MS = 5_000

BLOCKS_MAX = 65_536
"""Address blocks whose connection rate is remembered, about 200 bytes each."""


@final
class ConnectionLimits:
    """Counts the connections of all listeners of a mesh. Every ``admit`` that let in is followed by one ``leave``."""

    def __init__(self, settings: LimitSettings, bans: Bans | None = None, clock: Clock | None = None) -> None:
        """``bans``: the mesh's; None = nobody is banned. ``clock``: None = the system's."""
        self.settings = settings
        self._bans = bans
        self._clock: Clock = clock or SystemClock()
        self._rate = _rate(settings)
        #: the rates of blocks that came lately; all are forgotten at once when there are too many
        self._rates: dict[str, Limiter] = {}
        self.open = 0
        # Only blocks that have a connection now, so connections_max bounds it.
        self._by_block: dict[str, int] = {}

    def reload(self, settings: LimitSettings) -> None:
        """Takes over other settings; who is in stays in."""
        running, self.settings = self.settings, settings
        if settings != running:
            self._rate = _rate(settings)
            self._rates.clear()

    def admit(self, host: str) -> Refusal | None:
        """Counts a connection from ``host`` in, or says why not. "" is a peer without an address (a Unix socket)."""
        if self._bans is not None and (banned := self._bans.address(host)) is not None:
            return banned
        if self.open >= self.settings.connections_max:
            return Refusal(Reason.QUOTA_EXCEEDED, f"there are {self.open} connections already", RETRY_MS)
        block = _block(host)
        count = self._by_block.get(block, 0)
        if block and count >= self.settings.connections_per_address_max:
            return Refusal(Reason.QUOTA_EXCEEDED, f"{block} has {count} connections already", RETRY_MS)
        wait_ms = self._wait(block)
        if wait_ms:
            return Refusal(Reason.RATE_EXCEEDED, "more connections come than may be accepted", wait_ms)
        self.open += 1
        if block:
            self._by_block[block] = count + 1
        return None

    def _wait(self, block: str) -> int:
        """Milliseconds until another connection from there may come. An address that floods takes nothing of others."""
        now_ms = self._clock.monotonic_ms()
        rate = self.settings.connections_per_address_per_s
        if rate and block:
            own = self._rates.get(block)
            if own is None:
                if len(self._rates) >= BLOCKS_MAX:
                    self._rates.clear()
                own = self._rates[block] = Limiter(rate, rate)
            wait_ms = own.take(now_ms)
            if wait_ms:
                return wait_ms
        return self._rate.take(now_ms) if self._rate is not None else 0

    def leave(self, host: str) -> None:
        """Counts a connection out that was let in."""
        assert self.open > 0, "more left than came"
        self.open -= 1
        block = _block(host)
        if not block:
            return
        left = self._by_block[block] - 1
        if left:
            self._by_block[block] = left
        else:
            del self._by_block[block]


def _rate(settings: LimitSettings) -> Limiter | None:
    rate = settings.connections_per_s
    return Limiter(rate, rate) if rate else None


def _block(host: str) -> str:
    return "" if not host or is_loopback(host) else address_block(host)
