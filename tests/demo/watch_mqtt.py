"""A watcher with nothing but MQTT 5 (paho-mqtt): sees presence, calls and readings."""

from __future__ import annotations

import sys

import paho.mqtt.client as mqtt
from acting import say

FILTERS = [("$mesh/v1/presence/#", 1), ("$mesh/v1/calls/#", 1), ("home/#", 1)]


def connected(client: mqtt.Client, *_: object) -> None:
    client.subscribe(FILTERS)


def subscribed(*_: object) -> None:
    say("watches", protocol="MQTT 5")


def message(_: mqtt.Client, __: object, seen: mqtt.MQTTMessage) -> None:
    say("sees", protocol="MQTT 5", channel=seen.topic, payload=seen.payload.decode(), retained=bool(seen.retain))


if __name__ == "__main__":
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="watcher", protocol=mqtt.MQTTv5)
    client.on_connect = connected
    client.on_subscribe = subscribed
    client.on_message = message
    client.connect(sys.argv[1], int(sys.argv[2]), keepalive=30)
    client.reconnect_delay_set(1, 1)
    client.loop_forever(retry_first_connection=True)
