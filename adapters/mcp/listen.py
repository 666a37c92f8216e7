"""subscriptions/listen: one stream on which a client is told that tools or resources changed. Tells that, not what.

Changes of a resource that come faster than the client reads become one. The stream's subscriptions are its own
session's, so the channels it follows are known to have a reader.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, final

from dragoman.adapters.mcp.kernel import SUBSCRIPTION_ID_KEY, JsonObject, Request
from dragoman.adapters.mcp.session import McpSession
from dragoman.routing.names import from_uri
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from dragoman.adapters.mcp.callers import Caller
    from dragoman.adapters.mcp.changes import Changes
    from dragoman.broker.broker import Broker
    from dragoman.broker.subscription import Feed
    from dragoman.routing.message import Message


@final
class Listening:
    """One stream: what it follows and what changed since it last spoke."""

    __slots__ = ("_changed", "_news", "_over", "_tools", "_uris", "session")

    def __init__(self, caller: Caller) -> None:
        self.session = McpSession(
            caller.principal, caller.agent, take=self._take, on_lost=self._lost, on_close=self._closed
        )
        self._uris: dict[str, str] = {}
        self._changed: dict[str, None] = {}
        self._tools = False
        self._over = False
        self._news = asyncio.Event()

    def follow(self, broker: Broker, uris: Iterable[str]) -> list[str]:
        """Subscribes to what these resources are; returns those that could be."""
        followed = []
        for uri in dict.fromkeys(uris):
            name = from_uri(uri)
            if isinstance(name, Refusal):
                continue
            if name not in self._uris.values():
                subscription = broker.subscribe(self.session, name, retained=False)
                if isinstance(subscription, Refusal):
                    continue
            self._uris[uri] = name
            followed.append(uri)
        return followed

    def tools_changed(self) -> None:
        """Notes that the tools changed."""
        self._tools = True
        self._news.set()

    async def run(self, request: Request, acknowledged: JsonObject) -> JsonObject:
        """Acknowledges, then tells what changes until the mesh shuts down or the client goes."""
        meta = {SUBSCRIPTION_ID_KEY: request.id}
        await request.notify("notifications/subscriptions/acknowledged", {"notifications": acknowledged, "_meta": meta})
        while not self._over:
            await self._news.wait()
            self._news.clear()
            changed, self._changed = self._changed, {}
            if self._tools:
                self._tools = False
                await request.notify("notifications/tools/list_changed", {"_meta": meta})
            for uri, name in self._uris.items():
                if name in changed:
                    await request.notify("notifications/resources/updated", {"uri": uri, "_meta": meta})
        return {"resultType": "complete", "_meta": meta}

    def _take(self, feed: Feed, message: Message) -> bool:
        self._changed[feed.name] = None
        self._news.set()
        return True

    def _lost(self, feed: Feed, count: int) -> None:
        self._changed[feed.name] = None
        self._news.set()

    def _closed(self, refusal: Refusal) -> None:
        self._over = True
        self._news.set()


async def listen(
    broker: Broker, caller: Caller, request: Request, changes: Changes, *, tools: bool, uris: list[str]
) -> JsonObject | Refusal:
    """Serves one stream. A refusal before anything was sent."""
    listening = Listening(caller)
    refusal = broker.attach(listening.session)
    if refusal is not None:
        return refusal
    unsubscribe = changes.subscribe(listening.tools_changed) if tools else None
    try:
        acknowledged: JsonObject = {"toolsListChanged": True} if tools else {}
        followed = listening.follow(broker, uris)
        if followed:
            acknowledged["resourceSubscriptions"] = followed
        return await listening.run(request, acknowledged)
    finally:
        if unsubscribe is not None:
            unsubscribe()
        broker.detach(listening.session)
