"""Which mesh this is: an id of its own for as long as its data lives, by which linked meshes tell each other."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Final

from dragoman.broker.log.contract import Table

if TYPE_CHECKING:
    from dragoman.broker.log.contract import Log

MESH_SELF: Final = "mesh-self"
"""Under this name a listener tells it to a link that asks, and a link tells it to whom it connects to."""

_KEY: Final = b"mesh-id"
_CHARS: Final = 22
"""As long as a Kafka cluster id."""


def mesh_id(log: Log) -> str:
    """The id of the mesh whose log this is: hexadecimal digits. Made when first asked for."""
    known = log.get(Table.META, _KEY)
    if known is None:
        known = uuid.uuid4().hex[:_CHARS].encode()
        log.put(Table.META, _KEY, known)
    return known.decode()
