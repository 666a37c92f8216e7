"""``dragoman serve`` and the commands that talk to it, as their users run them: each in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from dragoman.adapters.serving.credentials import new_token
from tests.cli.command_line import Said, dragoman
from tests.clients.mesh import MQTT_ONLY, MeshProcess
from tests.clients.processes import Child

pytestmark = pytest.mark.slow


def test_a_whole_life(mesh_process: Callable[..., MeshProcess]) -> None:
    mesh = mesh_process()
    lines = mesh.child.stdout.splitlines()
    assert lines[0].startswith("dragoman ")
    assert any(line.split() == ["mqtt", "{}:{}".format(*mesh.address("mqtt"))] for line in lines)
    assert any(line.split()[:2] == ["http", f"{mesh.url}/v1"] for line in lines)
    assert any(f"{mesh.data}: no messages yet" in line for line in lines)
    assert "SIGTERM" in lines[-1]

    argv = [sys.executable, "-m", "dragoman", "sub", "a/#", "-n", "2", "--url", mesh.url]
    before = _subscriptions(mesh)
    with Child(argv) as reader:
        reader.until(lambda: True if _subscriptions(mesh) > before else None, "subscription")
        assert dragoman(mesh, "pub", "a/b", "hello").code == 0
        assert dragoman(mesh, "pub", "a/b", "-", stdin=b"from stdin").code == 0
        ended = reader.wait()
    assert (ended.code, ended.stdout) == (0, "a/b hello\na/b from stdin\n")

    said = dragoman(mesh, "pub", "a/b", "kept", "--retain", "--type", "text/plain")
    assert said.stdout.startswith("a/b@")
    told = json.loads(dragoman(mesh, "sub", "a/b", "-n", "1", "--json").stdout)
    assert (told["payload"], told["content_type"], told["retained"]) == ("kept", "text/plain", True)

    assert dragoman(mesh, "agents").stdout == "nobody is here\n"
    ended = dragoman(mesh, "call", "nobody", "do")
    assert (ended.code, "no agent 'nobody' is here" in ended.stderr) == (1, True)
    ended = dragoman(mesh, "pub", "$SYS/x", "y")
    assert (ended.code, "the mesh alone writes there" in ended.stderr) == (1, True)

    ended = dragoman(mesh, "compact", str(mesh.data))
    assert (ended.code, "used by another process" in ended.stderr) == (1, True)

    ended = mesh.terminate()
    assert ended.code == 0
    assert ended.stderr == ""
    assert ended.stdout.splitlines()[-1] == "stopped"
    assert not (mesh.folder / "ready.json").exists()


def _subscriptions(mesh: MeshProcess) -> float:
    """How many there are, the mesh's own among them: one is counted once it is served."""
    with urllib.request.urlopen(f"{mesh.url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    (found,) = (line.split()[1] for line in lines if line.startswith("dragoman_subscriptions "))
    return float(found)


def test_the_ready_file_is_whole_private_to_nobody_and_never_stale(mesh_process: Callable[..., MeshProcess]) -> None:
    mesh = mesh_process(listeners=MQTT_ONLY, memory=True)
    file = mesh.folder / "ready.json"
    host, port = mesh.address("mqtt")
    assert json.loads(file.read_text()) == {"pid": mesh.pid, "mqtt": f"{host}:{port}"}
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert "note   nothing is kept on disk" in mesh.child.stdout
    mesh.kill()
    assert file.exists()
    argv = [
        sys.executable,
        "-m",
        "dragoman",
        "serve",
        "--mqtt",
        f"{host}:{port}",
        "--kafka",
        "off",
        "--http",
        "off",
        "--data",
        ":memory:",
    ]
    with socket.create_server((host, port)), Child([*argv, "--ready-file", str(file)]) as second:
        ended = second.wait()
    assert ended.code == 1
    assert f"{host}:{port} is in use by another program" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not file.exists()


def test_an_interrupt_stops_gracefully_and_exits_130(mesh_process: Callable[..., MeshProcess]) -> None:
    mesh = mesh_process(memory=True, listeners=MQTT_ONLY)
    os.kill(mesh.pid, signal.SIGINT)
    ended = mesh.child.wait()
    assert ended.code == 130
    assert ended.stdout.splitlines()[-1] == "stopped"


def test_a_folder_in_use_or_unwritable_is_one_sentence(
    mesh_process: Callable[..., MeshProcess], tmp_path: Path
) -> None:
    mesh = mesh_process(listeners=MQTT_ONLY)
    off = ("--mqtt", "off", "--kafka", "off", "--http", "off")
    ended = dragoman(None, "serve", *off, "--data", str(mesh.data))
    assert (ended.code, ended.stderr.count("\n")) == (1, 1)
    assert f"used by another process (pid {mesh.pid})" in ended.stderr
    (tmp_path / "file").write_text("")
    ended = dragoman(None, "serve", *off, "--data", str(tmp_path / "file"))
    assert (ended.code, ended.stderr.count("\n")) == (1, 1)
    ended = dragoman(None, "serve", *off, "--data", ":memory:", "--ready-file", str(tmp_path / "absent" / "ready"))
    assert (ended.code, "the ready file" in ended.stderr) == (1, True)


def test_users_and_rules_hold_for_the_terminal(
    mesh_process: Callable[..., MeshProcess], run: Callable[..., Said]
) -> None:
    token, digest = new_token()
    admin, admin_digest = new_token()
    config = f"""
[login]
anonymous = "never"
[[login.users]]
name = "ann"
tokens = ["{digest}"]
[[login.users]]
name = "root"
tokens = ["{admin_digest}"]
admin = true
[gate]
default = "deny"
[[gate.rules]]
effect = "allow"
who = ["ann"]
actions = ["publish"]
filters = ["own/%u/#"]
"""
    mesh = mesh_process(config, memory=True)

    def pub(name: str, key: str) -> Said:
        return run("pub", name, "1", "--url", mesh.url, *(["--token", key] if key else []))

    said = pub("own/ann/x", "")
    assert (said.code, "DRAGOMAN_TOKEN" in said.err) == (1, True)
    assert pub("own/ann/x", "wrong").code == 1
    assert dragoman(mesh, "pub", "own/ann/x", "1", token=token).code == 0
    said = pub("own/bob/x", token)
    assert (said.code, "no rule allows it" in said.err) == (1, True)
    said = run("backup", "/nowhere", "--url", mesh.url, "--token", token)
    assert (said.code, "no administrator" in said.err) == (1, True)
    said = run("backup", "/nowhere", "--url", mesh.url, "--token", admin)
    assert (said.code, "nothing on disk" in said.err) == (1, True)
