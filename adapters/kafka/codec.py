"""Requests and answers as bytes: the face of the codec. Sans-io.

A request is a head (API, version, correlation, client) and a body; an answer is a correlation and a body. What
is malformed raises ``WireError``; everything a client may send otherwise has an answer.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final, NamedTuple

from dragoman.adapters.kafka.apis import APIS, BY_KEY, ApiKey
from dragoman.adapters.kafka.schema import INT32, STRING, Kind, fields_of, form_of
from dragoman.adapters.kafka.shapes_admin import DeleteTopicsRequest
from dragoman.adapters.kafka.shapes_data import ApiVersion, ApiVersionsResponse
from dragoman.adapters.kafka.wire import Cursor, Output, WireError

__all__ = [
    "RequestHead",
    "WireError",
    "decode_request",
    "encode_response",
    "error_response",
    "offered",
    "request_head",
    "response_head",
    "serves",
    "speaks",
]

_ABOUT: Final = frozenset(
    (
        *("name", "topic", "topic_id", "partition", "partition_index", "index"),
        *("group_id", "key", "member_id", "group_instance_id", "resource_type", "resource_name"),
    )
)
"""What an answer repeats of its request: what it is about."""

_ALSO: Final = {"partition": "partition_index"}
"""What an answer may call otherwise than its request."""

_OLDEST: Final = 0
"""The version of ApiVersions in which whoever asks for one we do not know is answered."""


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
    """The body of a request that is served. Raises ``WireError``.

    Bytes behind it are nobody's, as in Kafka: librdkafka leaves three there when it asks for all topics.
    """
    api = BY_KEY[key]
    request: object = form_of(api.request, version, version >= api.flexible).read(Cursor(body))
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
    if key == ApiKey.API_VERSIONS and not serves(key, version):
        version = _OLDEST
    output = Output()
    form_of(api.response, version, version >= api.flexible).write(output, response)
    return output.parts()


def error_response(key: int, request: object, code: int) -> object:
    """A whole answer that says ``code`` wherever it can, mirroring the request (None if it could not be read)."""
    answer: object = _mirror(request, BY_KEY[key].response, code)
    if isinstance(answer, ApiVersionsResponse):
        # Whoever asks in a version we do not know asks again in one that is in the list.
        answer.api_keys = offered()
    return answer


def offered() -> list[ApiVersion]:
    """The requests clients are told of, in which versions."""
    return [ApiVersion(api.key, api.low, api.high) for api in APIS]


def _mirror(asked: Any, shape: type, code: int) -> Any:
    answer = shape()
    lists, same = _to_mirror(asked)
    for name, field in fields_of(shape):
        if name == "error_code":
            answer.error_code = code
        elif name in same:
            setattr(answer, name, same[name])
        elif isinstance(field.kind, type) and field.array and _has_code(field.kind) and lists:
            setattr(answer, name, [_mirror(item, field.kind, code) for item in lists.pop(0)])
    if isinstance(asked, str | int):
        setattr(answer, _first_of(shape, STRING if isinstance(asked, str) else INT32), asked)
    return answer


def _to_mirror(asked: Any) -> tuple[list[Any], dict[str, Any]]:
    """The lists of what is asked for, and what else an answer to it repeats."""
    if not dataclasses.is_dataclass(asked):
        return [], {}
    fields = fields_of(type(asked))
    lists = [getattr(asked, name) or () for name, field in fields if field.array]
    if isinstance(asked, DeleteTopicsRequest):
        # Two lists of the same, for older and for newer versions.
        lists = [asked.topics or asked.topic_names]
    about = {name: value for name, _ in fields if name in _ABOUT and (value := getattr(asked, name)) is not None}
    return lists, about | {_ALSO[name]: value for name, value in about.items() if name in _ALSO}


def _has_code(shape: type) -> bool:
    return any(
        name == "error_code" or (isinstance(field.kind, type) and _has_code(field.kind))
        for name, field in fields_of(shape)
    )


def _first_of(shape: type, kind: Kind) -> str:
    """Which field says what an item is that is nothing but a name, or a number."""
    return next(name for name, field in fields_of(shape) if field.kind is kind and name != "error_message")
