"""The resources a client follows: which channels they are, and that something was said there. Tells that, not what.

They are one session of the broker, so that the channels followed are known to have a reader.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, final

from dragoman.adapters.mcp.session import McpSession
from dragoman.routing.names import from_uri
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from dragoman.adapters.mcp.callers import Caller
    from dragoman.broker.broker import Broker
    from dragoman.broker.subscription import Feed, Subscription
    from dragoman.routing.message import Message


@final
class Following:
    """What one client follows. ``changed`` is called with a URI from within the broker's work; ``closed`` once."""

    __slots__ = ("_broker", "_changed", "_subscriptions", "_uris_of", "session", "uris")

    def __init__(
        self, broker: Broker, caller: Caller, changed: Callable[[str], None], closed: Callable[[], None]
    ) -> None:
        self._broker = broker
        self._changed = changed
        self.uris: dict[str, str] = {}
        self._uris_of: dict[str, list[str]] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self.session = McpSession(
            caller.principal, caller.agent, take=self._take, on_lost=self._lost, on_close=lambda refusal: closed()
        )

    def begin(self) -> Refusal | None:
        """To be called first. After a refusal there is nothing to end."""
        return self._broker.attach(self.session)

    def follow(self, uri: str) -> Refusal | None:
        """Follows a resource; again is no fault. What may not be read cannot be followed."""
        if uri in self.uris:
            return None
        name = from_uri(uri)
        if isinstance(name, Refusal):
            return name
        if name not in self._subscriptions:
            subscription = self._broker.subscribe(self.session, name, retained=False)
            if isinstance(subscription, Refusal):
                return subscription
            self._subscriptions[name] = subscription
        self.uris[uri] = name
        # Several URIs may spell one name.
        self._uris_of.setdefault(name, []).append(uri)
        return None

    def unfollow(self, uri: str) -> None:
        """The opposite; nothing if it is not followed."""
        name = self.uris.pop(uri, None)
        if name is None:
            return
        self._uris_of[name].remove(uri)
        if not self._uris_of[name]:
            del self._uris_of[name]
            self._broker.unsubscribe(self._subscriptions.pop(name))

    def end(self) -> None:
        """Follows nothing any more."""
        self._broker.detach(self.session)

    def _take(self, feed: Feed, message: Message) -> bool:
        self._tell(feed)
        return True

    def _lost(self, feed: Feed, count: int) -> None:
        self._tell(feed)

    def _tell(self, feed: Feed) -> None:
        for uri in self._uris_of.get(feed.name, ()):
            self._changed(uri)
