"""The methods of A2A by name. Binding-neutral: parameters in, an answer or a stream out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar, final

import msgspec

from dragoman.adapters.a2a.errors import A2aError, Fault, invalid
from dragoman.adapters.a2a.tasks import Party
from dragoman.adapters.a2a.wire import (
    CancelRequest,
    GetRequest,
    JsonObject,
    ListRequest,
    SendRequest,
    SubscribeRequest,
    read,
)
from dragoman.adapters.serving.quota import Quota

if TYPE_CHECKING:
    from aiohttp import web

    from dragoman.adapters.a2a.settings import A2aSettings
    from dragoman.adapters.a2a.streams import Streams, Wrap
    from dragoman.adapters.a2a.tasks import Tasks

T = TypeVar("T")

NO_PUSH: Final = frozenset(
    (
        "CreateTaskPushNotificationConfig",
        "GetTaskPushNotificationConfig",
        "ListTaskPushNotificationConfigs",
        "DeleteTaskPushNotificationConfig",
    )
)


class Ask(NamedTuple):
    """One request. ``wrap`` is what its binding puts around the items of a stream; ``from_query``: all is text."""

    method: str
    params: JsonObject
    wrap: Wrap
    from_query: bool = False


@final
class Methods:
    """Every method there is."""

    def __init__(self, tasks: Tasks, streams: Streams, settings: A2aSettings) -> None:
        self._tasks = tasks
        self._streams = streams
        self._waiting = Quota("requests", each_max=settings.requests_per_principal_max, total_max=settings.requests_max)

    async def answer(self, http: web.Request, party: Party, ask: Ask) -> JsonObject | web.StreamResponse:
        """Does what is asked. Raises A2aError and RefusedError."""
        match ask.method:
            case "SendMessage":
                return await self._send(party, _read(ask, SendRequest))
            case "SendStreamingMessage":
                return await self._stream(http, party, ask)
            case "GetTask":
                return self._tasks.get(party, _read(ask, GetRequest))
            case "ListTasks":
                return await self._tasks.page(party, _read(ask, ListRequest))
            case "CancelTask":
                return await self._tasks.cancel(party, _read(ask, CancelRequest).id)
            case "SubscribeToTask":
                return await self._subscribe(http, party, ask)
        raise no_method(ask.method)

    async def _send(self, party: Party, request: SendRequest) -> JsonObject:
        configuration = request.configuration
        with self._waiting.held(party.principal.name):
            task = await self._tasks.start(party, request)
            if configuration is None or not configuration.return_immediately:
                await self._tasks.ended(task.call)
        return {"task": self._tasks.shown(task, configuration.history_length if configuration is not None else None)}

    async def _stream(self, http: web.Request, party: Party, ask: Ask) -> web.StreamResponse:
        request = _read(ask, SendRequest)
        history = request.configuration.history_length if request.configuration is not None else None
        with self._streams.held(party.principal.name):
            task = await self._tasks.start(party, request)
            return await self._streams.begin(http, task, ask.wrap, history)

    async def _subscribe(self, http: web.Request, party: Party, ask: Ask) -> web.StreamResponse:
        task = self._tasks.find(party, _read(ask, SubscribeRequest).id)
        if not task.call.pending:
            raise A2aError(Fault.UNSUPPORTED_OPERATION, "the task has ended; GetTask shows it")
        with self._streams.held(party.principal.name):
            return await self._streams.follow(http, task, ask.wrap)


def no_method(method: str) -> A2aError:
    """Why nothing is done for a method that is none of ours."""
    if method == "GetExtendedAgentCard":
        return A2aError(Fault.UNSUPPORTED_OPERATION, "there is one card for everybody: agent-card.json")
    if method in NO_PUSH:
        return A2aError(Fault.PUSH_NOTIFICATION_NOT_SUPPORTED, "this mesh sends no push notifications")
    return A2aError(Fault.METHOD_NOT_FOUND, f"there is no method {method[:80]!r}")


def _read(ask: Ask, kind: type[T]) -> T:
    if not ask.from_query:
        return read(ask.params, kind)
    try:
        return msgspec.convert(ask.params, kind, strict=False)
    except msgspec.ValidationError as error:
        raise invalid("query", str(error)) from None
