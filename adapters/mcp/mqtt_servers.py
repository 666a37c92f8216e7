"""MCP servers that are reached over MQTT (EMQ's profile of 2025-03-26): whose presence says that they are there.

Each is the MQTT client of that id, and so an agent already; its tools become skills of that agent. Only a presence
that the very client published counts. What is said to a server is ``mqtt_conversation``'s business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final
from uuid import uuid4

import msgspec

from dragoman.broker.principal import MESH
from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from dragoman.adapters.mcp.mqtt_conversation import Conversation
    from dragoman.broker.broker import Broker
    from dragoman.broker.log.contract import Ticket
    from dragoman.broker.principal import Principal
    from dragoman.broker.subscription import Feed
    from dragoman.routing.message import Message

PRESENCE: Final = "$mcp-server/presence/#"


@final
class MqttServers:
    """All of them. Listens as the mesh itself: implements ``broker.session.Session``."""

    protocol: Final = "mcp"

    def __init__(self, broker: Broker, servers_max: int) -> None:
        self.principal: Principal = MESH
        self.agent = ""
        self._broker = broker
        self._servers_max = servers_max
        self._by_server: dict[tuple[str, str], Conversation] = {}
        self._by_client: dict[str, Conversation] = {}

    # -- life ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listens for servers, and finds those that are there."""
        refusal = self._broker.attach(self)
        assert refusal is None, f"the mesh cannot listen to itself: {refusal}"
        self._broker.subscribe(self, PRESENCE, wish=1)

    def stop_accepting(self) -> None:
        """MQTT does."""

    async def stop(self, deadline_s: float) -> None:
        """The mesh ends."""
        self._broker.detach(self)

    # -- hearing -------------------------------------------------------------------------------------

    def deliver(self, feed: Feed, message: Message) -> bool:
        """Takes a message; what it means is found out at the end of the turn."""
        self._broker.later(self._heard, message)
        return True

    def _heard(self, message: Message) -> None:
        match message.name.split("/", 3):
            case ["$mcp-server", "presence", server, name]:
                self._presence(server, name, message)
            case ["$mcp-server", "capability", server, name]:
                conversation = self._by_server.get((server, name))
                if conversation is not None and message.sender == server:
                    conversation.heard(_json(message))
            case ["$mcp-rpc", client, server, name]:
                conversation = self._by_client.get(client)
                if conversation is not None and message.sender == server:
                    conversation.heard(_json(message))

    def _presence(self, server: str, name: str, message: Message) -> None:
        known = self._by_server.get((server, name))
        if message.sender != server:
            return
        online = _json(message).get("method") == "notifications/server/online"
        if known is not None and online and known.connected:
            return
        if known is not None:
            self._end(known)
        if not online:
            return
        entry = self._broker.directory.get(server)
        if entry is None or not entry.connections:
            return
        if len(self._by_server) >= self._servers_max:
            self._forget_gone()
        if len(self._by_server) >= self._servers_max:
            self._broker.metrics.drop("mcp-servers-over-mqtt")
            return
        # Only who meets one needs MCP's types, which take long to load.
        from dragoman.adapters.mcp.mqtt_conversation import Conversation

        client = f"dragoman-{uuid4().hex}"
        conversation = Conversation(self._broker, self, entry.connections[-1][0], server, name, client, self._end)
        self._by_server[(server, name)] = self._by_client[client] = conversation
        conversation.begin()

    def _end(self, conversation: Conversation) -> None:
        if self._by_client.pop(conversation.client, None) is not None:
            del self._by_server[(conversation.server, conversation.name)]
            conversation.end()

    def _forget_gone(self) -> None:
        """Those without a will of theirs went unnoticed."""
        for conversation in [each for each in self._by_client.values() if not each.connected]:
            self._end(conversation)

    # -- a session's other duties ----------------------------------------------------------------------

    def lost(self, feed: Feed, count: int) -> None:
        """Counted by the broker; a lost answer ends at its deadline."""

    def committed(self, ticket: Ticket) -> None:
        """Nothing waits for that."""

    def refused(self, ticket: Ticket, refusal: Refusal) -> None:
        """Nothing waits for that."""

    def close(self, refusal: Refusal) -> None:
        """The mesh ends: ``stop`` comes."""


def _json(message: Message) -> dict[str, Any]:
    """What a message says; nothing if it is no JSON object."""
    try:
        said = msgspec.json.decode(message.payload or b"null")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
