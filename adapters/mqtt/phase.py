"""The states of an MQTT connection, apart so that those who work on a connection need not import it."""

from __future__ import annotations

from enum import IntEnum


class Phase(IntEnum):
    """Where a connection is. Packets are taken only when OPEN, CONNECT only when NEW."""

    NEW = 0
    CHECKING = 1
    OPEN = 2
    CLOSED = 3
