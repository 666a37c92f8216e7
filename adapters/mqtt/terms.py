"""What holds for the clients of one listener: its own word where it has one, else the mesh's."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from dragoman.adapters.mqtt.listener_settings import ListenerSettings
    from dragoman.adapters.mqtt.settings import MqttSettings

T = TypeVar("T")


class Terms(NamedTuple):
    """``connect_time_max_ms``: 0 = a connection may last as long as it likes."""

    connect_time_max_ms: int


def terms_of(listener: ListenerSettings, mesh: MqttSettings) -> Terms:
    """Its terms."""
    return Terms(connect_time_max_ms=1000 * _either(listener.connect_time_max_s, mesh.connect_time_max_s))


def _either(own: T | None, mesh: T) -> T:
    return mesh if own is None else own
