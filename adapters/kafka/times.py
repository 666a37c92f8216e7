"""When records were said, as consumers see it: the time their producer gave them, where it gave one."""

from __future__ import annotations

import struct
from typing import Final

from dragoman.adapters.kafka.batches import open_bundle
from dragoman.routing.message import EMPTY, Bundle, Entry, Message

_NEWEST: Final = struct.Struct(">q")
_NEWEST_AT: Final = 35
"""Where the head of a batch says the greatest time in it."""

Moment = tuple[int, int]
"""An offset and the time of the record there."""


def first_since(entry: Entry, time_ms: int) -> Moment | None:
    """The first record of an entry that is at least as young as ``time_ms``."""
    return next((moment for moment in _moments(entry, time_ms) if moment[1] >= time_ms), None)


def newest(entry: Entry) -> Moment:
    """The youngest record of an entry."""
    return max(_moments(entry, 0), key=lambda moment: (moment[1], -moment[0]))


def _moments(entry: Entry, time_ms: int) -> list[Moment]:
    """Every record of an entry; only one of a batch in which there is nothing to look for, or that cannot be read."""
    if isinstance(entry, Message):
        return [_moment(entry)]
    greatest = int(_NEWEST.unpack_from(entry.body, _NEWEST_AT)[0])
    if greatest < time_ms:
        return [(entry.offset, greatest)]
    return _opened(entry, greatest)


def _opened(bundle: Bundle, greatest: int) -> list[Moment]:
    try:
        return [_moment(message) for message in open_bundle(bundle)]
    except ValueError:
        return [(bundle.offset, greatest)]


def _moment(message: Message) -> Moment:
    sent_ms = (message.envelope or EMPTY).sent_ms
    return message.offset, message.time_ms if sent_ms is None or sent_ms < 0 else sent_ms
