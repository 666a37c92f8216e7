"""Compiled, it is the same mesh: built in a copy of the tree, started, and spoken to."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from bench.crew import Counters, start
from bench.load import flood, receive
from bench.wire import MQTT
from dragoman.build import HOT
from tests.clients.mesh import MQTT_ONLY, MeshProcess
from tests.clients.processes import run_client
from tests.clients.tools import ROOT

SESSIONS = [
    *("tests/mqtt/test_session_kept.py", "tests/mqtt/test_session_queue.py", "tests/mqtt/test_session_crashes.py"),
    *("tests/mqtt/test_session_order.py", "tests/mqtt/test_session_messages.py", "tests/mqtt/test_aliases.py"),
    *("tests/mqtt/test_codec_corpus.py", "tests/mqtt/test_session_refusals.py", "tests/broker", "tests/groups"),
]
"""What uses every compiled module, and what they keep over restarts."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with its hot modules compiled, quickly and not well."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler: apt-get install gcc python3-dev")
    tree = tmp_path_factory.mktemp("compiled") / "tree"
    unwanted = shutil.ignore_patterns("*.so", "__pycache__", "node_modules")
    for folder in ("routing", "broker", "adapters", "dragoman", "tests", "bench"):
        shutil.copytree(ROOT / folder, tree / folder, symlinks=True, ignore=unwanted)
    shutil.copy(ROOT / "pyproject.toml", tree)
    build = [sys.executable, "-c", "from dragoman.build import build; build('0')"]
    run_client(build, cwd=tree, env={"PYTHONPATH": str(tree)}, timeout_s=300)
    return tree


def test_no_row_is_of_a_compiled_module() -> None:
    """Compiled, a class forgets what its tuples are made of, and the next start could not read its rows."""
    for name in HOT:
        source = (ROOT / f"{name}.py").read_text(encoding="utf-8")
        assert "(Row)" not in source, name
        assert "msgspec.Struct" not in source, name


@pytest.mark.slow
def test_compiled_sessions_are_the_same(tree: Path) -> None:
    asked = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow", *SESSIONS]
    said = run_client(asked, cwd=tree, env={"PYTHONPATH": str(tree), "COMPILED": "1"}, timeout_s=300).stdout
    assert " passed" in said.splitlines()[-1]


@pytest.mark.slow
def test_a_compiled_mesh_delivers(tree: Path, tmp_path: Path) -> None:
    env = {"PYTHONPATH": str(tree)}
    with MeshProcess(tmp_path / "mesh", listeners=MQTT_ONLY, memory=True, env=env) as mesh:
        assert "compiled" in mesh.child.stdout.partition("\n")[0]
        address, counters = mesh.address("mqtt"), Counters(1)
        reader = start(receive, address, MQTT, counters, 0, check=True)
        reader.wait_ready()
        sent = start(flood, address, MQTT, counters, window=1_000, seconds=10, messages=5_000).result()["sent"][0]
        got = reader.result()
    assert (got["got"][0], got["duplicates"][0], got["disorders"][0]) == (sent, 0, 0)
    # Last: it takes back what the fixture made.
    said = run_client([sys.executable, "-m", "dragoman.build", "--clean"], cwd=tree, env=env).stdout
    assert "plain Python" in said
    assert not list(tree.rglob("*.so"))
