"""An MCP server over MQTT as a program of its own, by the letter of EMQ's profile, on paho: ``HOST PORT SERVER-ID``.

It has one tool, ``add``. It serves until it is killed, or, told ``leave`` by a notification, unregisters and goes.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

NAME = "plant/calculators/adder"
TOOL = {"name": "add", "description": "Adds.", "inputSchema": {"type": "object"}}


def main(host: str, port: int, server_id: str) -> None:
    control = f"$mcp-server/{server_id}/{NAME}"
    presence = f"$mcp-server/presence/{server_id}/{NAME}"
    client = paho.Client(CallbackAPIVersion.VERSION2, server_id, protocol=MQTTProtocolVersion.MQTTv5)

    def publish(topic: str, said: dict[str, Any] | None, *, retain: bool = False) -> None:
        properties = Properties(PacketTypes.PUBLISH)
        properties.UserProperty = [("MCP-COMPONENT-TYPE", "mcp-server"), ("MCP-MQTT-CLIENT-ID", server_id)]
        payload = json.dumps({"jsonrpc": "2.0", **said}) if said is not None else b""
        client.publish(topic, payload, 1, retain, properties)

    def connected(*args: Any) -> None:
        client.subscribe(control, 1)
        about = {"server_name": NAME, "description": "Adds numbers.", "meta": {"rbac": {"roles": []}}}
        publish(presence, {"method": "notifications/server/online", "params": about}, retain=True)

    def initialized(asked: dict[str, Any], asker: str) -> None:
        rpc = f"$mcp-rpc/{asker}/{server_id}/{NAME}"
        filters = [f"$mcp-client/capability/{asker}", f"$mcp-client/presence/{asker}"]
        wanted = [(filter_, SubscribeOptions(qos=1)) for filter_ in filters]
        client.subscribe([*wanted, (rpc, SubscribeOptions(qos=1, noLocal=True))])
        about = {"protocolVersion": "2025-03-26", "capabilities": {"tools": {"listChanged": True}}}
        publish(rpc, {"id": asked["id"], "result": about | {"serverInfo": {"name": NAME, "version": "1"}}})

    def heard(client: paho.Client, userdata: object, message: paho.MQTTMessage) -> None:
        asked = json.loads(message.payload)
        method = asked.get("method")
        user = dict(message.properties.UserProperty)  # type: ignore[union-attr]
        if method == "initialize":
            initialized(asked, user["MCP-MQTT-CLIENT-ID"])
        elif method == "tools/list":
            publish(message.topic, {"id": asked["id"], "result": {"tools": [TOOL]}})
        elif method == "tools/call":
            total = sum(asked["params"]["arguments"]["numbers"])
            publish(message.topic, {"id": asked["id"], "result": {"content": [{"type": "text", "text": str(total)}]}})
        elif method == "notifications/roots/list_changed":
            publish(f"$mcp-server/capability/{server_id}/{NAME}", {"method": "notifications/tools/list_changed"})
        elif method == "notifications/disconnected":
            publish(presence, None, retain=True)
            client.disconnect()

    client.on_connect, client.on_message = connected, heard
    will = Properties(PacketTypes.WILLMESSAGE)
    will.UserProperty = [("MCP-COMPONENT-TYPE", "mcp-server")]
    client.will_set(presence, b"", 1, True, will)
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 0
    properties.UserProperty = [("MCP-COMPONENT-TYPE", "mcp-server"), ("MCP-META", json.dumps({"version": "1"}))]
    client.connect(host, port, 30, clean_start=True, properties=properties)
    client.loop_forever()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
