"""The composition root: one mesh, built whole from its configuration. The only file that names adapters.

``Mesh`` starts inside any asyncio program: in ``dragoman serve`` and as a sidecar in an agent's own process.
An adapter is imported only if its listener is on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, Self, TypeAlias, final

from dragoman import __version__
from dragoman.adapters.serving.binding import Bound
from dragoman.adapters.serving.credentials import Authenticator, hash_password, new_token, scram_verifier
from dragoman.adapters.serving.limits import ConnectionLimits
from dragoman.adapters.serving.settings import LISTENERS
from dragoman.adapters.serving.sockets import OFF, ListenError, parse_address
from dragoman.broker.broker import Broker
from dragoman.broker.clock import SystemClock
from dragoman.broker.gate import Gate
from dragoman.broker.log.contract import LogError
from dragoman.broker.log.memory import MemoryLog
from dragoman.broker.log.stored import KIND_KAFKA
from dragoman.broker.metrics import Metrics
from dragoman.broker.principal import ANONYMOUS
from dragoman.config import Config, ConfigError, advice, in_force, load
from dragoman.config_reader import Fault
from dragoman.embedded import Face
from dragoman.reload import Reloaded, check_whole, merge
from dragoman.routing.message import Bundle, Message
from dragoman.routing.refusals import Reason, Refusal, RefusedError

if TYPE_CHECKING:
    import socket
    import ssl
    from types import TracebackType

    from dragoman.adapters.a2a.desk import Desk
    from dragoman.adapters.kafka.realm import Realm as KafkaRealm
    from dragoman.adapters.mcp.desk import Desk as McpDesk
    from dragoman.adapters.mqtt.listener import Listener as MqttListener
    from dragoman.adapters.mqtt.listener_settings import ListenerSettings
    from dragoman.adapters.mqtt.realm import Realm
    from dragoman.adapters.mqtt.websocket_listener import WebSocketListener
    from dragoman.broker.log.contract import Log
    from dragoman.broker.log.disk_log import DiskLog

    Sockets: TypeAlias = dict[str, list[socket.socket]]

__all__ = ["CannotStartError", "Mesh", "hash_password", "new_token", "scram_verifier"]

logger: Final = logging.getLogger("dragoman")


class CannotStartError(Exception):
    """The mesh cannot start. The text is a sentence for the operator: what is wrong and what to do."""


class Listener(Protocol):
    """What an adapter gives the mesh to start and stop."""

    async def start(self) -> None:
        """Begins to accept."""

    def stop_accepting(self) -> None:
        """Takes no new connections."""

    async def stop(self, deadline_s: float) -> None:
        """Lets the connections finish, at most so long, then cuts them."""


class Encrypted(Protocol):
    """A listener with TLS, Kafka's or HTTP's: new certificates are all that can change of it."""

    def encrypt(self, tls: ssl.SSLContext) -> None:
        """New handshakes go by this, who is in stays in."""


def _open_kafka(bundle: Bundle) -> Sequence[Message]:
    """Opens a Kafka batch for who is not Kafka. Also where the listener is off: the codec comes with the first one."""
    from dragoman.adapters.kafka.batches import open_bundle

    return open_bundle(bundle)


@final
class Mesh(Face):
    """A running mesh. Nothing is global, so several may live in one process.

    ``async with Mesh(config) as mesh:`` or ``start`` and ``stop``, once each. Raises
    ``CannotStartError`` when it cannot start; then nothing of it is left running.
    """

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = config or Config()
        self.addresses: dict[str, str] = {}
        self._listeners: list[Listener] = []
        self._bound: dict[str, Bound] = {}
        self._broker: Broker | None = None
        self._authenticator: Authenticator | None = None
        self._disk: DiskLog | None = None
        self._mqtt_realm: Realm | None = None
        self._kafka_realm: KafkaRealm | None = None
        self._links_report: Callable[[], list[dict[str, object]]] = list
        self._reloading = asyncio.Lock()
        self._limits: ConnectionLimits | None = None
        self._of_mqtt: dict[str, MqttListener | WebSocketListener] = {}
        self._encrypted: dict[str, Encrypted] = {}

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
        try:
            bound = self._bind()
            self._broker = Broker(
                config.broker,
                config.agents,
                config.groups,
                clock=clock,
                log=self._log(),
                gate=Gate(config.gate),
                loop=loop,
                metrics=metrics,
                declared=_declared(config),
            )
            self._broker.core.bundles.add(KIND_KAFKA, _open_kafka)
            self._authenticator = Authenticator(config.login, loop, metrics, self._broker.bans)
            self._broker.delayed.named = self._authenticator.named
            await self._broker.start()
            self._listeners = self._build(bound)
            for listener in self._listeners:
                await listener.start()
        except (ListenError, LogError) as error:
            await self.stop(0)
            raise CannotStartError(str(error)) from None
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
        for bound in self._bound.values():
            bound.close()
        self._bound = {}
        if self._authenticator is not None:
            self._authenticator.close()
        if broker is not None:
            await broker.stop()

    # -- changing while it runs ----------------------------------------------------------------------

    async def reload(self, config: Config | None = None) -> Reloaded:
        """Takes over what can change while it runs, from ``config`` or from what it was started with, read again.

        All of it or nothing: raises ConfigError with everything that is wrong. Either way the log has it.
        """
        async with self._reloading:
            try:
                merged = merge(self.config, config or await self._read_again())
                contexts = _contexts(merged.config, self._encrypted)
            except ConfigError as error:
                faults = "; ".join(map(str, error.faults))
                # A line for the operator: where in our code it came up is of no use to anybody.
                logger.error("the configuration was not reloaded, nothing has changed: %s", faults)  # noqa: TRY400
                raise
            if self._broker is None:
                raise RefusedError(Refusal(Reason.SHUTTING_DOWN, "the mesh does not run"))
            noted = advice(self.config)
            ended = self._take_over(merged.config, contexts)
            done = Reloaded(merged.changed, merged.restart, list(contexts), ended)
            logger.warning("the configuration was reloaded: %s", done)
            for sentence in advice(merged.config):
                if sentence not in noted:
                    logger.warning("note: %s", sentence)
            return done

    async def _read_again(self) -> Config:
        source = self.config.source
        if source is None:
            raise ConfigError([Fault("", "", "this mesh was not started from a file that could be read again")])
        given = await asyncio.to_thread(load, source.file, source.flags)
        check_whole(self.config, given)
        return given

    def _take_over(self, config: Config, contexts: Mapping[str, ssl.SSLContext]) -> int:
        """How many sessions have ended by it."""
        broker, authenticator = self.broker, self._authenticator
        assert authenticator is not None
        running, self.config = self.config, config
        if self._limits is not None:
            self._limits.reload(config.limits)
        # Every room of the broker's reads these at each use; those that do not are for a restart.
        broker.settings = broker.core.settings = config.broker
        if self._kafka_realm is not None:
            self._kafka_realm.settings = config.kafka
        if self._mqtt_realm is not None and config.mqtt != running.mqtt:
            self._mqtt_realm.reload(config.mqtt)
        for settings in _mqtt_listeners(config):
            self._of_mqtt[settings.name].renew(settings, contexts.get(settings.name))
        for name, listener in self._encrypted.items():
            listener.encrypt(contexts[name])
        lost = frozenset[str]()
        if config.login != running.login:
            lost = authenticator.replace(config.login)
            broker.directory.reserve(_declared(config))
        if (config.login, config.gate, config.mqtt) != (running.login, running.gate, running.mqtt):
            # After the users: rules and rates speak of their groups. And whoever is connected asks for its rates again.
            broker.gate.replace(config.gate)
            broker.core.changed()
            broker.groups.wake()
        if [each.anonymous for each in config.mqtt.listeners] != [each.anonymous for each in running.mqtt.listeners]:
            lost |= {ANONYMOUS.name}
        ended = [session for session in broker.sessions() if session.principal.name in lost]
        for session in ended:
            session.close(Refusal(Reason.DISCONNECTED, "the configuration has changed: log in anew"))
        return len(ended)

    # -- parts -----------------------------------------------------------------------------------------

    def _log(self) -> Log:
        if not self.config.durable:
            return MemoryLog(self.config.log.budget_bytes)
        from dragoman.broker.log.disk_log import DiskLog

        self._disk = DiskLog(self.config.log)
        return self._disk

    def _backup(self) -> Callable[[str], Awaitable[None]] | None:
        """Copies the running log to a folder; None where nothing is on disk."""
        log = self._disk
        if log is None:
            return None

        async def copy(target: str) -> None:
            from dragoman.broker.log.upkeep import backup

            try:
                await backup(log, Path(target))
            except LogError as error:
                raise RefusedError(Refusal(Reason.CONFLICT, str(error))) from None

        return copy

    async def _reload_asked(self) -> dict[str, object]:
        try:
            return (await self.reload())._asdict()
        except ConfigError as error:
            raise RefusedError(Refusal(Reason.CONFLICT, "; ".join(map(str, error.faults)))) from None

    # -- listeners -----------------------------------------------------------------------------------

    def _bind(self) -> Sockets:
        """Takes the ports first: whether they are free is known before anything is opened or written."""
        listen = self.config.listen
        wanted = [(name, getattr(listen, name), 0) for name in LISTENERS if getattr(listen, name) != OFF]
        wanted += [(each.name, each.address, int(each.socket_mode, 8)) for each in self.config.mqtt.listeners]
        for name, address, mode in wanted:
            self._bound[name] = bound = Bound(address, self.config.limits.backlog, mode)
            self.addresses[name] = bound.address
        return {name: bound.sockets for name, bound in self._bound.items()}

    def _build(self, bound: Sockets) -> list[Listener]:
        self._limits = limits = ConnectionLimits(self.config.limits, self.broker.bans)
        listeners: list[Listener] = []
        if self.config.links:
            # First, since what the others take in from their first moment on is to go out.
            from dragoman.adapters.links.links import Links

            links = Links(self.broker, self.config.links)
            self._links_report = links.report
            listeners.append(links)
        every = _mqtt_listeners(self.config)
        web = "http" in bound or "https" in bound
        if every or web:
            from dragoman.adapters.a2a.desk import Desk
            from dragoman.adapters.mcp.desk import Desk as McpDesk

            desk = Desk(self.broker, self.config.a2a, version=__version__)
            mcp_desk = McpDesk(self.broker, self.config.mcp, version=__version__)
            listeners += [desk, mcp_desk]
            if every:
                listeners += [*self._over_mqtt(desk, mcp_desk, every), *self._mqtt(every, bound, limits)]
            if web:
                listeners.append(self._http(bound, limits, desk, mcp_desk))
        if "kafka" in bound or "kafkas" in bound:
            listeners.extend(self._kafka(bound, limits))
        return listeners

    def _http(self, bound: Sockets, limits: ConnectionLimits, desk: Desk, mcp_desk: McpDesk) -> Listener:
        """The one web application: HTTP, MCP and A2A add their routes to it."""
        from dragoman.adapters.a2a.routes import add_routes as add_a2a
        from dragoman.adapters.http.listener import Door
        from dragoman.adapters.http.listener import Listener as HttpListener
        from dragoman.adapters.http.routes import add_routes as add_http
        from dragoman.adapters.http.surface import Setting, Surface
        from dragoman.adapters.mcp.routes import add_routes as add_mcp
        from dragoman.adapters.serving.web import application

        assert self._authenticator is not None
        config = self.config
        app = application(self._authenticator, config.http.web)
        surface = Surface(
            self.broker,
            config.http,
            config=lambda: [Setting(*setting[:3]) for setting in in_force(self.config)],
            version=__version__,
            backup=self._backup(),
            reload=self._reload_asked,
            links=self._links_report,
        )
        add_http(app, surface)
        add_mcp(app, self.broker, config.mcp, mcp_desk)
        add_a2a(app, self.broker, config.a2a, desk)
        if self._mqtt_realm is not None:
            from dragoman.adapters.mqtt.websocket import add_route as add_mqtt

            add_mqtt(app, self._mqtt_realm, limits)
        doors = [
            Door(bound[name], self.config.tls.context() if name == "https" else None)
            for name in ("http", "https")
            if name in bound
        ]
        listener = HttpListener(app, surface, limits, doors, config.grace_s)
        if "https" in bound:
            self._encrypted["https"] = listener
        return listener

    def _mqtt(self, every: Sequence[ListenerSettings], bound: Sockets, limits: ConnectionLimits) -> Sequence[Listener]:
        from dragoman.adapters.mqtt.realm import Realm
        from dragoman.adapters.mqtt.sys_tree import SysTree

        assert self._authenticator is not None
        self._mqtt_realm = realm = Realm(self.broker, self._authenticator, self.config.mqtt)
        realm.standings.load()
        SysTree(realm, __version__).start()
        for settings in every:
            self._of_mqtt[settings.name] = self._mqtt_listener(realm, limits, settings, bound[settings.name])
        return list(self._of_mqtt.values())

    def _mqtt_listener(
        self, realm: Realm, limits: ConnectionLimits, settings: ListenerSettings, sockets: list[socket.socket]
    ) -> MqttListener | WebSocketListener:
        tls = settings.context(self.config.tls) if settings.tls else None
        if settings.transport == "websocket":
            from dragoman.adapters.mqtt.websocket_listener import WebSocketListener

            return WebSocketListener(realm, limits, settings, self.config.http.web, sockets, tls)
        from dragoman.adapters.mqtt.listener import Listener as MqttListener

        return MqttListener(realm, limits, settings, sockets, tls)

    def _over_mqtt(self, desk: Desk, mcp_desk: McpDesk, every: Sequence[ListenerSettings]) -> list[Listener]:
        """Before MQTT itself, so that its clients' first words mean what they say."""
        from dragoman.adapters.mcp.over_mqtt import mcp_over_mqtt

        found: list[Listener] = [*mcp_over_mqtt(self.broker, self.config.mcp, mcp_desk)]
        if self.config.a2a.mqtt:
            from dragoman.adapters.a2a.over_mqtt import OverMqtt

            shown = next((settings for settings in every if settings.unix is None), every[0])
            found.append(OverMqtt(self.broker, self.config.a2a, desk, url=shown.url(self.addresses[shown.name])))
        return found

    def _kafka(self, bound: Sockets, limits: ConnectionLimits) -> list[Listener]:
        from dragoman.adapters.kafka.listener import Listener as KafkaListener
        from dragoman.adapters.kafka.realm import Realm

        assert self._authenticator is not None
        self._kafka_realm = realm = Realm(
            self.broker,
            self._authenticator,
            self.config.kafka,
            parse_address(self.config.kafka.advertised) if self.config.kafka.advertised else None,
        )
        found = {
            name: KafkaListener(realm, limits, bound[name], self.config.tls.context() if name == "kafkas" else None)
            for name in ("kafka", "kafkas")
            if name in bound
        }
        if "kafkas" in found:
            self._encrypted["kafkas"] = found["kafkas"]
        return list(found.values())


def _declared(config: Config) -> dict[str, str]:
    """The principal of each agent id that is reserved."""
    return {agent: user.name for user in config.login.users for agent in user.agents}


def _mqtt_listeners(config: Config) -> Sequence[ListenerSettings]:
    return config.mqtt.every_listener(config.listen.mqtt, config.listen.mqtts)


def _contexts(config: Config, others: Iterable[str]) -> dict[str, ssl.SSLContext]:
    """What MQTT's listeners with TLS and these others go by, their files read now. Raises ConfigError."""
    try:
        made = {each.name: each.context(config.tls) for each in _mqtt_listeners(config) if each.tls}
        return {**made, **{name: config.tls.context() for name in sorted(others)}}
    except ListenError as error:
        # The files were fine just now; or the listeners that they were for are there until a restart.
        raise ConfigError([Fault("", "tls", str(error))]) from None
