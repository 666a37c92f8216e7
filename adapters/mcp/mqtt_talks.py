"""The talks of MCP clients over MQTT with the mesh: the sessions of a handshake, as over HTTP, without HTTP.

A client is its MQTT connection's principal and agent, so its calls are judged as everything else it does. A talk
ends with its connection, with the client's goodbye, by a new ``initialize``, or unused for long while it follows no
resource. What is wrong with a message is answered as JSON-RPC does; MQTT has taken it all the same.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, final

from dragoman.adapters.mcp import wire
from dragoman.adapters.mcp.callers import Caller
from dragoman.adapters.mcp.contents import refused_error
from dragoman.adapters.mcp.handshakes import SWEEP_MS, HandshakeSession, HandshakeSessions
from dragoman.adapters.mcp.kernel import INVALID_REQUEST, Request, RpcError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from dragoman.adapters.mcp.desk import Desk
    from dragoman.adapters.mcp.settings import McpSettings
    from dragoman.adapters.mcp.voices import Reply, Voice
    from dragoman.broker.broker import Broker
    from dragoman.broker.session import Session
    from dragoman.broker.timers import Timer
    from dragoman.routing.refusals import Refusal

logger = logging.getLogger(__name__)

DISCONNECTED: Final = "notifications/disconnected"


@final
class Talk:
    """One client's, over one connection."""

    __slots__ = ("caller", "client", "handshake", "session")

    def __init__(self, session: Session, handshake: HandshakeSession) -> None:
        self.session = session
        self.client = session.agent
        self.handshake = handshake
        self.caller = Caller(session.principal, session.agent)
        self.caller.session = handshake


@final
class Talks:
    """All of them, by client id."""

    def __init__(
        self,
        broker: Broker,
        settings: McpSettings,
        desk: Desk,
        answer: Callable[[str, bytes], Refusal | None],
        announce: Callable[[bytes], None],
        forget: Callable[[str], None],
    ) -> None:
        """``answer`` says something to one client, ``announce`` to all; ``forget``: one has no use for answers now."""
        self._broker = broker
        self._settings = settings
        self._desk = desk
        self._answer = answer
        self._announce = announce
        self._forget = forget
        self._by_client: dict[str, Talk] = {}
        self._sessions = HandshakeSessions(broker, desk.sessions, settings.session_idle_s)
        self._running: set[asyncio.Task[None]] = set()
        self._timer: Timer | None = None
        desk.watch(self._changed)

    async def stop(self) -> None:
        """Ends every one."""
        if self._timer is not None:
            self._timer.cancel()
        for talk in list(self._by_client.values()):
            self._end(talk)
        self._sessions.close()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _changed(self, method: str) -> None:
        if self._by_client:
            self._announce(wire.notification_body(method, None))

    # -- hearing -------------------------------------------------------------------------------------

    def heard(self, session: Session, payload: bytes, *, begins: bool) -> None:
        """Takes one message of a client. ``begins``: it came where initialize belongs, and must be that."""
        client = session.agent
        if len(payload) > self._settings.body_bytes_max:
            detail = f"the message is larger than {self._settings.body_bytes_max} bytes"
            self._answer(client, wire.error_body(None, RpcError(INVALID_REQUEST, detail)))
            return
        said = wire.parse(payload)
        if isinstance(said, RpcError):
            self._answer(client, wire.error_body(wire.id_of(payload), said))
        elif begins != (said.method == "initialize" and said.id is not None):
            self._wrong(client, said, "initialize, and nothing else, is requested at the server's own topic")
        elif begins:
            self._begin(session, said)
        else:
            talk = self._by_client.get(client)
            if talk is None or talk.session is not session or talk.handshake.closed:
                self._wrong(client, said, "a client begins with initialize")
            else:
                self._told(talk, said)

    def _told(self, talk: Talk, said: wire.Envelope) -> None:
        talk.handshake.used_ms = self._broker.clock.monotonic_ms()
        if said.id is not None:
            self._ask(talk, said)
        elif said.method == "notifications/cancelled":
            talk.handshake.cancel((said.params or {}).get("requestId"))
        elif said.method == DISCONNECTED:
            self._end(talk)
        else:
            request = Request("", said.method, said.params, talk.caller, talk.handshake.tell)
            self._run(talk.handshake.place.tell(request))

    def _wrong(self, client: str, said: wire.Envelope, detail: str) -> None:
        if said.id is None:
            # JSON-RPC has no answer to a notification.
            self._broker.metrics.drop("mcp-over-mqtt-notifications")
        else:
            self._answer(client, wire.error_body(said.id, RpcError(INVALID_REQUEST, detail)))

    def _refuse(self, client: str, said: wire.Envelope, refusal: Refusal) -> None:
        self._broker.metrics.refuse(refusal.reason)
        self._answer(client, wire.error_body(said.id, refused_error(refusal)))

    # -- beginning and ending ------------------------------------------------------------------------

    def _begin(self, session: Session, said: wire.Envelope) -> None:
        known = self._by_client.get(session.agent)
        if known is not None:
            self._end(known)
        now_ms = self._broker.clock.monotonic_ms()
        handshake = HandshakeSession(self._desk.kernel, session.principal.name, now_ms)
        refusal = self._sessions.admit(handshake, now_ms)
        if refusal is not None:
            self._refuse(session.agent, said, refusal)
            return
        talk = self._by_client[session.agent] = Talk(session, handshake)
        if self._timer is None:
            self._timer = self._broker.timers.after(SWEEP_MS, self._look)
        self._run(self._noticed(talk))
        self._ask(talk, said)

    def deaf(self, session: Session) -> None:
        """A connection does not hear answers any more. Said from within the broker's work."""
        talk = self._by_client.get(session.agent)
        if talk is not None and talk.session is session:
            self._broker.later(self._end, talk)

    def goodbye(self, client: str) -> None:
        """A client says that it is gone, or its will does."""
        talk = self._by_client.get(client)
        if talk is not None:
            self._end(talk)

    def _look(self) -> None:
        """Ends talks of connections that went without anything that told so, such as kept sessions'."""
        attached = self._broker.sessions()
        for talk in [talk for talk in self._by_client.values() if talk.session not in attached]:
            self._end(talk)
        self._timer = self._broker.timers.after(SWEEP_MS, self._look) if self._by_client else None

    def _end(self, talk: Talk) -> None:
        """What it asked is cancelled. Idempotent."""
        if self._is_on(talk):
            del self._by_client[talk.client]
            self._forget(talk.client)
        self._sessions.end(talk.handshake)

    def _is_on(self, talk: Talk) -> bool:
        return self._by_client.get(talk.client) is talk

    # -- answering -----------------------------------------------------------------------------------

    def _ask(self, talk: Talk, said: wire.Envelope) -> None:
        assert said.id is not None, "a notification has no answer"
        principal = talk.caller.principal.name
        refusal = talk.handshake.crowded(self._settings.session_requests_max) or self._desk.requests.take(principal)
        if refusal is not None:
            self._refuse(talk.client, said, refusal)
            return
        reply = talk.handshake.reply()
        talk.handshake.start(Request(said.id, said.method, said.params, talk.caller, reply.notify), reply)
        task = self._run(self._replied(talk, said, reply))
        task.add_done_callback(lambda _: self._desk.requests.give_back(principal))

    async def _replied(self, talk: Talk, said: wire.Envelope, reply: Reply) -> None:
        refusal = await self._pour(talk, reply)
        if not self._is_on(talk):
            return
        if refusal is not None:
            self._answer(talk.client, wire.error_body(said.id, refused_error(refusal)))
        # As a stream that is open: who follows a resource waits, and is not idle.
        talk.handshake.streams = int(talk.handshake.follows)
        if said.method == "initialize" and not talk.handshake.place.agreed:
            self._end(talk)

    async def _noticed(self, talk: Talk) -> None:
        """Says what belongs to no request. A client whose talk the mesh has ended is told so at last."""
        await self._pour(talk, talk.handshake.notices)
        if self._is_on(talk):
            # First the end, with which all that it was told is forgotten.
            self._end(talk)
            self._answer(talk.client, wire.notification_body(DISCONNECTED, None))

    async def _pour(self, talk: Talk, voice: Voice) -> Refusal | None:
        """Says what a voice says, until it is over; why the last of it could not be said."""
        seen, refusal = 0, None
        while True:
            for number, body in voice.since(seen):
                seen = number
                if self._is_on(talk):
                    refusal = self._answer(talk.client, body)
            if voice.over:
                return refusal
            await voice.bell.heard()
            if voice is talk.handshake.notices and not voice.over:
                await asyncio.sleep(self._settings.notices_gap_s)

    def _run(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[None]:
        async def run() -> None:
            await work

        task = asyncio.get_running_loop().create_task(run(), name="mcp over mqtt")
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        fault = None if task.cancelled() else task.exception()
        if fault is not None:
            logger.error("a talk by MQTT failed", exc_info=fault)
