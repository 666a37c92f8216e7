"""From a message to a call: which skill it asks for, and with what. Knows no broker.

The skill: metadata ``skill``, of the message or of the request; else a data part ``{"skill": …, "arguments": {…}}``;
else the only one the agent has.
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from dragoman.adapters.a2a.errors import A2aError, Fault, invalid
from dragoman.adapters.a2a.wire import JSON_TYPE, JsonObject, Message, Part, SendRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dragoman.routing.cards import Skill

TEXT_TYPE: Final = "text/plain"
BINARY_TYPE: Final = "application/octet-stream"

_ENVELOPE: Final = ({"skill"}, {"skill", "arguments"})


class Asked(NamedTuple):
    """What is asked of an agent."""

    skill: str
    arguments: bytes
    content_type: str
    deadline_ms: int | None


def asked_of(request: SendRequest, skills: Sequence[Skill]) -> Asked:
    """What the message asks of an agent with these skills."""
    message = request.message
    metadata = {**(request.metadata or {}), **(message.metadata or {})}
    part, field = _only(message)
    data = _enveloped(part)
    named = metadata.get("skill")
    if named is not None and not isinstance(named, str):
        raise invalid("message.metadata.skill", "the name of a skill")
    if named is None and data is not None:
        named = data["skill"]
        part = Part(data=data.get("arguments", {}))
        field += ".data.arguments"
    skill = _skill(named, skills)
    arguments, content_type = _arguments(part, field, skill)
    return Asked(skill.name, arguments, content_type, _deadline_ms(metadata))


def _only(message: Message) -> tuple[Part, str]:
    """The one part that counts. Several texts are one text: clients cut what people type."""
    if len(message.parts) == 1:
        return message.parts[0], "message.parts[0]"
    if all(part.text is not None for part in message.parts):
        return Part(text="\n".join([part.text or "" for part in message.parts])), "message.parts"
    raise A2aError(Fault.CONTENT_TYPE_NOT_SUPPORTED, "one part is one call: send one data, text or raw part")


def _enveloped(part: Part) -> JsonObject | None:
    data = part.data
    if isinstance(data, dict) and data.keys() in _ENVELOPE and isinstance(data["skill"], str):
        return data
    return None


def _skill(named: str | None, skills: Sequence[Skill]) -> Skill:
    names = ", ".join([skill.name for skill in skills[:20]]) or "none"
    if named is None:
        if len(skills) == 1:
            return skills[0]
        raise invalid("message.metadata.skill", f"say which skill you mean; this agent has: {names}")
    for skill in skills:
        if skill.name == named:
            return skill
    raise invalid("message.metadata.skill", f"this agent has no skill {named[:80]!r}; it has: {names}")


def _arguments(part: Part, field: str, skill: Skill) -> tuple[bytes, str]:
    match part.kinds[0]:
        case "data":
            if not isinstance(part.data, dict):
                raise invalid(field, "the arguments of a skill are a JSON object")
            return msgspec.json.encode(_whole(part.data)), JSON_TYPE
        case "text":
            assert part.text is not None
            return _from_text(part.text, part.media_type, skill)
        case "raw":
            return _from_base64(part.raw or "", field), part.media_type or BINARY_TYPE
    raise A2aError(Fault.CONTENT_TYPE_NOT_SUPPORTED, f"{field}: nothing is fetched from a url; send it as raw or text")


def _from_text(text: str, media_type: str | None, skill: Skill) -> tuple[bytes, str]:
    if text.lstrip()[:1] == "{":
        try:
            if isinstance(msgspec.json.decode(text), dict):
                return text.encode(), JSON_TYPE
        except (msgspec.DecodeError, RecursionError):
            pass
    if skill.input_schema is not None:
        return msgspec.json.encode({"text": text}), JSON_TYPE
    return text.encode(), media_type or TEXT_TYPE


def _from_base64(raw: str, field: str) -> bytes:
    try:
        # ProtoJSON readers take both alphabets, with padding or without.
        return b64decode(raw.rstrip("=") + "=" * (-len(raw.rstrip("=")) % 4), _alphabet(raw), validate=True)
    except (Base64Error, ValueError):
        raise invalid(f"{field}.raw", "is not base64") from None


def _alphabet(raw: str) -> bytes:
    return b"-_" if "-" in raw or "_" in raw else b"+/"


def _whole(value: Any) -> Any:
    """Integral floats as integers: to a client built on protocol buffers every number is a double."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= 1 << 53:
        return int(value)
    if isinstance(value, dict):
        return {name: _whole(item) for name, item in value.items()}
    return [_whole(item) for item in value] if isinstance(value, list) else value


def _deadline_ms(metadata: dict[str, Any]) -> int | None:
    deadline = metadata.get("deadline_ms")
    if isinstance(deadline, float) and deadline.is_integer():
        deadline = int(deadline)
    if deadline is None:
        return None
    if isinstance(deadline, bool) or not isinstance(deadline, int) or deadline < 1:
        raise invalid("message.metadata.deadline_ms", "milliseconds from now, 1 or more")
    return deadline
