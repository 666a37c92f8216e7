"""Links to MQTT brokers: MQTT 5.0 by aiomqtt.

Pulled at QoS 1, a message is acknowledged once it is safe here, in the order in which they came [MQTT-4.6.0-2]; the
session outside is kept, so what is said there while the link is down comes afterwards. Pushed at QoS 1, a message is
finished by its PUBACK. aiomqtt knows neither manual acknowledgements nor the reason codes of PUBACKs; the paho client
below it does both, and this is the one file that reaches for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Final, final

import aiomqtt
import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from dragoman.adapters.links.link import LinkError
from dragoman.adapters.links.mqtt_mapping import blank, message_of, properties_of
from dragoman.adapters.links.places import InOrder
from dragoman.broker.identity import MESH_SELF
from dragoman.broker.log.contract import Table
from dragoman.broker.rows import Row, decode_row, encode_row
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from paho.mqtt.reasoncodes import ReasonCode

    from dragoman.adapters.links.link import Link
    from dragoman.adapters.links.outlet import Leaving

CONNECT_S: Final = 10.0
KEEPALIVE_S: Final = 30
SESSION_EXPIRY_S: Final = 7 * 24 * 3600
"""How long the outside is asked to keep our session while the link is down."""

ARRIVALS_MAX: Final = 4_096
"""QoS 0 messages that wait to be taken in. Nothing in MQTT slows their sender, so more are dropped."""

PACKET_HEAD_MAX: Final = 16
QUOTA_EXCEEDED: Final = 0x97
RETAINED_ON_NEW: Final = 1
"""Retained messages are given for a new subscription only, not after each reconnect."""


class FiltersRow(Row):
    """What the outside's session of ours is subscribed to."""

    filters: tuple[str, ...] = ()


@final
class MqttOutside:
    """Implements ``link.Outside``."""

    lag: Final = None

    def __init__(self, link: Link) -> None:
        self._link = link
        self._settings = link.settings
        self._row = b"mqtt:" + link.settings.name.encode()

    async def converse(self) -> None:
        """One connection."""
        try:
            client = self._client()
            talk = _Conversation(self._link, client)
            async with _connected(client):
                await self._subscribe(client, talk)
                self._link.up(talk.far)
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(talk.watch())
                    tasks.create_task(talk.pull())
                    tasks.create_task(talk.push())
        except aiomqtt.MqttError as error:
            raise LinkError(str(error)) from None
        except ssl.SSLError as error:
            raise LinkError(f"TLS: {error}") from None

    def _client(self) -> aiomqtt.Client:
        settings = self._settings
        ((host, port),) = settings.hosts
        wanted = blank(PacketTypes.CONNECT)
        wanted.SessionExpiryInterval = SESSION_EXPIRY_S
        wanted.ReceiveMaximum = settings.window
        wanted.RequestResponseInformation = 1  # a mesh then says which it is
        wanted.UserProperty = (MESH_SELF, self._link.mesh)
        return aiomqtt.Client(
            host,
            port,
            username=settings.username or None,
            password=settings.password or None,
            identifier=settings.known_as,
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=False,
            properties=wanted,
            timeout=CONNECT_S,
            keepalive=KEEPALIVE_S,
            max_inflight_messages=settings.window,
            tls_context=ssl.create_default_context(cafile=settings.ca or None) if settings.tls else None,
        )

    async def _subscribe(self, client: aiomqtt.Client, talk: _Conversation) -> None:
        log = self._link.broker.log
        row = log.get(Table.LINKS, self._row)
        before = decode_row(row, FiltersRow).filters if row is not None else ()
        wanted = tuple(dict.fromkeys(route.filter for route in self._link.pulls))
        # First what is remembered: whatever happens in between, nothing is subscribed that is not known here.
        log.put(Table.LINKS, self._row, encode_row(FiltersRow(filters=tuple(dict.fromkeys((*before, *wanted))))))
        for number, route in enumerate(self._link.pulls, start=1):
            options = SubscribeOptions(
                self._settings.qos, noLocal=True, retainAsPublished=True, retainHandling=RETAINED_ON_NEW
            )
            properties = None
            if talk.identifiers:
                properties = blank(PacketTypes.SUBSCRIBE)
                properties.SubscriptionIdentifier = number
            for code in await client.subscribe(route.filter, options=options, properties=properties):
                if getattr(code, "is_failure", False):
                    raise LinkError(f"the outside refuses the filter {route.filter!r}: {code}")
        for old in before:
            if old not in wanted:
                await client.unsubscribe(old)
        log.put(Table.LINKS, self._row, encode_row(FiltersRow(filters=wanted)))


@final
class _Conversation:
    """What is under way on one connection."""

    def __init__(self, link: Link, client: aiomqtt.Client) -> None:
        self._link = link
        self._client = client
        self._paho = client._client
        self._arrivals: deque[tuple[paho.MQTTMessage, Callable[[], None]]] = deque()
        self._acks: InOrder[int] = InOrder(lambda mid: self._paho.ack(mid, 1))
        self._news = asyncio.Event()
        self._sent: dict[int, Leaving] = {}
        self._room = asyncio.Event()
        self._window = link.settings.window
        self._qos = link.settings.qos
        self._retains = True
        self._packet_max = 0
        self._refused = asyncio.get_running_loop().create_future()
        #: whether the outside tells which subscription a message is for
        self.identifiers = True
        #: the outside's own id, if it is a mesh
        self.far = ""
        told: Callable[..., None] | None = self._paho.on_connect
        assert told is not None, "aiomqtt listens for the CONNACK"

        def connected(client: paho.Client, data: Any, flags: Any, code: ReasonCode, said: Properties | None) -> None:
            self._limits(said)
            told(client, data, flags, code, said)

        self._paho.on_connect = connected
        self._paho.on_message = lambda client, data, message: self._arrived(message)
        self._paho.on_publish = lambda client, data, mid, code, said: self._acknowledged(mid, code)
        self._paho.manual_ack_set(True)

    def _limits(self, said: Properties | None) -> None:
        """What the outside takes, as its CONNACK says."""
        self._window = min(self._window, getattr(said, "ReceiveMaximum", 65_535))
        self._qos = min(self._qos, getattr(said, "MaximumQoS", 1))
        self._retains = bool(getattr(said, "RetainAvailable", 1))
        self._packet_max = getattr(said, "MaximumPacketSize", 0)
        self.far = dict(getattr(said, "UserProperty", ())).get(MESH_SELF, "")
        self.identifiers = bool(getattr(said, "SubscriptionIdentifierAvailable", 1))

    async def watch(self) -> None:
        """Ends with the connection, by raising why."""
        gone = asyncio.ensure_future(anext(self._client.messages))
        try:
            await asyncio.wait((gone, self._refused), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
        if self._refused.done():
            raise LinkError(self._refused.result())
        error = gone.exception()
        assert error is not None, "messages come another way"
        raise LinkError(f"the connection ended: {error.__cause__ or error}")

    # -- in --------------------------------------------------------------------------------------------

    def _arrived(self, message: paho.MQTTMessage) -> None:
        if message.qos == 0 and len(self._arrivals) >= ARRIVALS_MAX:
            self._link.standing.drop("link-overrun")
            return
        if len(self._arrivals) > ARRIVALS_MAX + self._link.settings.window:
            self._refuse("the outside sends more unacknowledged messages than it was allowed to")
            return
        self._arrivals.append((message, self._acks.enter(message.mid) if message.qos else _nothing))
        self._news.set()

    async def pull(self) -> None:
        """Says here what comes, in order."""
        link = self._link
        while True:
            while not self._arrivals:
                self._news.clear()
                await self._news.wait()
            said, done = self._arrivals.popleft()
            name = self._name(said)
            if name is None:
                done()
                continue
            await link.intake.take(message_of(said, name, link.broker.clock.now_ms()), done)

    def _name(self, message: paho.MQTTMessage) -> str | None:
        """What it is called here; None if it is not for here. The first route that matches decides.

        An outside may send one copy a subscription: then that of the deciding route is the one that counts.
        """
        identifiers: list[int] = getattr(message.properties, "SubscriptionIdentifier", [])
        for number, route in enumerate(self._link.pulls, start=1):
            name = route.name_for(message.topic)
            if name is None:
                continue
            if identifiers and number not in identifiers:
                return None
            if isinstance(name, Refusal):
                break
            return name
        self._link.standing.drop("link-name")
        return None

    # -- out -------------------------------------------------------------------------------------------

    async def push(self) -> None:
        """Sends what is to go out, in order."""
        outlet = self._link.outlet
        while True:
            item = await outlet.next()
            while len(self._sent) >= self._window:
                self._room.clear()
                await self._room.wait()
            self._send(item)

    def _send(self, item: Leaving) -> None:
        message = item.message
        payload = message.payload or b""
        properties = properties_of(message, item.envelope, self._link.broker.clock.now_ms())
        packed: bytes = properties.pack()
        size = PACKET_HEAD_MAX + len(item.name.encode()) + len(packed) + len(payload)
        if self._packet_max and size > self._packet_max:
            self._link.outlet.drop(item, "link-too-large")
            return
        qos = self._qos if item.durable else 0
        sent = self._paho.publish(item.name, payload, qos, message.retain and self._retains, properties)
        if sent.rc not in (paho.MQTT_ERR_SUCCESS, paho.MQTT_ERR_AGAIN):
            raise LinkError(f"cannot send: {paho.error_string(sent.rc)}")
        if sent.is_published():
            self._link.outlet.settle(item)
        else:
            self._sent[sent.mid] = item

    def _acknowledged(self, mid: int, code: ReasonCode) -> None:
        """A PUBACK has come; or a QoS 0 message was written, perhaps before it is known in ``_sent``."""
        item = self._sent.pop(mid, None)
        self._room.set()
        if item is None:
            return
        if not code.is_failure:
            self._link.outlet.settle(item)
        elif code.value == QUOTA_EXCEEDED:
            self._refuse(f"the outside takes no more now: {code}")
        else:
            self._link.standing.complain(f"the outside refuses {item.name!r}: {code}")
            self._link.outlet.drop(item, "link-refused")

    def _refuse(self, why: str) -> None:
        if not self._refused.done():
            self._refused.set_result(why)


def _nothing() -> None:
    """A message at QoS 0 is not acknowledged."""


@contextlib.asynccontextmanager
async def _connected(client: aiomqtt.Client) -> AsyncIterator[None]:
    """``async with client``, but leaving nothing behind if that is cancelled or fails: it connects in a thread."""
    entering = asyncio.ensure_future(client.__aenter__())
    try:
        await asyncio.shield(entering)
    except asyncio.CancelledError:
        await asyncio.wait((entering,), timeout=CONNECT_S)
        if entering.done() and entering.exception() is None:
            await client.__aexit__(None, None, None)
        raise
    except aiomqtt.MqttError:
        client._client.disconnect()
        raise
    try:
        yield
    finally:
        await client.__aexit__(None, None, None)
