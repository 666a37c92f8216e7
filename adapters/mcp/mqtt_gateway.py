"""The mesh as an MCP server over MQTT (EMQ's profile of 2025-03-26): who it says it is, and what the topics mean.

``$mcp-server/presence/{mesh}/{name}``    read: the mesh is online. Worked out, so nothing is left when it is not
``$mcp-server/capability/{mesh}/{name}``  read: a list has changed
``$mcp-server/{mesh}/{name}``             a client's initialize
``$mcp-client/presence/{client}``          heard as by any server: a client's goodbye
``$mcp-rpc/{client}/{mesh}/{name}``       all else it asks, and the answers, which only that client may read

``{client}`` is the MQTT client of that id: nobody asks for another. What it asks is in no channel, so nobody else
reads that either. What MCP answers is ``mqtt_talks``' business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import msgspec

from dragoman.adapters.mcp.session import McpSession
from dragoman.broker.gate import Action
from dragoman.broker.identity import mesh_id
from dragoman.broker.inner_session import InnerSession
from dragoman.broker.log.contract import DONE
from dragoman.broker.principal import MESH
from dragoman.routing.message import Envelope, Message, Wish
from dragoman.routing.names import matches, shown
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dragoman.adapters.mcp.desk import Desk
    from dragoman.adapters.mcp.mqtt_talks import Talks
    from dragoman.adapters.mcp.settings import McpSettings
    from dragoman.broker.broker import Broker
    from dragoman.broker.log.contract import Ticket
    from dragoman.broker.principal import Principal
    from dragoman.broker.session import Session
    from dragoman.broker.subscription import Feed, Subscription

LEVELS: Final = ("$mcp-server", "$mcp-rpc")

_RPC: Final = "$mcp-rpc/"
_GOODBYES: Final = "$mcp-client/presence/"


@final
class MqttGateway:
    """The scheme of the two levels. Implements ``broker.scheme.Scheme``; started before anybody is attached."""

    def __init__(self, broker: Broker, settings: McpSettings, desk: Desk) -> None:
        self._broker = broker
        self._settings = settings
        self._desk = desk
        self._id = mesh_id(broker.log)
        place = f"{self._id}/{settings.mqtt_name}"
        self._presence = f"$mcp-server/presence/{place}"
        self._capability = f"$mcp-server/capability/{place}"
        self._control = f"$mcp-server/{place}"
        self._place = f"/{place}"
        self._session = InnerSession(MESH)
        self._listener = McpSession(MESH, "", take=self._goodbye)
        self._talks: Talks | None = None

    async def start(self) -> None:
        """The names are ours from now on."""
        for level in LEVELS:
            self._broker.schemes.enter(level, self)
        refusal = self._broker.attach(self._listener)
        assert refusal is None, f"the mesh cannot listen to itself: {refusal}"
        self._broker.subscribe(self._listener, _GOODBYES + "+", wish=1)

    def stop_accepting(self) -> None:
        """Whoever publishes does."""

    async def stop(self, deadline_s: float) -> None:
        """Leaves off answering."""
        self._broker.detach(self._listener)
        if self._talks is not None:
            await self._talks.stop()

    # -- names ---------------------------------------------------------------------------------------

    def takes(self, name: str) -> bool:
        """What is said to the mesh, and what only the mesh may say."""
        return name in (self._control, self._presence, self._capability) or self._client(name) is not None

    def _client(self, name: str) -> str | None:
        """Whose conversation with the mesh has this name; None if it is no such name."""
        if not (name.startswith(_RPC) and name.endswith(self._place)):
            return None
        client = name[len(_RPC) : -len(self._place)]
        return client if client and "/" not in client else None

    def retained(self, filter_: str) -> Iterator[Message]:
        """That the mesh is there."""
        if matches(filter_, self._presence):
            said = {
                "jsonrpc": "2.0",
                "method": "notifications/server/online",
                "params": {
                    "server_name": self._settings.mqtt_name,
                    "description": "A mesh where agents, tools and devices meet: every skill is a tool.",
                },
            }
            yield self._message(self._presence, msgspec.json.encode(said), retain=True)

    def permits(self, principal: Principal, agent: str, name: str) -> bool:
        """Answers were worked out with their client's permissions: nobody else reads them, of its login or another."""
        return self._client(name) in (None, agent) or principal is MESH

    def subscribed(self, subscription: Subscription) -> None:
        """That is no news: a client begins with initialize."""

    def unsubscribed(self, subscription: Subscription) -> None:
        """Who does not listen for answers any more, or is gone, has no use for them."""
        session = subscription.session
        answers = self._answers(session.agent)
        if self._talks is None or not matches(subscription.filter, answers):
            return
        if not any(matches(other.filter, answers) for other in self._broker.subscriptions(session)):
            self._talks.deaf(session)

    # -- what is said --------------------------------------------------------------------------------

    def publish(self, session: Session, message: Message) -> Ticket | Refusal:
        """Takes what a client says."""
        verdict = self._broker.gate.check(session.principal, Action.PUBLISH, message.name, session.agent)
        answer = verdict if isinstance(verdict, Refusal) else self._heard(session, message)
        if isinstance(answer, Refusal):
            self._broker.metrics.refuse(answer.reason)
        return answer

    def _heard(self, session: Session, message: Message) -> Ticket | Refusal:
        name = message.name
        if name in (self._presence, self._capability):
            return Refusal(Reason.NOT_AUTHORIZED, f"only the mesh speaks at {shown(name)}")
        if not session.agent or self._client(name) not in (None, session.agent):
            return Refusal(Reason.NOT_AUTHORIZED, f"you are not the MQTT client that {shown(name)} is for")
        if self._talks is None:
            # Only now, since it loads MCP's library, which takes long.
            from dragoman.adapters.mcp.mqtt_talks import Talks

            said = (self._answer, self._announce, self._forget)
            self._talks = Talks(self._broker, self._settings, self._desk, *said)
        self._talks.heard(session, message.payload or b"", begins=name == self._control)
        return DONE

    def _goodbye(self, feed: Feed, message: Message) -> bool:
        client = message.name[len(_GOODBYES) :]
        if self._talks is not None and message.sender == client:
            self._broker.later(self._talks.goodbye, client)
        return True

    def _answers(self, client: str) -> str:
        return f"{_RPC}{client}{self._place}"

    def _answer(self, client: str, body: bytes) -> Refusal | None:
        return self._say(self._answers(client), body)

    def _announce(self, body: bytes) -> None:
        self._say(self._capability, body)

    def _forget(self, client: str) -> None:
        """Of the answers nothing is left for whoever has this client id next, nor on disk, where a kept session's
        filter may have brought them."""
        channel = self._broker.channels.find(self._answers(client))
        if channel is None:
            return
        if channel.logged or channel.pending:
            self._broker.channels.renew(channel)
        else:
            channel.free(channel.visible)

    def _say(self, name: str, body: bytes) -> Refusal | None:
        said = self._broker.say(self._session, self._message(name, body, retain=False))
        return said if isinstance(said, Refusal) else None

    def _message(self, name: str, body: bytes, *, retain: bool) -> Message:
        headers = (("MCP-COMPONENT-TYPE", b"mcp-server"), ("MCP-MQTT-CLIENT-ID", self._id.encode()))
        envelope = Envelope(headers=headers, content_type="application/json", text=True)
        return Message(name, body, Wish.AT_LEAST_ONCE, "", retain, envelope)
