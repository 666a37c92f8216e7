"""The commands that talk to a running mesh, as their users run them."""

from __future__ import annotations

import base64
import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dragoman.terminal import FACT_CHARS_MAX, LogLines
from tests.cli.command_line import dragoman
from tests.cli.raw_mqtt import PUBLISH, RawMqtt
from tests.clients.mesh import MQTT_ONLY, MeshProcess

MeshStarter = Callable[..., MeshProcess]

pytestmark = pytest.mark.slow

BYTES_MAX = 16 << 20
CARD = {"name": "Pump", "skills": [{"name": "start", "description": "Starts it"}]}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshProcess]:
    """One for the tests of this file that leave nothing behind which another would see."""
    with MeshProcess(tmp_path_factory.mktemp("mesh"), memory=True) as process:
        yield process


def test_a_mesh_without_tls_is_said_to_have_none(mesh: MeshProcess, run) -> None:
    said = run("agents", "--url", mesh.url.replace("http:", "https:"))
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert "no TLS" in said.err


@contextmanager
def pump(mesh: MeshProcess, answer: Callable[[bytes], bytes | None]) -> Iterator[None]:
    """An agent with one skill, that offers it and answers with nothing but publish and subscribe."""
    with RawMqtt(mesh.address("mqtt"), "pump") as client:
        client.subscribe("mesh/serve/start/+")
        client.publish("mesh/me/card", json.dumps(CARD).encode(), 1)
        client.receive()

        def work() -> None:
            while True:
                kind, body = client.receive()
                if kind == 0:
                    return
                if kind == PUBLISH:
                    name = body[2 : 2 + int.from_bytes(body[:2], "big")].decode()
                    said = answer(client.acknowledge(body))
                    if said is not None:
                        client.publish("mesh/answer/" + name.rpartition("/")[2], said, 2)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield
        finally:
            client.end()
            thread.join(10)


def test_who_is_here_is_listed_and_does_what_is_asked(mesh: MeshProcess, run) -> None:

    def answer(asked: bytes) -> bytes | None:
        rpm = json.loads(asked).get("rpm")
        return None if rpm is None else json.dumps({"rpm": rpm, "é": True}).encode()

    with pump(mesh, answer):
        lines = dragoman(mesh, "agents").stdout.splitlines()
        assert lines[0].split() == ["agent", "state", "via", "load", "skills"]
        assert lines[1].split() == ["pump", "online", "mqtt", "0", "start"]
        at = ("--url", mesh.url)
        assert run("agents", "--skill", "stop", *at).out == "nobody here fits\n"
        (found,) = json.loads(run("agents", "--skill", "start", "--json", *at).out)
        assert (found["agent"], found["state"]) == ("pump", "online")

        ended = dragoman(mesh, "call", "pump", "start", '{"rpm": 3}')
        assert (ended.code, ended.stdout) == (0, '{\n  "rpm": 3,\n  "é": true\n}\n')
        ended = dragoman(mesh, "call", "-", "start", "-", stdin=b'{"rpm": 4}')
        assert json.loads(ended.stdout)["rpm"] == 4
        said = run("call", "pump", "start", "--deadline", "0.2", *at)
        assert (said.code, said.out, said.err.count("\n")) == (1, "", 1)
        assert "deadline" in said.err
        said = run("call", "pump", "stop", *at)
        assert (said.code, said.err.count("\n")) == (1, 1)
        assert "'stop'" in said.err
    said = run("call", "-", "start", *at)
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert "'start'" in said.err


def test_names_that_paths_cannot_express_are_said_and_heard(mesh: MeshProcess) -> None:
    names = ["a/../b//c", ".", "a b?c=%2F&é", "-"]
    for name in names:
        ended = dragoman(mesh, "pub", "--retain", "--", name, f"{name}!")
        assert (ended.code, ended.stdout.startswith(f"{name}@0, kept in ")) == (0, True)
    heard = dragoman(mesh, "sub", "--json", "-n", str(len(names)), "--", *names).stdout
    told = [json.loads(line) for line in heard.splitlines()]
    assert sorted((one["channel"], one["payload"]) for one in told) == sorted((name, f"{name}!") for name in names)


def test_a_name_that_is_none_and_a_filter_that_is_none_are_sentences(mesh: MeshProcess, run) -> None:
    for arguments in (
        ["pub", "a/#", "x"],
        ["pub", "", "x"],
        ["pub", "a" * 9_000, "x"],
        ["sub", "a/#/b"],
        ["agents", "--state", "tired"],
    ):
        said = run(*arguments, "--url", mesh.url)
        assert (said.code, said.out, said.err.count("\n")) == (1, "", 1), arguments
        assert said.err.startswith("dragoman: ")


def test_bytes_go_through_whole(mesh: MeshProcess) -> None:
    content = bytes(range(256)) * 1000
    assert dragoman(mesh, "pub", "a", "--retain", stdin=content).code == 0
    heard = json.loads(dragoman(mesh, "sub", "a", "-n", "1", "--json").stdout)
    assert base64.b64decode(heard["payload_base64"]) == content
    ended = dragoman(mesh, "pub", "a", stdin=b"x" * (BYTES_MAX + 1))
    assert (ended.code, ended.stderr.count("\n")) == (1, 1)
    assert f"at most {BYTES_MAX} are allowed" in ended.stderr


def test_a_mesh_started_from_a_backup_has_what_was_there(mesh_process: MeshStarter, tmp_path: Path) -> None:
    mesh = mesh_process()
    with RawMqtt(mesh.address("mqtt"), "keeper", expiry_s=3600) as keeper:
        keeper.subscribe("a/#")
    assert dragoman(mesh, "pub", "a/b", "before").code == 0
    assert dragoman(mesh, "pub", "a/state", "on", "--retain").code == 0
    copies = [tmp_path / name / "data" for name in ("mesh2", "mesh3")]
    assert dragoman(mesh, "backup", str(copies[0])).stdout == f"copied to {copies[0]}\n"
    ended = dragoman(mesh, "backup", str(copies[0]))
    assert (ended.code, ended.stderr.count("\n")) == (1, 1)
    assert "is not empty" in ended.stderr
    assert dragoman(mesh, "pub", "a/b", "after").code == 0
    ended = dragoman(None, "backup", str(copies[1]), "--data", str(mesh.data))
    assert (ended.code, "used by another process" in ended.stderr) == (1, True)
    assert mesh.terminate().code == 0
    assert dragoman(None, "backup", str(copies[1]), "--data", str(mesh.data)).code == 0
    assert dragoman(None, "compact", str(copies[1])).code == 0

    for expected in ({"before", "on"}, {"before", "on", "after"}):
        copy = mesh_process(listeners=MQTT_ONLY)
        with RawMqtt(copy.address("mqtt"), "keeper", expiry_s=3600) as keeper:
            assert keeper.session_present
            heard: set[str] = set()
            while heard < expected:
                kind, body = keeper.receive()
                assert kind == PUBLISH
                heard.add(keeper.acknowledge(body).decode())
        assert heard == expected
        with RawMqtt(copy.address("mqtt"), "newcomer") as newcomer:
            newcomer.subscribe("a/state")
            kind, body = newcomer.receive()
            assert (kind, newcomer.acknowledge(body)) == (PUBLISH, b"on")


def line_of(message: str, *, fault: BaseException | None = None, **facts: object) -> str:
    record = logging.LogRecord(
        "dragoman.x", logging.WARNING, "", 0, message, None, fault and (type(fault), fault, None)
    )
    vars(record).update(facts)
    return LogLines().format(record).partition(" WARNING ")[2]


@pytest.mark.parametrize(
    ("fact", "shown"),
    [
        ("ann", "ann"),
        (7, "7"),
        (True, "True"),
        ("", '""'),
        ("küche/1", "küche/1"),
        ("a b", '"a b"'),
        ("a=b", '"a=b"'),
        ('say "x"\\', r'"say \"x\"\\"'),
        ("a\nb\r\x1b[2J\x9b\u2028\u202e", r'"a\nb\r\x1b[2J\x9b\u2028\u202e"'),
        ("\ud800", r'"\ud800"'),
        ("x" * (FACT_CHARS_MAX + 1), "x" * FACT_CHARS_MAX + "…"),
    ],
)
def test_a_fact_of_a_log_line_is_one_word_whoever_chose_it(fact: object, shown: str) -> None:
    assert line_of("it is so", who=fact, count=1) == f"dragoman.x: it is so who={shown} count=1"


def test_a_log_line_is_one_line_and_its_traceback_looks_like_none() -> None:
    assert line_of("one\ntwo\x1b") == r"dragoman.x: one\ntwo\x1b"
    said = line_of("a fault", fault=ValueError("x\nWARNING y\r\x1b"), peer="here")
    assert said.split("\n") == ["dragoman.x: a fault peer=here", "  ValueError: x", r"  WARNING y\r\x1b"]
