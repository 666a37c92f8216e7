"""Who is measured: how each broker is started for a run, with which settings, and how it is called.

Every broker gets a process, a folder and a free port of its own, and is gone after its workload.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import dragoman
from bench.wire import MQTT, NATS, Address, Wire
from dragoman.build import built, stale
from tests.clients.mesh import ANY_PORT, MeshProcess
from tests.clients.processes import Child, ChildFailed, run_client
from tests.clients.tools import ROOT, ToolMissing, find

MOSQUITTO_SETTINGS = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
max_queued_messages 1000000
log_type error
"""
"""Otherwise mosquitto's defaults. Its queue of 1,000 messages drops QoS 0 at these rates.

``set_tcp_nodelay true`` was tried: it costs a quarter to a third of all but the retained replay, so it stays off.
"""

NATS_SETTINGS = """\
host: 127.0.0.1
port: {port}
"""


class Running(NamedTuple):
    """A broker that runs."""

    address: Address
    pid: int


@dataclass(frozen=True)
class Peer:
    """``start(folder, durable)`` yields where it is while the broker runs. ``settings`` is for the reader."""

    name: str
    wire: Wire
    settings: str
    start: Callable[[Path, bool], AbstractContextManager[Running]]
    version: Callable[[], str]


@contextlib.contextmanager
def _plain(folder: Path, durable: bool) -> Iterator[Running]:
    with tempfile.TemporaryDirectory(prefix="dragoman-plain-") as tree:
        # Compiled modules lie beside their sources and would be taken instead; a copy without them is plain.
        shutil.copytree(ROOT / "dragoman", Path(tree, "dragoman"), ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        with _dragoman(folder, durable, Path(tree), "plain Python") as running:
            yield running


@contextlib.contextmanager
def _compiled(folder: Path, durable: bool) -> Iterator[Running]:
    if not any(built()) or stale():
        raise ToolMissing("the compiled modules are absent or older than their sources: make build")
    with _dragoman(folder, durable, ROOT, "compiled") as running:
        yield running


@contextlib.contextmanager
def _dragoman(folder: Path, durable: bool, tree: Path, wanted: str) -> Iterator[Running]:
    env = {"PYTHONPATH": str(tree)}
    with MeshProcess(folder, listeners={"mqtt": ANY_PORT}, memory=not durable, env=env) as mesh:
        said = mesh.child.stdout.partition("\n")[0]
        if wanted not in said:
            raise ChildFailed(f"this was to be measured {wanted}, and is {said!r}")
        yield Running(mesh.address("mqtt"), mesh.pid)


@contextlib.contextmanager
def _mosquitto(folder: Path, durable: bool) -> Iterator[Running]:
    assert not durable, "it acknowledges before anything is on disk"
    with _configured(folder, "mosquitto", MOSQUITTO_SETTINGS) as running:
        yield running


@contextlib.contextmanager
def _nats(folder: Path, durable: bool) -> Iterator[Running]:
    assert not durable, "its core stores nothing"
    with _configured(folder, "nats-server", NATS_SETTINGS) as running:
        yield running


@contextlib.contextmanager
def _configured(folder: Path, tool: str, settings: str) -> Iterator[Running]:
    program = find(tool)
    folder.mkdir(parents=True)
    config = folder / f"{tool}.conf"
    # Neither can be told to take any free port and say which; between looking and starting, this one could be taken.
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = ("127.0.0.1", int(probe.getsockname()[1]))
    config.write_text(settings.format(port=address[1]), "utf-8")
    with Child([program, "-c", config]) as child:
        child.until(lambda: _answers(address), f"listener on {address[1]}")
        yield Running(address, child.pid)


def _answers(address: Address) -> bool | None:
    try:
        socket.create_connection(address, 1).close()
    except OSError:
        return None
    return True


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "dragoman",
            MQTT,
            "defaults, MQTT listener only; memory: --data :memory:, disk: --data in a temporary folder",
            _plain,
            lambda: f"{dragoman.__version__} plain Python",
        ),
        Peer(
            "dragoman-compiled",
            MQTT,
            "the same with its hot modules compiled (make build)",
            _compiled,
            lambda: f"{dragoman.__version__} compiled",
        ),
        Peer(
            "mosquitto",
            MQTT,
            " · ".join(MOSQUITTO_SETTINGS.splitlines()[1:]),
            _mosquitto,
            lambda: run_client([find("mosquitto"), "-h"], code=None).stdout.split("\n")[0].split()[-1],
        ),
        Peer(
            "nats-server",
            NATS,
            "defaults, core only, its own protocol",
            _nats,
            lambda: run_client([find("nats-server"), "--version"]).stdout.split()[-1].lstrip("v"),
        ),
    )
}
