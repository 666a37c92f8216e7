"""Enhanced authentication by MQTT.js: it proves its password, and once more while it talks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dragoman.adapters.serving.credentials import scram_verifier
from tests.clients import tools
from tests.clients.mesh import MeshProcess
from tests.clients.processes import run_client

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("enhanced.mjs")
CONFIG = """
[login]
anonymous = "never"
[[login.users]]
name = "ann"
scram = "{scram}"
"""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshProcess]:
    """Nobody comes in without a proof."""
    config = CONFIG.format(scram=scram_verifier("sécret".encode()))
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
