"""How a no is said over HTTP: RFC 9457 problem documents. Which status, ``statuses`` says.

Every protocol on the web application (HTTP, MCP, A2A) answers refusals of its transport with these; what
a protocol says inside its own messages is its own table.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import web

from dragoman.adapters.serving.statuses import STATUS
from dragoman.routing.refusals import Reason, Refusal, RefusedError

PROBLEM_TYPE: Final = "application/problem+json"


class MediaTypeError(RefusedError):
    """A refusal of the form a body has, which HTTP has a status of its own for: 415."""


class Problem(msgspec.Struct, omit_defaults=True):
    """An RFC 9457 problem. ``type`` is a stable reason name, ``detail`` a sentence for people."""

    type: str
    title: str
    status: int
    detail: str = ""
    retry_after_ms: int = 0


def describe(refusal: Refusal, status: int = 0) -> Problem:
    """The problem document of a refusal; ``status`` where the place knows better than the table."""
    code = status or STATUS[refusal.reason]
    title = refusal.reason.value.replace("-", " ")
    return Problem(refusal.reason.value, title, code, refusal.detail, refusal.retry_after_ms)


def respond(refusal: Refusal, status: int = 0) -> web.Response:
    """The answer that says no."""
    problem = describe(refusal, status)
    response = respond_with(problem)
    if refusal.reason is Reason.NOT_AUTHENTICATED:
        response.headers["WWW-Authenticate"] = 'Bearer realm="mesh"'
    return response


def respond_with(problem: Problem) -> web.Response:
    """The answer that carries a problem document."""
    response = web.Response(status=problem.status, body=msgspec.json.encode(problem), content_type=PROBLEM_TYPE)
    if problem.retry_after_ms:
        response.headers["Retry-After"] = str(-(-problem.retry_after_ms // 1000))
    return response


def from_framework(error: web.HTTPException) -> web.Response:
    """The same face for what the web framework refuses itself: no such path, no such method, body too large."""
    phrase = HTTPStatus(error.status).phrase
    if error.status == 413:
        return respond(Refusal(Reason.TOO_LARGE, "the body is larger than this listener takes"))
    detail = error.text or ""
    if error.status in (404, 405) and detail == f"{error.status}: {phrase}":
        # The framework's own words; who raises it to say more is not talked over.
        detail = f"{phrase}: what this listener has, and how it is asked, is in /openapi.json"
    response = respond_with(Problem("about:blank", phrase, error.status, detail))
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    return response
