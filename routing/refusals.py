"""Every reason the mesh has to say no. One list of stable names; each adapter maps them to its own codes in one table.

A refusal is an answer, not an exception: ``publish`` and its sisters return it. ``RefusedError``
wraps one where Python's own control flow is wanted (the embedding API, the web routes).
"""

from __future__ import annotations

from enum import Enum
from typing import final


class Reason(Enum):
    """Stable names, safe to log, count and show. The value is the name on every wire that carries text."""

    NOT_AUTHENTICATED = "not-authenticated"
    NOT_AUTHORIZED = "not-authorized"
    BANNED = "banned"
    NAME_INVALID = "name-invalid"
    FILTER_INVALID = "filter-invalid"
    NAME_NOT_EXPRESSIBLE = "name-not-expressible"
    PAYLOAD_INVALID = "payload-invalid"
    ARGUMENTS_INVALID = "arguments-invalid"
    CARD_INVALID = "card-invalid"
    TOO_LARGE = "too-large"
    QUOTA_EXCEEDED = "quota-exceeded"
    RATE_EXCEEDED = "rate-exceeded"
    BUSY = "busy"
    MAILBOX_FULL = "mailbox-full"
    STORAGE_FULL = "storage-full"
    STORAGE_FAILED = "storage-failed"
    UNKNOWN_CHANNEL = "unknown-channel"
    UNKNOWN_AGENT = "unknown-agent"
    UNKNOWN_SKILL = "unknown-skill"
    UNKNOWN_CALL = "unknown-call"
    UNKNOWN_GROUP = "unknown-group"
    UNKNOWN_DELIVERY = "unknown-delivery"
    AGENT_TAKEN = "agent-taken"
    AGENT_UNREACHABLE = "agent-unreachable"
    CONFLICT = "conflict"
    GONE = "gone"
    DEADLINE_PASSED = "deadline-passed"
    CANCELLED = "cancelled"
    FAILED = "failed"
    UNSUPPORTED = "unsupported"
    TAKEN_OVER = "taken-over"
    DISCONNECTED = "disconnected"
    SHUTTING_DOWN = "shutting-down"


@final
class Refusal:
    """A no: why, in a stable name, and a sentence that says what was seen and what was allowed.

    ``retry_after_ms`` is how long to wait before the same thing may work; 0 = do not bother.
    """

    __slots__ = ("detail", "reason", "retry_after_ms")

    def __init__(self, reason: Reason, detail: str, retry_after_ms: int = 0) -> None:
        self.reason = reason
        self.detail = detail
        self.retry_after_ms = retry_after_ms

    def __repr__(self) -> str:
        return f"Refusal({self.reason.value}: {self.detail})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Refusal):
            return NotImplemented
        return (self.reason, self.detail, self.retry_after_ms) == (other.reason, other.detail, other.retry_after_ms)

    def __hash__(self) -> int:
        return hash((self.reason, self.detail))


class RefusedError(Exception):
    """A refusal where an exception is the honest form: the embedding API and web routes raise it."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"{refusal.reason.value}: {refusal.detail}")
        self.refusal = refusal
