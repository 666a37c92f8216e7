"""Which partition a message belongs to. One rule for every protocol, and the one Kafka's Java clients use.

So a message that comes over MQTT with a key lands where a Java producer would have put it.
"""

from __future__ import annotations

from typing import Final

_MASK: Final = 0xFFFF_FFFF
_M: Final = 0x5BD1_E995
_SEED: Final = 0x9747_B28C


def murmur2(data: bytes) -> int:
    """The 32-bit MurmurHash2 with the seed of Kafka's clients, unsigned."""
    length = len(data)
    h = (_SEED ^ length) & _MASK
    whole = length & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * _M & _MASK
        k = (k ^ k >> 24) * _M & _MASK
        h = h * _M & _MASK ^ k
    if whole < length:
        h = (h ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15


def partition_of(key: bytes | None, sender: str, partitions: int) -> int:
    """The partition of ``partitions`` for a key; without one, for its sender, so that a sender's order is kept."""
    return (murmur2(sender.encode() if key is None else key) & 0x7FFF_FFFF) % partitions
