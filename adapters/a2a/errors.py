"""What can be wrong with a request, in the words of both bindings. One table from our reasons to theirs."""

from __future__ import annotations

from enum import Enum
from typing import Any, Final, NamedTuple, final

from dragoman.adapters.serving.statuses import STATUS
from dragoman.routing.refusals import Reason, Refusal

A2A_DOMAIN: Final = "a2a-protocol.org"
MESH_DOMAIN: Final = "dragoman"
_ERROR_INFO: Final = "type.googleapis.com/google.rpc.ErrorInfo"
_BAD_REQUEST: Final = "type.googleapis.com/google.rpc.BadRequest"


class _Codes(NamedTuple):
    rpc: int
    http: int
    grpc: str


class Fault(Enum):
    """The errors of A2A 1.0, section 5.4, and those of JSON-RPC."""

    TASK_NOT_FOUND = _Codes(-32001, 404, "NOT_FOUND")
    TASK_NOT_CANCELABLE = _Codes(-32002, 400, "FAILED_PRECONDITION")
    PUSH_NOTIFICATION_NOT_SUPPORTED = _Codes(-32003, 400, "FAILED_PRECONDITION")
    UNSUPPORTED_OPERATION = _Codes(-32004, 400, "FAILED_PRECONDITION")
    CONTENT_TYPE_NOT_SUPPORTED = _Codes(-32005, 400, "INVALID_ARGUMENT")
    VERSION_NOT_SUPPORTED = _Codes(-32009, 400, "FAILED_PRECONDITION")
    PARSE_ERROR = _Codes(-32700, 400, "INVALID_ARGUMENT")
    INVALID_REQUEST = _Codes(-32600, 400, "INVALID_ARGUMENT")
    METHOD_NOT_FOUND = _Codes(-32601, 404, "NOT_FOUND")
    INVALID_PARAMS = _Codes(-32602, 400, "INVALID_ARGUMENT")
    INTERNAL = _Codes(-32603, 500, "INTERNAL")


_A2A: Final = frozenset(fault for fault in Fault if -32100 < fault.value.rpc <= -32001)

_RPC: Final[dict[Reason, Fault]] = {
    Reason.ARGUMENTS_INVALID: Fault.INVALID_PARAMS,
    Reason.PAYLOAD_INVALID: Fault.INVALID_PARAMS,
    Reason.NAME_INVALID: Fault.INVALID_PARAMS,
    Reason.FILTER_INVALID: Fault.INVALID_PARAMS,
    Reason.NAME_NOT_EXPRESSIBLE: Fault.INVALID_PARAMS,
    Reason.CARD_INVALID: Fault.INVALID_PARAMS,
    Reason.CONFLICT: Fault.INVALID_PARAMS,
    Reason.TOO_LARGE: Fault.INVALID_PARAMS,
    Reason.UNKNOWN_AGENT: Fault.INVALID_PARAMS,
    Reason.UNKNOWN_SKILL: Fault.INVALID_PARAMS,
    Reason.UNSUPPORTED: Fault.UNSUPPORTED_OPERATION,
}
"""What a refusal is to JSON-RPC; whatever is not here is internal to us, and its name is in the details."""

_GRPC: Final[dict[int, str]] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    409: "ABORTED",
    410: "NOT_FOUND",
    413: "INVALID_ARGUMENT",
    415: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
    507: "RESOURCE_EXHAUSTED",
}


@final
class A2aError(Exception):
    """A no in the words of A2A. ``refusal``: it was the mesh that said so, for its own reason.

    ``field``   where in the request it is wrong, such as ``message.parts[0]``
    ``status``  the HTTP status where the place knows better than the table
    """

    def __init__(
        self, fault: Fault, detail: str, *, field: str = "", refusal: Refusal | None = None, status: int = 0
    ) -> None:
        super().__init__(detail)
        self.fault = fault
        self.detail = detail
        self.field = field
        self.refusal = refusal
        self.status = status or (STATUS[refusal.reason] if refusal is not None else fault.value.http)

    def _details(self) -> list[dict[str, Any]]:
        if self.refusal is not None:
            about: dict[str, Any] = {"@type": _ERROR_INFO, "domain": MESH_DOMAIN, "reason": _loud(self.refusal.reason)}
            if self.refusal.retry_after_ms:
                about["metadata"] = {"retryAfterMs": str(self.refusal.retry_after_ms)}
            return [about]
        if self.fault in _A2A:
            return [{"@type": _ERROR_INFO, "domain": A2A_DOMAIN, "reason": self.fault.name, "metadata": {}}]
        if self.field:
            return [{"@type": _BAD_REQUEST, "fieldViolations": [{"field": self.field, "description": self.detail}]}]
        return []

    def rpc(self) -> dict[str, Any]:
        """The error member of a JSON-RPC response."""
        error: dict[str, Any] = {"code": self.fault.value.rpc, "message": self.detail}
        details = self._details()
        return {**error, "data": details} if details else error

    def rest(self) -> dict[str, Any]:
        """The body of an HTTP+JSON response: a google.rpc.Status (AIP-193)."""
        plain = self.refusal is None and self.status == self.fault.value.http
        status = self.fault.value.grpc if plain else _GRPC.get(self.status, "INTERNAL")
        error = {"code": self.status, "status": status, "message": self.detail, "details": self._details()}
        return {"error": error}


def refused(refusal: Refusal) -> A2aError:
    """The error that says a refusal of the mesh."""
    return A2aError(_RPC.get(refusal.reason, Fault.INTERNAL), refusal.detail, refusal=refusal)


def invalid(field: str, detail: str) -> A2aError:
    """A parameter that does not fit."""
    return A2aError(Fault.INVALID_PARAMS, f"{field}: {detail}", field=field)


def no_task(task_id: str) -> A2aError:
    """There is none, or it is somebody else's: nobody can tell which."""
    return A2aError(Fault.TASK_NOT_FOUND, f"no task {task_id[:100]!r} is known (any more)")


def _loud(reason: Reason) -> str:
    return reason.value.replace("-", "_").upper()
