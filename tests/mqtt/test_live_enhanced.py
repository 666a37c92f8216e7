"""Enhanced authentication by MQTT.js, which proves its password twice, and by paho, which only says a token."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from dragoman.adapters.serving.credentials import new_token, scram_verifier
from tests.clients import tools
from tests.clients.mesh import MeshProcess
from tests.clients.processes import run_client
from tests.serving.sasl_clients import bearer

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("enhanced.mjs")
CONFIG = """
[login]
anonymous = "never"
[[login.users]]
name = "ann"
scram = "{scram}"
tokens = ["{digest}"]
"""
TOKEN, DIGEST = new_token()
WAIT_S = 20.0


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshProcess]:
    """Nobody comes in without a proof."""
    config = CONFIG.format(scram=scram_verifier("sécret".encode()), digest=DIGEST)
    folder = tmp_path_factory.mktemp("enhanced")
    with MeshProcess(folder, config, memory=True, listeners={"mqtt": "127.0.0.1:0"}) as process:
        yield process


@pytest.fixture
def said(mesh: MeshProcess, require: Callable[[str], str]) -> Callable[..., list[str]]:
    def run(*who: str) -> list[str]:
        require("npm:mqtt")
        host, port = mesh.address("mqtt")
        argv = [require("node"), "--input-type=module", "-", f"mqtt://{host}:{port}", *who]
        return run_client(argv, stdin=SCRIPT.read_bytes(), cwd=tools.NODE_FOLDER).stdout.splitlines()

    return run


def test_mqtt_js_proves_its_password_and_proves_it_again(said: Callable[..., list[str]]) -> None:
    lines = said("ann", "sécret", "sécret")
    assert lines == ["connect SCRAM-SHA-256 true", "message meanwhile", "again true"]


@pytest.mark.parametrize("user", ["ann", "nobody"])
def test_mqtt_js_with_a_wrong_password(said: Callable[..., list[str]], user: str) -> None:
    assert said(user, "secret", "") == ["error 135"]


def test_mqtt_js_that_is_not_who_it_was(said: Callable[..., list[str]]) -> None:
    lines = said("ann", "sécret", "wrong")
    assert lines[0] == "connect SCRAM-SHA-256 true"
    assert "disconnect 135" in lines
    assert not [line for line in lines if line.startswith("again")]


@pytest.mark.parametrize(
    ("token", "method", "code"),
    [(TOKEN, "OAUTHBEARER", 0), ("x", "OAUTHBEARER", 0x87), ("x", "JWT", 0x8C)],
    ids=["right", "wrong", "method"],
)
def test_paho_with_a_token_in_its_connect(mesh: MeshProcess, token: str, method: str, code: int) -> None:
    client = paho.Client(CallbackAPIVersion.VERSION2, "paho-enhanced", protocol=MQTTProtocolVersion.MQTTv5)
    told: queue.Queue[tuple[int, str | None]] = queue.Queue()
    client.on_connect = lambda c, u, flags, reason, properties: told.put(
        (reason.value, getattr(properties, "AuthenticationMethod", None))
    )
    properties = Properties(PacketTypes.CONNECT)
    properties.AuthenticationMethod = method
    properties.AuthenticationData = bearer(token)
    client.connect(*mesh.address("mqtt"), properties=properties)
    client.loop_start()
    try:
        assert told.get(timeout=WAIT_S) == (code, method if code == 0 else None)
    finally:
        client.disconnect()
        client.loop_stop()
