"""The foreign suites: how each is recognised, run, and its results read. Each prints its progress as it comes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.clients.mesh import MeshProcess
from tests.interop import gmqtt_suite

Results = dict[str, str]
"""Test → ``passed``, ``failed`` or ``skipped``."""


class SuiteError(Exception):
    """A suite could not be run at all. The text says what to do."""


class Suite(NamedTuple):
    """``marker`` is a file that only this suite's checkout has."""

    name: str
    url: str
    marker: str
    run: Callable[[Path, MeshProcess], Results]


def _lines(command: list[str], folder: Path, **env: str) -> Results:
    """Runs what prints ``passed NAME`` and ``failed NAME`` lines."""
    results: Results = {}
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, text=True, env={**os.environ, **env}, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    for line in process.stdout:
        outcome, _, name = line.strip().partition(" ")
        if outcome in ("passed", "failed", "skipped"):
            results[name] = outcome
            print(f"  {outcome} {name}", flush=True)
    process.wait()
    if not results:
        raise SuiteError(f"{' '.join(command)} said nothing; run it by hand in {folder}")
    return results


def _paho(folder: Path, mesh: MeshProcess) -> Results:
    script = Path(__file__).with_name("paho_suite.py")
    found: Results = {}
    for module in ("client_test", "client_test5"):
        command = [sys.executable, str(script), module, str(mesh.address("mqtt")[1])]
        found |= {f"{module}.{name}": outcome for name, outcome in _lines(command, folder / "interoperability").items()}
    return found


def _gmqtt(folder: Path, mesh: MeshProcess) -> Results:
    """Its one test that needs a public TLS broker on port 8883 is left out; test_gmqtt_suite has it."""
    names = [name for name in gmqtt_suite.tests(folder) if name != "test_basic_ssl"]
    try:
        return gmqtt_suite.run(folder, mesh.address("mqtt"), names, Path(mesh.folder))
    except gmqtt_suite.NothingRun as error:
        raise SuiteError(f"{error}; {sys.executable} -m pip install pytest-asyncio") from None


SUT = """
name = "dragoman"
address = "mqtt://127.0.0.1:{mqtt}"
ws_address = "ws://127.0.0.1:{http}/mqtt"
[capabilities]
topic_alias_maximum = 16
server_keep_alive = 60
server_receive_maximum = 20
maximum_packet_size = 16777216
injected_user_properties = []
[capabilities.transports]
tcp = true
websocket = true
"""


def _mqtt5_conformance(folder: Path, mesh: MeshProcess) -> Results:
    """A Rust program; what it needs of us that we do not have it skips, by what the descriptor says."""
    program = next(
        (path for kind in ("release", "debug") if (path := folder / "target" / kind / "mqtt5-conformance").exists()),
        None,
    )
    if program is None:
        raise SuiteError("build it first: cargo build --release -p mqtt5-conformance-cli")
    sut = Path(mesh.folder) / "sut.toml"
    sut.write_text(SUT.format(mqtt=mesh.address("mqtt")[1], http=mesh.address("http")[1]), "utf-8")
    results = _cargo_like([str(program), "--sut", str(sut), "--test-threads=1"], folder)
    for name in [name for name, outcome in results.items() if outcome == "failed"]:
        # Its client listens for an acknowledgement after it has sent the packet, and misses one that is quicker.
        results |= _cargo_like([str(program), "--sut", str(sut), "--test-threads=1", f"::{name} "], folder)
    if not results:
        raise SuiteError(f"{program} ran no test")
    return results


def _cargo_like(command: list[str], folder: Path) -> Results:
    """Runs what prints ``test path::name … ok`` lines, between which others may come."""
    results: Results = {}
    name = ""
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            words = line.split()
            if len(words) > 1 and words[0] == "test" and "::" in words[1]:
                name = words[1].rpartition("::")[2]
            outcome = {"ok": "passed", "FAILED": "failed", "ignored": "skipped"}.get(words[-1] if words else "")
            if name and outcome:
                results[name] = outcome
                print(f"  {outcome} {name}", flush=True)
                name = ""
    return results


SUITES = (
    Suite(
        "Eclipse Paho interoperability",
        "https://github.com/eclipse/paho.mqtt.testing",
        "interoperability/client_test5.py",
        _paho,
    ),
    Suite("gmqtt", "https://github.com/wialon/gmqtt", "tests/test_mqtt5.py", _gmqtt),
    Suite(
        "mqtt5-conformance",
        "https://github.com/LabOverWire/mqtt-lib",
        "crates/mqtt5-conformance/conformance.toml",
        _mqtt5_conformance,
    ),
)
