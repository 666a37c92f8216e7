"""Somebody who changes the configuration of a mesh that runs, and clients who see it."""

from __future__ import annotations

import http.client
import json
import os
import queue
import re
import signal
import urllib.error
import urllib.request
from types import TracebackType
from typing import Any, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from dragoman.adapters.serving.credentials import token_digest
from tests.clients.mesh import MeshProcess

WAIT_S = 20.0


def user(name: str, *, token: str = "", **more: object) -> str:
    """A user whose token, which is also its MQTT password, is its name and an exclamation mark."""
    rows = {"name": name, "tokens": [token_digest(token or f"{name}!")], **more}
    return "[[login.users]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in rows.items())


def rule(effect: str, who: str, actions: str, *filters: str) -> str:
    """A rule of the gate."""
    return (
        f'[[gate.rules]]\neffect = "{effect}"\nwho = ["{who}"]\nactions = ["{actions}"]\n'
        f"filters = {json.dumps(filters)}\n"
    )


OPS = user("ops", admin=True)


class Operator:
    """Somebody who edits a mesh's file."""

    def __init__(self, mesh: MeshProcess) -> None:
        self.mesh = mesh

    def write(self, config: str) -> None:
        """Changes the file, and says nothing."""
        self.mesh.config.write_text(config, "utf-8")

    def hup(self, config: str) -> str:
        """Writes the file and sends the signal; the line by which the mesh answers."""
        self.write(config)
        known = len(self.lines())
        os.kill(self.mesh.pid, signal.SIGHUP)
        return self.mesh.child.until(lambda: self.lines()[known:] or None, "line about the reload")[0]

    def lines(self) -> list[str]:
        """What the mesh has said of reloads."""
        return re.findall(r"^.* the configuration was .*\n", self.mesh.stderr, re.MULTILINE)

    def post(self, path: str = "reload", token: str = "ops!") -> tuple[int, dict[str, Any]]:
        """Asks an admin endpoint; the status and the document."""
        headers = {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(f"{self.mesh.url}/v1/admin/{path}", method="POST", headers=headers)
        return _answer(request)

    def get(self, path: str, token: str = "ops!") -> tuple[int, dict[str, Any]]:
        """Any other endpoint."""
        return _answer(urllib.request.Request(f"{self.mesh.url}{path}", headers={"Authorization": f"Bearer {token}"}))

    def stream(self, token: str) -> http.client.HTTPResponse:
        """All that is said, as server-sent events."""
        headers = {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(f"{self.mesh.url}/v1/stream?filter=%23", headers=headers)
        answer = urllib.request.urlopen(request, timeout=WAIT_S)
        assert isinstance(answer, http.client.HTTPResponse)
        return answer

    def post_message(self, channel: str, payload: str) -> None:
        """Says something in a channel."""
        headers = {"Authorization": "Bearer ops!"}
        request = urllib.request.Request(f"{self.mesh.url}/v1/channels/{channel}", payload.encode(), headers)
        with urllib.request.urlopen(request, timeout=WAIT_S):
            pass

    def value(self, key: str) -> tuple[object, str]:
        """What ``/v1/admin/config`` says of a key: the value in force and where it came from."""
        settings = self.get("/v1/admin/config")[1]["settings"]
        (found,) = [setting for setting in settings if setting["key"] == key]
        return found["value"], found["origin"]


def _answer(request: urllib.request.Request) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


class Client:
    """A paho client that is connected and subscribed, for as long as its ``with`` block lasts."""

    def __init__(self, mesh: MeshProcess, name: str, password: str = "", listener: str = "mqtt", *tls: str) -> None:
        """``tls``: the CA's file, and those of a certificate and its key, if it shows one."""
        self.heard: queue.Queue[str] = queue.Queue()
        self.ended: queue.Queue[int] = queue.Queue()
        self.answers: queue.Queue[int] = queue.Queue()
        self._paho = paho.Client(CallbackAPIVersion.VERSION2, name, protocol=MQTTProtocolVersion.MQTTv5)
        self._paho.username_pw_set(name, password or f"{name}!")
        self._paho.on_connect = lambda _, __, ___, code, ____: self.answers.put(int(code.value))
        self._paho.on_subscribe = lambda *_: self.answers.put(0)
        self._paho.on_message = lambda _, __, message: self.heard.put(f"{message.topic} {message.payload.decode()}")
        self._paho.on_disconnect = lambda _, __, ___, code, ____: self._over(int(code.value))
        if tls:
            self._paho.tls_set(*tls)
        self._paho.connect(*mesh.address(listener))
        self._paho.loop_start()
        self.code = self.answers.get(timeout=WAIT_S)
        if not self.code:
            self._paho.subscribe("#", qos=1)
            self.answers.get(timeout=WAIT_S)

    def _over(self, code: int) -> None:
        self.ended.put(code)
        self._paho.disconnect()  # or it would come again

    def say(self, topic: str, payload: str) -> None:
        """Publishes, and waits until that is acknowledged."""
        self.send(topic, payload).wait_for_publish(WAIT_S)

    def send(self, topic: str, payload: str) -> paho.MQTTMessageInfo:
        """Publishes."""
        return self._paho.publish(topic, payload, qos=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._paho.disconnect()
        self._paho.loop_stop()
