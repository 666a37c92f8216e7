"""Requests and answers as bytes: the face of the codec. Sans-io.

A request is a head (API, version, correlation, client) and a body; an answer is a correlation and a body. What
is malformed raises ``WireError``; everything a client may send otherwise has an answer.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from dragoman.adapters.kafka.apis import BY_KEY, Api, ApiKey
from dragoman.adapters.kafka.schema import STRING, Field, fields_of, form_of
from dragoman.adapters.kafka.wire import Cursor, Output, WireError

__all__ = [
    "RequestHead",
    "WireError",
    "decode_request",
    "encode_response",
    "error_response",
    "request_head",
    "response_head",
    "serves",
    "speaks",
]

_SAME: Final = {"partition": "partition_index"}
"""What an answer calls otherwise than its request."""


class RequestHead(NamedTuple):
    """The head of a request; ``length`` bytes of it, then the body."""

    api_key: int
    api_version: int
    correlation_id: int
    client_id: str | None
    length: int


def request_head(request: memoryview) -> RequestHead:
    """Reads the head. Of a version nobody knows only its first part, which never changes, is read."""
    cursor = Cursor(request)
    key, version, correlation = cursor.int16(), cursor.int16(), cursor.int32()
    count = cursor.length(compact=False, short=True)
    client = None if count < 0 else cursor.text(count)
    api = BY_KEY.get(key)
    if api is not None and api.flexible <= version <= api.high:
        cursor.skip_tags()
    return RequestHead(key, version, correlation, client, cursor.at)


def serves(key: int, version: int) -> bool:
    """Whether requests of this version are served."""
    api = BY_KEY.get(key)
    return api is not None and max(api.low, api.served) <= version <= api.high


def speaks(key: int, version: int) -> bool:
    """Whether a request of this version can at least be answered with UNSUPPORTED_VERSION.

    ApiVersions always can, in version 0, which is how a newer client learns what we know.
    """
    api = BY_KEY.get(key)
    return api is not None and (api.low <= version <= api.high or key == ApiKey.API_VERSIONS)


def decode_request(key: int, version: int, body: memoryview) -> object:
    """The body of a request that is served. Raises ``WireError``."""
    api = BY_KEY[key]
    cursor = Cursor(body)
    request: object = form_of(api.request, version, version >= api.flexible).read(cursor)
    if cursor.left and key != ApiKey.API_VERSIONS:
        raise WireError(f"{cursor.left} bytes too many")
    return request


def response_head(key: int, version: int, correlation: int) -> bytes:
    """What precedes the body. ApiVersions has no tags there, so that whoever asks can read it in any case."""
    head = correlation.to_bytes(4, "big", signed=True)
    flexible = version >= BY_KEY[key].flexible and key != ApiKey.API_VERSIONS
    return head + b"\0" if flexible else head


def encode_response(key: int, version: int, response: object) -> list[bytes | memoryview]:
    """The body of an answer, in pieces to be written one after the other; record batches are passed through."""
    api = BY_KEY[key]
    assert type(response) is api.response, f"{type(response).__name__} is no answer to {api.key.name}"
    output = Output()
    form_of(api.response, version, version >= api.flexible).write(output, response)
    return output.parts()


def error_response(key: int, request: object, code: int) -> object:
    """A whole answer that says ``code`` wherever it can, mirroring the request (None if it could not be read)."""
    api: Api = BY_KEY[key]
    return _mirror(request, api.response, code)


def _mirror(asked: Any, shape: type, code: int) -> Any:
    answer = shape()
    names = dict(fields_of(type(asked))) if hasattr(type(asked), "__dataclass_fields__") else {}
    lists = [name for name, field in names.items() if field.array]
    for name, field in fields_of(shape):
        if name == "error_code":
            answer.error_code = code
        elif isinstance(field.kind, type) and field.array and _has_code(field.kind):
            items = (getattr(asked, lists.pop(0)) or ()) if lists else ()
            setattr(answer, name, [_mirror(item, field.kind, code) for item in items])
    if not names and asked is not None:
        # An item that is nothing but a name, or a number.
        first = _first_of(shape, str if isinstance(asked, str) else int)
        if first is not None:
            setattr(answer, first, asked)
    for name in names:
        same = _SAME.get(name, name)
        if same != "error_code" and any(same == own and not field.array for own, field in fields_of(shape)):
            setattr(answer, same, getattr(asked, name))
    return answer


def _has_code(shape: type) -> bool:
    return any(
        name == "error_code" or (isinstance(field.kind, type) and _has_code(field.kind))
        for name, field in fields_of(shape)
    )


def _first_of(shape: type, kind: type) -> str | None:
    for name, field in fields_of(shape):
        if name != "error_code" and not field.array and (field.kind is STRING) == (kind is str) and _primitive(field):
            return name
    return None


def _primitive(field: Field) -> bool:
    return not isinstance(field.kind, type)
