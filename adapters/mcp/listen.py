"""subscriptions/listen: one stream on which a client is told that tools or resources changed. Tells that, not what.

Changes of a resource that come faster than the client reads become one, and so do those of a short pause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final, final

from dragoman.adapters.mcp.following import Following
from dragoman.adapters.mcp.kernel import SUBSCRIPTION_ID_KEY, JsonObject, Request

if TYPE_CHECKING:
    from dragoman.adapters.mcp.callers import Caller
    from dragoman.adapters.mcp.changes import Changes
    from dragoman.broker.broker import Broker
    from dragoman.routing.refusals import Refusal

LIST_CHANGED: Final = {
    "toolsListChanged": "notifications/tools/list_changed",
    "resourcesListChanged": "notifications/resources/list_changed",
}


@final
class Listening:
    """One stream: what it follows and what changed since it last spoke."""

    __slots__ = ("_changed", "_gap_s", "_lists", "_news", "_over", "following")

    def __init__(self, broker: Broker, caller: Caller, gap_s: float) -> None:
        self.following = Following(broker, caller, self._updated, self._closed)
        self._changed: dict[str, None] = {}
        self._gap_s = gap_s
        self._lists: dict[str, None] = {}
        self._over = False
        self._news = asyncio.Event()

    def list_changed(self, kind: str) -> None:
        """Notes that a list changed."""
        self._lists[kind] = None
        self._news.set()

    async def run(self, request: Request, acknowledged: JsonObject) -> JsonObject:
        """Acknowledges, then tells what changes until the mesh shuts down or the client goes."""
        meta = {SUBSCRIPTION_ID_KEY: request.id}
        await request.notify("notifications/subscriptions/acknowledged", {"notifications": acknowledged, "_meta": meta})
        while not self._over:
            await self._news.wait()
            self._news.clear()
            changed, self._changed = self._changed, {}
            lists, self._lists = self._lists, {}
            for kind in lists:
                await request.notify(LIST_CHANGED[kind], {"_meta": meta})
            for uri in changed:
                await request.notify("notifications/resources/updated", {"uri": uri, "_meta": meta})
            await asyncio.sleep(self._gap_s)
        return {"resultType": "complete", "_meta": meta}

    def _updated(self, uri: str) -> None:
        self._changed[uri] = None
        self._news.set()

    def _closed(self) -> None:
        self._over = True
        self._news.set()


async def listen(
    listening: Listening, request: Request, kinds: Mapping[str, Changes], uris: Iterable[str]
) -> JsonObject | Refusal:
    """Serves one stream. A refusal before anything was sent."""
    following = listening.following
    refusal = following.begin()
    if refusal is not None:
        return refusal
    unsubscribe = [changes.subscribe(partial(listening.list_changed, kind)) for kind, changes in kinds.items()]
    try:
        acknowledged: JsonObject = dict.fromkeys(kinds, True)
        followed = [uri for uri in dict.fromkeys(uris) if following.follow(uri) is None]
        if followed:
            acknowledged["resourceSubscriptions"] = followed
        return await listening.run(request, acknowledged)
    finally:
        for end in unsubscribe:
            end()
        following.end()
