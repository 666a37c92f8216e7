"""The composition root: one mesh, built whole from its configuration. The only file that names adapters.

``Mesh`` starts inside any asyncio program: in ``dragoman serve`` and as a sidecar in an agent's own process.
An adapter is imported only if its listener is on.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Protocol, Self, final

from dragoman.adapters.serving.credentials import Authenticator
from dragoman.adapters.serving.limits import ConnectionLimits
from dragoman.adapters.serving.sockets import bound_address, listen, parse_address
from dragoman.broker.broker import Broker
from dragoman.broker.clock import SystemClock
from dragoman.broker.gate import Gate
from dragoman.broker.log.memory import MemoryLog
from dragoman.broker.metrics import Metrics
from dragoman.config import Config

if TYPE_CHECKING:
    import socket
    import ssl
    from types import TracebackType

    from dragoman.adapters.mqtt.realm import Realm
    from dragoman.broker.log.contract import Log

logger: Final = logging.getLogger("dragoman")


class Listener(Protocol):
    """What an adapter gives the mesh to start and stop."""

    async def start(self) -> None:
        """Begins to accept."""

    def stop_accepting(self) -> None:
        """Takes no new connections."""

    async def stop(self, deadline_s: float) -> None:
        """Lets the connections finish, at most so long, then cuts them."""


@final
class Mesh:
    """A running mesh. Nothing is global, so several may live in one process.

    ``async with Mesh(config) as mesh:`` or ``start`` and ``stop``, once each. Raises ``LogError`` or
    ``ListenError`` with a sentence for the operator when it cannot start; then nothing of it is left running.
    """

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config()
        self.addresses: dict[str, str] = {}
        self._listeners: list[Listener] = []
        self._sockets: list[socket.socket] = []
        self._broker: Broker | None = None
        self._authenticator: Authenticator | None = None

    @property
    def broker(self) -> Broker:
        """The broker of a started mesh."""
        assert self._broker is not None, "the mesh is not started"
        return self._broker

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # -- life ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Opens the log, restores what it holds, then listens."""
        config = self.config
        loop = asyncio.get_running_loop()
        metrics = Metrics()
        clock = SystemClock()
        declared = {agent: user.name for user in config.login.users for agent in user.agents}
        bound = self._bind()
        try:
            self._broker = Broker(
                config.broker,
                config.agents,
                clock=clock,
                log=self._log(),
                gate=Gate(config.gate),
                loop=loop,
                metrics=metrics,
                declared=declared,
            )
            self._authenticator = Authenticator(config.login, loop, metrics)
            await self._broker.start()
            self._listeners = self._build(bound)
            for listener in self._listeners:
                await listener.start()
        except BaseException:
            await self.stop(0)
            raise

    async def stop(self, grace_s: float | None = None) -> None:
        """Stops accepting, tells everyone in their protocol, makes everything safe, closes. Idempotent."""
        grace_s = self.config.grace_s if grace_s is None else grace_s
        for listener in self._listeners:
            listener.stop_accepting()
        broker, self._broker = self._broker, None
        if broker is not None:
            broker.say_goodbye()
        for listener in self._listeners:
            await listener.stop(grace_s)
        self._listeners = []
        for sock in self._sockets:
            sock.close()
        self._sockets = []
        if self._authenticator is not None:
            self._authenticator.close()
        if broker is not None:
            await broker.stop()

    def _log(self) -> Log:
        if not self.config.durable:
            return MemoryLog(self.config.log.budget_bytes)
        from dragoman.broker.log.disk_log import DiskLog

        return DiskLog(self.config.log)

    # -- listeners -----------------------------------------------------------------------------------

    def _bind(self) -> dict[str, list[socket.socket]]:
        """Takes the ports first: whether they are free is known before anything is opened or written."""
        bound: dict[str, list[socket.socket]] = {}
        for name in ("mqtt", "mqtts", "http", "https"):
            address = parse_address(getattr(self.config.listen, name))
            if address is None:
                continue
            sockets = listen(address, self.config.limits.backlog)
            self._sockets.extend(sockets)
            bound[name] = sockets
            self.addresses[name] = str(bound_address(sockets[0]))
        return bound

    def _build(self, bound: dict[str, list[socket.socket]]) -> list[Listener]:
        limits = ConnectionLimits(self.config.limits)
        listeners: list[Listener] = []
        if "mqtt" in bound or "mqtts" in bound:
            listeners.extend(self._mqtt(bound, limits))
        return listeners

    def _mqtt(self, bound: dict[str, list[socket.socket]], limits: ConnectionLimits) -> list[Listener]:
        from dragoman.adapters.mqtt.listener import Listener as MqttListener
        from dragoman.adapters.mqtt.realm import Realm

        assert self._authenticator is not None
        realm: Realm = Realm(self.broker, self._authenticator, self.config.mqtt)
        realm.standings.load()
        return [
            MqttListener(realm, limits, bound[name], self._tls() if name == "mqtts" else None)
            for name in ("mqtt", "mqtts")
            if name in bound
        ]

    def _tls(self) -> ssl.SSLContext:
        from dragoman.adapters.serving.tls import server_context

        return server_context(self.config.tls)
