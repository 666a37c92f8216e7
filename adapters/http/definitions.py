"""What a route is: one definition that both serves and documents. Nothing undeclared is accepted.

``/openapi.json`` is written from these, and requests are checked against them before a route's own code runs:
an unknown query parameter, a number that is none or a body that does not fit is refused with a sentence.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, TypeVar, final

import msgspec
from aiohttp import hdrs, web

from dragoman.adapters.http.documents import Document, Request
from dragoman.adapters.serving.json_in import read_json
from dragoman.adapters.serving.web import PRINCIPAL, agent_of, body
from dragoman.routing.names import check_agent, check_name, from_level, from_path, shown
from dragoman.routing.refusals import Reason, Refusal, RefusedError

if TYPE_CHECKING:
    from dragoman.adapters.http.surface import Surface
    from dragoman.broker.broker import Broker
    from dragoman.broker.principal import Principal

JSON: Final = "application/json"
PAYLOAD: Final = "*/*"
"""The content type of an answer that is some message's payload: whatever its sender called it."""

Kind = Literal["text", "integer", "flag", "texts", "channel", "agent", "level", "tail"]
"""``texts`` may be given several times. ``channel`` is a channel's name, in a path the whole tail of it;
``agent`` and ``level`` (any text) are one percent-encoded level of a path, ``tail`` (any text) all that are left."""

Value = str | int | bool | list[str]
T = TypeVar("T", bound=msgspec.Struct)
Granted = TypeVar("Granted")

_INTEGER_DIGITS_MAX: Final = 19


@dataclass(frozen=True, slots=True)
class Parameter:
    """A value in the path or the query. ``choices`` closes the set of texts allowed."""

    name: str
    summary: str
    kind: Kind = "text"
    low: int = 0
    high: int = (1 << 63) - 1
    choices: tuple[str, ...] = ()
    required: bool = False


@dataclass(frozen=True, slots=True)
class Field:
    """A request header that means something to the route."""

    name: str
    summary: str


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer a route may give. ``document`` None: not JSON but ``content``; "" = no body."""

    status: int
    summary: str
    document: type[Document] | None = None
    content: str = ""


@dataclass(frozen=True, slots=True)
class Definition:
    """One route. ``problems`` are the statuses it may refuse with, besides those every route may."""

    method: str
    path: str
    name: str
    area: str
    summary: str
    route: Callable[[Exchange], Awaitable[web.StreamResponse]]
    replies: tuple[Reply, ...]
    parameters: tuple[Parameter, ...] = ()
    query: tuple[Parameter, ...] = ()
    fields: tuple[Field, ...] = ()
    body: type[Request] | None = None
    raw_body: bool = False
    problems: tuple[int, ...] = ()
    open: bool = False
    wire_path: str = field(init=False, default="")

    def __post_init__(self) -> None:
        """A path and its parameters must agree, and the path as the web framework wants it follows from both."""
        wire = self.path
        for parameter in self.parameters:
            assert f"{{{parameter.name}}}" in self.path, f"{self.path} has no {parameter.name}"
            pattern = "(?s:.+)" if parameter.kind in ("channel", "tail") else "[^/]+"
            wire = wire.replace(f"{{{parameter.name}}}", f"{{{parameter.name}:{pattern}}}")
        assert wire.count("{") == len(self.parameters), f"{self.path} has undeclared parameters"
        object.__setattr__(self, "wire_path", wire)


@final
class Exchange:
    """A request that fits its definition, and the way to answer it."""

    __slots__ = ("_agent", "_path", "_query", "request", "surface")

    def __init__(
        self, request: web.Request, surface: Surface, path: Mapping[str, str], query: Mapping[str, Value]
    ) -> None:
        self.request = request
        self.surface = surface
        self._path = path
        self._query = query
        self._agent: str | None = None

    @property
    def broker(self) -> Broker:
        """The mesh."""
        return self.surface.broker

    @property
    def principal(self) -> Principal:
        """Who is asking."""
        return self.request[PRINCIPAL]

    @property
    def agent(self) -> str:
        """The agent it asks as, or "". Raises RefusedError if it names one that is not its own."""
        if self._agent is None:
            self._agent = agent_of(self.request, self.broker.directory)
        return self._agent

    def path(self, name: str) -> str:
        """A path parameter, decoded and checked."""
        return self._path[name]

    def text(self, name: str) -> str | None:
        """A text of the query."""
        value = self._query.get(name)
        assert value is None or isinstance(value, str), f"{name} is declared as something else"
        return value

    def texts(self, name: str) -> list[str]:
        """A text of the query that may be given several times."""
        value = self._query.get(name, [])
        assert isinstance(value, list), f"{name} is declared as something else"
        return value

    def integer(self, name: str) -> int | None:
        """A number of the query, within its declared bounds."""
        value = self._query.get(name)
        assert value is None or type(value) is int, f"{name} is declared as something else"
        return value

    def flag(self, name: str) -> bool | None:
        """A truth value of the query."""
        value = self._query.get(name)
        assert value is None or isinstance(value, bool), f"{name} is declared as something else"
        return value

    def header(self, name: str) -> str | None:
        """A header of the request."""
        return self.request.headers.get(name)

    async def document(self, kind: type[T]) -> T:
        """The body as the document the route is declared to take. Raises RefusedError."""
        text = await body(self.request)
        try:
            return read_json(text, kind)
        except msgspec.ValidationError as error:
            raise invalid(f"the body does not fit: {error}") from None
        except msgspec.DecodeError as error:
            raise invalid(f"the body is not JSON: {error}") from None


def respond(document: Document, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer in JSON."""
    return web.Response(status=status, body=msgspec.json.encode(document), content_type=JSON, headers=headers)


def nothing(status: int = 204) -> web.Response:
    """An answer that needs no words."""
    return web.Response(status=status)


def invalid(detail: str) -> RefusedError:
    """A request that does not fit its definition."""
    return RefusedError(Refusal(Reason.ARGUMENTS_INVALID, detail))


def granted(answer: Granted | Refusal) -> Granted:
    """The broker's answer where it is not a no. Raises RefusedError where it is."""
    if isinstance(answer, Refusal):
        raise RefusedError(answer)
    return answer


def add(app: web.Application, definition: Definition, surface: Surface) -> None:
    """Serves a definition."""

    async def serve(request: web.Request) -> web.StreamResponse:
        return await definition.route(exchange_of(request, definition, surface))

    app.router.add_route(definition.method, definition.wire_path, serve)


def exchange_of(request: web.Request, definition: Definition, surface: Surface) -> Exchange:
    """Checks a request against its definition. Raises RefusedError."""
    path = {p.name: _from_raw_path(request, definition, p) for p in definition.parameters}
    known = {p.name: p for p in definition.query}
    query: dict[str, Value] = {}
    for name, text in request.query.items():
        parameter = known.get(name)
        if parameter is None:
            allowed = f"it knows {', '.join(sorted(known))}" if known else "it knows none"
            raise invalid(f"{definition.method} {definition.path} knows no parameter {shown(name)}; {allowed}")
        if parameter.kind == "texts":
            several = query.setdefault(name, [])
            assert isinstance(several, list)
            several.append(text)
        elif name in query:
            raise invalid(f"the parameter {name} is given twice")
        else:
            query[name] = _value(parameter, text)
    for parameter in definition.query:
        if parameter.required and parameter.name not in query:
            raise invalid(f"the parameter {parameter.name} is missing: {parameter.summary}")
    return Exchange(request, surface, path, query)


def _value(parameter: Parameter, text: str) -> Value:
    match parameter.kind:
        case "integer":
            if not (text.isascii() and text.isdigit() and len(text) <= _INTEGER_DIGITS_MAX):
                raise invalid(f"{parameter.name} is a whole number, not {shown(text)}")
            if not parameter.low <= int(text) <= parameter.high:
                raise invalid(f"{parameter.name} is from {parameter.low} to {parameter.high}, not {text}")
            return int(text)
        case "flag":
            if text not in ("true", "false"):
                raise invalid(f"{parameter.name} is true or false, not {shown(text)}")
            return text == "true"
        case "channel":
            refusal = check_name(text)
            if refusal is not None:
                raise RefusedError(refusal)
        case _:
            if parameter.choices and text not in parameter.choices:
                raise invalid(f"{parameter.name} is one of {', '.join(parameter.choices)}, not {shown(text)}")
    return text


def _from_raw_path(request: web.Request, definition: Definition, parameter: Parameter) -> str:
    """A path parameter from the path as it was sent: what the framework decodes for us is lossy."""
    raw = request.rel_url.raw_path.split("/")
    at = definition.path.split("/").index(f"{{{parameter.name}}}")
    if parameter.kind == "channel":
        return granted(from_path("/".join(raw[at:])))
    if parameter.kind == "tail":
        return "/".join([granted(from_level(level)) for level in raw[at:]])
    value = granted(from_level(raw[at]))
    if parameter.kind == "agent":
        refusal = check_agent(value)
        if refusal is not None:
            raise RefusedError(refusal)
    return value


ACCEPT: Final = Field(hdrs.ACCEPT, "text/event-stream turns the answer into a stream of events")
AGENT: Final = Field("Mesh-Agent", "the registered agent of yours you speak as, percent-encoded like a path level")
