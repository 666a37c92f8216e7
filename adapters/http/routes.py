"""All routes of the HTTP API, from their definitions, and the description of them."""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp import web

from dragoman.adapters.http import (
    admin,
    admin_bans,
    admin_delayed,
    admin_kept,
    admin_redirects,
    agents,
    calls,
    channels,
    groups,
    health,
    mailboxes,
    rooms,
    streams,
)
from dragoman.adapters.http.definitions import JSON, Definition, Exchange, Reply, add
from dragoman.adapters.http.openapi import describe
from dragoman.adapters.http.surface import Surface
from dragoman.adapters.serving.web import OPEN_PATHS

_DESCRIPTION: Final = web.AppKey("openapi", bytes)


async def _describe(exchange: Exchange) -> web.StreamResponse:
    return web.Response(body=exchange.request.app[_DESCRIPTION], content_type=JSON)


DEFINITIONS: Final[tuple[Definition, ...]] = (
    *channels.DEFINITIONS,
    *streams.DEFINITIONS,
    *agents.DEFINITIONS,
    *mailboxes.DEFINITIONS,
    *calls.DEFINITIONS,
    *rooms.DEFINITIONS,
    *groups.DEFINITIONS,
    *admin.DEFINITIONS,
    *admin_kept.DEFINITIONS,
    *admin_bans.DEFINITIONS,
    *admin_delayed.DEFINITIONS,
    *admin_redirects.DEFINITIONS,
    *health.DEFINITIONS,
    Definition(
        "GET",
        "/openapi.json",
        "describe",
        "health",
        "This description",
        _describe,
        replies=(Reply(200, "OpenAPI 3.1", content=JSON),),
        open=True,
    ),
)


def add_routes(app: web.Application, surface: Surface) -> None:
    """Serves the HTTP API on ``app``. Its streams end when the application does."""

    async def shut_down(app: web.Application) -> None:
        surface.end_streams()

    for definition in DEFINITIONS:
        add(app, definition, surface)
        if definition.open:
            app[OPEN_PATHS].add(definition.path)
    app[health.READINESS] = health.Readiness()
    app[_DESCRIPTION] = msgspec.json.encode(describe(DEFINITIONS, surface.version))
    app.on_shutdown.append(shut_down)
