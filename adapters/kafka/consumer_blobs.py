"""The little of consumers' own messages to each other that a coordinator must know. Opaque wherever possible."""

from __future__ import annotations

from typing import Final

CONSUMER: Final = "consumer"
"""The protocol type of ordinary consumers."""

NOTHING_ASSIGNED: Final = b"\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff"
"""An assignment (version 0) of no partitions and no user data. Some clients cannot read one of no bytes."""


def subscribed(metadata: bytes) -> frozenset[str] | None:
    """The topics a subscription (any version) names; None if it cannot be read."""
    count = int.from_bytes(metadata[2:6], "big", signed=True)
    # Every topic takes at least the two bytes of its length.
    if len(metadata) < 6 or not 0 <= count <= len(metadata) // 2:
        return None
    topics = []
    at = 6
    for _ in range(count):
        end = at + 2 + int.from_bytes(metadata[at : at + 2], "big")
        if end > len(metadata) or at + 2 > len(metadata):
            return None
        try:
            topics.append(metadata[at + 2 : end].decode())
        except UnicodeDecodeError:
            return None
        at = end
    return frozenset(topics)
