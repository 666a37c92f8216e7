"""What is counted. Plain integers that the hot path increments; they get their names when somebody collects.

Nothing is dropped without a counter and a reason: ``drop``. What is asked of others at the moment of
collecting (bytes waiting, ages, sizes) is a ``probe``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Literal, NamedTuple, TypeAlias, final

from dragoman.routing.refusals import Reason

Kind: TypeAlias = Literal["counter", "gauge"]

REASONS_MAX: Final = 64
"""Distinct drop reasons that are told apart. Reasons are constants of the code; this bounds a mistake."""


class Sample(NamedTuple):
    """One value of one metric. ``name`` has no ``_total``: renderers add what their format asks for."""

    name: str
    kind: Kind
    help: str
    labels: tuple[tuple[str, str], ...]
    value: float


@final
class Wire:
    """What one protocol's listener counts on its sockets. ``open`` falls again; the others only rise."""

    __slots__ = ("bytes_in", "bytes_out", "connections", "errors", "open", "protocol", "turned_away")

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self.open = 0
        self.connections = 0
        self.turned_away = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.errors = 0


_BROKER: Final[tuple[tuple[str, str, Kind, str], ...]] = (
    ("messages_in", "dragoman_messages_in", "counter", "Messages accepted from publishers"),
    ("messages_out", "dragoman_messages_out", "counter", "Deliveries to subscribers"),
    ("bytes_in", "dragoman_payload_bytes_in", "counter", "Payload bytes of accepted messages"),
    ("bytes_out", "dragoman_payload_bytes_out", "counter", "Payload bytes of deliveries"),
    ("acked", "dragoman_acked", "counter", "Deliveries that readers acknowledged"),
    ("redelivered", "dragoman_redelivered", "counter", "Deliveries made again after a lease ended or a reader went"),
    ("duplicates", "dragoman_duplicates", "counter", "Publishes answered with an earlier one by their dedupe key"),
    ("commits", "dragoman_commits", "counter", "Commits of the log"),
    ("commits_failed", "dragoman_commits_failed", "counter", "Commits that failed and were refused"),
    ("gaps", "dragoman_gaps", "counter", "Times a reader was told of a gap"),
    ("lost", "dragoman_lost", "counter", "Messages in those gaps, where the number is known"),
    ("logins", "dragoman_logins", "counter", "Credentials accepted"),
    ("logins_failed", "dragoman_logins_failed", "counter", "Credentials refused"),
    ("sessions", "dragoman_sessions", "gauge", "Sessions attached now"),
    ("channels", "dragoman_channels", "gauge", "Channels that exist now"),
    ("subscriptions", "dragoman_subscriptions", "gauge", "Subscriptions now"),
)

_WIRE: Final[tuple[tuple[str, str, Kind, str], ...]] = (
    ("open", "dragoman_connections", "gauge", "Connections open now"),
    ("connections", "dragoman_connections_opened", "counter", "Connections accepted since the start"),
    ("turned_away", "dragoman_connections_turned_away", "counter", "Connections closed at once for a limit"),
    ("bytes_in", "dragoman_wire_bytes_in", "counter", "Bytes read from sockets"),
    ("bytes_out", "dragoman_wire_bytes_out", "counter", "Bytes written to sockets"),
    ("errors", "dragoman_protocol_errors", "counter", "Connections closed because the peer broke the protocol"),
)


@final
class Metrics:
    """The counters of one mesh. Whoever does a thing adds to its attribute; ``collect`` gives every one its name."""

    __slots__ = (
        "_probes",
        "_wires",
        "acked",
        "bytes_in",
        "bytes_out",
        "channels",
        "commits",
        "commits_failed",
        "dropped",
        "duplicates",
        "gaps",
        "logins",
        "logins_failed",
        "lost",
        "messages_in",
        "messages_out",
        "redelivered",
        "refused",
        "sessions",
        "subscriptions",
    )

    def __init__(self) -> None:
        self.messages_in = 0
        self.messages_out = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.acked = 0
        self.redelivered = 0
        self.duplicates = 0
        self.commits = 0
        self.commits_failed = 0
        self.gaps = 0
        self.lost = 0
        self.logins = 0
        self.logins_failed = 0
        self.sessions = 0
        self.channels = 0
        self.subscriptions = 0
        self.dropped: dict[str, int] = {}
        self.refused: dict[str, int] = {}
        self._wires: dict[str, Wire] = {}
        self._probes: dict[str, tuple[Kind, str, Callable[[], float]]] = {}

    def drop(self, reason: str, n: int = 1) -> None:
        """Counts messages that will not be delivered, with a reason from the code (never a peer's text)."""
        dropped = self.dropped
        if reason not in dropped and len(dropped) >= REASONS_MAX:
            reason = "other"
        dropped[reason] = dropped.get(reason, 0) + n

    def refuse(self, reason: Reason, n: int = 1) -> None:
        """Counts a no."""
        name = reason.value
        self.refused[name] = self.refused.get(name, 0) + n

    def wire(self, protocol: str) -> Wire:
        """The counters of a protocol's sockets; the same object each time."""
        wire = self._wires.get(protocol)
        if wire is None:
            wire = self._wires[protocol] = Wire(protocol)
        return wire

    def probe(self, name: str, help_text: str, read: Callable[[], float], kind: Kind = "gauge") -> None:
        """Adds what is read when collected, named ``dragoman_…``. ``read`` must not block; a counter only rises."""
        assert name.startswith("dragoman_"), f"metric names begin with dragoman_: {name!r}"
        assert name not in self._probes, f"a second probe called {name!r}"
        self._probes[name] = (kind, help_text, read)

    def collect(self) -> Iterator[Sample]:
        """Every counter with its name, samples of one name in a row. Cheap enough to ask each second."""
        for attribute, name, kind, help_text in _BROKER:
            yield Sample(name, kind, help_text, (), getattr(self, attribute))
        for reason, count in sorted(self.dropped.items()):
            yield Sample("dragoman_dropped", "counter", "Messages dropped, by reason", (("reason", reason),), count)
        for reason, count in sorted(self.refused.items()):
            yield Sample("dragoman_refused", "counter", "Refusals, by reason", (("reason", reason),), count)
        for attribute, name, kind, help_text in _WIRE:
            for protocol, wire in sorted(self._wires.items()):
                yield Sample(name, kind, help_text, (("protocol", protocol),), getattr(wire, attribute))
        for name, (kind, help_text, read) in self._probes.items():
            yield Sample(name, kind, help_text, (), read())
