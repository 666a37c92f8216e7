"""A2A 1.0 on the one web application: JSON-RPC and HTTP+JSON of every agent, and its card. Decides the HTTP side.

``/a2a/{agent}`` is an agent's base URL, its JSON-RPC endpoint and the prefix of its HTTP+JSON routes; ``/a2a`` is
the JSON-RPC endpoint of all, where a request names its agent as ``tenant``. The web application has checked
Host, Origin, encoding and credentials before anything here runs.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import TYPE_CHECKING, Final, final

import msgspec
from aiohttp import hdrs, web

from dragoman.adapters.a2a import cards
from dragoman.adapters.a2a.errors import A2aError, Fault, invalid, refused
from dragoman.adapters.a2a.methods import Ask, Methods
from dragoman.adapters.a2a.rpc import check_media_type, serve_rpc
from dragoman.adapters.a2a.streams import Streams
from dragoman.adapters.a2a.wire import A2A_TYPE, JSON_TYPE, VERSION, JsonObject, parse
from dragoman.adapters.serving.web import PRINCIPAL, agent_of, body
from dragoman.routing.names import from_level, shown, to_level
from dragoman.routing.refusals import Reason, Refusal, RefusedError
from dragoman.routing.words import TRACE

if TYPE_CHECKING:
    from aiohttp.typedefs import Middleware

    from dragoman.adapters.a2a.desk import Desk
    from dragoman.adapters.a2a.settings import A2aSettings
    from dragoman.broker.broker import Broker

VERSION_FIELD: Final = "A2A-Version"
_VERSION: Final = re.compile(rf"{re.escape(VERSION)}(\.[0-9]{{1,6}})?")

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def add_routes(app: web.Application, broker: Broker, settings: A2aSettings, desk: Desk) -> None:
    """Serves A2A on ``app`` below ``settings.path``. Its streams end with the application."""
    endpoint = A2aEndpoint(broker, settings, desk)
    router, base = app.router, settings.path
    agent = base + "/{agent}"
    push = agent + "/tasks/{id}/pushNotificationConfigs"
    for path in (base, base + "/", agent, agent + "/"):
        router.add_route("POST", path, endpoint.rpc)
    for method, path, name in (
        ("POST", "/message:send", "SendMessage"),
        ("POST", "/message:stream", "SendStreamingMessage"),
        ("GET", "/tasks", "ListTasks"),
        ("GET", "/tasks/{id}:subscribe", "SubscribeToTask"),
        ("POST", "/tasks/{id}:subscribe", "SubscribeToTask"),
        ("POST", "/tasks/{id}:cancel", "CancelTask"),
        ("GET", "/tasks/{id}", "GetTask"),
        ("GET", "/extendedAgentCard", "GetExtendedAgentCard"),
    ):
        router.add_route(method, agent + path, endpoint.rest(name))
    for path in (push, push + "/{config}"):
        router.add_route("*", path, endpoint.rest("GetTaskPushNotificationConfig"))
    router.add_get(agent + "/.well-known/agent-card.json", endpoint.card)
    app.middlewares.append(_in_own_words(base))
    app.on_shutdown.append(endpoint.stopped)


def _in_own_words(base: str) -> Middleware:
    """What no route of ours answers below ``base`` is refused in A2A's words as well: paths, methods, cards."""

    @web.middleware
    async def told(request: web.Request, handler: Answer) -> web.StreamResponse:
        try:
            return await handler(request)
        except (RefusedError, web.HTTPException) as error:
            ours = request.path == base or request.path.startswith(base + "/")
            said = _said(request, error) if ours else None
            if said is None:
                raise
            response = _rest(request, said.rest(), said.status)
            if isinstance(error, web.HTTPMethodNotAllowed):
                response.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
            return response

    return told


def _said(http: web.Request, error: RefusedError | web.HTTPException) -> A2aError | None:
    if isinstance(error, RefusedError):
        return refused(error.refusal)
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return refused(Refusal(Reason.TOO_LARGE, "the body is larger than this listener takes"))
    if isinstance(error, web.HTTPNotFound | web.HTTPMethodNotAllowed):
        return A2aError(Fault.METHOD_NOT_FOUND, f"there is no {http.method} {shown(http.path)}", status=error.status)
    return None


@final
class A2aEndpoint:
    """What ``/a2a`` is to HTTP."""

    def __init__(self, broker: Broker, settings: A2aSettings, desk: Desk) -> None:
        self._broker = broker
        self._settings = settings
        self._desk = desk
        self._ages = cards.Ages()
        self._streams = Streams(desk.tasks, settings)
        self._methods = Methods(desk.tasks, self._streams, settings)

    async def stopped(self, app: web.Application) -> None:
        """Ends every stream."""
        self._streams.stop()

    # -- cards ---------------------------------------------------------------------------------------

    async def card(self, http: web.Request) -> web.StreamResponse:
        """An agent's card, for whoever may know of the agent."""
        agent = self._named(http)
        card = self._desk.card(http[PRINCIPAL], agent)
        base = self._settings.base_url or f"{http.scheme}://{http.host}"
        url = f"{base}{self._settings.path}/{to_level(agent)}"
        reached = cards.interfaces(url, *cards.WEB)
        shown_card = cards.show(agent, card, reached, anonymous=http[PRINCIPAL].anonymous)
        since_ms = self._ages.since(url, shown_card.etag, self._broker.clock.now_ms())
        # Who may see it and what it holds depends on who asks.
        headers = {
            "ETag": shown_card.etag,
            "Last-Modified": formatdate(since_ms // 1000, usegmt=True),
            "Cache-Control": f"private, max-age={self._settings.card_max_age_s}",
            "Vary": "Authorization",
        }
        if cards.matches(http.headers.get("If-None-Match", ""), shown_card.etag):
            return web.Response(status=304, headers=headers)
        return web.Response(body=shown_card.body, content_type=JSON_TYPE, headers=headers)

    # -- bindings ------------------------------------------------------------------------------------

    async def rpc(self, http: web.Request) -> web.StreamResponse:
        """One JSON-RPC request."""

        async def serve(ask: Ask) -> JsonObject | web.StreamResponse:
            return await self._serve(http, ask, self._named(http) if "agent" in http.match_info else None)

        return await serve_rpc(http, serve, lambda: self._check_asked(http))

    def rest(self, method: str) -> Answer:
        """The route of one method in HTTP+JSON."""

        async def serve(http: web.Request) -> web.StreamResponse:
            try:
                self._check_asked(http)
                ask = Ask(method, await _parameters(http), lambda item: item, from_query=http.method == "GET")
                answer = await self._serve(http, ask, self._named(http))
            except A2aError as error:
                return _rest(http, error.rest(), error.status)
            except RefusedError as error:
                return _rest(http, refused(error.refusal).rest(), refused(error.refusal).status)
            return answer if isinstance(answer, web.StreamResponse) else _rest(http, answer)

        return serve

    async def _serve(self, http: web.Request, ask: Ask, agent: str | None) -> JsonObject | web.StreamResponse:
        tenant = ask.params.get("tenant") or None
        if tenant is not None and not isinstance(tenant, str):
            raise invalid("tenant", "the id of an agent")
        if agent is not None and tenant is not None and tenant != agent:
            raise invalid("tenant", f"is {tenant[:80]!r}, and the address says {agent[:80]!r}")
        name = agent or tenant
        if name is None:
            raise invalid("tenant", f"say which agent, here or by the address {self._settings.path}/{{agent}}")
        party = self._desk.party(http[PRINCIPAL], agent_of(http, self._broker.directory), name, _trace(http))
        return await self._methods.answer(http, party, ask)

    # -- whom ----------------------------------------------------------------------------------------

    def _check_asked(self, http: web.Request) -> None:
        """That there is such an agent, then the version: who has the wrong address is not told to mend a header."""
        if "agent" in http.match_info:
            self._desk.party(http[PRINCIPAL], agent_of(http, self._broker.directory), self._named(http), {})
        _check_version(http)

    def _named(self, http: web.Request) -> str:
        """The agent in the path, from the path as it was sent: what the framework decodes for us is lossy."""
        level = http.rel_url.raw_path[len(self._settings.path) + 1 :].partition("/")[0]
        agent = from_level(level)
        if isinstance(agent, Refusal):
            raise RefusedError(agent)
        return agent


def _trace(http: web.Request) -> dict[str, str]:
    return {name: http.headers[name] for name in TRACE if name in http.headers}


def _check_version(http: web.Request) -> None:
    """Only 1.0 is spoken; patch numbers are not negotiated. Nothing said means 0.3. All by the specification."""
    said = http.headers.get(VERSION_FIELD) or http.query.get(VERSION_FIELD) or ""
    if not _VERSION.fullmatch(said.strip()):
        detail = f"this is A2A {VERSION}; {VERSION_FIELD} says {said[:20]!r}" if said else f"send {VERSION_FIELD}: 1.0"
        raise A2aError(Fault.VERSION_NOT_SUPPORTED, detail)


async def _parameters(http: web.Request) -> JsonObject:
    """Path, query and body as one object. The path wins."""
    given: JsonObject = {}
    if http.method == "GET":
        given = {name: value for name, value in http.query.items() if name != VERSION_FIELD}
    elif http.can_read_body:
        check_media_type(http)
        parsed = parse(await body(http))
        if not isinstance(parsed, dict):
            raise invalid("body", "a JSON object")
        given = parsed
    elif http.path.endswith(("message:send", "message:stream")):
        check_media_type(http)
    if "id" in http.match_info:
        given["id"] = http.match_info["id"]
    return given


def _rest(http: web.Request, answer: JsonObject, status: int = 200) -> web.Response:
    accept = http.headers.get(hdrs.ACCEPT, "")
    plain = JSON_TYPE in accept and A2A_TYPE not in accept and "*/*" not in accept
    return web.Response(body=msgspec.json.encode(answer), status=status, content_type=JSON_TYPE if plain else A2A_TYPE)
