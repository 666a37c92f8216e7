"""One conversation with an MCP server over MQTT: initialize, the tools it has, the calls it is asked. No task waits.

The mesh is the client, under a client id of its own for each conversation. The server's tools are served by the
server's own connection, so they go when it goes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import msgspec
from mcp_types import CallToolResult, ListToolsResult
from pydantic import ValidationError

from dragoman.adapters.serving.mcp_forms import answer_of, arguments_of, part_of, skills_of
from dragoman.broker.inner_session import InnerSession
from dragoman.broker.principal import MESH
from dragoman.routing.message import Envelope, Header, Message, Wish
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.broker import Broker
    from dragoman.broker.offers import Asked, Offer
    from dragoman.broker.session import Session
    from dragoman.broker.subscription import Subscription
    from dragoman.broker.timers import Timer
    from dragoman.routing.cards import Skill

PROTOCOL_VERSION: Final = "2025-03-26"
ANSWER_MS: Final = 30_000
"""For initialize and each page of tools: what the profile gives lists."""

PAGES_MAX: Final = 100
_INVALID_PARAMS: Final = -32602
_METHOD_NOT_FOUND: Final = -32601

JsonObject: TypeAlias = dict[str, Any]

Then: TypeAlias = Callable[["JsonObject | Refusal"], None]
"""Takes a result, or why there is none."""


@final
class Conversation:
    """With one server. ``begin`` and ``end`` once; ``heard`` in between."""

    def __init__(
        self,
        broker: Broker,
        ears: Session,
        session: Session,
        server: str,
        name: str,
        client: str,
        over: Callable[[Conversation], object],
    ) -> None:
        """``ears`` listens for us; ``session`` is the server's own connection; ``over`` hears of its goodbye."""
        self.server = server
        self.name = name
        self.client = client
        self._broker = broker
        self._ears = ears
        self._session = session
        self._over = over
        self._rpc = f"$mcp-rpc/{client}/{server}/{name}"
        self._subscriptions: list[Subscription] = []
        self._waiting: dict[int, tuple[Then, Timer | None]] = {}
        self._calls: dict[int, str] = {}
        self._offers: dict[str, Offer] = {}
        self._number = 0
        self._listing = False
        self._changed = False

    @property
    def connected(self) -> bool:
        """Whether the server's connection is still there."""
        entry = self._broker.directory.get(self.server)
        return entry is not None and any(known is self._session for known, _ in entry.connections)

    def begin(self) -> None:
        """Introduces the mesh."""
        for topic in (self._rpc, f"$mcp-server/capability/{self.server}/{self.name}"):
            subscription = self._broker.subscribe(self._ears, topic, wish=1, retained=False)
            if not isinstance(subscription, Refusal):
                self._subscriptions.append(subscription)
        params = {
            "protocolVersion": PROTOCOL_VERSION,
            "capabilities": {},
            "clientInfo": {"name": "dragoman", "version": "1"},
        }
        self._request("initialize", params, self._initialized, f"$mcp-server/{self.server}/{self.name}")

    def end(self) -> None:
        """The server is gone, or another conversation with it begins."""
        for subscription in self._subscriptions:
            self._broker.unsubscribe(subscription)
        for offer in self._offers.values():
            self._broker.directory.withdraw(offer)
        waiting, self._waiting = self._waiting, {}
        for then, timer in waiting.values():
            if timer is not None:
                timer.cancel()
            then(Refusal(Reason.AGENT_UNREACHABLE, "the MCP server has gone"))

    # -- saying and hearing --------------------------------------------------------------------------

    def _request(self, method: str, params: JsonObject, then: Then, topic: str = "") -> int:
        self._number += 1
        number = self._number
        timer = self._broker.timers.after(ANSWER_MS, self._late, number) if method != "tools/call" else None
        self._waiting[number] = (then, timer)
        self._say({"id": number, "method": method, "params": params}, topic)
        return number

    def _late(self, number: int) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is not None:
            waiting[0](Refusal(Reason.DEADLINE_PASSED, "the MCP server does not answer"))

    def _say(self, said: JsonObject, topic: str = "") -> None:
        headers: tuple[Header, ...] = (
            ("MCP-COMPONENT-TYPE", b"mcp-client"),
            ("MCP-MQTT-CLIENT-ID", self.client.encode()),
        )
        envelope = Envelope(headers=headers, content_type="application/json", text=True)
        payload = msgspec.json.encode({"jsonrpc": "2.0", **said})
        message = Message(topic or self._rpc, payload, Wish.AT_LEAST_ONCE, "", False, envelope)
        self._broker.publish(InnerSession(MESH), message)

    def heard(self, said: JsonObject) -> None:
        """Takes what the server says: an answer, a request, or news."""
        method, number = said.get("method"), said.get("id")
        if method == "notifications/tools/list_changed":
            self._list()
        elif method == "notifications/progress":
            self._progress(said.get("params"))
        elif method == "notifications/disconnected":
            self._over(self)
        elif method is not None:
            if number is not None:
                no: JsonObject = {"error": {"code": _METHOD_NOT_FOUND, "message": "the mesh has none of that"}}
                self._say({"id": number, **({"result": {}} if method == "ping" else no)})
        elif isinstance(number, int):
            self._answered(number, said)

    def _answered(self, number: int, said: JsonObject) -> None:
        then, timer = self._waiting.pop(number, (None, None))
        if timer is not None:
            timer.cancel()
        if then is None:
            return
        result, error = said.get("result"), said.get("error")
        if isinstance(result, dict):
            then(result)
        else:
            code = error.get("code") if isinstance(error, dict) else None
            told = str(error.get("message"))[:1000] if isinstance(error, dict) else "nothing that is MCP"
            reason = Reason.ARGUMENTS_INVALID if code == _INVALID_PARAMS else Reason.FAILED
            then(Refusal(reason, f"the MCP server says {code}: {told}"))

    # -- tools ---------------------------------------------------------------------------------------

    def _initialized(self, result: JsonObject | Refusal) -> None:
        if isinstance(result, Refusal):
            return
        self._say({"method": "notifications/initialized"})
        self._list()

    def _list(self) -> None:
        """Asks for all tools anew; what changes meanwhile is asked for afterwards."""
        self._changed = self._listing
        if not self._listing:
            self._listing = True
            self._page([], {}, PAGES_MAX)

    def _page(self, tools: list[Any], params: JsonObject, pages_left: int) -> None:
        def listed(result: JsonObject | Refusal) -> None:
            page = _checked(ListToolsResult, result)
            if isinstance(page, Refusal):
                self._listing = False
                return
            tools.extend(page.tools)
            if page.next_cursor is not None and pages_left > 1:
                self._page(tools, {"cursor": page.next_cursor}, pages_left - 1)
                return
            self._listing = False
            self._serve(skills_of(tools)[0])
            if self._changed:
                self._list()

        self._request("tools/list", params, listed)

    def _serve(self, skills: list[Skill]) -> None:
        directory = self._broker.directory
        # It is no link's: what it has may be passed on.
        wanted = {skill.name: dataclasses.replace(skill, tags=("mcp",)) for skill in skills}
        for name, offer in list(self._offers.items()):
            if wanted.get(name) != offer.skill:
                directory.withdraw(self._offers.pop(name))
        for name, skill in wanted.items():
            if name not in self._offers and self.connected:
                offered = directory.offer(self._session, self._session.agent, skill, self._ask, self._cancelled)
                if not isinstance(offered, Refusal):
                    self._offers[name] = offered

    # -- calls ---------------------------------------------------------------------------------------

    def _ask(self, asked: Asked) -> bool:
        arguments = arguments_of(asked.arguments)
        if isinstance(arguments, Refusal):
            self._answer(asked.id, b"", None, arguments)
            return True

        def done(result: JsonObject | Refusal) -> None:
            self._calls.pop(number, None)
            given = _checked(CallToolResult, result)
            if isinstance(given, Refusal):
                self._answer(asked.id, b"", None, given)
            else:
                answer = answer_of(given, self._broker.settings.message_bytes_max)
                self._answer(asked.id, answer.payload, answer.content_type, answer.failure)

        # The token of progress is the request's own number, which it is about to get.
        meta = {"progressToken": self._number + 1}
        number = self._request("tools/call", {"name": asked.skill, "arguments": arguments, "_meta": meta}, done)
        self._calls[number] = asked.id
        return True

    def _answer(self, call_id: str, payload: bytes, content_type: str | None, failure: Refusal | None) -> None:
        self._broker.calls.answer(self._session, call_id, payload, content_type=content_type, error=failure)

    def _cancelled(self, asked: Asked) -> None:
        for number in [number for number, call_id in self._calls.items() if call_id == asked.id]:
            del self._calls[number]
            self._waiting.pop(number, None)
            params = {"requestId": number, "reason": "nobody waits for it any more"}
            self._say({"method": "notifications/cancelled", "params": params})

    def _progress(self, params: object) -> None:
        given = params if isinstance(params, dict) else {}
        call_id = self._calls.get(given["progressToken"]) if isinstance(given.get("progressToken"), int) else None
        progress, total, message = given.get("progress"), given.get("total"), given.get("message")
        if call_id is None or not isinstance(progress, int | float):
            return
        payload, content_type = part_of(
            progress, total if isinstance(total, int | float) else None, message if isinstance(message, str) else None
        )
        self._broker.calls.answer(self._session, call_id, payload, content_type=content_type, partial=True)


def _checked(kind: type[Any], result: JsonObject | Refusal) -> Any:
    """The result as MCP's own type, or why it is none."""
    if isinstance(result, Refusal):
        return result
    try:
        return kind.model_validate(result)
    except (ValidationError, RecursionError) as error:
        return Refusal(Reason.FAILED, f"the MCP server's answer is of no use: {str(error)[:300]}")
