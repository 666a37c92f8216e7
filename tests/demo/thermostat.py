"""A thermostat with nothing but MQTT 3.1.1 (paho-mqtt): it publishes and subscribes, and is a tool for agents."""

from __future__ import annotations

import itertools
import json
import sys
import threading
from collections import deque

import paho.mqtt.client as mqtt
from acting import on_cue, say

NAME = "thermostat"
READINGS = "home/living-room/temperature"
ALERTS = "home/alerts"
SERVE = "mesh/serve/set_temperature/"
CARD = {
    "name": "Living room thermostat",
    "description": "Heats the living room",
    "skills": [
        {
            "name": "set_temperature",
            "description": "Sets the room temperature, in degrees Celsius",
            "inputSchema": {
                "type": "object",
                "properties": {"celsius": {"type": "number", "minimum": 5, "maximum": 30}},
                "required": ["celsius"],
            },
        }
    ],
}


class Thermostat:
    """Heats, reports, obeys. Its session is kept while it sleeps. Its readings are numbered."""

    def __init__(self, host: str, port: int) -> None:
        self.address = (host, port)
        self.celsius = 18.0
        self.done = threading.Event()
        self.awake = threading.Event()
        self.count = itertools.count(1)
        self.sent: deque[tuple[int, mqtt.MQTTMessageInfo]] = deque()
        self.client = self._new()

    def _new(self) -> mqtt.Client:
        client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=NAME, clean_session=False, protocol=mqtt.MQTTv311
        )
        client.on_connect = self._connected
        client.on_message = self._message
        client.on_disconnect = lambda *_: self.awake.clear()
        return client

    def run(self) -> None:
        """Until told to stop."""
        self.wake()
        while not self.done.wait(0.4):
            if self.awake.is_set():
                self._report()
            for _ in range(len(self.sent)):
                number, sent = self.sent.popleft()
                if sent.rc == 0 and sent.is_published():
                    say("is acknowledged", protocol="MQTT 3.1.1", channel=READINGS, n=number)
                else:
                    self.sent.append((number, sent))

    def wake(self) -> None:
        """Connects; what came while it slept arrives."""
        self.client = self._new()
        self.client.connect(*self.address, keepalive=30)
        self.client.loop_start()

    def sleep(self) -> None:
        """Says goodbye; its session goes on without it."""
        self.client.disconnect()
        self.client.loop_stop()
        say("goes to sleep", protocol="MQTT 3.1.1")

    def last(self) -> None:
        """One more reading, and no more."""
        self.awake.clear()
        self._report(last=True)

    def stop(self) -> None:
        """The end of the play."""
        self.done.set()

    def _connected(self, client: mqtt.Client, _: object, flags: mqtt.ConnectFlags, *__: object) -> None:
        say("connects", protocol="MQTT 3.1.1", session_present=flags.session_present)
        client.subscribe([(SERVE + "+", 1), ("mesh/me/in", 1), (ALERTS, 1)])
        client.publish("mesh/me/card", json.dumps(CARD), qos=1)
        self._report()
        self.awake.set()

    def _report(self, **more: object) -> None:
        number = next(self.count)
        reading = json.dumps({"celsius": self.celsius, "n": number, **more})
        self.sent.append((number, self.client.publish(READINGS, reading, qos=1, retain=True)))

    def _message(self, client: mqtt.Client, _: object, message: mqtt.MQTTMessage) -> None:
        text = message.payload.decode()
        if message.topic.startswith(SERVE):
            call = message.topic.removeprefix(SERVE)
            self.celsius = float(json.loads(text)["celsius"])
            say("is told", protocol="MQTT 3.1.1", channel=message.topic, payload=text, call=call)
            client.publish(f"mesh/answer/{call}", json.dumps({"celsius": self.celsius, "heating": True}), qos=1)
            self._report()
        else:
            say("reads mail" if message.topic == "mesh/me/in" else "reads", protocol="MQTT 3.1.1",
                channel=message.topic, payload=text)  # fmt: skip


if __name__ == "__main__":
    thermostat = Thermostat(sys.argv[1], int(sys.argv[2]))
    on_cue({"sleep": thermostat.sleep, "wake": thermostat.wake, "last": thermostat.last, "stop": thermostat.stop})
    thermostat.run()
