"""What every foreign Kafka client is asked to do, and the records it is asked to say. Knows no client."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

WAIT_S = 20.0
"""How long anything may take that works."""

PATIENCE_MS = 3_000
"""How long a client tries what cannot work."""

LONG_POLL_MS = 5_000
"""How long a fetch waits where the test is that it need not."""

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
"""In the order of their numbers in a record batch."""

Header = tuple[str, bytes | None]


@dataclass(frozen=True)
class Record:
    """What a client says and sees of one record."""

    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[Header, ...] = ()


@dataclass(frozen=True)
class Where:
    """How a client comes in. ``ca`` is the certificate to trust over TLS; empty: no TLS.

    With the mechanism OAUTHBEARER the password is the token.
    """

    bootstrap: str
    user: str = ""
    password: str = ""
    ca: str = ""
    mechanism: str = "PLAIN"

    @property
    def protocol(self) -> str:
        return ("SASL_" if self.user else "") + ("SSL" if self.ca else "PLAINTEXT")


@dataclass(frozen=True)
class Shares:
    """The partitions of two members, and of the first when the second has left."""

    both: tuple[frozenset[int], frozenset[int]]
    alone: frozenset[int]


class Refused(Exception):
    """The mesh, or the client on its word, said no. The text is the client's own."""


class Client(Protocol):
    """One client library. Every call is a life of its own: connects, does it, closes.

    ``codecs``   what it compresses with here
    ``headers``  which headers it can say: ``all``; ``valued``: no null; ``grouped``: no null, those of one name
                 together; ``single``: no null, each name once; ``text``: the same UTF-8 for all records of a run
    """

    name: str
    codecs: tuple[str, ...]
    headers: str

    def produce(self, where: Where, topic: str, records: list[Record], codec: str = "none") -> list[int]:
        """Into partition 0, acknowledged by all. The offsets. Raises ``Refused``."""

    def read(self, where: Where, topic: str, group: str, count: int) -> list[Record]:
        """As a member of the group, else from the beginning: so many, which are then committed. Raises ``Refused``."""

    def share(self, where: Where, topic: str, group: str) -> Shares:
        """Two members of one group, of which the second leaves."""

    def woken_s(self, where: Where, topic: str) -> float:
        """How long after its acknowledgement a record reaches a fetch that was waiting for it."""


class Administrator(Client, Protocol):
    """A client that also makes topics."""

    def create(self, where: Where, topic: str, partitions: int) -> None:
        """Makes a topic. Raises ``Refused``."""

    def delete(self, where: Where, topic: str) -> None:
        """Removes a topic."""

    def topics(self, where: Where) -> dict[str, int]:
        """The topics and the number of their partitions."""


BLOB = bytes(range(256)) * 12


def said_by(client: Client) -> list[Record]:
    """Everything a record can be, as far as the client can say it."""
    headers: tuple[Header, ...] = (("a", b"1"), ("b", b"\xff\x00"), ("a", b"2"), ("", b""), ("n", None))
    if client.headers == "valued":
        headers = headers[:-1]
    elif client.headers == "grouped":
        headers = (("a", b"1"), ("a", b"2"), ("b", b"\xff\x00"))
    elif client.headers == "single":
        headers = (("a", b"1"), ("b", b"\xff\x00"))
    elif client.headers == "text":
        headers = (("a", b"1"), ("b", "ü".encode()), ("a", b"2"))
        return [Record(b"k%d" % n, b"v%d" % n, headers) for n in range(3)]
    return [
        Record(b"key", b"value", headers),
        Record(None, b"no key"),
        Record(b"gone", None),
        Record(b"\xff\xfe", BLOB, headers[:1]),
        Record(b"empty", b""),
    ]


def seen_by(client: Client, records: list[Record]) -> list[Record]:
    """What of the records the client can show: headers in the order in which it groups them."""

    def shown(record: Record) -> Record:
        if client.headers not in ("grouped", "single"):
            return record
        grouped: dict[str, list[bytes | None]] = {}
        for name, value in record.headers:
            if client.headers == "single":
                grouped[name] = [value]
            else:
                grouped.setdefault(name, []).append(value)
        headers = tuple((name, value) for name, values in grouped.items() for value in values)
        return Record(record.key, record.value, headers)

    return [shown(record) for record in records]


def until(done: Callable[[], bool], what: str) -> None:
    """Polls ``done``, which itself may wait a little."""
    deadline = time.monotonic() + WAIT_S
    while not done():
        if time.monotonic() > deadline:
            raise AssertionError(f"not in time: {what}")
