"""A mesh as its users start it: agents of other protocols called through A2A, and tasks that outlive a kill."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from a2a_mesh import message

from tests.clients.mesh import MeshProcess

MeshStarter = Callable[..., MeshProcess]


def ask(mesh: MeshProcess, path: str, body: Any = None, method: str = "") -> Any:
    """One request of HTTP+JSON, or of our own API; its JSON."""
    request = urllib.request.Request(
        mesh.url + path,
        data=None if body is None else json.dumps(body).encode(),
        method=method or ("GET" if body is None else "POST"),
        headers={"A2A-Version": "1.0", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read()
    except urllib.error.HTTPError as error:
        with error:
            text = error.read()
    return json.loads(text) if text else None


def lines(mesh: MeshProcess, path: str, body: Any) -> bytes:
    """All of a stream, to its proper end."""
    headers = {"A2A-Version": "1.0", "Content-Type": "application/json"}
    request = urllib.request.Request(mesh.url + path, data=json.dumps(body).encode(), headers=headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        said: bytes = answer.read()
    return said


def send(mesh: MeshProcess, agent: str, part: Any, *, wait: bool = True, **more: Any) -> Any:
    given = {"message": message(part, **more), "configuration": {"returnImmediately": not wait}}
    return ask(mesh, f"/a2a/{agent}/message:send", given)["task"]


def until(mesh: MeshProcess, agent: str, task_id: str, state: str) -> Any:
    """The task, once it is in a state."""
    until_s = time.monotonic() + 10
    while time.monotonic() < until_s:
        task = ask(mesh, f"/a2a/{agent}/tasks/{task_id}")
        if task.get("status", {}).get("state") == f"TASK_STATE_{state}":
            return task
        time.sleep(0.01)
    raise AssertionError(task)


def serving(mesh: MeshProcess, agent: str, skill: str) -> mqtt.Client:
    """An MQTT agent that answers with what it was asked, in two pieces."""
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, agent, protocol=mqtt.MQTTv5)
    ready: list[int] = []

    def on_message(_: Any, __: Any, said: mqtt.MQTTMessage) -> None:
        call = said.topic.rpartition("/")[2]
        client.publish(f"mesh/answer/{call}/part/1", b"half", qos=1)
        client.publish(f"mesh/answer/{call}", said.payload, qos=1)

    client.on_message = on_message
    client.on_subscribe = lambda *_: ready.append(1)
    client.connect(*mesh.address("mqtt"))
    client.subscribe(f"mesh/serve/{skill}/+", qos=1)
    client.loop_start()
    until_s = time.monotonic() + 10
    while not ready:
        assert time.monotonic() < until_s, "no SUBACK"
        time.sleep(0.005)
    return client


def stop(client: mqtt.Client) -> None:
    client.disconnect()
    client.loop_stop()


@pytest.mark.slow
def test_an_mqtt_agent_is_an_a2a_agent(mesh_process: MeshStarter) -> None:
    mesh = mesh_process(memory=True)
    client = serving(mesh, "lamp", "blink")
    try:
        card = ask(mesh, "/a2a/lamp/.well-known/agent-card.json")
        assert [skill["id"] for skill in card["skills"]] == ["blink"]
        task = send(mesh, "lamp", {"data": {"times": 3}})
        assert task["status"]["state"] == "TASK_STATE_COMPLETED", task
        half, whole = task["artifacts"][0]["parts"]
        assert (half["text"], whole["data"]) == ("half", {"times": 3})
    finally:
        stop(client)


@pytest.mark.slow
def test_an_http_agent_is_an_a2a_agent(mesh_process: MeshStarter) -> None:
    mesh = mesh_process(memory=True, listeners={"http": "127.0.0.1:0"})
    card = {"name": "Desk", "skills": [{"id": "book", "name": "book"}]}
    ask(mesh, "/v1/agents/desk", {"card": card}, method="PUT")
    with urllib.request.urlopen(f"{mesh.url}/v1/agents/desk/asks?skill=book", timeout=10) as asks:
        task = send(mesh, "desk", "a table", wait=False)
        while not (line := asks.readline()).startswith(b"data: "):
            assert line, "the stream ended"
        call = json.loads(line[6:])["call"]
        assert call == task["id"]
        ask(mesh, f"/v1/calls/{call}/answer", {"table": 4})
        done = until(mesh, "desk", call, "COMPLETED")
        assert done["artifacts"][0]["parts"][0]["data"] == {"table": 4}


@pytest.mark.slow
def test_a_mesh_that_stops_answers_who_waits(mesh_process: MeshStarter) -> None:
    mesh = mesh_process()
    card = {"name": "Sleeper", "skills": [{"id": "echo", "name": "echo"}]}
    ask(mesh, "/v1/agents/sleeper", {"card": card, "lease_ms": 600_000}, method="PUT")
    with ThreadPoolExecutor(2) as others:
        given = {"message": message("good night")}
        sent = others.submit(ask, mesh, "/a2a/sleeper/message:send", given)
        until_s = time.monotonic() + 10
        while not ask(mesh, "/a2a/sleeper/tasks")["totalSize"]:
            assert time.monotonic() < until_s, "no task"
        streamed = others.submit(lines, mesh, "/a2a/sleeper/message:stream", {"message": message("and you")})
        while ask(mesh, "/a2a/sleeper/tasks")["totalSize"] < 2:
            assert time.monotonic() < until_s, "no second task"
        # Well below what it grants to those who are slow.
        assert mesh.terminate(10).code == 0, mesh.stderr
        assert sent.result(5)["task"]["status"]["state"] == "TASK_STATE_SUBMITTED"
        assert b"TASK_STATE_SUBMITTED" in streamed.result(5)


@pytest.mark.slow
def test_tasks_outlive_a_kill(mesh_process: MeshStarter) -> None:
    mesh = mesh_process()
    card = {"name": "Sleeper", "skills": [{"id": "echo", "name": "echo"}]}
    ask(mesh, "/v1/agents/sleeper", {"card": card, "lease_ms": 600_000}, method="PUT")
    waiting = send(mesh, "sleeper", {"text": "good night"}, wait=False, contextId="c1")
    assert waiting["status"]["state"] == "TASK_STATE_SUBMITTED"
    watch = {"data": {"skill": "watch", "arguments": {"channel": "log/a"}}}
    watched = send(mesh, "mesh", watch, wait=False)
    done = send(mesh, "mesh", {"data": {"skill": "publish", "arguments": {"channel": "log/a", "text": "before"}}})
    until(mesh, "mesh", watched["id"], "WORKING")
    told = ask(mesh, f"/a2a/mesh/tasks/{watched['id']}")
    mesh.kill()
    mesh.restart()
    again = ask(mesh, f"/a2a/sleeper/tasks/{waiting['id']}")
    assert (again["contextId"], again["history"][0]["parts"]) == ("c1", [{"text": "good night"}])
    assert again["status"]["state"] == "TASK_STATE_SUBMITTED"
    assert ask(mesh, f"/a2a/mesh/tasks/{done['id']}")["artifacts"] == done["artifacts"]
    assert ask(mesh, "/a2a/mesh/tasks")["totalSize"] == 2
    # The watch goes on where it was, and the same message is the same task.
    until(mesh, "mesh", watched["id"], "WORKING")
    send(mesh, "mesh", {"data": {"skill": "publish", "arguments": {"channel": "log/a", "text": "after"}}})
    until_s = time.monotonic() + 10
    texts: list[str] = []
    while texts[-1:] != ["after"] and time.monotonic() < until_s:
        shown = ask(mesh, f"/a2a/mesh/tasks/{watched['id']}")
        texts = [artifact["parts"][0]["data"]["text"] for artifact in shown["artifacts"]]
    assert texts == ["before", "after"], told
    stream = urllib.request.urlopen(f"{mesh.url}/v1/agents/sleeper/asks?skill=echo", timeout=10)
    with stream:
        while not (line := stream.readline()).startswith(b"data: "):
            assert line, "the stream ended"
        assert json.loads(line[6:])["call"] == waiting["id"]
        ask(mesh, f"/v1/calls/{waiting['id']}/answer", {"slept": True})
    done = until(mesh, "sleeper", waiting["id"], "COMPLETED")
    assert done["artifacts"][0]["parts"][0]["data"] == {"slept": True}
    ended = mesh.terminate()
    assert ended.code == 0, mesh.stderr
