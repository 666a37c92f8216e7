"""What MQTT counts about itself beyond bytes and sockets, for ``$SYS``. Plain integers, added to once a turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from dragoman.adapters.mqtt.packets import Publish


@final
class Traffic:
    """One per mesh. ``connected`` falls again; the others only rise.

    ``packets_*``        control packets of every type
    ``publishes_*``      PUBLISH packets, refused and repeated ones too; ``publish_bytes_*`` their payloads
    ``connects``         CONNECT packets, refused ones too
    ``connected``        clients past their CONNACK; ``connected_max`` the most there were at once
    """

    __slots__ = (
        "connected",
        "connected_max",
        "connects",
        "packets_in",
        "packets_out",
        "publish_bytes_in",
        "publish_bytes_out",
        "publishes_in",
        "publishes_out",
    )

    def __init__(self) -> None:
        self.packets_in = 0
        self.packets_out = 0
        self.publishes_in = 0
        self.publishes_out = 0
        self.publish_bytes_in = 0
        self.publish_bytes_out = 0
        self.connects = 0
        self.connected = 0
        self.connected_max = 0

    def entered(self) -> None:
        """A client was taken in."""
        self.connected += 1
        self.connected_max = max(self.connected_max, self.connected)

    def left(self) -> None:
        """A client that was taken in is gone."""
        self.connected -= 1
        assert self.connected >= 0, "more clients left than came"

    def set_aside(self, packet: Publish) -> None:
        """A PUBLISH has come that the session's own count leaves out, since it went into no channel."""
        self.publishes_in += 1
        self.publish_bytes_in += len(packet.payload)
