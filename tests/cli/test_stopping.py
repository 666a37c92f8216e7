"""How a mesh ends: everyone is told, everything is safe, and whoever cannot wait need not."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dragoman import running
from tests.cli.raw_mqtt import DISCONNECT, PUBACK, PUBLISH, RawMqtt
from tests.clients.mesh import MeshProcess

MeshStarter = Callable[..., MeshProcess]

SAID = 200


@pytest.mark.slow
def test_a_graceful_stop_tells_everyone_and_keeps_what_was_acknowledged(mesh_process: MeshStarter) -> None:
    mesh = mesh_process()
    with RawMqtt(mesh.address("mqtt"), "keeper", expiry_s=3600) as keeper:
        keeper.subscribe("a/#")
    stream = http.client.HTTPConnection(*mesh.address("http"), timeout=10)
    stream.request("GET", "/v1/stream?filter=%24mesh/%23")
    events = stream.getresponse()
    assert events.status == 200
    with RawMqtt(mesh.address("mqtt"), "teller") as teller:
        for number in range(1, SAID + 1):
            teller.publish("a/b", b"%d" % number, number)
        acknowledged = 0
        while acknowledged < SAID:
            kind, _ = teller.receive()
            acknowledged += kind == PUBACK
        os.kill(mesh.pid, signal.SIGTERM)
        kind, body = teller.receive()
        assert (kind, body[0]) == (DISCONNECT, 0x8B)
        assert teller.receive() == (0, b"")
    told = events.read().decode()
    assert "event: end" in told
    assert '"shutting-down"' in told
    stream.close()
    ended = mesh.child.wait()
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[-2:] == [
        "stopping: no new connections, everyone is told, everything is flushed",
        "stopped",
    ]

    mesh.restart()
    assert f"{mesh.data}: messages in " in mesh.child.stdout
    with RawMqtt(mesh.address("mqtt"), "keeper", expiry_s=3600) as keeper:
        assert keeper.session_present
        heard: list[int] = []
        while len(heard) < SAID:
            kind, body = keeper.receive()
            assert kind == PUBLISH
            heard.append(int(keeper.acknowledge(body)))
    assert heard == list(range(1, SAID + 1))


@pytest.mark.slow
def test_a_second_signal_stops_at_once(mesh_process: MeshStarter) -> None:
    """A request that never ends holds a graceful stop up for as long as ``grace_s`` allows."""
    mesh = mesh_process("grace_s = 60\n")
    with socket.create_connection(mesh.address("http")) as slow:
        head = b"POST /v1/channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
        slow.sendall(head)
        assert slow.recv(64).startswith(b"HTTP/1.1 100")
        started = time.monotonic()
        os.kill(mesh.pid, signal.SIGTERM)
        mesh.child.until_said("^stopping")

        def ended() -> bool | None:
            if not mesh.child.running:
                return True
            os.kill(mesh.pid, signal.SIGTERM)
            return None

        mesh.child.until(ended, "end")
        assert time.monotonic() - started < 30
    assert mesh.child.kill().code == 128 + signal.SIGTERM
    assert "stopped at once; what was acknowledged is in the log" in mesh.child.stdout


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> tuple[running._Signals, list[float], list[int]]:
    """Signals as they are counted, with a clock that stands until it is set and an end that is only noted."""

    class Loop:
        def add_signal_handler(self, *_: object) -> None:
            pass

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return now[0]

    now = [100.0]
    exits: list[int] = []
    monkeypatch.setattr(running, "time", Clock)
    monkeypatch.setattr(running.os, "_exit", exits.append)
    return running._Signals(Loop(), lambda _: None), now, exits  # type: ignore[arg-type]


def test_an_echo_of_a_signal_is_no_second_one(signals: tuple[running._Signals, list[float], list[int]]) -> None:
    """Ctrl-C reaches the group, and a parent passes it on too."""
    came, now, exits = signals
    came._on(signal.SIGINT)
    now[0] += running.ECHO_S / 2
    came._on(signal.SIGTERM)
    assert exits == []
    assert asyncio.run(came.wait()) == 128 + signal.SIGINT
    now[0] += running.ECHO_S
    came._on(signal.SIGTERM)
    assert exits == [128 + signal.SIGTERM]


def test_a_signal_after_the_end_changes_nothing(signals: tuple[running._Signals, list[float], list[int]]) -> None:
    came, now, exits = signals
    came._on(signal.SIGTERM)
    came.over()
    now[0] += 10
    came._on(signal.SIGTERM)
    assert exits == []
    assert asyncio.run(came.wait()) == 0


@pytest.mark.slow
def test_a_mesh_outlives_whoever_reads_its_output(tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    argv = [
        sys.executable,
        "-m",
        "dragoman",
        "serve",
        "--data",
        ":memory:",
        "--mqtt",
        "127.0.0.1:0",
        "--kafka",
        "off",
        "--http",
        "off",
    ]
    with subprocess.Popen(
        [*argv, "--ready-file", str(ready)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as mesh:
        try:
            assert mesh.stdout is not None
            mesh.stdout.close()
            deadline = time.monotonic() + 20
            while not ready.exists():
                assert mesh.poll() is None, "it ended"
                assert time.monotonic() < deadline
                time.sleep(0.01)
            host, _, port = json.loads(ready.read_text())["mqtt"].rpartition(":")
            with RawMqtt((host, int(port)), "anyone") as client:
                client.subscribe("a")
            mesh.terminate()
            assert mesh.stderr is not None
            assert (mesh.wait(20), mesh.stderr.read()) == (0, "")
        finally:
            mesh.kill()
