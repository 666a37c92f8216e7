"""The one table from our reasons to HTTP statuses; who only needs that does not load the web application."""

from __future__ import annotations

from typing import Final

from dragoman.routing.refusals import Reason

STATUS: Final[dict[Reason, int]] = {
    Reason.NOT_AUTHENTICATED: 401,
    Reason.NOT_AUTHORIZED: 403,
    Reason.BANNED: 403,
    Reason.NAME_INVALID: 400,
    Reason.FILTER_INVALID: 400,
    Reason.NAME_NOT_EXPRESSIBLE: 400,
    Reason.PAYLOAD_INVALID: 400,
    Reason.ARGUMENTS_INVALID: 400,
    Reason.CARD_INVALID: 400,
    Reason.TOO_LARGE: 413,
    Reason.QUOTA_EXCEEDED: 429,
    Reason.RATE_EXCEEDED: 429,
    Reason.BUSY: 503,
    Reason.MAILBOX_FULL: 503,
    Reason.STORAGE_FULL: 507,
    Reason.STORAGE_FAILED: 507,
    Reason.UNKNOWN_CHANNEL: 404,
    Reason.UNKNOWN_AGENT: 404,
    Reason.UNKNOWN_SKILL: 404,
    Reason.UNKNOWN_CALL: 404,
    Reason.UNKNOWN_GROUP: 404,
    Reason.UNKNOWN_DELIVERY: 404,
    Reason.AGENT_TAKEN: 403,
    Reason.AGENT_UNREACHABLE: 503,
    Reason.CONFLICT: 409,
    Reason.GONE: 410,
    Reason.DEADLINE_PASSED: 504,
    Reason.CANCELLED: 409,
    Reason.FAILED: 502,
    Reason.UNSUPPORTED: 501,
    Reason.TAKEN_OVER: 409,
    Reason.DISCONNECTED: 503,
    Reason.SHUTTING_DOWN: 503,
}

assert STATUS.keys() == set(Reason), "every reason needs a status"
