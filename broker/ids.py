"""Ids nobody can guess and everybody can sort."""

from __future__ import annotations

import os
import re
from typing import Final

_TAIL_MASK: Final = (1 << 74) - 1
_SHAPE: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def fresh_id(now_ms: int) -> str:
    """A UUID of version 7 (RFC 9562 §5.7): the milliseconds, then 74 random bits."""
    tail = int.from_bytes(os.urandom(10), "big") & _TAIL_MASK
    value = (now_ms & (1 << 48) - 1) << 80 | 0x7 << 76 | (tail >> 62) << 64 | 0b10 << 62 | tail & (1 << 62) - 1
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def is_uuid7(text: str) -> bool:
    """Whether the text has the form ``fresh_id`` gives."""
    return _SHAPE.fullmatch(text) is not None
