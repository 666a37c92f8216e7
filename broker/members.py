"""Who is in which channel: the agents with a subscription to exactly it. Derived, never declared twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import final

import msgspec

from dragoman.routing.names import to_level

CHANNELS = "$mesh/v1/channels/"


@final
class Members:
    """Counts exact subscriptions per channel and agent. The broker bounds subscriptions, and so this."""

    def __init__(self, tell: Callable[[str, bytes], object]) -> None:
        self._tell = tell
        self._channels: dict[str, dict[str, list[int]]] = {}
        self.about: Callable[[str], dict[str, object]] = lambda channel: {}
        """What else there is to say of a channel (title, what it keeps); set by those who know."""

    def joined(self, channel: str, agent: str, now_ms: int) -> bool:
        """One more exact subscription; whether the agent is a member only now."""
        inside = self._channels.setdefault(channel, {})
        known = inside.get(agent)
        if known is not None:
            known[1] += 1
            return False
        inside[agent] = [now_ms, 1]
        self._tell(self._member_name(channel, agent), self._member_json(now_ms))
        self._tell(CHANNELS + to_level(channel), self._channel_json(channel))
        return True

    def left(self, channel: str, agent: str) -> bool:
        """One exact subscription less; whether the agent is a member no longer. Late news changes nothing."""
        inside = self._channels.get(channel)
        known = inside.get(agent) if inside is not None else None
        if inside is None or known is None:
            return False
        known[1] -= 1
        if known[1]:
            return False
        del inside[agent]
        self._tell(self._member_name(channel, agent), b"")
        if inside:
            self._tell(CHANNELS + to_level(channel), self._channel_json(channel))
        else:
            del self._channels[channel]
            self._tell(CHANNELS + to_level(channel), b"")
        return True

    def of(self, channel: str) -> list[tuple[str, int]]:
        """The members and since when, in the order they joined."""
        return [(agent, since[0]) for agent, since in self._channels.get(channel, {}).items()]

    def holds(self, channel: str, agent: str) -> bool:
        """Whether the agent is a member."""
        return agent in self._channels.get(channel, {})

    def projected(self, only: str | None, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        """What is to be said below ``$mesh/v1/channels/``; of one channel if ``only`` names it."""
        for channel in [only] if only is not None else list(self._channels):
            if channel not in self._channels:
                continue
            name = CHANNELS + to_level(channel)
            if wanted(name):
                yield name, self._channel_json(channel)
            for agent, since_ms in self.of(channel):
                name = self._member_name(channel, agent)
                if wanted(name) and self.holds(channel, agent):
                    yield name, self._member_json(since_ms)

    def _channel_json(self, channel: str) -> bytes:
        return msgspec.json.encode({**self.about(channel), "members": len(self._channels.get(channel, {}))})

    @staticmethod
    def _member_name(channel: str, agent: str) -> str:
        return f"{CHANNELS}{to_level(channel)}/members/{to_level(agent)}"

    @staticmethod
    def _member_json(since_ms: int) -> bytes:
        return msgspec.json.encode({"role": "member", "since": since_ms})
