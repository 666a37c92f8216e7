"""MCP over MQTT in both directions: servers there whose tools are the mesh's, and the mesh as a server there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman.adapters.mcp.mqtt_gateway import MqttGateway
from dragoman.adapters.mcp.mqtt_servers import MqttServers

if TYPE_CHECKING:
    from dragoman.adapters.mcp.desk import Desk
    from dragoman.adapters.mcp.settings import McpSettings
    from dragoman.broker.broker import Broker


def mcp_over_mqtt(broker: Broker, settings: McpSettings, desk: Desk) -> list[MqttServers | MqttGateway]:
    """What the settings have of it; to be started before MQTT's own listeners."""
    parts: list[MqttServers | MqttGateway] = []
    if settings.mqtt_name:
        parts.append(MqttGateway(broker, settings, desk))
    if settings.mqtt_servers_max:
        parts.append(MqttServers(broker, settings.mqtt_servers_max))
    return parts
