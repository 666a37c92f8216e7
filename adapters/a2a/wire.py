"""A2A's requests as JSON: what comes in, checked and typed. Knows no HTTP and no broker.

ProtoJSON: names in camelCase, null is absent, unknown fields are ignored.
"""

from __future__ import annotations

import re
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from dragoman.adapters.a2a.errors import A2aError, Fault, invalid

VERSION: Final = "1.0"
JSON_TYPE: Final = "application/json"
A2A_TYPE: Final = "application/a2a+json"

ID_CHARS_MAX: Final = 256
"""Of the ids that clients choose: they are keys of what is remembered."""

JsonObject: TypeAlias = dict[str, Any]

T = TypeVar("T")


class Form(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """What all of them have in common."""


class Part(Form, kw_only=True):
    """One of ``text``, ``raw`` (base64), ``url`` and ``data``."""

    text: str | None = None
    raw: str | None = None
    url: str | None = None
    data: Any = UNSET
    media_type: str | None = None
    filename: str | None = None
    metadata: dict[str, Any] | None = None

    @property
    def kinds(self) -> list[str]:
        """Which of the four it has; a good part has one."""
        kinds = [name for name in ("text", "raw", "url") if getattr(self, name) is not None]
        return kinds if isinstance(self.data, UnsetType) else [*kinds, "data"]


class Message(Form, kw_only=True):
    """What a user says."""

    message_id: str
    role: str
    parts: list[Part]
    context_id: str | None = None
    task_id: str | None = None
    metadata: dict[str, Any] | None = None
    extensions: list[str] | None = None
    reference_task_ids: list[str] | None = None


class Configuration(Form, kw_only=True):
    """How it wants its answer."""

    accepted_output_modes: list[str] | None = None
    task_push_notification_config: dict[str, Any] | None = None
    history_length: int | None = None
    return_immediately: bool | None = None


class Tenanted(Form, kw_only=True):
    """A request names its agent by the address, or by ``tenant`` at the shared one."""

    tenant: str | None = None


class SendRequest(Tenanted, kw_only=True):
    """SendMessage and SendStreamingMessage."""

    message: Message
    configuration: Configuration | None = None
    metadata: dict[str, Any] | None = None


class GetRequest(Tenanted, kw_only=True):
    """GetTask."""

    id: str
    history_length: int | None = None


class ListRequest(Tenanted, kw_only=True):
    """ListTasks."""

    context_id: str | None = None
    status: str | None = None
    status_timestamp_after: str | None = None
    page_size: int | None = None
    page_token: str | None = None
    history_length: int | None = None
    include_artifacts: bool | None = None


class CancelRequest(Tenanted, kw_only=True):
    """CancelTask."""

    id: str
    metadata: dict[str, Any] | None = None


class SubscribeRequest(Tenanted, kw_only=True):
    """SubscribeToTask."""

    id: str


_PLACE: Final = re.compile(r"^(.*) - at `\$\.?(.*)`$", re.DOTALL)


def parse(body: bytes) -> Any:
    """Decoded JSON."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise A2aError(Fault.PARSE_ERROR, f"the body is not JSON: {error}") from None


def read(given: object, kind: type[T]) -> T:
    """Parameters as what their method takes."""
    try:
        return msgspec.convert(_present(given), kind)
    except msgspec.ValidationError as error:
        place = _PLACE.match(str(error))
        # A part's data may be nested as deep as JSON was read; where it is not, the depth was the parser's concern.
        raise invalid(place[2] or "params", place[1]) if place else invalid("params", str(error)) from None
    except RecursionError:
        raise invalid("params", "nested too deeply") from None


def _present(given: object) -> object:
    """Without what is null, which to ProtoJSON is absent; but ``data`` may be null."""
    if isinstance(given, dict):
        return {
            name: value if name in ("data", "metadata") else _present(value)
            for name, value in given.items()
            if value is not None or name == "data"
        }
    if isinstance(given, list):
        return [_present(item) for item in given]
    return given


def check_message(message: Message, *, parts_max: int, metadata_bytes_max: int) -> None:
    """What the types cannot say."""
    for field, value in (("messageId", message.message_id), ("contextId", message.context_id)):
        if value is not None and not (0 < len(value) <= ID_CHARS_MAX and value.isprintable()):
            if not value and field == "contextId":
                continue
            raise invalid(f"message.{field}", f"1 to {ID_CHARS_MAX} printable characters, not {value[:80]!r}")
    if message.role != "ROLE_USER":
        raise invalid("message.role", f"a client speaks as ROLE_USER, not {message.role[:80]!r}")
    if not 0 < len(message.parts) <= parts_max:
        raise invalid("message.parts", f"1 to {parts_max} parts, not {len(message.parts)}")
    for number, part in enumerate(message.parts):
        if len(part.kinds) != 1:
            found = " and ".join(part.kinds) or "none of them"
            raise invalid(f"message.parts[{number}]", f"one of text, raw, url and data, not {found}")
    try:
        size = len(msgspec.json.encode([message.metadata, message.extensions, message.reference_task_ids]))
    except RecursionError:
        raise invalid("message.metadata", "nested too deeply") from None
    if size > metadata_bytes_max:
        raise invalid("message.metadata", f"{size} bytes, at most {metadata_bytes_max} are allowed")
