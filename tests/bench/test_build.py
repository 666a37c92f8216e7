"""Compiled, it is the same mesh: built in a copy of the tree, started, and spoken to."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from bench.crew import Counters, start
from bench.load import flood, receive
from bench.wire import MQTT
from tests.clients.mesh import MQTT_ONLY, MeshProcess
from tests.clients.processes import run_client
from tests.clients.tools import ROOT


@pytest.mark.slow
def test_a_compiled_mesh_delivers(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler: apt-get install gcc python3-dev")
    tree = tmp_path / "tree"
    for folder in ("routing", "broker", "adapters", "dragoman"):
        unwanted = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(ROOT / folder, tree / folder, symlinks=True, ignore=unwanted)
    shutil.copy(ROOT / "pyproject.toml", tree)
    env = {"PYTHONPATH": str(tree)}
    run_client([sys.executable, "-c", "from dragoman.build import build; build('0')"], cwd=tree, env=env, timeout_s=300)
    with MeshProcess(tmp_path / "mesh", listeners=MQTT_ONLY, memory=True, env=env) as mesh:
        assert "compiled" in mesh.child.stdout.partition("\n")[0]
        address, counters = mesh.address("mqtt"), Counters(1)
        reader = start(receive, address, MQTT, counters, 0, check=True)
        reader.wait_ready()
        sent = start(flood, address, MQTT, counters, window=1_000, seconds=10, messages=5_000).result()["sent"][0]
        got = reader.result()
    assert (got["got"][0], got["duplicates"][0], got["disorders"][0]) == (sent, 0, 0)
    said = run_client([sys.executable, "-m", "dragoman.build", "--clean"], cwd=tree, env=env).stdout
    assert "plain Python" in said
    assert not list(tree.rglob("*.so"))
