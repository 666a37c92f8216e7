"""What somebody outside answers, and a stranger's text made plain."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from dragoman.routing.refusals import Refusal

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def plain(text: str, chars_max: int) -> str:
    """A stranger's text for people and models: without control characters, and no longer than that."""
    return _CONTROL.sub("", text).replace("\r", " ").replace("\t", " ")[:chars_max]


class Answer(NamedTuple):
    """What a skill answers: bytes and what they are, or why it failed."""

    payload: bytes
    content_type: str | None = None
    failure: Refusal | None = None
