"""The one web application: who is asking, from where, and how a no looks. Knows no route.

HTTP, MCP and A2A add their routes to it. Before any of them runs, a request has been checked for its Host and
Origin (a web page must not reach a local mesh by DNS rebinding or across origins), authenticated, and bounded
in size; whatever a route raises becomes a problem document, never a traceback.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from dragoman.adapters.serving import problems
from dragoman.adapters.serving.credentials import Authenticator, Credentials
from dragoman.adapters.serving.web_settings import WebSettings
from dragoman.broker.principal import EMBEDDED, Principal
from dragoman.routing.addresses import is_loopback
from dragoman.routing.names import check_agent, from_level, shown
from dragoman.routing.refusals import Reason, Refusal, RefusedError

if TYPE_CHECKING:
    from dragoman.broker.directory import Directory

logger = logging.getLogger(__name__)

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

PRINCIPAL: Final = web.RequestKey("principal", Principal)
"""Who is asking. Set before any route that is not open runs."""

OPEN_PATHS: Final = web.AppKey("open_paths", set[str])
"""Paths answered without credentials. Routes that must work for a stranger (health, descriptions) add theirs."""

SETTINGS: Final = web.AppKey("web_settings", WebSettings)

OWN_TOKEN: Final = web.AppKey("own_token", str)
"""The bearer token by which the program talks to itself over its own socket. Random, never stored, never shown."""

_PREPARED: Final = web.RequestKey("prepared", bool)

AGENT_HEADER: Final = "Mesh-Agent"
"""Names the agent a request speaks as, percent-encoded like a level of a name."""

EXPOSED_HEADERS: Final = (
    "Location, Retry-After, Mesh-Id, Mesh-From, Mesh-Channel, Mesh-Time-Ms, Mcp-Session-Id, Mcp-Protocol-Version"
)


def application(authenticator: Authenticator, settings: WebSettings) -> web.Application:
    """The application, without a route. Run it with ``RUNNER_OPTIONS``."""

    @web.middleware
    async def doorway(request: web.Request, handler: Answer) -> web.StreamResponse:
        try:
            return await _let_in(request, handler, authenticator, settings)
        except RefusedError as error:
            return problems.respond(error.refusal, 415 if isinstance(error, problems.MediaTypeError) else 0)
        except web.HTTPException as error:
            return problems.from_framework(error)
        except Exception:
            logger.exception("web request failed")
            if request.get(_PREPARED) and request.transport is not None:
                request.transport.abort()
                raise
            return problems.respond(Refusal(Reason.FAILED, "a fault of ours; the log has it"), 500)

    async def prepared(request: web.Request, response: web.StreamResponse) -> None:
        request[_PREPARED] = True
        origin = request.headers.get(hdrs.ORIGIN)
        if origin and origin_allowed(origin, settings):
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED_HEADERS
        if settings.origins:
            response.headers.add(hdrs.VARY, hdrs.ORIGIN)

    app = web.Application(middlewares=[doorway], client_max_size=settings.body_max_bytes)
    app[SETTINGS] = settings
    app[OPEN_PATHS] = set()
    app[OWN_TOKEN] = secrets.token_urlsafe(32)
    app.on_response_prepare.append(prepared)
    return app


HANDLER_OPTIONS: Final[dict[str, Any]] = {"access_log": None, "auto_decompress": False}
"""For each connection. Compressed bodies are refused rather than unpacked, since a payload is the sender's bytes and
a small one may unpack to gigabytes."""

RUNNER_OPTIONS: Final[dict[str, Any]] = {"handler_cancellation": True, **HANDLER_OPTIONS}
"""For ``web.AppRunner``, where it makes the connections itself. Without handler_cancellation a route runs on after its
client has gone."""


async def body(request: web.Request) -> bytes:
    """The request's body, refused as soon as it is known to be too large."""
    limit = request.app[SETTINGS].body_max_bytes
    if (request.content_length or 0) > limit:
        detail = f"the body has {request.content_length} bytes, at most {limit} are allowed"
        raise RefusedError(Refusal(Reason.TOO_LARGE, detail))
    return await request.read()


async def _let_in(
    request: web.Request, route: Answer, authenticator: Authenticator, settings: WebSettings
) -> web.StreamResponse:
    refusal = _foreign(request, settings)
    if refusal is not None:
        raise RefusedError(refusal)
    if request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers:
        return _preflight(request)
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        detail = f"the body is encoded as {request.headers[hdrs.CONTENT_ENCODING]!r}; send it plain"
        raise problems.MediaTypeError(Refusal(Reason.UNSUPPORTED, detail))
    if request.path not in request.app[OPEN_PATHS]:
        request[PRINCIPAL] = await _principal(request, authenticator, settings)
    return await route(request)


# -- where it comes from ---------------------------------------------------------------------------


def _foreign(request: web.Request, settings: WebSettings) -> Refusal | None:
    """Why a request comes from a web page that has no business here, or None."""
    origin = request.headers.get(hdrs.ORIGIN)
    site = request.headers.get("Sec-Fetch-Site", "")
    if origin is not None and origin_allowed(origin, settings):
        return None
    host = request.headers.get(hdrs.HOST, "")
    browser = origin is not None or site != ""
    if (browser or _loopback(request, local=True)) and not host_known(host, settings):
        detail = f"this listener is not known as {host!r}; name the host in the settings if it should be"
        return Refusal(Reason.NOT_AUTHORIZED, detail)
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        return Refusal(Reason.NOT_AUTHORIZED, f"pages of {origin!r} may not call here; allow the origin if they should")
    cross = site in ("cross-site", "same-site") and request.headers.get("Sec-Fetch-Mode") != "navigate"
    if origin is None and cross:
        return Refusal(Reason.NOT_AUTHORIZED, "pages of other sites may not call here")
    return None


def origin_allowed(origin: str, settings: WebSettings) -> bool:
    """Whether pages of this origin were given leave to call here."""
    return "*" in settings.origins or origin.lower() in settings.origins


def origin_known(origin: str, host: str, settings: WebSettings) -> bool:
    """Whether a page may call here: its origin was given leave, or it came from the very host it calls."""
    own = urlsplit(origin).netloc.lower() == host.lower() and host_known(host, settings)
    return own or origin_allowed(origin, settings)


def host_known(host: str, settings: WebSettings) -> bool:
    """Whether nobody else can make their own name mean us: an address, localhost, or a configured name."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name == "localhost" or name in settings.hosts or host.lower() in settings.hosts:
            return True
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _loopback(request: web.Request, *, local: bool) -> bool:
    """Whether our end (``local``) or the peer's of the connection is on this machine. Unix sockets are."""
    transport = request.transport
    address = transport.get_extra_info("sockname" if local else "peername") if transport is not None else None
    if not isinstance(address, tuple):
        # A peer that has gone already has no address either; it is taken for a stranger.
        return isinstance(address, str) or (local and transport is not None)
    return is_loopback(str(address[0]))


def _preflight(request: web.Request) -> web.Response:
    """The answer to a browser that asks first. Its origin has been checked; ``prepared`` adds it."""
    return web.Response(
        status=204,
        headers={
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, POST, PUT, DELETE",
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, ""),
            hdrs.ACCESS_CONTROL_MAX_AGE: "600",
        },
    )


# -- who is asking ---------------------------------------------------------------------------------


async def _principal(request: web.Request, authenticator: Authenticator, settings: WebSettings) -> Principal:
    credentials = credentials_of(request)
    own = request.app[OWN_TOKEN]
    if credentials.token is not None and secrets.compare_digest(credentials.token.encode(), own.encode()):
        return EMBEDDED
    outcome: asyncio.Future[Principal | Refusal] = asyncio.get_running_loop().create_future()

    def checked(result: Principal | Refusal) -> None:
        if not outcome.done():
            outcome.set_result(result)

    authenticator.check(credentials, checked)
    try:
        async with asyncio.timeout(settings.login_max_ms / 1000):
            result = await outcome
    except TimeoutError:
        result = Refusal(Reason.BUSY, "credentials could not be checked in time", 1000)
    if isinstance(result, Refusal):
        raise RefusedError(result)
    return result


def forwarded(request: web.BaseRequest) -> bool:
    """Whether a proxy says that it passes the request on."""
    return "X-Forwarded-For" in request.headers or "Forwarded" in request.headers


def credentials_of(request: web.Request) -> Credentials:
    """What the request says about who is asking, from ``Authorization: Bearer`` or ``Basic``.

    A request that a proxy forwarded is not local, even if the proxy runs on this machine.
    """
    loopback = not forwarded(request) and _loopback(request, local=False)
    scheme, _, value = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    value = value.strip()
    match scheme.lower():
        case "":
            return Credentials(None, None, None, loopback)
        case "bearer" if value:
            return Credentials(None, None, value, loopback)
        case "basic" if value:
            try:
                username, colon, password = base64.b64decode(value, validate=True).partition(b":")
                if colon:
                    return Credentials(username.decode(), password, None, loopback)
            except (binascii.Error, UnicodeDecodeError):
                pass
    raise RefusedError(Refusal(Reason.NOT_AUTHENTICATED, "Authorization must be 'Bearer TOKEN' or 'Basic BASE64'"))


def agent_of(request: web.Request, directory: Directory) -> str:
    """The agent the request speaks as, "" if it names none. Only a registered agent of its own principal will do."""
    header = request.headers.get(AGENT_HEADER)
    if header is None:
        return ""
    principal = request[PRINCIPAL]
    agent = from_level(header)
    if isinstance(agent, Refusal):
        raise RefusedError(agent)
    refusal = check_agent(agent)
    if refusal is not None:
        raise RefusedError(refusal)
    known = directory.get(agent)
    own = agent in principal.agents or (known is not None and known.principal_name == principal.name)
    if principal.anonymous or not own:
        detail = f"{AGENT_HEADER} names {shown(agent)}, which is no registered agent of {principal.name!r}"
        raise RefusedError(Refusal(Reason.NOT_AUTHORIZED, detail))
    return agent
